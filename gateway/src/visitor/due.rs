//! A body over HTTP/2 whose next octets everything waits for: whether it has stopped, or crawls. Over HTTP/1 the pulse knows.

use std::time::Instant;

use super::pulse::Patience;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Due {
    moved: u64,
    /// When `moved` last grew.
    heard: Instant,
    /// From when its rate is measured, and what had come by then.
    since: Instant,
    mark: u64,
}

impl Due {
    pub(super) fn begin(moved: u64) -> Self {
        let now = Instant::now();
        Self {
            moved,
            heard: now,
            since: now,
            mark: moved,
        }
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
    pub(super) fn is_overdue(&mut self, patience: &Patience) -> bool {
        if self.heard.elapsed() >= patience.stall {
            return true;
        }
        let took = self.since.elapsed();
        if took < patience.rate_over() {
            return false;
        }
        let brought = self.moved - self.mark;
        self.since = Instant::now();
        self.mark = self.moved;
        patience.is_crawl(brought, took)
    }
}
