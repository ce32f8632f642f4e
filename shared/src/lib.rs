//! What the gateway and the agent have in common. Knows HTTP/2, TLS, the PROXY protocol and the reversal; knows nothing of
//! pools, routes or what stands on either side. Modules stand in the order in which a byte meets them.

#![cfg_attr(not(test), deny(clippy::unwrap_used))]

pub mod socket; // TCP: how both ends dial and listen

pub mod tap; // a stream, and who is told what passes

pub mod proxy_header; // who a connection is really from, said before its first octet

pub mod client_hello; // whom a connection asks for whose TLS ends elsewhere

pub mod reversal; // who is client and who is server, and when that turns round

pub mod seam; // the socket as `h2` sees it after the reversal

pub mod liveness; // when to ping a tunnel, when to doubt it, when to give it up

pub mod window; // how much a peer may send ahead

pub mod inbound; // one HTTP/2 stream's bytes as a body, acknowledged late

pub mod rewind; // a body that can be said once more

pub mod pump; // a body into one HTTP/2 stream, no faster than it is taken

pub mod timer; // a deadline that is left alone while it stands

pub mod unacked; // what a connection's other end has not acknowledged

pub mod idle; // when nothing has moved for too long

pub mod duplex; // an upgraded connection and one HTTP/2 stream, joined

pub mod relay; // two TCP connections, joined

pub mod glance; // which fields a head has

pub mod message; // fields that concern one hop only

pub mod visitor; // who asked, said with each request over a tunnel

pub mod interim; // what is passed of what an app says before its answer

pub mod http1; // HTTP/1's messages as octets

pub mod origin; // HTTP/1.1 to an app, by whoever asks it

pub mod text; // what a peer said, made fit for a log line or a page

pub mod page; // what a visitor reads when there is no answer of the app's

pub mod workers; // one thread, one runtime, one core

pub mod drain; // the only spawner; graceful, then a deadline

pub mod descriptors; // how many sockets there may be

pub mod signals; // being asked to finish

pub mod clock; // milliseconds since the program started

pub mod when; // moments as people and machines read them

pub mod log; // stderr, written by a thread of its own

pub mod args; // durations and sizes as a user writes them

pub mod name; // names of agents and hosts of visitors, parsed once

pub mod tls; // PEM files to rustls configurations, handshake errors to sentences

#[cfg(test)]
mod testing; // what several modules' tests need
