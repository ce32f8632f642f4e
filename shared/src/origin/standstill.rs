//! An app that takes nothing of what it is sent: whether that has lasted too long. One that reads slowly has the system take what
//! was written from us in large parts, minutes apart, and from the system in small ones: both count. Keeps the time; asked by `Link`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::unacked::{Ebb, LOOKS};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Standstill {
    /// What the system had taken from us.
    taken: u64,
    since: Instant,
    /// What the app has not taken of that.
    ebb: Ebb,
    timer: Pin<Box<Sleep>>,
}

impl Standstill {
    /// From this moment on, to be looked at for `within`.
    pub(super) fn new(taken: u64, within: Duration) -> Self {
        Self {
            taken,
            since: Instant::now(),
            ebb: Ebb::default(),
            timer: Box::pin(sleep(within / LOOKS)),
        }
    }

    /// Whether it has lasted `within`. `others_turn` while nothing is there to be taken, and `waits` tells how much of what was
    /// written the app has not taken, where the system says so.
    pub(super) fn lasts(
        &mut self,
        (taken, others_turn): (u64, bool),
        within: Duration,
        waits: impl Fn() -> Option<u64>,
        cx: &mut Context<'_>,
    ) -> bool {
        if others_turn || taken != self.taken {
            self.taken = taken;
            self.since = Instant::now();
            self.ebb = Ebb::default();
        }
        while let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            let now = Instant::now();
            if !others_turn && self.ebb.falls(waits()) {
                self.since = now;
            }
            if now.saturating_duration_since(self.since) >= within {
                return true;
            }
            let end = self.since + within;
            self.timer.as_mut().reset(end.min(now + within / LOOKS));
        }
        false
    }
}
