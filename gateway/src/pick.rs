//! Which tunnel takes a request. Pure: figures in, an index out.
//!
//! Fewest outstanding requests, then recent latency. A tunnel that is driven by the worker that asks saves a wake-up
//! across threads each way, so it wins while it is not clearly worse off than the best.

/// What is known of one tunnel when a request asks for one.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Requests in flight on it.
    pub outstanding: usize,
    /// Requests that it may carry at once.
    pub limit: usize,
    /// Recent time to a response head, in microseconds; zero while unknown.
    pub latency_us: u64,
    /// Driven by the worker that asks.
    pub local: bool,
    /// How much it is to be avoided.
    pub standing: Standing,
}

/// From best to worst; a tunnel is taken only where none of a better standing has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    Good,
    /// A request waits on it, and it has said nothing for a while; or its agent just said that the app is down.
    Quiet,
    /// Of the same agent as a tunnel on which this request already failed.
    SameAgent,
    /// A probe of it is overdue.
    Doubted,
    /// This request already failed on it.
    Tried,
}

/// Under load a local tunnel may have twice the best one's requests and this many more, and still be taken. A tunnel
/// that carries nothing is always taken before one that does.
const LOCAL_MAY_LAG: usize = 8;

/// And its latency may be twice the best one's and this much.
const LOCAL_MAY_BE_SLOWER_US: u64 = 500;

/// The index of the candidate to take; `None` where every one is at its limit or was tried before.
pub fn pick(candidates: impl Iterator<Item = Candidate>) -> Option<usize> {
    let mut best: Option<(usize, Candidate)> = None;
    let mut best_local: Option<(usize, Candidate)> = None;
    for (index, candidate) in candidates.enumerate() {
        if candidate.outstanding >= candidate.limit || candidate.standing == Standing::Tried {
            continue;
        }
        if best.is_none_or(|(_, other)| better(&candidate, &other)) {
            best = Some((index, candidate));
        }
        if candidate.local && best_local.is_none_or(|(_, other)| better(&candidate, &other)) {
            best_local = Some((index, candidate));
        }
    }
    let (best_index, best) = best?;
    if let Some((index, local)) = best_local
        && local.standing == best.standing
        && (local.outstanding == best.outstanding
            || best.outstanding > 0 && local.outstanding <= best.outstanding * 2 + LOCAL_MAY_LAG)
        && local.latency_us <= best.latency_us.saturating_mul(2) + LOCAL_MAY_BE_SLOWER_US
    {
        return Some(index);
    }
    Some(best_index)
}

fn better(one: &Candidate, other: &Candidate) -> bool {
    (one.standing, one.outstanding, one.latency_us)
        < (other.standing, other.outstanding, other.latency_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(
        outstanding: usize,
        latency_us: u64,
        local: bool,
        standing: Standing,
    ) -> Candidate {
        Candidate {
            outstanding,
            limit: 100,
            latency_us,
            local,
            standing,
        }
    }

    #[test]
    fn fewest_outstanding_then_latency() {
        let of = |all: &[Candidate]| pick(all.iter().copied());
        let good = Standing::Good;
        assert_eq!(
            of(&[
                candidate(3, 10, false, good),
                candidate(1, 900, false, good)
            ]),
            Some(1)
        );
        assert_eq!(
            of(&[
                candidate(1, 900, false, good),
                candidate(1, 10, false, good)
            ]),
            Some(1)
        );
        assert_eq!(
            of(&[candidate(3, 10, true, good), candidate(1, 10, false, good)]),
            Some(0),
            "near enough"
        );
        assert_eq!(
            of(&[candidate(11, 10, true, good), candidate(1, 10, false, good)]),
            Some(1),
            "too busy"
        );
        assert_eq!(
            of(&[candidate(1, 10, true, good), candidate(0, 10, false, good)]),
            Some(1),
            "an idle one comes first"
        );
        assert_eq!(
            of(&[
                candidate(0, 90_000, true, good),
                candidate(0, 100, false, good)
            ]),
            Some(1),
            "too slow"
        );
        assert_eq!(
            of(&[
                candidate(0, 1, true, Standing::Doubted),
                candidate(9, 900, false, good)
            ]),
            Some(1)
        );
        assert_eq!(of(&[candidate(0, 1, true, Standing::Tried)]), None);
        assert_eq!(
            of(&[Candidate {
                limit: 0,
                ..candidate(0, 1, true, good)
            }]),
            None
        );
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn never_a_full_or_tried_one_and_always_one_if_there_is_one(
            figures in prop::collection::vec((0usize..6, 0u64..5000, any::<bool>(), 0u8..5), 0..12)
        ) {
            let all: Vec<Candidate> = figures.iter().map(|(outstanding, latency_us, local, standing)| Candidate {
                outstanding: *outstanding,
                limit: 4,
                latency_us: *latency_us,
                local: *local,
                standing: [Standing::Good, Standing::Quiet, Standing::SameAgent, Standing::Doubted, Standing::Tried][usize::from(*standing)],
            }).collect();
            let usable = |c: &Candidate| c.outstanding < c.limit && c.standing != Standing::Tried;
            match pick(all.iter().copied()) {
                Some(index) => {
                    prop_assert!(usable(&all[index]));
                    prop_assert!(all.iter().filter(|c| usable(c)).all(|c| c.standing >= all[index].standing));
                }
                None => prop_assert!(!all.iter().any(usable)),
            }
        }
    }
}
