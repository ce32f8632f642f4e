//! How long a request has waited for its response: since it began, less what it spent waiting for a place on a tunnel, which
//! has a limit of its own (`--hold`) and an answer of its own. Pure: moments are milliseconds by `clock::now_ms`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the module's head. Its owner changes it, and whoever keeps time looks at it.
#[derive(Debug, Default)]
pub(super) struct Wait {
    began: AtomicU64,
    /// Since when there is no place; zero while there is one.
    held_since: AtomicU64,
    /// What was spent without one.
    held: AtomicU64,
}

impl Wait {
    /// A request begins.
    pub(super) fn begin(&self, now: u64) {
        self.held_since.store(0, Relaxed);
        self.held.store(0, Relaxed);
        self.began.store(now, Relaxed);
    }

    /// It waits for a place from here on, or no longer.
    pub(super) fn hold(&self, holds: bool, now: u64) {
        let since = self
            .held_since
            .swap(if holds { now.max(1) } else { 0 }, Relaxed);
        if since != 0 {
            self.held.fetch_add(now.saturating_sub(since), Relaxed);
        }
    }

    /// For how long a response has been due.
    pub(super) fn lasts(&self, now: u64) -> u64 {
        let now = match self.held_since.load(Relaxed) {
            0 => now,
            since => since.min(now),
        };
        now.saturating_sub(self.began.load(Relaxed))
            .saturating_sub(self.held.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_without_a_place_does_not_count() {
        let wait = Wait::default();
        wait.begin(1_000);
        assert_eq!(wait.lasts(1_200), 200);
        wait.hold(true, 1_300);
        assert_eq!(wait.lasts(4_000), 300);
        wait.hold(false, 4_300);
        assert_eq!(wait.lasts(4_400), 400);
        wait.hold(true, 4_500);
        wait.hold(false, 4_600);
        assert_eq!(wait.lasts(5_000), 900);
        wait.begin(6_000);
        assert_eq!(wait.lasts(6_001), 1);
    }
}
