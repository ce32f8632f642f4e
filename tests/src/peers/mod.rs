//! HTTP/2 by hand: frames and HPACK without the `h2` crate, so that a peer can do what a well-behaved one never does.
//!
//! [`Peer`] is either side of a connection after the reversal; [`agent::RawAgent`] dials a gateway and
//! [`gateway::RawGateway`] waits for an agent.

pub mod agent;
pub mod farm;
pub mod frame;
pub mod gateway;
pub mod hpack;

mod peer;

pub use frame::{Frame, kind};
pub use peer::{Event, Peer, field};
