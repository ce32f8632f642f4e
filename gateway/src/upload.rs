//! A visitor's body on its way: its octets as they come, and no more of them than the operator takes, whether the head had said
//! how many there would be or not. Read by `exchange`'s pump, and by a backend's connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame};
use tidegate_shared::rewind::Rewind;

use crate::rates;

/// That body, which may be said once more while it is small.
pub type Upload<B> = Rewind<Bounded<B>>;

/// See the module's head.
#[derive(Debug)]
pub struct Bounded<B> {
    body: B,
    /// Octets that may still come.
    left: u64,
    /// A field that a visitor must not be believed in, in trailers no more than in a head.
    disbelieved: Option<HeaderName>,
}

/// Why a body ended before its end.
#[derive(Debug)]
pub enum Fault<E> {
    /// There is more of it than is taken. Nothing of what is too much has gone on, and no end of it.
    TooLarge,
    /// The visitor's connection said so.
    Visitor(E),
}

/// With a limit in octets, or none, and without this field in its trailers. `None` for a body is a head that is all there is.
pub(crate) fn upload<B>(
    body: Option<B>,
    most: Option<u64>,
    disbelieved: Option<HeaderName>,
) -> Upload<B> {
    Rewind::new(body.map(|body| Bounded {
        body,
        left: most.unwrap_or(u64::MAX),
        disbelieved,
    }))
}

impl<B: Body<Data = Bytes> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = Fault<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let mut frame = frame.map_err(Fault::Visitor)?;
        if let (Some(field), Some(trailers)) = (&this.disbelieved, frame.trailers_mut()) {
            rates::remove(trailers, field);
        }
        let octets = frame.data_ref().map_or(0, Bytes::len) as u64;
        this.left = this.left.checked_sub(octets).ok_or(Fault::TooLarge)?;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
