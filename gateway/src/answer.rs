//! What a visitor is answered with, as a body: the app's octets as they come, or a few of our own. Holds the request's
//! place on the tunnel and its record; both end with it. Written to HTTP/1 by hyper, to HTTP/2 by a pump.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::Reason;
use http::header::CONTENT_LENGTH;
use http::{StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use tidegate_shared::inbound::Inbound;
use tidegate_shared::pump::{Pump, Stop};

use crate::access::Record;
use crate::exchange::{Opened, Upload};
use crate::failure::Failure;
use crate::tunnel::Lease;

/// See the module's head.
#[derive(Debug)]
pub struct Answer<B> {
    kind: Kind<B>,
    record: Option<Record>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Kind<B> {
    Own(Bytes),
    Tunnel(Passing<B>),
}

/// An app's answer on its way.
#[derive(Debug)]
struct Passing<B> {
    inbound: Inbound,
    /// The rest of the request, which goes on while the answer comes.
    upload: Pump<Upload<B>>,
    lease: Option<Lease>,
    end: End,
    ended: bool,
    /// It ended before its end.
    broken: bool,
    /// Found, and told once what came before it has been written.
    cut: Option<Cut>,
}

/// What the end of an answer means for the request that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection goes on to the next request, so the end waits until this one's body is done (HTTP/1).
    OfBoth,
    /// Only the answer's; whoever writes it goes on with `Answer::poll_rest` (HTTP/2).
    OfAnswer,
}

/// Why an answer ended before its end. Whoever writes it to a visitor must let the visitor see that.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    #[error("the tunnel cut the response short: {0}")]
    Tunnel(#[source] h2::Error),
    #[error("the visitor's request ended before its end")]
    Visitor,
}

impl<B> Answer<B> {
    pub(crate) fn own(octets: Bytes, record: Record) -> Self {
        Self {
            kind: Kind::Own(octets),
            record: Some(record),
        }
    }

    pub(crate) fn tunnel(opened: Opened<B>, record: Record, end: End) -> (response::Parts, Self) {
        let Opened {
            mut parts,
            inbound,
            headed_only,
            upload,
            lease,
        } = opened;
        if parts.status == StatusCode::NO_CONTENT {
            // It must not be there (RFC 9110 §8.6), whatever an agent lets through.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let passing = Passing {
            inbound,
            upload,
            lease: Some(lease),
            end,
            ended: headed_only,
            broken: false,
            cut: None,
        };
        (
            parts,
            Self {
                kind: Kind::Tunnel(passing),
                record: Some(record),
            },
        )
    }
}

impl<B> Answer<B> {
    /// Whether all of it has been handed on.
    pub(crate) fn is_whole(&self) -> bool {
        match &self.kind {
            Kind::Own(octets) => octets.is_empty(),
            Kind::Tunnel(passing) => passing.is_whole(),
        }
    }

    /// Its way to the visitor ends here, for this.
    pub(crate) fn broken(mut self, failure: Failure) {
        if let Some(record) = &mut self.record {
            record.failed(failure);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Answer<B> {
    /// Moves what is left of the request's body. Ready when there is nothing left to move.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            Kind::Own(_) => Poll::Ready(()),
            Kind::Tunnel(passing) => match passing.poll_upload(cx) {
                Ok(true) => Poll::Pending,
                Ok(false) | Err(_) => Poll::Ready(()),
            },
        }
    }
}

impl<B> Passing<B> {
    fn is_whole(&self) -> bool {
        (self.ended || self.inbound.is_end_stream()) && !self.broken
    }
}

impl<B: Body<Data = Bytes> + Unpin> Passing<B> {
    /// Whether there is still something to move.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Cut> {
        if self.upload.is_finished() {
            return Ok(false);
        }
        match self.upload.poll(cx) {
            Poll::Pending => Ok(true),
            // An app that wants no more has still answered (RFC 9113 §8.1).
            Poll::Ready(Ok(()) | Err(Stop::Reset(_) | Stop::Gone(_))) => Ok(false),
            Poll::Ready(Err(Stop::Body(_))) => {
                self.upload.reset(Reason::CANCEL);
                Err(Cut::Visitor)
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        let uploading = match self.poll_upload(cx) {
            Ok(uploading) => uploading,
            Err(cut) => {
                self.broken = true;
                return Poll::Ready(Some(Err(cut)));
            }
        };
        if !self.ended {
            match Pin::new(&mut self.inbound).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
                Poll::Ready(Some(Err(error))) => {
                    // hyper gives up what it has not written when a body fails: it gets a turn to write it first.
                    self.ended = true;
                    self.broken = true;
                    self.cut = Some(Cut::Tunnel(error));
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => return Poll::Pending,
            }
        }
        if uploading && self.end == End::OfBoth {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let frame = match &mut this.kind {
            Kind::Own(octets) if octets.is_empty() => Poll::Ready(None),
            Kind::Own(octets) => {
                if let Some(record) = &mut this.record {
                    record.sent = octets.len() as u64;
                }
                Poll::Ready(Some(Ok(Frame::data(std::mem::take(octets)))))
            }
            Kind::Tunnel(passing) => passing.poll(cx),
        };
        if let (Poll::Ready(Some(Err(cut))), Some(record)) = (&frame, &mut this.record) {
            record.failed(match cut {
                Cut::Tunnel(_) => Failure::ResponseCut,
                Cut::Visitor => Failure::VisitorGone,
            });
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(octets) => octets.is_empty(),
            Kind::Tunnel(passing) => passing.is_whole() && passing.upload.is_finished(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(octets) => SizeHint::with_exact(octets.len() as u64),
            Kind::Tunnel(_) if self.is_end_stream() => SizeHint::with_exact(0),
            Kind::Tunnel(_) => SizeHint::default(),
        }
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        let Kind::Tunnel(passing) = &mut self.kind else {
            return;
        };
        let whole = passing.is_whole();
        if let Some(record) = &mut self.record {
            record.received = passing.upload.sent();
            record.sent = passing.inbound.received();
            if !whole {
                record.failed(if passing.cut.is_some() {
                    Failure::ResponseCut
                } else {
                    Failure::VisitorGone
                });
            }
        }
        if !passing.upload.is_finished() {
            passing.upload.reset(if whole {
                Reason::NO_ERROR
            } else {
                Reason::CANCEL
            });
        }
        drop(passing.lease.take());
    }
}
