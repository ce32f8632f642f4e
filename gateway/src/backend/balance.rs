//! Which server takes a request. Pure: figures in, an index out.
//!
//! Servers that are fit come first, then backups that are, then those that were left out for their failures: a backend whose
//! servers have all failed is still tried, for somebody has to find out that they are back. A server with which the request
//! has failed is the last choice of all; one that is down by its checks is none, for they find out when it is back.

use super::config::Balance;

/// What is known of one server when a request asks for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) standing: Standing,
    pub(super) weight: u32,
    /// Requests in flight on it.
    pub(super) outstanding: usize,
    /// A connection rests, or another may be opened.
    pub(super) room: bool,
}

/// From best to worst; one is taken only where there is none of a better standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Fit,
    FitBackup,
    Out,
    OutBackup,
    /// This request already failed on it.
    Tried,
    /// Its checks fail; from here on none is taken at all.
    Down,
    /// The operator has given it no share.
    Idle,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    Take(usize),
    /// There are servers, and none has room.
    Wait,
    /// Those that have a share are down.
    Down,
    None,
}

/// Whose turn it is: what each server is owed.
#[derive(Debug)]
pub(super) struct Round(Vec<i64>);

impl Round {
    pub(super) fn new(servers: usize) -> Self {
        Self(vec![0; servers])
    }

    /// The next of those that are eligible, each as often as its weight says and as evenly as that goes (smooth weighted
    /// round robin).
    fn next(&mut self, eligible: impl Iterator<Item = (usize, u32)>) -> Option<usize> {
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (index, weight) in eligible {
            let weight = i64::from(weight);
            total += weight;
            self.0[index] += weight;
            if best.is_none_or(|best| self.0[index] > self.0[best]) {
                best = Some(index);
            }
        }
        let best = best?;
        self.0[best] -= total;
        Some(best)
    }
}

/// The server to take among so many.
pub(super) fn pick(
    balance: Balance,
    round: &mut Round,
    servers: usize,
    candidate: impl Fn(usize) -> Candidate,
) -> Pick {
    let standing = match (0..servers).map(|index| candidate(index).standing).min() {
        None | Some(Standing::Idle) => return Pick::None,
        Some(Standing::Down) => return Pick::Down,
        Some(standing) => standing,
    };
    let with_room = || {
        (0..servers)
            .map(|index| (index, candidate(index)))
            .filter(|(_, candidate)| candidate.standing == standing && candidate.room)
    };
    let weights = |(index, candidate): (usize, Candidate)| (index, candidate.weight);
    let taken = match balance {
        Balance::RoundRobin => round.next(with_room().map(weights)),
        Balance::Least => {
            let least = with_room()
                .map(|(_, candidate)| candidate)
                .reduce(|least, other| if less(&other, &least) { other } else { least });
            let among = with_room()
                .filter(|(_, candidate)| least.is_some_and(|least| !less(&least, candidate)));
            round.next(among.map(weights))
        }
    };
    taken.map_or(Pick::Wait, Pick::Take)
}

/// Whether one would have fewer requests for its weight than the other if it took one more.
fn less(one: &Candidate, other: &Candidate) -> bool {
    let load = |candidate: &Candidate, by: &Candidate| {
        (candidate.outstanding as u128 + 1) * u128::from(by.weight)
    };
    load(one, other) < load(other, one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fit(weight: u32, outstanding: usize) -> Candidate {
        Candidate {
            standing: Standing::Fit,
            weight,
            outstanding,
            room: true,
        }
    }

    fn turns(balance: Balance, servers: &[Candidate], times: usize) -> Vec<Pick> {
        let mut round = Round::new(servers.len());
        (0..times)
            .map(|_| pick(balance, &mut round, servers.len(), |index| servers[index]))
            .collect()
    }

    #[test]
    fn turns_are_by_weight_and_even() {
        let servers = [fit(5, 0), fit(1, 0), fit(1, 0)];
        let taken = turns(Balance::RoundRobin, &servers, 7);
        assert_eq!(taken, [0, 0, 1, 0, 2, 0, 0].map(Pick::Take));
    }

    #[test]
    fn the_least_busy_for_its_weight_is_taken_and_equals_take_turns() {
        let least = |servers: &[Candidate]| turns(Balance::Least, servers, 1)[0];
        assert_eq!(least(&[fit(1, 3), fit(1, 2)]), Pick::Take(1));
        assert_eq!(least(&[fit(4, 3), fit(1, 1)]), Pick::Take(0));
        assert_eq!(
            turns(Balance::Least, &[fit(1, 0), fit(1, 0)], 4),
            [0, 1, 0, 1].map(Pick::Take)
        );
    }

    #[test]
    fn a_better_standing_comes_first_and_is_waited_for() {
        let of = |standing, room| Candidate {
            standing,
            room,
            ..fit(1, 0)
        };
        let first = |servers: &[Candidate]| turns(Balance::RoundRobin, servers, 1)[0];
        let order = [
            Standing::Tried,
            Standing::OutBackup,
            Standing::Out,
            Standing::FitBackup,
            Standing::Fit,
        ];
        for two in order.windows(2) {
            let pair = [of(two[0], true), of(two[1], true)];
            assert_eq!(first(&pair), Pick::Take(1), "{two:?}");
        }
        let full = [of(Standing::Fit, false), of(Standing::FitBackup, true)];
        assert_eq!(first(&full), Pick::Wait);
        let down = of(Standing::Down, true);
        assert_eq!(first(&[of(Standing::Idle, true), down]), Pick::Down);
        assert_eq!(first(&[down, of(Standing::Tried, true)]), Pick::Take(1));
        assert_eq!(first(&[of(Standing::Idle, true)]), Pick::None);
        assert_eq!(first(&[]), Pick::None);
    }

    proptest! {
        /// Over a whole round each has exactly its share, whatever the weights.
        #[test]
        fn everybody_has_his_share(weights in prop::collection::vec(1u32..20, 1..6)) {
            let servers: Vec<Candidate> = weights.iter().map(|weight| fit(*weight, 0)).collect();
            let total: u32 = weights.iter().sum();
            let taken = turns(Balance::RoundRobin, &servers, total as usize);
            for (index, weight) in weights.iter().enumerate() {
                let times = taken.iter().filter(|pick| **pick == Pick::Take(index)).count();
                prop_assert_eq!(times, *weight as usize);
            }
        }
    }
}
