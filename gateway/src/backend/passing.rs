//! A server's answer, whichever version of HTTP it comes in.

use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;

use super::{answer, http2};
use crate::access::Record;
use crate::answer::{Cut, Rest};
use crate::failure::Failure;

/// See the module's head.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and both are boxed by their owner"
)]
pub enum Passing {
    Http1(answer::Passing),
    Http2(http2::answer::Passing),
}

impl Passing {
    /// Whether all of the answer has been handed on.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Http1(passing) => passing.is_whole(),
            Self::Http2(passing) => passing.is_whole(),
        }
    }

    /// Whether the visitor waits to be told to send a body, and will not be.
    pub(crate) fn is_held_back(&self) -> bool {
        match self {
            Self::Http1(passing) => passing.is_held_back(),
            Self::Http2(passing) => passing.is_held_back(),
        }
    }

    /// Whether the request's body goes on behind the answer.
    pub(crate) fn leaves_rest(&self) -> bool {
        match self {
            Self::Http1(passing) => passing.leaves_rest(),
            Self::Http2(passing) => passing.leaves_rest(),
        }
    }

    /// The next of the answer; what there is of the request goes on meanwhile.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self {
            Self::Http1(passing) => passing.poll(cx),
            Self::Http2(passing) => passing.poll(cx),
        }
    }

    /// Moves what there is of the request while nobody takes the answer. How many octets of it have gone on, and why no more will.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> (u64, Option<Failure>) {
        match self {
            Self::Http1(passing) => passing.poll_request(cx),
            Self::Http2(passing) => passing.poll_request(cx),
        }
    }

    /// Moves what is left of the request's body, behind the answer.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> (Rest, Option<Failure>) {
        match self {
            Self::Http1(passing) => passing.poll_rest(cx),
            Self::Http2(passing) => passing.poll_rest(cx),
        }
    }

    /// Takes what still comes of a body that the server does not want, for nobody. Ready at its end.
    pub(crate) fn poll_unwanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(passing) => passing.poll_unwanted(cx),
            Self::Http2(passing) => passing.poll_unwanted(cx),
        }
    }

    /// Notes what has gone both ways, and lets go of the connection.
    pub(crate) fn finish(&mut self, record: Option<&mut Record>, at: Instant) {
        match self {
            Self::Http1(passing) => passing.finish(record, at),
            Self::Http2(passing) => passing.finish(record),
        }
    }
}
