//! How many tunnels one gateway address has, and when the next is dialled. Pure: `post` reports what happened, with
//! the time in milliseconds, and does what it is told.
//!
//! All tunnels to an address share one backoff, and one of them goes ahead: as long as the address has not shown that it
//! takes tunnels there is never more than one attempt, however many are wanted.

use crate::backoff::{Backoff, Kind};
use crate::random::Random;

/// A tunnel that lived so long was a success; one that did not counts as a failed attempt.
pub const SUCCESS_MS: u64 = 10_000;

/// A tunnel that the gateway ended politely after so long is replaced without any blame.
const POLITE_MS: u64 = 1_000;

/// Attempts at the same time once the address has shown that it takes tunnels.
const AT_ONCE: usize = 8;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Start so many attempts, and report each.
    Dial(usize),
    /// Nothing until this moment, or until something happens.
    WaitUntil(u64),
    /// Nothing until something happens.
    Rest,
}

/// Attempts that began between the same two failures. They share a fate, however many there are and however fast it comes:
/// of those that fail, or that come up and die young, only the first is blamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(u64);

/// The tunnels of one address.
#[derive(Debug)]
pub struct Keeper {
    wanted: usize,
    up: usize,
    dialling: usize,
    /// The last attempt came up, and nothing was lost since.
    proven: bool,
    not_before: u64,
    /// Counts up with each failure that was blamed; see [`Round`].
    round: Round,
    backoff: Backoff,
}

impl Keeper {
    /// For an address that is to have `wanted` tunnels, and has none.
    pub const fn new(wanted: usize, random: Random) -> Self {
        Self {
            wanted,
            up: 0,
            dialling: 0,
            proven: false,
            not_before: 0,
            round: Round(0),
            backoff: Backoff::new(random),
        }
    }

    /// Tunnels that are up and stay.
    pub const fn up(&self) -> usize {
        self.up
    }

    /// Whether none is missing.
    pub const fn is_complete(&self) -> bool {
        self.up >= self.wanted
    }

    /// What to do at this moment. To be asked again whenever something was reported, or when it said so.
    pub fn next(&self, now: u64) -> Order {
        let missing = self.wanted.saturating_sub(self.up + self.dialling);
        let room = if self.proven { AT_ONCE } else { 1 }.saturating_sub(self.dialling);
        match missing.min(room) {
            0 => Order::Rest,
            _ if now < self.not_before => Order::WaitUntil(self.not_before),
            attempts => Order::Dial(attempts),
        }
    }

    /// An attempt begins, in this round.
    pub const fn dialling(&mut self) -> Round {
        self.dialling += 1;
        self.round
    }

    /// An attempt of this round came up.
    pub fn came_up(&mut self, round: Round) {
        self.dialling = self.dialling.saturating_sub(1);
        self.up += 1;
        // What began before the last failure says nothing about what is possible since.
        self.proven |= round == self.round;
    }

    /// An attempt came to nothing.
    pub fn failed(&mut self, now: u64, round: Round, kind: Kind) {
        self.dialling = self.dialling.saturating_sub(1);
        self.blame(now, round, kind);
    }

    /// A tunnel ended that counted as up, or the gateway asked for its replacement, in which case it was `polite`.
    pub fn lost(&mut self, now: u64, came_up: u64, round: Round, polite: bool) {
        self.up = self.up.saturating_sub(1);
        let lived = now.saturating_sub(came_up);
        if lived >= SUCCESS_MS {
            self.backoff.lived();
            // Those who are lost together are dialled again by one that goes ahead.
            self.proven = self.proven && polite;
            self.wait(now, |backoff| backoff.at_once());
        } else if polite && lived >= POLITE_MS {
            self.wait(now, Backoff::soon);
        } else {
            self.blame(now, round, Kind::Rejected);
        }
    }

    /// A tunnel that counted as up is to be replaced while it still works, for a reason of ours. Its end is not reported.
    pub const fn replace(&mut self) {
        self.up = self.up.saturating_sub(1);
    }

    /// The network or the certificate has changed, so what failed before says nothing.
    pub const fn hurry(&mut self) {
        self.not_before = 0;
    }

    fn blame(&mut self, now: u64, round: Round, kind: Kind) {
        if round < self.round {
            return;
        }
        self.round = Round(self.round.0 + 1);
        self.proven = false;
        let delay = self.backoff.failed(kind);
        self.not_before = self.not_before.max(now + delay);
    }

    fn wait(&mut self, now: u64, delay: impl FnOnce(&mut Backoff) -> u64) {
        if self.not_before <= now {
            self.not_before = now + delay(&mut self.backoff);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(wanted: usize) -> Keeper {
        Keeper::new(wanted, Random::seeded(1))
    }

    /// Begins what is due at this time.
    fn dial(keeper: &mut Keeper, now: u64) -> Vec<Round> {
        let Order::Dial(attempts) = keeper.next(now) else {
            return Vec::new();
        };
        (0..attempts).map(|_| keeper.dialling()).collect()
    }

    /// Waits until one attempt is due, and begins it. Returns when, and its round.
    fn one_ahead(keeper: &mut Keeper, mut now: u64) -> (u64, Round) {
        if let Order::WaitUntil(at) = keeper.next(now) {
            now = at;
        }
        let rounds = dial(keeper, now);
        assert_eq!(rounds.len(), 1, "one goes ahead");
        (now, rounds[0])
    }

    /// Until all are up, at one moment.
    fn complete(keeper: &mut Keeper, now: u64) -> Round {
        let (_, mut round) = one_ahead(keeper, now);
        let mut under_way = 1;
        while under_way > 0 {
            keeper.came_up(round);
            under_way -= 1;
            for next in dial(keeper, now) {
                round = next;
                under_way += 1;
            }
        }
        assert!(keeper.is_complete());
        round
    }

    #[test]
    fn one_goes_ahead_and_the_rest_follow_eight_at_a_time() {
        let mut keeper = keeper(20);
        let round = dial(&mut keeper, 1)[0];
        assert_eq!(
            keeper.next(2),
            Order::Rest,
            "no second attempt before the first is decided"
        );
        keeper.came_up(round);
        assert_eq!(dial(&mut keeper, 3).len(), 8);
        keeper.came_up(round);
        assert_eq!(dial(&mut keeper, 3).len(), 1);
        let mut now = 4;
        while !keeper.is_complete() {
            now += 1;
            keeper.came_up(round);
            dial(&mut keeper, now);
            assert!(now < 100);
        }
        assert_eq!((keeper.up(), keeper.next(now)), (20, Order::Rest));
    }

    /// Also when they fail in the millisecond in which they began, and not all in the same way.
    #[test]
    fn failures_of_one_batch_count_once() {
        for (fails_at, kind) in [
            (2, Kind::Rejected),
            (100, Kind::Rejected),
            (2, Kind::Closed),
        ] {
            let mut keeper = keeper(64);
            let (_, first) = one_ahead(&mut keeper, 1);
            keeper.came_up(first);
            let batch = dial(&mut keeper, 2);
            assert_eq!(batch.len(), 8);
            keeper.lost(fails_at, 1, first, false);
            for (at, round) in batch.into_iter().enumerate() {
                if at % 2 == 0 {
                    keeper.failed(fails_at, round, kind);
                } else {
                    keeper.came_up(round);
                    keeper.lost(fails_at, 2, round, false);
                }
            }
            assert_eq!(keeper.round, Round(1), "{fails_at} {kind:?}");
            let (at, _) = one_ahead(&mut keeper, fails_at);
            assert!(at <= fails_at + 250, "a first failure's pause: {at}");
        }
    }

    #[test]
    fn a_crowd_of_64_that_dies_young_is_one_failure_each_time() {
        let mut keeper = keeper(64);
        let mut now = 1;
        for times in 1..=5 {
            let round = complete(&mut keeper, now);
            for _ in 0..64 {
                keeper.lost(now + 10, now, round, false);
            }
            assert_eq!(keeper.round, Round(times));
            let Order::WaitUntil(at) = keeper.next(now + 10) else {
                panic!("a pause is due");
            };
            assert!(at - now - 10 <= 250 << (times - 1), "{times}: {at}");
            now = at;
        }
    }

    #[test]
    fn a_long_lived_tunnel_is_redialled_at_once_and_one_goes_ahead() {
        let mut keeper = keeper(4);
        let round = complete(&mut keeper, 1);
        for _ in 0..4 {
            keeper.lost(60_000, 2, round, false);
        }
        assert_eq!(dial(&mut keeper, 60_005).len(), 1);
        assert_eq!(keeper.next(60_006), Order::Rest);
    }

    #[test]
    fn a_tunnel_that_dies_young_is_a_failure_and_the_pause_grows() {
        let mut keeper = keeper(1);
        let (mut now, mut longest) = (1, 0);
        for _ in 0..30 {
            let (at, round) = one_ahead(&mut keeper, now);
            longest = longest.max(at - now);
            keeper.came_up(round);
            keeper.lost(at + 50, at, round, false);
            now = at + 50;
        }
        assert!((5_000..=30_000).contains(&longest), "{longest}");
    }

    /// However long its port was closed each time.
    #[test]
    fn a_gateway_that_restarts_again_and_again_is_back_in_use_soon() {
        let mut keeper = keeper(64);
        let round = complete(&mut keeper, 1);
        let mut now = 60_000;
        for _ in 0..64 {
            keeper.lost(now, 1, round, false);
        }
        for restart in 0..4 {
            for _ in 0..20 {
                let (at, round) = one_ahead(&mut keeper, now);
                assert!(at - now <= 2_500, "restart {restart}: {}", at - now);
                keeper.failed(at, round, Kind::Closed);
                now = at;
            }
            if let Order::WaitUntil(at) = keeper.next(now) {
                now = at;
            }
            let round = complete(&mut keeper, now);
            now += 3_000;
            for _ in 0..64 {
                keeper.lost(now, now - 3_000, round, false);
            }
        }
    }

    #[test]
    fn a_gateway_that_purges_politely_is_not_blamed() {
        let mut keeper = keeper(1);
        let mut now = 1;
        for _ in 0..50 {
            let rounds = dial(&mut keeper, now);
            assert_eq!(rounds.len(), 1);
            keeper.came_up(rounds[0]);
            keeper.lost(now + 5_000, now, rounds[0], true);
            now += 6_001;
        }
    }

    #[test]
    fn a_changed_network_ends_the_pause() {
        let mut keeper = keeper(1);
        for at in 0..12 {
            keeper.hurry();
            let rounds = dial(&mut keeper, at * 10);
            assert_eq!(rounds.len(), 1);
            keeper.failed(at * 10 + 1, rounds[0], Kind::Rejected);
        }
    }
}
