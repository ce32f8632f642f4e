//! The harness of the end-to-end tests: real programs, real certificates, real sockets, and peers made of raw bytes.
//!
//! A test starts a [`World`] (a CA and a running `tidegated`), gives it apps and agents, and sends visitors. Every wait
//! is on something observable and has a deadline. Nothing here is used by the programs themselves.
#![expect(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::print_stderr,
    reason = "a failing step of the harness is a failing test, and what a test prints is read beside its result"
)]

pub mod eventually; // polling an observable, bounding a wait

pub mod task; // background tasks that end with their owner

pub mod program; // a child process: its addresses, its log, its signals

pub mod options; // the programs' option and metric names that tests rely on

pub mod pki; // a CA, good certificates, and odd ones

pub mod world; // a gateway and the agents around it

pub mod site; // the common scene: one gateway, one app, one agent

pub mod by_hand; // the other scene: an agent, its app, and a gateway by hand

pub mod bystander; // a visitor who must notice nothing

pub mod conn; // one TCP or TLS connection

pub mod http1; // HTTP/1 read exactly, byte by byte

pub mod websocket; // RFC 6455 frames and the handshake

pub mod visitors; // HTTP/1, HTTP/2 and curl

pub mod apps; // what the agents stand in front of

pub mod peers; // HTTP/2 spoken by hand, in the place of an agent or of a gateway

pub mod sockets; // what the system says of TCP connections

pub mod link; // a TCP relay that can freeze and be cut

pub mod netns; // network namespaces that drop packets

pub mod hosts; // names of the test's own

pub mod dns; // the same by a DNS server that lies and fails as told

pub mod haproxy; // a real HAProxy at either end

pub mod nginx; // a real nginx as the app or the balancer

pub use by_hand::ByHand;
pub use eventually::{eventually, within};
pub use site::{HOST, Site};
pub use world::World;
