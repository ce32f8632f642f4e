//! Which times at which a server is left out are told of: all of an ordinary day, and of one that flaps a few, with a count.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::super::fitness::Change;
use crate::rates::rate::Rate;

/// So many in a row are told of, and then one in [`OVER`] divided by them.
const TOLD: u32 = 6;
const OVER: Duration = Duration::from_secs(60);

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Absences {
    told_of: AtomicU64,
    /// Those that were not told of since.
    untold: AtomicU64,
    /// The one that lasts was.
    last: AtomicBool,
}

impl Absences {
    /// How many times this stands for, if it is to be told. That it is back is told of a server if its being left out was. `now`
    /// is by `clock::ns`.
    pub(super) fn due(&self, change: Change, now: u64) -> Option<u64> {
        if !matches!(change, Change::Out { .. }) {
            return self.last.swap(false, Relaxed).then_some(1);
        }
        let rate = Rate::new(TOLD, OVER);
        let told = rate.is_none_or(|rate| rate.take(&self.told_of, now).is_ok());
        self.last.store(told, Relaxed);
        if told {
            return Some(self.untold.swap(0, Relaxed) + 1);
        }
        self.untold.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_flaps_is_told_of_now_and_then() {
        let out = Change::Out {
            for_ms: 5_000,
            failures: 3,
        };
        let back = Change::Back { after_ms: 5 };
        let (absences, second) = (Absences::default(), 1_000_000_000);
        for now in 1..=6 {
            assert_eq!(absences.due(out, now * second), Some(1));
            assert_eq!(absences.due(back, now * second), Some(1));
        }
        for now in 7..=10 {
            assert_eq!(absences.due(out, now * second), None);
            assert_eq!(absences.due(back, now * second), None);
        }
        assert_eq!(absences.due(out, 11 * second), Some(5));
        assert_eq!(absences.due(back, 11 * second), Some(1));
    }
}
