//! Whether a server closes connections right behind its answers without announcing it (`Connection: close`), as far as that has
//! been seen, and so which connections a request may go on that cannot be repeated. Slots of one server have it in common: DNS moves
//! addresses among them, and what is behind one is behind the others. Keeps no connections and closes none. Told by a request's
//! errand, asked where a connection is granted.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_shared::origin::FRESH_MS;

/// The end of a connection that follows an answer has come by then, in milliseconds: it is as long on its way as the answer was,
/// and behind it by as long as a busy machine takes from one system call to the next.
pub(super) const SETTLED_MS: u64 = 50;

/// What was seen counts for so long, in milliseconds.
const REMEMBERED_MS: u64 = 10 * 60_000;

/// Any rest, in milliseconds.
pub(super) const ANY: RangeInclusive<u64> = 0..=u64::MAX;

/// One that is short.
const RECENT: RangeInclusive<u64> = 0..=FRESH_MS;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Manners {
    /// 0 where nothing was seen.
    abrupt_until: AtomicU64,
}

impl Manners {
    /// The server has closed a connection that had rested for so many milliseconds when a request was to go on it. Whether that
    /// says something that was not known.
    pub(super) fn closed_after(&self, rested: u64, now: u64) -> bool {
        if !RECENT.contains(&rested) {
            return false;
        }
        let before = self.abrupt_until.swap(now + REMEMBERED_MS, Relaxed);
        before <= now
    }

    /// How long a connection must have rested, and may have, for a request that cannot be repeated. Those of a server that
    /// closes none behind its answers are not kept from work: there would be more of them open for nothing.
    pub(super) fn fit(&self, now: u64) -> RangeInclusive<u64> {
        if self.abrupt_until.load(Relaxed) > now {
            SETTLED_MS..=FRESH_MS
        } else {
            RECENT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_behind_an_answer_is_remembered_for_a_while() {
        let manners = Manners::default();
        assert_eq!(manners.fit(5), RECENT);
        assert!(!manners.closed_after(FRESH_MS + 1, 5), "it had rested");
        assert_eq!(manners.fit(5), RECENT);
        assert!(manners.closed_after(3, 5));
        assert!(!manners.closed_after(3, 6), "known");
        assert_eq!(manners.fit(6), SETTLED_MS..=FRESH_MS);
        assert_eq!(manners.fit(5 + REMEMBERED_MS), SETTLED_MS..=FRESH_MS);
        assert_eq!(manners.fit(6 + REMEMBERED_MS), RECENT);
        assert!(manners.closed_after(3, 6 + REMEMBERED_MS), "known no more");
    }
}
