//! A visitor who takes nothing of an answer over HTTP/2: whether that has lasted too long. Over HTTP/1 the pulse knows.

use std::task::Context;
use std::time::Instant;

use tidegate_shared::timer::Timer;
use tidegate_shared::unacked::Ebb;

use super::due::Due;
use super::pulse::Patience;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Stuck {
    /// Octets of the answer that had gone to him.
    sent: u64,
    since: Instant,
    /// What he sends meanwhile: who writes first and reads then is not stuck.
    request: Due,
    /// What he has not taken of what was written earlier, some megabytes at most.
    ebb: Ebb,
    timer: Timer,
}

impl Stuck {
    /// From this moment on. `moved` is so much of the answer, and so much of the request.
    pub(super) fn new((sent, received): (u64, u64), patience: &Patience) -> Self {
        let now = Instant::now();
        Self {
            sent,
            since: now,
            request: Due::begin(received),
            ebb: Ebb::default(),
            timer: Timer::until((now + patience.grain()).into()),
        }
    }

    /// Whether it has. `waits` tells how much of what was written the visitor has not taken, where the system says so.
    pub(super) fn lasts_too_long(
        &mut self,
        (sent, received): (u64, u64),
        patience: &Patience,
        waits: impl Fn() -> Option<u64>,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.sent != sent {
            self.sent = sent;
            self.ebb = Ebb::default();
            self.begin_anew(received);
        }
        self.request.came(received);
        // One timer, looked at when it is due: what moves does not touch it.
        while self.timer.poll(cx).is_ready() {
            if self.ebb.falls(waits()) {
                self.begin_anew(received);
            }
            let overdue = self.request.is_overdue(patience);
            if overdue && self.since.elapsed() >= patience.stall {
                return true;
            }
            let again = Instant::now() + patience.grain();
            let end = self.request.ends(patience).max(self.since + patience.stall);
            self.timer.reset(again.min(end).into());
        }
        false
    }

    fn begin_anew(&mut self, received: u64) {
        self.since = Instant::now();
        self.request = Due::begin(received);
    }
}
