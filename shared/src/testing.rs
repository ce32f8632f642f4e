//! What the unit tests of several modules need. Not in the library.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

/// A body that has these frames, all of them there.
#[derive(Debug, Default)]
pub(crate) struct Frames(VecDeque<Result<Frame<Bytes>, &'static str>>);

impl Frames {
    pub(crate) fn of(pieces: &[&[u8]]) -> Self {
        let data = |piece: &&[u8]| Ok(Frame::data(Bytes::copy_from_slice(piece)));
        Self(pieces.iter().map(data).collect())
    }

    /// And then this one field.
    pub(crate) fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        let mut trailers = HeaderMap::new();
        trailers.insert(name, value.parse().unwrap());
        self.0.push_back(Ok(Frame::trailers(trailers)));
        self
    }

    /// And then it fails.
    pub(crate) fn failing(mut self, why: &'static str) -> Self {
        self.0.push_back(Err(why));
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        Poll::Ready(self.0.pop_front())
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}
