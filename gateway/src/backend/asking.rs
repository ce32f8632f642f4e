//! Who waits while a server has a request in hand: the visitor's side, the body that it may have held back, and the time that
//! the server may take.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Response, StatusCode};
use tidegate_shared::clock;
use tidegate_shared::origin::Asking;
use tokio::time::{Instant, Sleep, sleep};

use super::body::Feed;
use crate::exchange::{CONTINUE_AFTER, Side};
use crate::failure::Failure;
use crate::spent::Waited;

/// See the module's head.
pub(super) struct Asker<'a, S> {
    side: &'a mut S,
    feed: Option<&'a dyn Feed>,
    /// The visitor holds its body back until a 100, or until this is over.
    gate: Option<Pin<Box<Sleep>>>,
    /// Octets of the body that have gone on, kept where they are found however the wait ends.
    received: &'a mut u64,
    /// How long its next ones were what everything waited for, likewise.
    upload: &'a mut Waited,
    patience: Option<Patience>,
    /// Why nobody waits any more.
    pub(super) over: Option<Failure>,
}

impl<'a, S: Side> Asker<'a, S> {
    pub(super) fn new(
        side: &'a mut S,
        feed: Option<&'a dyn Feed>,
        holds_back: bool,
        received: &'a mut u64,
        upload: &'a mut Waited,
        patience: Option<Patience>,
    ) -> Self {
        Self {
            side,
            feed,
            gate: holds_back.then(|| Box::pin(sleep(CONTINUE_AFTER))),
            received,
            upload,
            patience,
            over: None,
        }
    }

    fn go_on(&mut self) {
        if self.gate.take().is_some() {
            self.side.go_on();
            if let Some(feed) = self.feed {
                feed.open();
            }
        }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        if let Poll::Ready(failure) = self.side.poll_over(cx) {
            return Poll::Ready(failure);
        }
        if let Some(gate) = &mut self.gate
            && gate.as_mut().poll(cx).is_ready()
        {
            self.go_on();
        }
        let mut visitors_turn = false;
        if let Some(feed) = self.feed {
            let progress = feed.progress();
            *self.received = progress.moved;
            visitors_turn = progress.waits;
            self.side.body_due(visitors_turn.then_some(progress.moved));
            self.upload.note(visitors_turn);
        }
        if let Some(patience) = &mut self.patience
            // A server that says no 100 waits for what is held back here, and gets it before it is given up.
            && patience.is_over(visitors_turn || self.gate.is_some(), cx)
        {
            return Poll::Ready(Failure::BackendTimeout);
        }
        Poll::Pending
    }
}

impl<S: Side> Asking for Asker<'_, S> {
    fn interim(&mut self, response: Response<()>) {
        if response.status() == StatusCode::CONTINUE {
            // A visitor who held nothing back is not told to go on.
            self.go_on();
        } else {
            self.side.interim(response);
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let over = self.poll_over(cx);
        if let Poll::Ready(failure) = over {
            self.over = Some(failure);
        }
        over.map(|_failure| ())
    }
}

/// For how long a server may do nothing while it is its turn: neither take an octet nor say one.
#[derive(Debug)]
pub(super) struct Patience {
    within: Duration,
    /// Octets that the server has taken.
    taken: Arc<AtomicU64>,
    seen: u64,
    since: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(super) fn new(within: Duration, taken: Arc<AtomicU64>) -> Self {
        let seen = taken.load(Relaxed);
        Self {
            within,
            taken,
            seen,
            since: clock::now_ms(),
            timer: None,
        }
    }

    /// The server has said something.
    pub(super) fn heard(&mut self) {
        self.timer = None;
    }

    /// Whether time is up. `others_turn` while it is not the server that everything waits for.
    pub(super) fn is_over(&mut self, others_turn: bool, cx: &mut Context<'_>) -> bool {
        let now = clock::now_ms();
        let taken = self.taken.load(Relaxed);
        if others_turn || taken != self.seen || self.timer.is_none() {
            self.seen = taken;
            self.since = now;
        }
        let within = self.within;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(within)));
        while timer.as_mut().poll(cx).is_ready() {
            let quiet = Duration::from_millis(now.saturating_sub(self.since));
            let Some(left) = within.checked_sub(quiet).filter(|left| !left.is_zero()) else {
                return true;
            };
            timer.as_mut().reset(Instant::now() + left);
        }
        false
    }
}
