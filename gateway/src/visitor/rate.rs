//! Whether what somebody sends comes too slowly: octets, averaged over a time, looked at one such time after the other.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::pulse::Patience;

/// From when a rate is measured, and what had come by then. All times by [`tidegate_shared::clock::now_ms`].
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: AtomicU64,
    mark: AtomicU64,
}

impl Rate {
    /// Measured from `now` on, when `octets` had come.
    pub(super) fn begin(&self, octets: u64, now: u64) {
        self.since.store(now, Relaxed);
        self.mark.store(octets, Relaxed);
    }

    /// Whether less came, over a time that is long enough to say so, than had to. What comes then is measured anew.
    pub(super) fn is_crawl(&self, octets: u64, now: u64, patience: &Patience) -> bool {
        let took = Duration::from_millis(now.saturating_sub(self.since.load(Relaxed)));
        if took < patience.rate_over() {
            return false;
        }
        let brought = octets.saturating_sub(self.mark.load(Relaxed));
        self.begin(octets, now);
        patience.is_crawl(brought, took)
    }
}
