//! One tunnel without a network: the gateway's end is `h2` over a pipe, the app is raw bytes over TCP. What is tested is
//! that a request and its response come through unharmed, and that every way of breaking off reaches the other side.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it stands"
)]

mod stage;

mod bound;
mod http1;
mod manners;
mod rest;

mod http2;
mod refused;

mod life;

mod upgrade;
