//! The gateway: visitors in front, agents that dialled in behind.
//!
//! ```text
//! visitor ─▶ listen ─▶ visitor ─▶ forward ─▶ route ─▶ exchange ─▶ pool ─▶ tunnel ═══▶ (agent) ─▶ app
//!            accept    TLS, h1,   head made  which    one request  pick    one connection,
//!            limits    h2, time   ours       name     and retry    hold    pinged and driven
//! agent ═══▶ listen ─▶ tunnel::accept: mTLS ─▶ name ─▶ reversal ─▶ pool files it ─▶ tunnel::drive
//! ```
//!
//! Modules stand in the order in which a request meets them.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod config; // what the user may say

mod files; // certificates and keys that it names

pub mod app; // opens, runs, ends

pub mod succession; // one gateway takes another's place

mod certificates; // files that are renewed, and what runs out

pub mod listen; // accept loops

mod farewell; // what those hear who are turned away

pub mod source; // who dials how often

pub mod rates; // how much one source may do

pub mod door; // whom a connection is from

pub mod opening; // how long it takes to begin

mod handshake; // how far TLS has come

pub mod visitor; // a visitor's connection

pub mod tcp; // one that is passed on untouched

pub mod range; // of addresses, as they are written

pub mod forward; // a visitor's head made into an agent's

pub mod route; // whose it is

pub mod introduction; // who asked, for the agent

pub mod lasting; // how long what it upgrades to may be silent

pub mod exchange; // the life of a request

pub mod upload; // a request's body

pub mod answer; // what a visitor gets back

pub mod pool; // names to tunnels

mod held; // who waits for a name

pub mod pick; // which tunnel

pub mod tunnel; // one tunnel

pub mod backend; // servers that are dialled

pub mod intent; // what operators ask of them

pub mod smuggling; // forms of requests that mean two things

pub mod failure; // every way to fail, folded once

pub mod page; // what a visitor reads then

pub mod access; // one line per request

pub mod cloud; // whose connection it is, for lines

pub mod metrics; // what is counted

pub mod per_listener; // and where

pub mod admin; // what the operator asks

pub mod list; // `tidegated tunnels`

pub mod probe; // `tidegated probe`

mod spent; // time that a record is told of

mod line; // pieces of a log line

mod complaint; // a line a minute, with a count
