//! What follows from checks: whether a server is up, and when it is checked next. Pure: moments are milliseconds by
//! `clock::now_ms`, chance is the caller's.
//!
//! ```text
//! unchecked ──passed──▶ up ──failed, `fall` in a row──▶ down ──passed, `rise` in a row──▶ up
//!     └──────────────────────failed, once─────────────────▲
//! ```
//!
//! A server counts as up until it has been checked, and its first check decides alone if it fails, as with HAProxy.

use std::time::Duration;

use super::terms::Check;

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Health {
    #[default]
    Unchecked,
    /// With so many failures in a row.
    Up { failed: u32 },
    /// With so many that passed in a row.
    Down { passed: u32, since: u64 },
}

/// What an operator is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One has failed that was up, and is up for so many more.
    Shaken { left: u32 },
    /// So many in a row have failed.
    Down { failed: u32 },
    /// Another one has failed, and the server is down.
    StillDown,
    /// So many in a row have passed, after so many milliseconds.
    Up { passed: u32, after_ms: u64 },
}

impl Health {
    pub(super) const fn is_down(self) -> bool {
        matches!(self, Self::Down { .. })
    }

    /// A check has passed.
    pub(super) fn passed(&mut self, now: u64, terms: &Check) -> Option<Change> {
        let Self::Down { passed, since } = self else {
            *self = Self::Up { failed: 0 };
            return None;
        };
        *passed += 1;
        if *passed < terms.rise {
            return None;
        }
        let change = Change::Up {
            passed: *passed,
            after_ms: now.saturating_sub(*since),
        };
        *self = Self::Up { failed: 0 };
        Some(change)
    }

    /// A check has failed.
    pub(super) fn failed(&mut self, now: u64, terms: &Check) -> Change {
        let failed = match self {
            Self::Unchecked => terms.fall,
            Self::Up { failed } => *failed + 1,
            Self::Down { passed, .. } => {
                *passed = 0;
                return Change::StillDown;
            }
        };
        if failed < terms.fall {
            *self = Self::Up { failed };
            return Change::Shaken {
                left: terms.fall - failed,
            };
        }
        let first = *self == Self::Unchecked;
        *self = Self::Down {
            passed: 0,
            since: now,
        };
        Change::Down {
            failed: if first { 1 } else { failed },
        }
    }

    /// How long from the beginning of one check to that of the next. `chance` is anything at all: a tenth more or less by it, so
    /// that servers which were checked together do not stay so.
    pub(super) fn pause(self, terms: &Check, chance: u64) -> Duration {
        let usual = match self {
            Self::Up { failed: 0 } => terms.interval,
            Self::Down { passed: 0, .. } => terms.down,
            Self::Unchecked | Self::Up { .. } | Self::Down { .. } => terms.fast,
        };
        let share = u32::try_from(chance % 2_001).unwrap_or_default();
        usual * (9_000 + share) / 10_000
    }
}

/// Between the first checks of two servers, where there is time for it.
const APART: Duration = Duration::from_millis(50);

/// When the first check of a server is due that has this place among so many.
pub(super) fn first(terms: &Check, place: usize, of: usize) -> Duration {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    (terms.fast / number(of).max(1)).min(APART) * number(place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(rise: u32, fall: u32) -> Check {
        Check {
            rise,
            fall,
            interval: Duration::from_secs(10),
            fast: Duration::from_secs(1),
            down: Duration::from_secs(5),
            ..Check::default()
        }
    }

    /// The seconds of a pause, by chance neither more nor less.
    fn pause(health: Health, terms: &Check) -> u64 {
        health.pause(terms, 1_000).as_secs()
    }

    #[test]
    fn a_server_falls_and_rises_by_so_many_in_a_row() {
        let terms = terms(2, 3);
        let mut health = Health::default();
        assert!(!health.is_down());
        assert_eq!(pause(health, &terms), 1);
        assert_eq!(health.passed(0, &terms), None);
        assert_eq!(pause(health, &terms), 10);
        assert_eq!(health.failed(1, &terms), Change::Shaken { left: 2 });
        assert_eq!(pause(health, &terms), 1);
        assert_eq!(health.failed(2, &terms), Change::Shaken { left: 1 });
        assert_eq!(health.passed(3, &terms), None);
        for left in [2, 1] {
            assert_eq!(health.failed(4, &terms), Change::Shaken { left });
        }
        assert!(!health.is_down());
        assert_eq!(health.failed(5, &terms), Change::Down { failed: 3 });
        assert!(health.is_down());
        assert_eq!(pause(health, &terms), 5);
        assert_eq!(health.failed(6, &terms), Change::StillDown);
        assert_eq!(health.passed(7, &terms), None);
        assert_eq!(pause(health, &terms), 1);
        assert_eq!(health.failed(8, &terms), Change::StillDown);
        assert_eq!(health.passed(9, &terms), None);
        let up = Change::Up {
            passed: 2,
            after_ms: 1_000,
        };
        assert_eq!(health.passed(1_005, &terms), Some(up));
        assert_eq!(pause(health, &terms), 10);
    }

    #[test]
    fn the_first_check_alone_tells_that_a_server_is_down() {
        let terms = terms(1, 3);
        let mut health = Health::default();
        assert_eq!(health.failed(1, &terms), Change::Down { failed: 1 });
        let up = Change::Up {
            passed: 1,
            after_ms: 1,
        };
        assert_eq!(health.passed(2, &terms), Some(up));
    }

    #[test]
    fn many_servers_are_not_checked_at_once() {
        let terms = terms(2, 3);
        assert_eq!(first(&terms, 0, 1), Duration::ZERO);
        assert_eq!(first(&terms, 1, 2), APART);
        assert_eq!(first(&terms, 999, 1_000), Duration::from_millis(999));
    }

    proptest! {
        /// Down after exactly `fall` in a row, up after exactly `rise`, whatever comes.
        #[test]
        fn the_verdict_follows_the_last_ones(
            rise in 1_u32..5, fall in 1_u32..5, results in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let terms = terms(rise, fall);
            let mut health = Health::default();
            let mut down = false;
            for (at, passed) in results.iter().enumerate() {
                if *passed {
                    health.passed(at as u64, &terms);
                } else {
                    health.failed(at as u64, &terms);
                }
                let alike = results[..=at].iter().rev().take_while(|one| *one == passed).count();
                down = match (*passed, down) {
                    (false, false) => at == 0 || alike >= fall as usize,
                    (true, true) => alike < rise as usize,
                    (_, down) => down,
                };
                prop_assert_eq!(health.is_down(), down, "{} {:?}", at, health);
            }
        }

        /// A tenth more or less, and never another.
        #[test]
        fn a_pause_is_about_as_long_as_is_said(chance in any::<u64>(), millis in 50_u64..100_000) {
            let terms = Check { fast: Duration::from_millis(millis), ..Check::default() };
            let pause = Health::Unchecked.pause(&terms, chance);
            prop_assert!(pause >= terms.fast * 9 / 10 && pause <= terms.fast * 11 / 10);
        }
    }
}
