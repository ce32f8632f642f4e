//! The agent: dials gateways and serves an app's visitors through the tunnels it dialled.
//!
//! ```text
//!  agent ─┬─ wake, identity ─────────┐ doubt everything, replace everything
//!         └─ reconcile: addresses ─▶ post: one address ◀─▶ keeper, backoff (pure: how many, when)
//!                                      │ one task per tunnel, on a worker
//!                                      ▼
//!    dial: TCP ─▶ TLS ─▶ reversal ─▶ serve: frames, liveness, window, drain
//!                                      │ one future per request
//!                                      ▼
//!                                     app ─▶ the one TARGET
//! ```
//!
//! Modules stand in the order of a program's life, and then of a byte's way.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod cli; // what a user may write

pub mod target; // where the app is

pub mod config; // what the program believes

pub mod agent; // start, run, finish

pub mod wake; // the machine slept

pub mod identity; // the certificate was renewed, or runs out

pub mod reconcile; // where the gateways are

pub mod post; // the wanted tunnels to one address

pub mod keeper; // how many, and when

pub mod backoff; // how long to wait

pub mod random; // jitter

pub mod report; // which failure is worth a line

pub mod dial; // one attempt

pub mod serve; // one tunnel

pub mod app; // one request
