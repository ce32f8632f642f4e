//! A body over HTTP/2 whose next octets everything waits for: whether it has stopped, or crawls. Over HTTP/1 the pulse knows.

use std::time::Instant;

use tidegate_shared::clock;

use super::pulse::Patience;
use super::rate::Rate;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Due {
    moved: u64,
    /// When `moved` last grew.
    heard: Instant,
    rate: Rate,
}

impl Due {
    pub(super) fn begin(moved: u64) -> Self {
        let heard = Instant::now();
        let rate = Rate::default();
        rate.begin(moved, clock::ms(heard));
        Self { moved, heard, rate }
    }

    pub(super) fn came(&mut self, moved: u64) {
        if moved != self.moved {
            self.moved = moved;
            self.heard = Instant::now();
        }
    }

    /// When nothing has come for too long, if nothing comes.
    pub(super) fn ends(&self, patience: &Patience) -> Instant {
        self.heard + patience.stall
    }

    /// Whether nothing came for too long, or too little.
    pub(super) fn is_overdue(&self, patience: &Patience) -> bool {
        self.heard.elapsed() >= patience.stall
            || self.rate.is_crawl(self.moved, clock::now_ms(), patience)
    }
}
