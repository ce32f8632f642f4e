//! How long nothing has moved on something that two ends keep open. Used by `relay` and `duplex`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// For how long nothing has moved. One timer, looked at when it is due: what moves does not touch it.
#[derive(Debug)]
pub(crate) struct Idle {
    most: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    pub(crate) fn new(most: Duration) -> Self {
        let since = Instant::now();
        Self {
            most,
            since,
            timer: Box::pin(sleep_until(since + most)),
        }
    }

    pub(crate) fn most(&self) -> Duration {
        self.most
    }

    /// Whether that has lasted too long; `moved` says that something did since the last time.
    pub(crate) fn is_over(&mut self, moved: bool, cx: &mut Context<'_>) -> bool {
        if moved {
            self.since = Instant::now();
        }
        let end = self.since + self.most;
        while let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            if self.timer.deadline() >= end {
                return true;
            }
            self.timer.as_mut().reset(end);
        }
        false
    }
}
