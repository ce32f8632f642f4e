//! What a visitor is answered with, as a body: the app's octets as they come, or a few of our own. Holds the request's
//! place on the tunnel, or its connection to a backend, and its record; they end with it. Written to HTTP/1 by `visitor::talk`, to HTTP/2 by a pump; what the visitor
//! still sends when all of it is written goes on through `Answer::poll_rest`.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use http::header::CONTENT_LENGTH;
use http::{StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use tidegate_shared::message::strip_trailers;
use tidegate_shared::origin;
use tidegate_shared::pump::Stop;

use crate::access::Record;
use crate::backend;
use crate::exchange::{Opened, Stream, Way, broken};
use crate::failure::Failure;
use crate::lasting::Watch;
use crate::upload::Fault;

/// See the module's head.
#[derive(Debug)]
pub struct Answer<B> {
    kind: Kind<B>,
    record: Option<Box<Record>>,
    /// Of what is upgraded, unless it may be silent for ever.
    watch: Option<Box<Watch>>,
}

#[derive(Debug)]
enum Kind<B> {
    Own(Bytes),
    Tunnel(Passing<B>),
    Backend(Box<backend::passing::Passing>),
    Joined(Box<backend::joined::Joined<B>>),
}

/// An app's answer on its way.
#[derive(Debug)]
struct Passing<B> {
    stream: Box<Stream<B>>,
    /// Neither side owes the other anything, at any time.
    upgraded: bool,
    /// The app, or its agent, wants no more of the request.
    unwanted: bool,
    ended: bool,
    /// It ended before its end.
    broken: bool,
    /// Found, and told once what came before it has been written.
    cut: Option<Cut>,
}

/// How it stands with what an answer has left of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// There is none.
    Done,
    /// The visitor's next octets are what everything waits for; so many have gone on.
    Due(u64),
    /// The app takes its time.
    Untaken,
    /// Nobody wants it.
    Unwanted,
}

/// Why an answer ended before its end. Whoever writes it to a visitor must let the visitor see that.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    #[error("the tunnel cut the response short: {0}")]
    Tunnel(#[source] h2::Error),
    #[error("the backend cut the response short: {0}")]
    Backend(#[source] origin::Broken),
    #[error("the backend cut the response short: {0}")]
    Stream(#[source] h2::Error),
    #[error("the backend cut an upgraded connection: {0}")]
    Upgraded(#[source] io::Error),
    #[error("nothing more of the response came")]
    Stalled,
    #[error("the visitor's request ended before its end: {0:?}")]
    Visitor(Failure),
}

impl Cut {
    pub(crate) const fn failure(&self) -> Failure {
        match self {
            Self::Tunnel(_) | Self::Backend(_) | Self::Stream(_) | Self::Upgraded(_) => {
                Failure::ResponseCut
            }
            Self::Stalled => Failure::BackendTimeout,
            Self::Visitor(failure) => *failure,
        }
    }
}

impl<B> Answer<B> {
    pub(crate) fn own(octets: Bytes, record: Box<Record>) -> Self {
        Self {
            kind: Kind::Own(octets),
            record: Some(record),
            watch: None,
        }
    }

    /// The app's answer, and the head to send before it.
    pub(crate) fn of(opened: Opened<B>, record: Box<Record>) -> (response::Parts, Self) {
        let Opened {
            mut parts,
            upgraded,
            way,
        } = opened;
        let record = Some(record);
        // What was asked for may still be refused.
        let watch = upgraded.filter(|_| parts.status.is_success());
        let watch = watch.and_then(Watch::new);
        let stream = match way {
            Way::Tunnel(stream) => stream,
            Way::Backend(passing) => {
                let kind = Kind::Backend(passing);
                let answer = Self {
                    kind,
                    record,
                    watch,
                };
                return (parts, answer);
            }
            Way::Joined(joined) => {
                let kind = Kind::Joined(joined);
                let answer = Self {
                    kind,
                    record,
                    watch,
                };
                return (parts, answer);
            }
        };
        if parts.status == StatusCode::NO_CONTENT {
            // It must not be there (RFC 9110 §8.6), whatever an agent lets through.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let passing = Passing {
            ended: stream.headed_only,
            stream,
            upgraded: upgraded.is_some(),
            unwanted: false,
            broken: false,
            cut: None,
        };
        (
            parts,
            Self {
                kind: Kind::Tunnel(passing),
                record,
                watch,
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
            Kind::Backend(passing) => passing.is_whole(),
            Kind::Joined(joined) => joined.is_whole(),
        }
    }

    /// Its way to the visitor ends here, for this.
    pub(crate) fn broken(mut self, failure: Failure) {
        if let Some(record) = &mut self.record {
            record.failed(failure);
        }
    }
}

impl<B: Body<Data = Bytes, Error: Error + 'static> + Unpin> Answer<B> {
    /// Whether the request's body goes on behind this: it is whole, and the body is not. One that the visitor held back does
    /// not: whether it ever comes is the visitor's to decide.
    pub(crate) fn leaves_rest(&self) -> bool {
        match &self.kind {
            Kind::Own(_) => false,
            Kind::Tunnel(passing) => {
                passing.is_whole()
                    && (passing.unwanted || !passing.stream.upload.is_finished())
                    && !passing.is_held_back()
            }
            Kind::Backend(passing) => passing.leaves_rest(),
            Kind::Joined(joined) => joined.leaves_rest(),
        }
    }

    /// Whether the visitor waits to be told to send a body (RFC 9110 §10.1.1), and will not be.
    pub(crate) fn is_held_back(&self) -> bool {
        match &self.kind {
            Kind::Own(_) | Kind::Joined(_) => false,
            Kind::Tunnel(passing) => passing.is_held_back(),
            Kind::Backend(passing) => passing.is_held_back(),
        }
    }

    /// Moves what there is of the request while whoever takes the answer takes nothing: he may have to be rid of it first. What
    /// goes wrong is told with the next of the answer. How many octets of it have gone on.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> u64 {
        let (moved, fault) = match &mut self.kind {
            Kind::Own(_) => (0, None),
            Kind::Tunnel(passing) => {
                if passing.cut.is_none()
                    && let Err(cut) = passing.poll_upload(cx)
                {
                    passing.broken = true;
                    passing.cut = Some(cut);
                }
                let fault = passing.cut.as_ref().map(Cut::failure);
                (passing.stream.upload.sent(), fault)
            }
            Kind::Backend(passing) => passing.poll_request(cx),
            Kind::Joined(joined) => {
                // A visitor who has broken off takes no more of the answer either.
                let _gone = joined.poll_up(cx);
                (joined.moved().0, None)
            }
        };
        // Who has left is found to have when the answer ends. Anything else is what ends it, also where nobody takes what is before
        // its end, and that is given up in time.
        if let Some(failure) = fault.filter(|failure| *failure != Failure::VisitorGone)
            && let Some(record) = &mut self.record
        {
            record.failed(failure);
        }
        moved
    }

    /// Moves what is left of the request's body.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Rest {
        let rest = self.poll_left(cx);
        if self.watch.is_some() && rest == Rest::Untaken && self.fell_silent(cx) {
            return Rest::Done;
        }
        rest
    }

    /// Whether neither side of what was upgraded has said anything for too long; then it ends in order.
    fn fell_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(watch) = &mut self.watch else {
            return false;
        };
        let (traffic, ended) = match &self.kind {
            Kind::Own(_) | Kind::Backend(_) => return false,
            Kind::Tunnel(passing) => (passing.traffic(), passing.is_half_closed()),
            Kind::Joined(joined) => (joined.moved(), joined.is_half_closed()),
        };
        let waits = || match &self.kind {
            Kind::Joined(joined) => joined.unacked(),
            _ => None,
        };
        let Some(quiet) = watch.is_over(traffic, ended, waits, cx) else {
            return false;
        };
        if let Some(record) = &mut self.record {
            record.fell_silent(quiet, watch.lasting());
        }
        self.watch = None;
        match &mut self.kind {
            Kind::Own(_) | Kind::Backend(_) => {}
            Kind::Tunnel(passing) => passing.give_up(),
            Kind::Joined(joined) => joined.give_up(),
        }
        true
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> Rest {
        match &mut self.kind {
            Kind::Own(_) => Rest::Done,
            Kind::Tunnel(passing) => match passing.poll_upload(cx) {
                Ok(true) if passing.upgraded || passing.stream.upload.waits_for_window() => {
                    Rest::Untaken
                }
                Ok(true) => Rest::Due(passing.stream.upload.sent()),
                Ok(false) if passing.unwanted => Rest::Unwanted,
                // Of a visitor who left, the answer has nothing to say: it was whole.
                Ok(false) | Err(Cut::Tunnel(_) | Cut::Visitor(Failure::VisitorGone)) => Rest::Done,
                Err(cut) => {
                    if let Some(record) = &mut self.record {
                        record.failed(cut.failure());
                    }
                    Rest::Done
                }
            },
            Kind::Backend(passing) => {
                let (rest, failure) = passing.poll_rest(cx);
                if let (Some(failure), Some(record)) = (failure, &mut self.record) {
                    record.failed(failure);
                }
                rest
            }
            Kind::Joined(joined) => joined.poll_rest(cx),
        }
    }

    /// Takes what still comes of an unwanted body, for nobody. Ready at its end.
    pub(crate) fn poll_unwanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.let_go();
        match &mut self.kind {
            Kind::Own(_) | Kind::Joined(_) => {}
            Kind::Tunnel(passing) => {
                while let Some(Ok(_unwanted)) = ready!(passing.stream.upload.poll_body(cx)) {}
            }
            Kind::Backend(passing) => ready!(passing.poll_unwanted(cx)),
        }
        Poll::Ready(())
    }
}

impl<B> Passing<B> {
    fn is_whole(&self) -> bool {
        (self.ended || self.stream.inbound.is_end_stream()) && !self.broken
    }

    /// Octets from the visitor and to it so far.
    fn traffic(&self) -> (u64, u64) {
        (self.stream.upload.sent(), self.stream.inbound.received())
    }

    /// Whether one side has said all that it has to say.
    fn is_half_closed(&self) -> bool {
        self.ended || self.stream.upload.is_finished()
    }

    /// Both sides are silent for too long.
    fn give_up(&mut self) {
        self.ended = true;
        self.broken = true;
    }
}

impl<B: Body<Data = Bytes, Error: Error + 'static> + Unpin> Passing<B> {
    fn is_held_back(&self) -> bool {
        self.stream.held_back && self.stream.upload.is_untouched()
    }

    /// Whether there is still something to move.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<bool, Cut> {
        if self.stream.upload.is_finished() {
            return Ok(false);
        }
        match self.stream.upload.poll(cx) {
            Poll::Pending => Ok(true),
            // An app that wants no more has still answered (RFC 9113 §8.1).
            Poll::Ready(Err(Stop::Reset(_) | Stop::Gone(_))) => {
                self.unwanted = true;
                Ok(false)
            }
            Poll::Ready(Ok(())) => Ok(false),
            Poll::Ready(Err(Stop::Body(fault))) => {
                // Of a stream that was reset nobody knows any more that its answer had come to its end.
                self.ended |= self.stream.inbound.is_end_stream();
                self.stream.upload.reset(Reason::CANCEL);
                Err(match fault {
                    Fault::TooLarge => Cut::Visitor(Failure::BodyTooLarge),
                    Fault::Visitor(error) => Cut::Visitor(broken(&error)),
                })
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if let Err(cut) = self.poll_upload(cx) {
            self.broken = true;
            return Poll::Ready(Some(Err(cut)));
        }
        if !self.ended {
            match Pin::new(&mut self.stream.inbound).poll_frame(cx) {
                Poll::Ready(Some(Ok(mut frame))) => {
                    if let Some(trailers) = frame.trailers_mut() {
                        strip_trailers(trailers);
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Poll::Ready(Some(Err(error))) => {
                    // What is not written when a body fails is given up: it gets a turn to be written first.
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
        Poll::Ready(None)
    }
}

impl<B: Body<Data = Bytes, Error: Error + 'static> + Unpin> Body for Answer<B> {
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
            Kind::Backend(passing) => passing.poll(cx),
            Kind::Joined(joined) => joined.poll(cx),
        };
        if let (Poll::Ready(Some(Err(cut))), Some(record)) = (&frame, &mut this.record) {
            record.failed(cut.failure());
        }
        if frame.is_pending() && this.watch.is_some() && this.fell_silent(cx) {
            return Poll::Ready(None);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Own(octets) => octets.is_empty(),
            Kind::Tunnel(passing) => passing.is_whole(),
            Kind::Backend(passing) => passing.is_whole(),
            Kind::Joined(joined) => joined.is_whole(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Own(octets) => SizeHint::with_exact(octets.len() as u64),
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }
}

impl<B> Answer<B> {
    /// It ends at this moment, whole or not.
    pub(crate) fn end(mut self, at: Instant) {
        self.finish(at);
    }

    /// It ends now, unless it has.
    fn let_go(&mut self) {
        if self.record.is_some() {
            self.finish(Instant::now());
        }
    }

    /// Gives its place on the tunnel, or its connection, back, and writes its record.
    fn finish(&mut self, at: Instant) {
        if let Some(record) = &mut self.record {
            record.ended(at);
        }
        let passing = match &mut self.kind {
            Kind::Own(_) => return,
            Kind::Tunnel(passing) => passing,
            Kind::Backend(passing) => {
                passing.finish(self.record.as_deref_mut(), at);
                return drop(self.record.take());
            }
            Kind::Joined(joined) => {
                if let Some(mut record) = self.record.take() {
                    joined.finish(&mut record);
                }
                return;
            }
        };
        if let Some(mut record) = self.record.take() {
            record.received = passing.stream.upload.sent();
            record.sent = passing.stream.inbound.received();
            if !passing.is_whole() {
                let cut = passing.cut.as_ref();
                record.failed(cut.map_or(Failure::VisitorGone, Cut::failure));
            }
        }
        if !passing.stream.upload.is_finished() {
            // The app must not take what it has for all of it.
            passing.stream.upload.reset(Reason::CANCEL);
        }
        drop(passing.stream.lease.take());
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        self.let_go();
    }
}
