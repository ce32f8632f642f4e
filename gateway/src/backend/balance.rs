//! Which server takes a request. Pure: figures in, an index out.
//!
//! Servers that are fit come first, then backups that are, then those that were left out for their failures: a backend whose
//! servers have all failed is still tried, for somebody has to find out that they are back. A server with which the request
//! has failed is the last choice of all; one that is down by its checks is none, for they find out when it is back.

use super::config::{Balance, Hash};
use super::hash::{Key, Place};

/// What is known of one server when a request asks for one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) standing: Standing,
    /// In `slow_start::WHOLE`ths of what the operator calls one.
    pub(super) weight: u32,
    /// Requests in flight on it.
    pub(super) outstanding: usize,
    /// A connection rests, or another may be opened.
    pub(super) room: bool,
    /// What decides which visitors are its own.
    pub(super) place: Place,
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

/// The server to take among so many. `key` is what the request is known by, where that decides.
pub(super) fn pick(
    balance: &Balance,
    round: &mut Round,
    servers: usize,
    key: Option<Key>,
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
    let taken = match (balance, key) {
        (Balance::Hash(hash), Some(key)) => {
            let all = (0..servers).map(&candidate);
            let share = Share::of(hash, all.filter(|candidate| candidate.standing == standing));
            let drawn = |(_, one): &(usize, Candidate), (_, other): &(usize, Candidate)| {
                let draw = |of: &Candidate| key.draw(of.place, of.weight);
                draw(one).total_cmp(&draw(other))
            };
            with_room()
                .filter(|(_, candidate)| share.has(candidate))
                .max_by(drawn)
                .or_else(|| with_room().max_by(drawn))
                .map(|(index, _)| index)
        }
        (Balance::RoundRobin | Balance::Hash(_), _) => round.next(with_room().map(weights)),
        (Balance::Least, _) => {
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

/// How much of all requests in flight a server may have whose visitors come back to it.
struct Share {
    /// In hundredths of what its weight comes to; `None` for any part.
    most: Option<u128>,
    /// Of all together, with the one that asks.
    outstanding: u128,
    weight: u128,
}

impl Share {
    fn of(hash: &Hash, all: impl Iterator<Item = Candidate>) -> Self {
        let mut share = Self {
            most: hash.most.map(u128::from),
            outstanding: 1,
            weight: 0,
        };
        for candidate in all {
            share.outstanding += candidate.outstanding as u128;
            share.weight += u128::from(candidate.weight);
        }
        share
    }

    /// Whether there is room in it for one more, rounded up: the last ones of few requests have to go somewhere.
    fn has(&self, candidate: &Candidate) -> bool {
        let Some(most) = self.most else { return true };
        let due = most * self.outstanding * u128::from(candidate.weight);
        (candidate.outstanding as u128) < due.div_ceil(100 * self.weight.max(1))
    }
}

/// Whether one would have fewer requests for its weight than the other if it took one more. Those that have none are alike: their
/// turns are by weight, so that a light one has some as well while there is little to do.
fn less(one: &Candidate, other: &Candidate) -> bool {
    let load = |candidate: &Candidate, by: &Candidate| match candidate.outstanding {
        0 => 0,
        some => (some as u128 + 1) * u128::from(by.weight),
    };
    load(one, other) < load(other, one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::hash::By;
    use super::*;

    fn fit(weight: u32, outstanding: usize) -> Candidate {
        Candidate {
            standing: Standing::Fit,
            weight,
            outstanding,
            room: true,
            place: Place::of("one"),
        }
    }

    fn turns(balance: &Balance, servers: &[Candidate], times: usize) -> Vec<Pick> {
        let mut round = Round::new(servers.len());
        (0..times)
            .map(|_| {
                pick(balance, &mut round, servers.len(), None, |index| {
                    servers[index]
                })
            })
            .collect()
    }

    #[test]
    fn turns_are_by_weight_and_even() {
        let servers = [fit(5, 0), fit(1, 0), fit(1, 0)];
        let taken = turns(&Balance::RoundRobin, &servers, 7);
        assert_eq!(taken, [0, 0, 1, 0, 2, 0, 0].map(Pick::Take));
    }

    #[test]
    fn the_least_busy_for_its_weight_is_taken_and_equals_take_turns() {
        let least = |servers: &[Candidate]| turns(&Balance::Least, servers, 1)[0];
        assert_eq!(least(&[fit(1, 3), fit(1, 2)]), Pick::Take(1));
        assert_eq!(least(&[fit(4, 3), fit(1, 1)]), Pick::Take(0));
        assert_eq!(
            turns(&Balance::Least, &[fit(1, 0), fit(1, 0)], 4),
            [0, 1, 0, 1].map(Pick::Take)
        );
        assert_eq!(
            turns(&Balance::Least, &[fit(3, 0), fit(1, 0)], 4),
            [0, 0, 1, 0].map(Pick::Take),
            "with nothing to do"
        );
    }

    /// Slow start: at any time a server has had what the sum of its shares comes to, by one request more or less.
    #[test]
    fn a_weight_that_grows_is_followed_smoothly() {
        for balance in [Balance::RoundRobin, Balance::Least] {
            let mut round = Round::new(3);
            let (mut due, mut had) = (0.0, 0.0);
            for turn in 0..2_000 {
                let share = (12 + turn / 4).min(256);
                let servers = [fit(256, 0), fit(share, 0), fit(256, 0)];
                due += f64::from(share) / f64::from(512 + share);
                if pick(&balance, &mut round, 3, None, |index| servers[index]) == Pick::Take(1) {
                    had += 1.0;
                }
                let away: f64 = due - had;
                assert!(away.abs() < 1.5, "{turn} {due} {had}");
            }
        }
    }

    #[test]
    fn a_better_standing_comes_first_and_is_waited_for() {
        let of = |standing, room| Candidate {
            standing,
            room,
            ..fit(1, 0)
        };
        let first = |servers: &[Candidate]| turns(&Balance::RoundRobin, servers, 1)[0];
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

    fn hashed(most: Option<u32>) -> Balance {
        Balance::Hash(Hash {
            by: By::Source,
            most,
        })
    }

    fn named(outstanding: &[usize]) -> Vec<Candidate> {
        let each = outstanding.iter().enumerate();
        each.map(|(place, outstanding)| Candidate {
            place: Place::of(&format!("s{place}")),
            ..fit(1, *outstanding)
        })
        .collect()
    }

    fn first(balance: &Balance, key: Key, servers: &[Candidate]) -> Pick {
        let mut round = Round::new(servers.len());
        pick(balance, &mut round, servers.len(), Some(key), |index| {
            servers[index]
        })
    }

    #[test]
    fn a_visitor_keeps_his_server_while_it_has_room() {
        let key = Key::of_source("192.0.2.7".parse().unwrap());
        let mut servers = named(&[0, 0, 0]);
        let Pick::Take(own) = first(&hashed(None), key, &servers) else {
            panic!("none");
        };
        // However busy.
        servers[own].outstanding = 100;
        assert_eq!(first(&hashed(None), key, &servers), Pick::Take(own));
        servers[own].room = false;
        let Pick::Take(next) = first(&hashed(None), key, &servers) else {
            panic!("none");
        };
        assert_ne!(next, own);
        servers[own].room = true;
        assert_eq!(first(&hashed(Some(150)), key, &servers), Pick::Take(next));
        servers[own].outstanding = 0;
        assert_eq!(first(&hashed(Some(150)), key, &servers), Pick::Take(own));
        // One that is out is passed over like one that is not there.
        servers[own].standing = Standing::Out;
        assert_eq!(first(&hashed(None), key, &servers), Pick::Take(next));
        servers[next].room = false;
        servers[3 - own - next].room = false;
        assert_eq!(first(&hashed(None), key, &servers), Pick::Wait);
    }

    #[test]
    fn who_is_not_known_takes_turns() {
        let servers = named(&[0, 0, 0]);
        assert_eq!(
            turns(&hashed(None), &servers, 6),
            [0, 1, 2, 0, 1, 2].map(Pick::Take)
        );
    }

    proptest! {
        /// No server gets more than its bound, as long as requests come one after another and stay.
        #[test]
        fn a_bound_is_kept(weights in prop::collection::vec(1_u32..10, 1..6), most in 101_u32..300) {
            let balance = hashed(Some(most));
            let mut servers = named(&vec![0; weights.len()]);
            for (server, weight) in servers.iter_mut().zip(&weights) {
                server.weight = *weight;
            }
            let total: u32 = weights.iter().sum();
            for number in 1..200_u32 {
                let source = std::net::Ipv4Addr::from(number % 7).into();
                let Pick::Take(taken) = first(&balance, Key::of_source(source), &servers) else {
                    panic!("none");
                };
                servers[taken].outstanding += 1;
                let bound = (most * number * weights[taken]).div_ceil(100 * total);
                prop_assert!(servers[taken].outstanding <= bound as usize);
            }
        }

        /// Over a whole round each has exactly its share, whatever the weights.
        #[test]
        fn everybody_has_his_share(weights in prop::collection::vec(1u32..20, 1..6)) {
            let servers: Vec<Candidate> = weights.iter().map(|weight| fit(*weight, 0)).collect();
            let total: u32 = weights.iter().sum();
            let taken = turns(&Balance::RoundRobin, &servers, total as usize);
            for (index, weight) in weights.iter().enumerate() {
                let times = taken.iter().filter(|pick| **pick == Pick::Take(index)).count();
                prop_assert_eq!(times, *weight as usize);
            }
        }
    }
}
