//! A server's answer on a shared connection, on its way to the visitor in the visitor's own task. Dropping it before its end resets
//! its stream and nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::StatusCode;
use http_body::{Body, Frame};
use tidegate_shared::inbound::Inbound;
use tidegate_shared::message::strip_trailers;

use super::super::answer::REST_WITHIN;
use super::super::asking::Patience;
use super::super::body::Feed;
use super::super::server::{InFlight, What};
use super::ask::{BrokenOff, Upload, push};
use super::seat::Seat;
use crate::access::Record;
use crate::answer::{Cut, Rest};
use crate::failure::Failure;

/// See the module's head.
#[derive(Debug)]
pub struct Passing {
    /// Given up before `in_flight` is: whoever waits for it is told then.
    _seat: Seat,
    in_flight: InFlight,
    inbound: Inbound,
    upload: Option<Upload>,
    feed: Option<Arc<dyn Feed>>,
    held_back: bool,
    /// Octets of the request that the server's windows have let go.
    taken: Arc<AtomicU64>,
    patience: Option<Patience>,
    /// For what is left of the request behind the answer.
    rest: Option<Patience>,
    ended: bool,
    broken: bool,
    /// The server wants no more of the request.
    unwanted: bool,
    /// Found, and told once what came before it has been written.
    cut: Option<Cut>,
    failure: Option<Failure>,
}

/// What an answer is made of.
pub(in super::super) struct Begun {
    pub(in super::super) in_flight: InFlight,
    pub(in super::super) seat: Seat,
    pub(in super::super) status: StatusCode,
    pub(in super::super) body: RecvStream,
    pub(in super::super) upload: Option<Upload>,
    pub(in super::super) feed: Option<Arc<dyn Feed>>,
    pub(in super::super) held_back: bool,
    pub(in super::super) taken: Arc<AtomicU64>,
    /// How long it may bring nothing.
    pub(in super::super) within: Option<Duration>,
}

impl Passing {
    pub(in super::super) fn new(begun: Begun) -> Self {
        let within = begun.within;
        let patience = within.map(|within| Patience::new(within, Arc::clone(&begun.taken)));
        // Nothing follows these (RFC 9110 §15.3.5, §15.4.5), whatever a server sends.
        let headed_only = matches!(
            begun.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
        Self {
            _seat: begun.seat,
            in_flight: begun.in_flight,
            inbound: Inbound::new(begun.body),
            upload: begun.upload,
            feed: begun.feed,
            held_back: begun.held_back,
            taken: begun.taken,
            patience,
            rest: None,
            ended: headed_only,
            broken: false,
            unwanted: false,
            cut: None,
            failure: None,
        }
    }

    pub(in super::super) fn is_whole(&self) -> bool {
        (self.ended || self.inbound.is_end_stream()) && !self.broken
    }

    pub(in super::super) fn is_held_back(&self) -> bool {
        self.held_back
            && self
                .feed
                .as_ref()
                .is_some_and(|feed| !feed.progress().touched)
    }

    pub(in super::super) fn leaves_rest(&self) -> bool {
        let going_on = self
            .upload
            .as_ref()
            .is_some_and(|upload| !upload.is_finished());
        (self.unwanted || going_on) && self.is_whole() && !self.is_held_back()
    }

    /// Moves the request's body on.
    fn push(&mut self, cx: &mut Context<'_>) -> Result<(), BrokenOff> {
        let pushed = push(&mut self.upload, cx);
        if let (Some(upload), Some(feed)) = (&self.upload, &self.feed) {
            self.taken.store(upload.sent(), Relaxed);
            self.unwanted |= upload.is_finished() && !feed.progress().finished;
        }
        pushed
    }

    fn waits_for_visitor(&self) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.progress().waits)
    }

    pub(in super::super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if self.push(cx).is_err() {
            let fault = self.feed.as_ref().and_then(|feed| feed.progress().fault);
            return self.cut_for(Cut::Visitor(fault.unwrap_or(Failure::VisitorGone)), cx);
        }
        match Pin::new(&mut self.inbound).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                if let Some(patience) = &mut self.patience {
                    patience.heard();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.in_flight.server.count(What::Cut, &error.to_string());
                self.cut_for(Cut::Stream(error), cx)
            }
            Poll::Pending => {
                let visitors_turn = self.waits_for_visitor();
                if let Some(patience) = &mut self.patience
                    && patience.is_over(visitors_turn, cx)
                {
                    self.in_flight.server.stopped();
                    return self.cut_for(Cut::Stalled, cx);
                }
                Poll::Pending
            }
        }
    }

    /// Moves what there is of the request while nobody takes the answer.
    pub(in super::super) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
    ) -> (u64, Option<Failure>) {
        if !self.ended && self.push(cx).is_err() {
            let fault = self.feed.as_ref().and_then(|feed| feed.progress().fault);
            // Told with the next of the answer.
            let _told = self.cut_for(Cut::Visitor(fault.unwrap_or(Failure::VisitorGone)), cx);
        }
        (self.taken.load(Relaxed), self.failure)
    }

    fn cut_for(&mut self, cut: Cut, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        // What is not written when a body fails is given up: it gets a turn to be written first.
        self.ended = true;
        self.broken = true;
        self.call_off();
        self.failure = Some(cut.failure());
        self.cut = Some(cut);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The server must not take what it has of the request for all of it.
    fn call_off(&mut self) {
        // Of a stream that was reset nobody knows any more that its answer had come to its end.
        self.ended |= self.inbound.is_end_stream();
        if let Some(upload) = self.upload.as_mut().filter(|upload| !upload.is_finished()) {
            upload.reset(Reason::CANCEL);
        }
    }

    pub(in super::super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> (Rest, Option<Failure>) {
        if self.unwanted {
            return (Rest::Unwanted, None);
        }
        if self.push(cx).is_err() {
            self.call_off();
            let fault = self.feed.as_ref().and_then(|feed| feed.progress().fault);
            // Of a visitor who left, the answer has nothing to say: it was whole.
            return (
                Rest::Done,
                fault.filter(|failure| *failure != Failure::VisitorGone),
            );
        }
        if self.unwanted {
            return (Rest::Unwanted, None);
        }
        let (Some(upload), Some(feed)) = (&self.upload, &self.feed) else {
            return (Rest::Done, None);
        };
        if upload.is_finished() {
            return (Rest::Done, None);
        }
        let progress = feed.progress();
        let taken = &self.taken;
        let patience = self
            .rest
            .get_or_insert_with(|| Patience::new(REST_WITHIN, Arc::clone(taken)));
        if patience.is_over(progress.waits, cx) {
            self.call_off();
            self.unwanted = true;
            return (Rest::Unwanted, None);
        }
        let rest = if progress.waits {
            Rest::Due(progress.moved)
        } else {
            Rest::Untaken
        };
        (rest, None)
    }

    pub(in super::super) fn poll_unwanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(feed) = &self.feed else {
            return Poll::Ready(());
        };
        while let Some(Ok(_unwanted)) = ready!(feed.poll_frame(cx)) {}
        Poll::Ready(())
    }

    pub(in super::super) fn finish(&mut self, record: Option<&mut Record>) {
        if let Some(record) = record {
            if let Some(feed) = &self.feed {
                record.received = feed.progress().moved;
            }
            record.sent = self.inbound.received();
            if !self.is_whole() {
                record.failed(self.failure.unwrap_or(Failure::VisitorGone));
            }
        }
        self.call_off();
    }
}
