//! When a name is asked for again. Pure: what came of it, and a part of chance, in; a time out.

use std::time::Duration;

use super::config::Resolver;

/// A resolver that fails is asked so often at least, unless `most_ttl` is less.
const WHILE_FAILING: Duration = Duration::from_secs(10);

/// How long a name that has nothing has that, where the answer does not say (RFC 2308 §5).
const NOTHING: Duration = Duration::from_secs(5);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Everything, to be kept for so long.
    All(Duration),
    /// That there is nothing; for how long, where that was said.
    Nothing(Option<Duration>),
    /// Not everything.
    Part,
}

/// Keeps count of failures.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
}

impl Pace {
    /// How long to wait. `chance` is from 0 to 1: of many names that were asked for at once, not all are again. An answer is
    /// never asked for before its time is over: a resolver that keeps answers would give its rest.
    pub(super) fn after(&mut self, heard: Heard, terms: &Resolver, chance: f64) -> Duration {
        let bounded = |ttl: Duration| ttl.min(terms.most_ttl).max(terms.least_ttl);
        let later = |ttl: Duration| ttl.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 10.0);
        match heard {
            Heard::All(ttl) => {
                self.failures = 0;
                later(bounded(ttl))
            }
            Heard::Nothing(ttl) => {
                self.failures = 0;
                later(bounded(ttl.unwrap_or(NOTHING)))
            }
            Heard::Part => {
                let doubled = 2_u32.saturating_pow(self.failures.min(16));
                self.failures = self.failures.saturating_add(1);
                let wait = terms.least_ttl.saturating_mul(doubled).min(WHILE_FAILING);
                bounded(wait).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: f64) -> Duration {
        Duration::from_secs_f64(number)
    }

    #[test]
    fn a_ttl_is_kept_within_bounds_and_spread() {
        let terms = Resolver::default();
        let mut pace = Pace::default();
        let mut after = |ttl: f64, chance| pace.after(Heard::All(seconds(ttl)), &terms, chance);
        assert_eq!(after(20.0, 0.0), seconds(20.0));
        assert_eq!(after(20.0, 1.0), seconds(22.0));
        assert_eq!(after(0.0, 0.0), seconds(1.0));
        assert_eq!(after(4_294_967_295.0, 0.0), seconds(60.0));
        assert_eq!(pace.after(Heard::Nothing(None), &terms, 0.0), seconds(5.0));
        let said = Heard::Nothing(Some(seconds(900.0)));
        assert_eq!(pace.after(said, &terms, 0.0), seconds(60.0));
    }

    #[test]
    fn a_failing_resolver_is_asked_less_and_less_often_and_then_steadily() {
        let terms = Resolver::default();
        let mut pace = Pace::default();
        let waits: Vec<Duration> = (0..6)
            .map(|_| pace.after(Heard::Part, &terms, 1.0))
            .collect();
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 10.0, 10.0].map(seconds));
        pace.after(Heard::All(seconds(3.0)), &terms, 0.0);
        assert_eq!(pace.after(Heard::Part, &terms, 0.0), seconds(0.5));
    }
}
