//! Whether a server is fit, by what became of its requests. Pure: moments are milliseconds by `clock::now_ms`.
//!
//! ```text
//! fit ──failures in a row──▶ out ──its time is over──▶ on trial ──an answer──▶ fit
//!                             ▲──────one more failure──────┘
//! ```

use super::config::Terms;

/// How often a server on trial is asked, while nobody knows how it stands.
const TRIAL_EVERY_MS: u64 = 1_000;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    in_a_row: u32,
    /// How often it was left out, with little time between.
    ejections: u32,
    out: Option<Out>,
    back_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    since: u64,
    until: u64,
}

/// What an operator is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is left out, for so many milliseconds at least, after so many failures in a row.
    Out { for_ms: u64, failures: u32 },
    /// It has answered again, after so many milliseconds.
    Back { after_ms: u64 },
}

impl Fitness {
    /// Until when it is left out; 0 where it is not.
    pub(super) fn out_until(&self) -> u64 {
        self.out.map_or(0, |out| out.until)
    }

    /// Whether an answer would change anything.
    pub(super) fn is_blemished(&self) -> bool {
        self.in_a_row > 0 || self.out.is_some()
    }

    /// One request is sent to it whose time is over; others wait for what becomes of it.
    pub(super) fn tried(&mut self, now: u64) {
        if let Some(out) = &mut self.out {
            out.until = now + TRIAL_EVERY_MS;
        }
    }

    /// It has answered.
    pub(super) fn answered(&mut self, now: u64) -> Option<Change> {
        self.in_a_row = 0;
        let out = self.out.take()?;
        self.back_at = now;
        Some(Change::Back {
            after_ms: now.saturating_sub(out.since),
        })
    }

    /// It could not be reached, or gave no answer.
    pub(super) fn failed(&mut self, now: u64, terms: &Terms) -> Option<Change> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if terms.eject_after == 0 {
            return None;
        }
        let (first, most) = (ms(terms.eject), ms(terms.eject_most));
        if let Some(out) = &mut self.out {
            // Requests that were on their way when it was left out do not count again.
            if now >= out.until.saturating_sub(TRIAL_EVERY_MS) {
                self.ejections = self.ejections.saturating_add(1);
                out.until = now + time(self.ejections, first, most);
            }
            return None;
        }
        if self.in_a_row < terms.eject_after {
            return None;
        }
        if now.saturating_sub(self.back_at) > 2 * most {
            self.ejections = 0;
        }
        self.ejections = self.ejections.saturating_add(1);
        let for_ms = time(self.ejections, first, most);
        self.out = Some(Out {
            since: now,
            until: now + for_ms,
        });
        Some(Change::Out {
            for_ms,
            failures: self.in_a_row,
        })
    }
}

/// Twice as long each time.
fn time(ejections: u32, first: u64, most: u64) -> u64 {
    let doubled = ejections.saturating_sub(1).min(32);
    first.saturating_mul(1 << doubled).min(most)
}

fn ms(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_failures_in_a_row_leave_it_out_for_longer_and_longer() {
        let terms = Terms::default();
        let mut fitness = Fitness::default();
        assert_eq!(fitness.failed(1_000, &terms), None);
        assert_eq!(fitness.failed(1_001, &terms), None);
        assert_eq!(fitness.answered(1_002), None);
        assert!(!fitness.is_blemished());
        for now in [2_000, 2_001] {
            assert_eq!(fitness.failed(now, &terms), None);
        }
        let out = |for_ms| {
            Some(Change::Out {
                for_ms,
                failures: 3,
            })
        };
        assert_eq!(fitness.failed(2_002, &terms), out(5_000));
        assert_eq!(fitness.out_until(), 7_002);
        // One that was on its way then.
        assert_eq!(fitness.failed(2_500, &terms), None);
        assert_eq!(fitness.out_until(), 7_002);
        let mut now = 7_002;
        for seconds in [10, 20, 40, 60, 60] {
            fitness.tried(now);
            assert_eq!(fitness.out_until(), now + TRIAL_EVERY_MS);
            assert_eq!(fitness.failed(now, &terms), None, "told already");
            assert_eq!(fitness.out_until(), now + seconds * 1_000);
            now += seconds * 1_000;
        }
        let after_ms = now - 2_002;
        assert_eq!(fitness.answered(now), Some(Change::Back { after_ms }));
        assert_eq!((fitness.out_until(), fitness.is_blemished()), (0, false));
    }

    #[test]
    fn time_makes_up_for_it() {
        let terms = Terms {
            eject_after: 1,
            ..Terms::default()
        };
        let mut fitness = Fitness::default();
        let mut for_ms = |now| match fitness.failed(now, &terms) {
            Some(Change::Out { for_ms, .. }) => {
                fitness.answered(now + 1);
                for_ms
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(for_ms(500_000), 5_000);
        assert_eq!(for_ms(510_000), 10_000);
        assert_eq!(for_ms(1_000_000), 5_000);
    }

    #[test]
    fn it_can_be_told_never_to() {
        let terms = Terms {
            eject_after: 0,
            ..Terms::default()
        };
        let mut fitness = Fitness::default();
        for now in 0..100 {
            assert_eq!(fitness.failed(now, &terms), None);
        }
        assert_eq!(fitness.out_until(), 0);
    }
}
