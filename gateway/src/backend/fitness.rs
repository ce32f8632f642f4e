//! Whether a server is fit, by what became of its requests. Pure: moments are milliseconds by `clock::now_ms`.
//!
//! ```text
//! fit ──failures in a row──▶ out ──its time is over──▶ on trial ──an answer──▶ fit
//!                             │ ▲─────one more failure──────┘
//!                             └──`rise` checks in a row that passed, where it was out of reach──▶ fit
//! ```
//!
//! A check that passes says that somebody is there, and nothing of a server whose answers come too late or which closes connections
//! in place of them: only requests show that.

use super::check::Found;
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
    /// Nobody was there: what a request or a check failed for last was to get a connection.
    of_reach: bool,
    /// Checks in a row that have passed since.
    passed: u32,
    /// Its time was over once.
    on_trial: bool,
}

/// What an operator is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is left out, for so many milliseconds at least, after so many failures in a row.
    Out { for_ms: u64, failures: u32 },
    /// It has answered again, after so many milliseconds.
    Back { after_ms: u64 },
    /// So many checks in a row have passed, after so many milliseconds.
    InReach { passed: u32, after_ms: u64 },
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
            out.on_trial = true;
        }
    }

    /// It has answered.
    pub(super) fn answered(&mut self, now: u64) -> Option<Change> {
        self.in_a_row = 0;
        let out = self.out.take()?;
        if !out.on_trial {
            // It was asked all the same, as the last there was, and so was not left out.
            self.ejections = self.ejections.saturating_sub(1);
        }
        self.back_at = now;
        Some(Change::Back {
            after_ms: now.saturating_sub(out.since),
        })
    }

    /// It was checked where requests reach it, and found like this; `rise` that pass end its being left out.
    pub(super) fn checked(&mut self, now: u64, found: Found, rise: u32) -> Option<Change> {
        let out = self.out.as_mut()?;
        out.of_reach |= found == Found::Unreachable;
        out.passed = match found {
            Found::Passed => out.passed + 1,
            _ => 0,
        };
        let Out { since, passed, .. } = *out;
        if passed < rise || !out.of_reach {
            return None;
        }
        self.answered(now);
        Some(Change::InReach {
            passed,
            after_ms: now.saturating_sub(since),
        })
    }

    /// Whoever knows better says that it is fit. Whether it was left out.
    pub(super) fn pardon(&mut self) -> bool {
        std::mem::take(self).out.is_some()
    }

    /// It could not be reached, or gave no answer; `of_reach` where there was no connection to it.
    pub(super) fn failed(&mut self, now: u64, of_reach: bool, terms: &Terms) -> Option<Change> {
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
                out.of_reach = of_reach;
                out.passed = 0;
            }
            return None;
        }
        if self.in_a_row < terms.eject_after {
            return None;
        }
        if now.saturating_sub(self.back_at) > 2 * time(self.ejections, first, most) {
            self.ejections = 0;
        }
        self.ejections = self.ejections.saturating_add(1);
        let for_ms = time(self.ejections, first, most);
        self.out = Some(Out {
            since: now,
            until: now + for_ms,
            of_reach,
            passed: 0,
            on_trial: false,
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
        assert_eq!(fitness.failed(1_000, false, &terms), None);
        assert_eq!(fitness.failed(1_001, false, &terms), None);
        assert_eq!(fitness.answered(1_002), None);
        assert!(!fitness.is_blemished());
        for now in [2_000, 2_001] {
            assert_eq!(fitness.failed(now, false, &terms), None);
        }
        let out = |for_ms| {
            Some(Change::Out {
                for_ms,
                failures: 3,
            })
        };
        assert_eq!(fitness.failed(2_002, false, &terms), out(5_000));
        assert_eq!(fitness.out_until(), 7_002);
        // One that was on its way then.
        assert_eq!(fitness.failed(2_500, false, &terms), None);
        assert_eq!(fitness.out_until(), 7_002);
        let mut now = 7_002;
        for seconds in [10, 20, 40, 60, 60] {
            fitness.tried(now);
            assert_eq!(fitness.out_until(), now + TRIAL_EVERY_MS);
            assert_eq!(fitness.failed(now, false, &terms), None, "told already");
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
        let mut for_ms = |now| match fitness.failed(now, false, &terms) {
            Some(Change::Out { for_ms, .. }) => {
                fitness.tried(now + for_ms);
                fitness.answered(now + for_ms);
                for_ms
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(for_ms(500_000), 5_000);
        assert_eq!(for_ms(510_000), 10_000);
        assert_eq!(for_ms(530_000), 20_000);
        // Twice as long as it was left out.
        assert_eq!(for_ms(590_001), 5_000);
        // One that answers all the same, as the last there is, was not left out.
        for now in 0..100 {
            let now = 700_000 + 2 * now;
            let Some(Change::Out { for_ms, .. }) = fitness.failed(now, false, &terms) else {
                panic!("it is to be left out")
            };
            assert_eq!(for_ms, 5_000);
            fitness.answered(now + 1);
        }
    }

    #[test]
    fn checks_that_pass_end_it_where_it_was_out_of_reach() {
        let terms = Terms {
            eject_after: 1,
            ..Terms::default()
        };
        let (passed, failed) = (Found::Passed, Found::Status);
        let mut fitness = Fitness::default();
        assert_eq!(fitness.checked(500, passed, 1), None, "it is fit");
        assert!(fitness.failed(1_000, true, &terms).is_some());
        assert_eq!(fitness.checked(1_500, passed, 2), None);
        assert_eq!(fitness.checked(2_000, failed, 2), None);
        assert_eq!(fitness.checked(2_500, passed, 2), None);
        let in_reach = Change::InReach {
            passed: 2,
            after_ms: 2_000,
        };
        assert_eq!(fitness.checked(3_000, passed, 2), Some(in_reach));
        assert_eq!((fitness.out_until(), fitness.is_blemished()), (0, false));
        // What answers in time or in HTTP is not shown by a check.
        assert!(fitness.failed(4_000, false, &terms).is_some());
        for now in 4_001..4_010 {
            assert_eq!(fitness.checked(now, passed, 2), None);
        }
        // One that closed connections because it was about to end, and was away then, is another case.
        assert_eq!(fitness.checked(4_010, Found::Unreachable, 2), None);
        assert_eq!(fitness.checked(4_011, passed, 2), None);
        assert!(fitness.checked(4_012, passed, 2).is_some());
        assert!(fitness.failed(4_013, false, &terms).is_some());
        assert!(fitness.pardon());
        assert_eq!((fitness.out_until(), fitness.is_blemished()), (0, false));
        assert!(!fitness.pardon());
    }

    #[test]
    fn it_can_be_told_never_to() {
        let terms = Terms {
            eject_after: 0,
            ..Terms::default()
        };
        let mut fitness = Fitness::default();
        for now in 0..100 {
            assert_eq!(fitness.failed(now, false, &terms), None);
        }
        assert_eq!(fitness.out_until(), 0);
    }
}
