//! A server's answer on a connection of its own (HTTP/1.1), on its way to the visitor, in the visitor's own task: whoever takes the answer drives the server's
//! connection with it, so that a slow visitor slows the server and one that leaves ends the connection at once. A connection
//! goes back to rest when both halves of the exchange are whole.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Frame;
use tidegate_shared::clock;
use tidegate_shared::message::strip_trailers;
use tidegate_shared::origin::{Broken, fault_in_reading};

use super::asking::Patience;
use super::body::Feed;
use super::server::{InFlight, Kept, What};
use crate::access::Record;
use crate::answer::{Cut, Rest};
use crate::failure::Failure;

/// A server that has answered takes some of what is left of the request within this, or it is called off.
pub(super) const REST_WITHIN: Duration = Duration::from_secs(30);

/// See the module's head.
#[derive(Debug)]
pub struct Passing {
    in_flight: InFlight,
    /// `None` once it rests, or is closed.
    kept: Option<Kept>,
    feed: Option<Arc<dyn Feed>>,
    held_back: bool,
    patience: Option<Patience>,
    sent: u64,
    ended: bool,
    broken: bool,
    /// The server wants no more of the request.
    unwanted: bool,
    /// Found, and told once what came before it has been written.
    cut: Option<Cut>,
    failure: Option<Failure>,
}

impl Passing {
    pub(super) fn new(
        in_flight: InFlight,
        kept: Kept,
        feed: Option<Arc<dyn Feed>>,
        held_back: bool,
        within: Option<Duration>,
    ) -> Self {
        let patience = within.map(|within| Patience::new(within, kept.link.taken()));
        Self {
            in_flight,
            ended: kept.link.is_whole(),
            kept: Some(kept),
            feed,
            held_back,
            patience,
            sent: 0,
            broken: false,
            unwanted: false,
            cut: None,
            failure: None,
        }
    }

    /// Whether all of the answer has been handed on.
    pub(super) fn is_whole(&self) -> bool {
        self.ended && !self.broken
    }

    /// Whether the visitor waits to be told to send a body, and will not be.
    pub(super) fn is_held_back(&self) -> bool {
        self.held_back
            && self
                .feed
                .as_ref()
                .is_some_and(|feed| !feed.progress().touched)
    }

    /// Whether the request's body goes on behind the answer.
    pub(super) fn leaves_rest(&self) -> bool {
        // All of it may be with the connection, and not all with the server.
        let on_its_way = |kept: &Kept| self.feed.is_some() && !kept.link.is_ready();
        let rest = self.unwanted || self.kept.as_ref().is_some_and(on_its_way);
        rest && self.is_whole() && !self.is_held_back()
    }

    /// The next of the answer; what there is of the request goes on meanwhile.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Some(cut) = self.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(kept) = &mut self.kept else {
            return Poll::Ready(None);
        };
        let polled = kept.link.poll_frame(cx);
        // The last octets are its end where the length was told.
        self.ended = kept.link.is_whole();
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.sent += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_mut() {
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
                let cut = self.cut_by(error);
                self.cut_for(cut, cx)
            }
            Poll::Pending => {
                let visitors_turn = self.feed.as_ref().is_some_and(|feed| feed.progress().waits);
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

    /// Whose fault it is that an answer ended before its end.
    fn cut_by(&self, error: Broken) -> Cut {
        if let Some(failure) = self.feed.as_ref().and_then(|feed| feed.progress().fault) {
            return Cut::Visitor(failure);
        }
        let server = &self.in_flight.server;
        match fault_in_reading(&error) {
            Some(why) => server.count(What::Cut, &why.to_string()),
            None => server.count(What::Cut, &error.to_string()),
        }
        Cut::Backend(error)
    }

    fn cut_for(&mut self, cut: Cut, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        // What is not written when a body fails is given up: it gets a turn to be written first.
        self.ended = true;
        self.broken = true;
        self.kept = None;
        self.failure = Some(cut.failure());
        self.cut = Some(cut);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what there is of the request while nobody takes the answer. What goes wrong the connection remembers.
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) -> (u64, Option<Failure>) {
        let Some(feed) = &self.feed else {
            return (0, None);
        };
        if let Some(kept) = &mut self.kept {
            let _over = kept.link.drive(cx);
        }
        let progress = feed.progress();
        (progress.moved, progress.fault)
    }

    /// Moves what is left of the request's body, behind the answer.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> (Rest, Option<Failure>) {
        if self.unwanted {
            return (Rest::Unwanted, None);
        }
        let Some(feed) = &self.feed else {
            return (Rest::Done, None);
        };
        let Some(kept) = &mut self.kept else {
            return (Rest::Done, None);
        };
        if kept.link.is_reusable(cx) {
            return (Rest::Done, None);
        }
        let over = kept.link.is_over();
        let progress = feed.progress();
        if let Some(failure) = progress.fault {
            self.kept = None;
            // Of a visitor who left, the answer has nothing to say: it was whole.
            return (
                Rest::Done,
                Some(failure).filter(|failure| *failure != Failure::VisitorGone),
            );
        }
        if over {
            self.kept = None;
            self.unwanted = !progress.finished;
            let rest = if self.unwanted {
                Rest::Unwanted
            } else {
                Rest::Done
            };
            return (rest, None);
        }
        if kept.link.stands_still(REST_WITHIN, progress.waits, cx) {
            self.kept = None;
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

    /// Takes what still comes of a body that the server does not want, for nobody. Ready at its end.
    pub(super) fn poll_unwanted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(feed) = &self.feed else {
            return Poll::Ready(());
        };
        while let Some(Ok(_unwanted)) = ready!(feed.poll_frame(cx)) {}
        Poll::Ready(())
    }

    /// Notes what has gone both ways, and lets the connection rest if it can, or else closes it.
    pub(super) fn finish(&mut self, record: Option<&mut Record>, at: Instant) {
        if let Some(record) = record {
            if let Some(feed) = &self.feed {
                record.received = feed.progress().moved;
            }
            record.sent = self.sent;
            if !self.is_whole() {
                record.failed(self.failure.unwrap_or(Failure::VisitorGone));
            }
        }
        let Some(mut kept) = self.kept.take() else {
            return;
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if self.is_whole() && kept.link.is_reusable(&mut cx) {
            self.in_flight.server.take_back(kept, clock::ms(at));
        }
    }
}
