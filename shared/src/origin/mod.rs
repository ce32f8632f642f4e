//! An HTTP/1.1 client as a proxy needs one: whoever asks drives the app's connection in its own task, so that a request costs
//! no second task, and dropping it closes the connection. Knows neither where apps are nor who asks. Called by the agent for
//! its app and by the gateway for backends that it dials. Modules stand in the order in which a byte meets them.

pub mod dial; // to an address, by name

mod haste; // nothing an app says waits for an acknowledgement

mod first; // what an app says first

mod line; // a connection's octets

mod framing; // how long an answer is

mod receiving; // an answer

mod link; // one request after another

mod standstill; // an app that takes nothing

mod pool; // connections that rest between two requests

mod manners; // how an app ends them

use std::error::Error;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Response};
use http_body::Body;

pub use crate::http1::request::Head;
pub use first::First;
pub use line::Line;
pub use link::{Link, Miss, fault_in_reading};
pub use manners::{ANY, Manners, SETTLED_MS};
pub use pool::{Pool, RESTING};
pub use receiving::Broken;

/// What is wrong with an app that never comes to its answer.
pub const ENDLESS: &str = "its interim responses have no end";

/// A request's body as a connection takes it.
pub trait Upload:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static
{
}

impl<B> Upload for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static
{
}

/// Who waits for an answer.
pub trait Asking {
    /// Takes an interim response (RFC 9110 §15.2) other than 101, without what must not go on.
    fn interim(&mut self, response: Response<()>);

    /// Ready when nobody waits any more.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A visitor at the other end of a tunnel.
impl Asking for SendResponse<Bytes> {
    fn interim(&mut self, response: Response<()>) {
        // Only a visitor who has gone cannot be told.
        let _gone = self.send_informational(response);
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_reset(cx).map(|_gone| ())
    }
}

/// Whether doing it twice is as good as doing it once (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
