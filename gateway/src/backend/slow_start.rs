//! How much of its share a server gets that has just come back: little at first, and more from moment to moment, so that caches
//! fill and connections open before everything arrives at once. Pure but for one atomic; `server` begins it and asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The whole share. Weights are counted in these, so that a part of the smallest is a whole number.
pub(super) const WHOLE: u32 = 256;

/// A twentieth: enough to be asked at all.
const LEAST: u64 = WHOLE as u64 / 20;

/// See the module's head.
#[derive(Debug)]
pub(super) struct SlowStart {
    over_ms: u64,
    /// By `clock::now_ms`; 0 where it has its whole share.
    began: AtomicU64,
}

impl SlowStart {
    /// Over so much time; none at all for 0.
    pub(super) fn new(over: Duration) -> Self {
        Self {
            over_ms: u64::try_from(over.as_millis()).unwrap_or(u64::MAX),
            began: AtomicU64::new(0),
        }
    }

    /// The server has come back.
    pub(super) fn begin(&self, now: u64) {
        if self.over_ms > 0 {
            self.began.store(now, Relaxed);
        }
    }

    /// How many of [`WHOLE`] it gets.
    pub(super) fn share(&self, now: u64) -> u32 {
        let began = self.began.load(Relaxed);
        if began == 0 {
            return WHOLE;
        }
        let gone = now.saturating_sub(began);
        if gone >= self.over_ms {
            // Unless it has begun once more in between.
            let _other = self.began.compare_exchange(began, 0, Relaxed, Relaxed);
            return WHOLE;
        }
        let share = u128::from(gone) * u128::from(WHOLE) / u128::from(self.over_ms);
        u32::try_from(share.max(u128::from(LEAST))).unwrap_or(WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_to_the_whole() {
        let start = SlowStart::new(Duration::from_secs(10));
        assert_eq!(start.share(1), WHOLE, "it was always there");
        start.begin(1_000);
        for (now, share) in [
            (1_000, 12),
            (1_100, 12),
            (2_000, 25),
            (6_000, WHOLE / 2),
            (10_999, WHOLE - 1),
            (11_000, WHOLE),
            (1_000, WHOLE),
        ] {
            assert_eq!(start.share(now), share, "{now}");
        }
        start.begin(20_000);
        assert_eq!(start.share(20_000), 12);
    }

    #[test]
    fn without_a_time_there_is_none() {
        let none = SlowStart::new(Duration::ZERO);
        none.begin(5);
        assert_eq!(none.share(5), WHOLE);
    }
}
