//! A request's body on its way to a tunnel: the visitor's octets as they come, and no more of them than the operator takes,
//! whether the head had said how many there would be or not. Read by `exchange`'s pump.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

/// See the module's head.
#[derive(Debug)]
pub struct Upload<B> {
    body: Option<B>,
    /// Octets that may still come.
    left: u64,
}

/// Why a body ended before its end.
#[derive(Debug)]
pub enum Fault<E> {
    /// There is more of it than is taken. Nothing of what is too much has gone on, and no end of it.
    TooLarge,
    /// The visitor's connection said so.
    Visitor(E),
}

impl<B> Upload<B> {
    /// With a limit in octets, or none. `None` for a body is a head that is all there is.
    pub(crate) fn new(body: Option<B>, most: Option<u64>) -> Self {
        Self {
            body,
            left: most.unwrap_or(u64::MAX),
        }
    }

    pub(crate) const fn is_none(&self) -> bool {
        self.body.is_none()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = Fault<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        Pin::new(body).poll_frame(cx).map(|frame| {
            frame.map(|frame| {
                let frame = frame.map_err(Fault::Visitor)?;
                let octets = frame.data_ref().map_or(0, Bytes::len) as u64;
                this.left = this.left.checked_sub(octets).ok_or(Fault::TooLarge)?;
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
}
