//! One connection to an app, and one request after another on it. The request's own future drives it.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode, Version};
use http_body::Frame;
use tokio::time::{Sleep, sleep};

use super::framing::content;
use super::haste::Haste;
use super::receiving::{Broken, NoHead, Receiving};
use super::standstill::Standstill;
use super::{Asking, ENDLESS, First, Line, Upload};
use crate::glance::Glance;
use crate::http1::request::{self, Head};
use crate::http1::{Length, Sending, Stuck, keeps};
use crate::interim::{Fate, Interims};

/// A connection to an app, whose requests have bodies of the kind `B`.
#[derive(Debug)]
pub struct Link<B> {
    line: Line,
    sending: Sending<B>,
    receiving: Receiving,
    /// It carries another request behind the one in hand.
    keeps: bool,
    /// HTTP on it has ended.
    over: bool,
    haste: Arc<Haste>,
    /// Octets that the app's socket has taken.
    taken: Arc<AtomicU64>,
    first: Arc<First>,
    rested_since: u64,
    /// Of what is left of a request behind its answer.
    standstill: Option<Standstill>,
}

/// Why a request has no response.
#[derive(Debug)]
pub enum Miss<B> {
    /// Nothing of it was sent; here is its body again.
    Unsent(B),
    /// The connection ended, or broke, after some or all of it was sent, before any response.
    Closed,
    /// What the app answered is not HTTP as it should be, for this.
    Invalid(Cow<'static, str>),
    /// No head of a response within the limit.
    Slow,
    /// Nobody waits for it any more.
    Unwanted,
}

impl<B: Upload> Link<B> {
    /// HTTP/1.1 on a connection.
    pub fn new(line: Line) -> Box<Self> {
        let (haste, taken, first) = (line.haste(), line.taken(), line.first());
        Box::new(Self {
            line,
            sending: Sending::default(),
            receiving: Receiving::new(),
            keeps: true,
            over: false,
            haste,
            taken,
            first,
            rested_since: 0,
            standstill: None,
        })
    }

    /// Sends what there is of a request, and looks for the connection's end where nothing of an answer is due. Ready when HTTP
    /// on it has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.over {
            return Poll::Ready(());
        }
        match self.sending.poll(cx, &mut self.line) {
            Poll::Pending | Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Stuck::Body(_) | Stuck::Length)) => return self.ends(),
            Poll::Ready(Err(Stuck::Line(_))) => {
                // It may have answered before it stopped listening.
                self.sending.give_up();
                self.keeps = false;
            }
        }
        if self.receiving.is_at_rest() {
            let has_ended = self.sending.is_done() && !self.keeps;
            if has_ended || self.receiving.poll_unasked(cx, &mut self.line).is_ready() {
                return self.ends();
            }
        } else if self.receiving.is_over() {
            return self.ends();
        }
        Poll::Pending
    }

    fn ends(&mut self) -> Poll<()> {
        self.over = true;
        Poll::Ready(())
    }

    /// The next of the answer's content, `None` at its end; what there is of the request goes on meanwhile.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.is_whole() {
            return Poll::Ready(None);
        }
        // A small body came together with the head.
        let polled = self.receiving.poll_frame(cx, &mut self.line);
        if polled.is_pending() {
            if self.drive(cx).is_ready() {
                self.receiving.end();
                return Poll::Ready(Some(Err(Broken::Request)));
            }
            self.haste.more_is_due(cx);
        }
        polled
    }

    /// Whether all of the answer was taken.
    pub const fn is_whole(&self) -> bool {
        self.receiving.is_at_rest()
    }

    /// How many octets the app has taken on it, kept by the connection itself.
    pub fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    /// What the app said first on it, kept by the connection itself.
    pub fn first(&self) -> &First {
        &self.first
    }

    /// Before a request that must not be lost: if the app has closed the connection, or said something that nobody asked for,
    /// the request comes back unsent, even where the runtime has not heard of it yet.
    pub fn look_first(&self) {
        self.haste.doubt();
    }

    /// It waits for another request from this moment on, in milliseconds of a clock of the caller's.
    pub const fn comes_to_rest(&mut self, now: u64) {
        self.rested_since = now;
    }

    /// Since when it has waited, by that clock.
    pub const fn rested_since(&self) -> u64 {
        self.rested_since
    }

    /// Whether HTTP on it has ended.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it waits for another request, as far as it has been driven.
    pub fn is_ready(&self) -> bool {
        !self.over && self.keeps && self.receiving.is_at_rest() && self.sending.is_done()
    }

    /// Whether it could carry another request.
    pub(super) fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.is_ready()
    }

    /// The same right after a response, when the connection has mostly been driven as far as it goes.
    pub fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_ready() || (!self.over && self.is_open(cx))
    }

    /// Sends a request and waits for the head of its response, `within` at most, or for the one who asks to go away. Behind
    /// anything but a response the connection is to be closed.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask<A: Asking>(
        &mut self,
        head: Head<'_>,
        body: B,
        asking: &mut A,
        within: Option<Duration>,
    ) -> Result<Response<()>, Miss<B>> {
        let mut unsent = Some((head, body));
        let mut interims = Interims::default();
        let mut limit = pin!(within.map(sleep));
        self.haste.rest();
        self.standstill = None;
        poll_fn(|cx| {
            let goes = unsent.take();
            let is_first = goes.is_some();
            if let Some((head, body)) = goes {
                if self.drive(cx).is_ready() {
                    return Poll::Ready(Err(Miss::Unsent(body)));
                }
                request::write(self.sending.out(), head);
                self.sending.body(body, length_of(head.headers));
                self.receiving.begin();
            }
            let over = self.drive(cx).is_ready();
            // Nothing had come when it was looked, just before the request went: what comes since then wakes. What was said
            // before the connection ended is still there.
            let may_be_there = !is_first || over;
            if may_be_there
                && let Poll::Ready(answer) =
                    self.poll_answer(cx, head.method, asking, &mut interims)
            {
                return Poll::Ready(answer);
            }
            if over {
                return Poll::Ready(Err(Miss::Closed));
            }
            if asking.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Miss::Unwanted));
            }
            if is_over(limit.as_mut().as_pin_mut(), cx) {
                return Poll::Ready(Err(Miss::Slow));
            }
            self.haste.more_is_due(cx);
            Poll::Pending
        })
        .await
    }

    /// Passes interim responses on until the one comes that is none.
    fn poll_answer<A: Asking>(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Method,
        asking: &mut A,
        interims: &mut Interims,
    ) -> Poll<Result<Response<()>, Miss<B>>> {
        loop {
            let read = match self.receiving.poll_head(cx, &mut self.line) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => read,
            };
            let mut head = match read {
                Ok(head) => head,
                Err(NoHead::Closed) => return self.missed(Miss::Closed),
                Err(NoHead::Unreadable(why)) => return self.missed(Miss::Invalid(why.into())),
            };
            let status = head.status();
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                *head.version_mut() = Version::HTTP_2;
                match interims.meet(&mut head) {
                    Fate::Pass => asking.interim(head),
                    Fate::Drop => {}
                    Fate::Flood => return self.missed(Miss::Invalid(ENDLESS.into())),
                }
                continue;
            }
            let glance = Glance::of_answer(head.headers());
            let content = match content(asked, &mut head, glance) {
                Ok(content) => content,
                Err(why) => return self.missed(Miss::Invalid(why.into())),
            };
            self.keeps &= keeps(head.version(), head.headers(), glance);
            self.receiving.content(status, content);
            return Poll::Ready(Ok(head));
        }
    }

    fn missed(&mut self, miss: Miss<B>) -> Poll<Result<Response<()>, Miss<B>>> {
        self.over = true;
        Poll::Ready(Err(miss))
    }

    /// Whether it is fit for another request, after a response. An app may answer before it reads all of a body: what is left of
    /// it goes on until all is there, or either side gives it up, or nothing of it has moved for `rest_within`. Then it is
    /// called off: the connection is to be closed, and so the visitor told (RFC 9113 §8.1).
    pub async fn reusable(&mut self, rest_within: Duration) -> bool {
        poll_fn(|cx| {
            if self.is_reusable(cx) {
                return Poll::Ready(true);
            }
            if self.over {
                return Poll::Ready(false);
            }
            if self.stands_still(rest_within, false, cx) {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    /// Whether the app has taken nothing for so long of what is left of a request, behind its answer. `others_turn` while nothing is
    /// there to be taken.
    pub fn stands_still(
        &mut self,
        within: Duration,
        others_turn: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        let (taken, line) = (self.taken.load(Relaxed), &self.line);
        let standstill = &mut self.standstill;
        let standstill = standstill.get_or_insert_with(|| Standstill::new(taken, within));
        standstill.lasts((taken, others_turn), within, || line.unacked(), cx)
    }

    /// Ends it so that nothing of it is left, on either side: where one after the other is opened and closed, those that are left
    /// would take all ports.
    pub fn close_abruptly(self) {
        self.line.close_abruptly();
    }

    /// The socket, and what was read from it beyond the response: for what was upgraded.
    pub fn into_parts(self) -> (Line, Bytes) {
        (self.line, self.receiving.into_octets())
    }
}

/// How a request's body is to be framed. Whoever asks has seen to it that its head says so once, and with a number.
fn length_of(headers: &HeaderMap) -> Length {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Length::Chunked { trailers: true };
    }
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    Length::Left(length.unwrap_or(0))
}

/// What the app did wrong in the middle of an answer. `None` where the connection ended for the request's sake.
pub const fn fault_in_reading(broken: &Broken) -> Option<&io::Error> {
    match broken {
        Broken::App(error) => Some(error),
        Broken::Request => None,
    }
}

/// Polls a limit that may not be there.
fn is_over(limit: Option<Pin<&mut Sleep>>, cx: &mut Context<'_>) -> bool {
    limit.is_some_and(|limit| limit.poll(cx).is_ready())
}
