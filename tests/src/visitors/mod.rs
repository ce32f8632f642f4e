//! Visitors: HTTP/1 written byte by byte, HTTP/2 through the `h2` crate, and curl.

pub mod curl;
pub mod http1;
pub mod http2;

pub use http1::{Answer, Visitor};
pub use http2::H2Visitor;
