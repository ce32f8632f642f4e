//! Whether an app closes connections right behind its answers without announcing it (`Connection: close`), as far as that has
//! been seen, and so which connections a request may go on that cannot be repeated. Keeps no connections and closes none. Told by
//! whoever asks an app, or looks at what rests; asked where a connection is granted. Of a gateway's backends, slots of one server
//! have it in common: DNS moves addresses among them, and what is behind one is behind the others.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// A request that cannot be repeated goes on a fresh connection rather than on one that has rested longer than this, in
/// milliseconds: the app may be about to close it.
const FRESH_MS: u64 = 1_000;

/// The end of a connection that follows an answer has come by then, in milliseconds: it is as long on its way as the answer was,
/// and behind it by as long as a busy machine takes from one system call to the next.
pub const SETTLED_MS: u64 = 50;

/// What was seen counts for so long, in milliseconds.
const REMEMBERED_MS: u64 = 10 * 60_000;

/// Where no connection can rest for long enough, those of an app are trusted after so long, in milliseconds, in which none was
/// seen to be closed.
const CROWDED_MS: u64 = 1_000;

/// Any rest, in milliseconds.
pub const ANY: RangeInclusive<u64> = 0..=u64::MAX;

/// One that is short.
const RECENT: RangeInclusive<u64> = 0..=FRESH_MS;

/// One that is short, and in which the connection's end would have come.
const SETTLED: RangeInclusive<u64> = SETTLED_MS..=FRESH_MS;

/// See the module's head. By default connections are taken to be kept until one is seen to be closed.
#[derive(Debug, Default)]
pub struct Manners {
    /// They are not, until one is seen to be kept.
    wary: bool,
    /// One was.
    kept: AtomicBool,
    /// 0 where nothing was seen.
    abrupt_until: AtomicU64,
    /// Since when no connection can rest for long enough; 0 where one could.
    crowded_since: AtomicU64,
}

impl Manners {
    /// Of an app that is trusted when it has earned it.
    pub fn wary() -> Self {
        Self {
            wary: true,
            ..Self::default()
        }
    }

    /// The app has closed a connection that had rested for so many milliseconds when a request was to go on it, or it was looked
    /// at. Whether that says something that was not known.
    pub fn closed_after(&self, rested: u64, now: u64) -> bool {
        if !RECENT.contains(&rested) {
            return false;
        }
        self.kept.store(false, Relaxed);
        self.crowded_since.store(0, Relaxed);
        let before = self.abrupt_until.swap(now + REMEMBERED_MS, Relaxed);
        before <= now
    }

    /// One that has rested for so many milliseconds is open.
    pub fn kept_for(&self, rested: u64, now: u64) {
        if rested >= SETTLED_MS && self.is_unknown(now) {
            self.kept.store(true, Relaxed);
        }
    }

    /// There is no room for a connection to rest: each is closed for the next one. Whether the app is trusted for all that.
    pub fn is_crowded(&self, now: u64) -> bool {
        if !self.is_unknown(now) {
            return false;
        }
        let since = self
            .crowded_since
            .compare_exchange(0, now.max(1), Relaxed, Relaxed);
        let lasts = since.is_err_and(|since| now.saturating_sub(since) >= CROWDED_MS);
        if lasts {
            self.kept.store(true, Relaxed);
        }
        lasts
    }

    /// Whether a look at what rests could spare a request that cannot be repeated a fresh connection.
    pub fn is_unknown(&self, now: u64) -> bool {
        self.wary && !self.kept.load(Relaxed) && !self.is_abrupt(now)
    }

    /// How long a connection must have rested, and may have, for a request that cannot be repeated. Those of an app that
    /// closes none behind its answers are not kept from work: there would be more of them open for nothing.
    pub fn fit(&self, now: u64) -> RangeInclusive<u64> {
        if self.is_abrupt(now) || self.is_unknown(now) {
            SETTLED
        } else {
            RECENT
        }
    }

    fn is_abrupt(&self, now: u64) -> bool {
        self.abrupt_until.load(Relaxed) > now
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
        assert_eq!(manners.fit(6), SETTLED);
        assert_eq!(manners.fit(5 + REMEMBERED_MS), SETTLED);
        assert_eq!(manners.fit(6 + REMEMBERED_MS), RECENT);
        assert!(manners.closed_after(3, 6 + REMEMBERED_MS), "known no more");
    }

    #[test]
    fn trust_is_earned_lost_and_earned_again() {
        let manners = Manners::wary();
        assert!(manners.is_unknown(5));
        assert_eq!(manners.fit(5), SETTLED);
        manners.kept_for(SETTLED_MS - 1, 5);
        assert!(manners.is_unknown(5), "its end may be on its way");
        manners.kept_for(SETTLED_MS, 5);
        assert!(!manners.is_unknown(5));
        assert_eq!(manners.fit(5), RECENT);
        assert!(manners.closed_after(3, 5));
        manners.kept_for(SETTLED_MS, 6);
        assert_eq!(manners.fit(6), SETTLED, "another was closed");
        assert!(!manners.is_unknown(6), "no look would change that");
        let later = 5 + REMEMBERED_MS;
        assert!(manners.is_unknown(later));
        assert_eq!(manners.fit(later), SETTLED);
        manners.kept_for(SETTLED_MS, later);
        assert_eq!(manners.fit(later), RECENT);
    }

    #[test]
    fn where_none_can_rest_trust_comes_with_time() {
        let manners = Manners::wary();
        assert!(!manners.is_crowded(5) && !manners.is_crowded(4 + CROWDED_MS));
        assert_eq!(manners.fit(4 + CROWDED_MS), SETTLED);
        manners.closed_after(3, 4 + CROWDED_MS);
        let later = 4 + CROWDED_MS + REMEMBERED_MS;
        assert!(!manners.is_crowded(later), "from the beginning");
        assert!(manners.is_crowded(later + CROWDED_MS));
        assert_eq!(manners.fit(later + CROWDED_MS), RECENT);
        assert!(!Manners::default().is_crowded(5), "nothing is in doubt");
    }
}
