//! An HTTP/1 visitor's answer as `talk` takes it from `h1`: octet for octet the app's, and when it ends, the connection's notes
//! say so.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tidegate_shared::clock;

use super::h1::Watched;
use super::inlet::Incoming;
use crate::answer::{Answer, Cut};

/// An answer on its way out. While it is, the connection has a request in hand.
pub(super) struct InHand {
    pub(super) answer: Option<Answer<Incoming>>,
    pub(super) watched: Arc<Watched>,
}

impl InHand {
    /// Moves what there is of the request while the visitor takes nothing of the answer.
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) {
        if let Some(answer) = &mut self.answer {
            answer.poll_request(cx);
        }
    }
}

impl Body for InHand {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut self.answer {
            Some(answer) => Pin::new(answer).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.answer
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let ended = Instant::now();
        let pulse = &self.watched.pulse;
        if self.answer.as_ref().is_some_and(Answer::is_whole) {
            pulse.response_ended();
        }
        match (self.answer.take(), pulse.cut_for()) {
            (Some(answer), Some(failure)) => answer.broken(failure),
            (Some(answer), None) if answer.leaves_rest() => return self.watched.left.put(answer),
            (Some(answer), None) => answer.end(ended),
            (None, _) => {}
        }
        pulse.request_ended(clock::ms(ended));
    }
}
