//! How long to wait before dialling, or resolving a name, again. Pure: failures in, milliseconds out; the randomness is
//! handed in. Asked by `keeper` for an address and by `reconcile` for a name.
//!
//! Exponential with full jitter: a crowd of agents that lost one gateway comes back spread out. The ceiling depends on
//! what failed: a path that returns, or a gateway that restarts, is to be used within 3 s, whereas a gateway that refuses us
//! will not change its mind within seconds.

use crate::random::Random;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody answered: timeout, unreachable, name not resolved. The network is expected to come back.
    Path,
    /// The machine answered, the port is closed: a gateway that restarts.
    Closed,
    /// Somebody answered and it did not work out: TLS, certificate, ALPN, reversal, refusal, a tunnel that died young.
    Rejected,
}

impl Kind {
    const fn ceiling_ms(self) -> u64 {
        match self {
            Self::Path => 1_000,
            Self::Closed => 2_500,
            Self::Rejected => 30_000,
        }
    }
}

/// The most that the first failure of a row costs.
const BASE_MS: u64 = 250;

/// The state of one address: all its tunnels share one.
#[derive(Debug)]
pub struct Backoff {
    /// Failures of a path or a closed port.
    absent: u32,
    /// Those of a gateway that was there. Counted apart: however long one was away, its first refusal is a first one.
    rejected: u32,
    random: Random,
}

impl Backoff {
    /// Before any failure.
    pub const fn new(random: Random) -> Self {
        Self {
            absent: 0,
            rejected: 0,
            random,
        }
    }

    /// One more failure. Returns how many milliseconds to wait.
    pub fn failed(&mut self, kind: Kind) -> u64 {
        let failures = match kind {
            Kind::Path | Kind::Closed => &mut self.absent,
            Kind::Rejected => &mut self.rejected,
        };
        let grown = BASE_MS << (*failures).min(16);
        *failures = failures.saturating_add(1);
        self.random.up_to(grown.min(kind.ceiling_ms()))
    }

    /// A tunnel has lived long enough to be called a success.
    pub const fn lived(&mut self) {
        self.absent = 0;
        self.rejected = 0;
    }

    /// A few milliseconds for those who lost a tunnel at the same moment.
    pub fn at_once(&mut self) -> u64 {
        self.random.up_to(5)
    }

    /// For a gateway that closes tunnels politely but soon: spread over a second, without growing.
    pub fn soon(&mut self) -> u64 {
        self.random.up_to(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_ceiling_and_no_further() {
        for (kind, ceiling) in [
            (Kind::Path, 1_000),
            (Kind::Closed, 2_500),
            (Kind::Rejected, 30_000),
        ] {
            let mut longest = 0;
            for seed in 0..200 {
                let mut backoff = Backoff::new(Random::seeded(seed));
                for attempt in 0..40_u32 {
                    let delay = backoff.failed(kind);
                    assert!(
                        delay <= ceiling.min(250 << attempt.min(16)),
                        "{kind:?} {attempt} {delay}"
                    );
                    longest = longest.max(delay);
                }
            }
            assert!(
                longest > ceiling * 9 / 10,
                "{kind:?} never came near its ceiling: {longest}"
            );
        }
    }

    #[test]
    fn jitter_is_full() {
        let mut tenths = [0; 10];
        for seed in 0..2_000 {
            let mut backoff = Backoff::new(Random::seeded(seed));
            for _ in 0..10 {
                backoff.failed(Kind::Rejected);
            }
            let delay = backoff.failed(Kind::Rejected);
            tenths[usize::try_from(delay * 10 / 30_001).unwrap()] += 1;
        }
        assert!(
            tenths.iter().all(|count| (120..280).contains(count)),
            "{tenths:?}"
        );
    }

    #[test]
    fn success_starts_over() {
        for kind in [Kind::Path, Kind::Closed, Kind::Rejected] {
            let mut backoff = Backoff::new(Random::seeded(7));
            for _ in 0..20 {
                backoff.failed(kind);
            }
            backoff.lived();
            assert!(backoff.failed(kind) <= 250);
        }
    }

    #[test]
    fn a_refusal_after_a_long_absence_is_a_first_one() {
        let mut backoff = Backoff::new(Random::seeded(7));
        for _ in 0..20 {
            backoff.failed(Kind::Closed);
            backoff.failed(Kind::Path);
        }
        assert!(backoff.failed(Kind::Rejected) <= 250);
    }
}
