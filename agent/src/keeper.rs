//! How many tunnels one gateway address has, and when the next is dialled. Pure: `reconcile` reports what happened, with
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

/// The tunnels of one address.
#[derive(Debug)]
pub struct Keeper {
    wanted: usize,
    up: usize,
    dialling: usize,
    /// The last attempt came up, and nothing was lost since.
    proven: bool,
    not_before: u64,
    last_failure: u64,
    backoff: Backoff,
}

impl Keeper {
    pub const fn new(wanted: usize, random: Random) -> Self {
        Self {
            wanted,
            up: 0,
            dialling: 0,
            proven: false,
            not_before: 0,
            last_failure: 0,
            backoff: Backoff::new(random),
        }
    }

    /// Tunnels that are up and stay.
    pub const fn up(&self) -> usize {
        self.up
    }

    pub const fn is_complete(&self) -> bool {
        self.up >= self.wanted
    }

    pub fn next(&self, now: u64) -> Order {
        let missing = self.wanted.saturating_sub(self.up + self.dialling);
        let room = if self.proven { AT_ONCE } else { 1 }.saturating_sub(self.dialling);
        match missing.min(room) {
            0 => Order::Rest,
            _ if now < self.not_before => Order::WaitUntil(self.not_before),
            attempts => Order::Dial(attempts),
        }
    }

    /// An attempt begins.
    pub const fn dialling(&mut self) {
        self.dialling += 1;
    }

    /// An attempt came up.
    pub const fn came_up(&mut self) {
        self.dialling = self.dialling.saturating_sub(1);
        self.up += 1;
        self.proven = true;
    }

    /// An attempt that began at `started` came to nothing.
    pub fn failed(&mut self, now: u64, started: u64, kind: Kind) {
        self.dialling = self.dialling.saturating_sub(1);
        self.blame(now, started, kind);
    }

    /// A tunnel ended that counted as up, or the gateway asked for its replacement, in which case it was `polite`.
    pub fn lost(&mut self, now: u64, came_up: u64, polite: bool) {
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
            self.blame(now, came_up, Kind::Rejected);
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

    fn blame(&mut self, now: u64, began: u64, kind: Kind) {
        // Attempts that ran beside one that failed fail for the same reason; they are not more of a failure.
        let fresh = began >= self.last_failure || self.last_failure == 0;
        self.proven = false;
        if fresh {
            self.last_failure = now;
            let delay = self.backoff.failed(kind);
            self.not_before = self.not_before.max(now + delay);
        }
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

    fn dial(keeper: &mut Keeper, now: u64) -> usize {
        let Order::Dial(attempts) = keeper.next(now) else {
            return 0;
        };
        for _ in 0..attempts {
            keeper.dialling();
        }
        attempts
    }

    #[test]
    fn one_goes_ahead_and_the_rest_follow_eight_at_a_time() {
        let mut keeper = keeper(20);
        assert_eq!(dial(&mut keeper, 1), 1);
        assert_eq!(
            keeper.next(2),
            Order::Rest,
            "no second attempt before the first is decided"
        );
        keeper.came_up();
        assert_eq!(dial(&mut keeper, 3), 8);
        keeper.came_up();
        assert_eq!(dial(&mut keeper, 3), 1);
        let mut now = 4;
        while !keeper.is_complete() {
            now += 1;
            keeper.came_up();
            dial(&mut keeper, now);
            assert!(now < 100);
        }
        assert_eq!((keeper.up(), keeper.next(now)), (20, Order::Rest));
    }

    #[test]
    fn failures_of_one_batch_count_once() {
        let mut keeper = keeper(9);
        dial(&mut keeper, 1);
        keeper.came_up();
        assert_eq!(dial(&mut keeper, 2), 8);
        for _ in 0..8 {
            keeper.failed(100, 2, Kind::Rejected);
        }
        assert!(
            matches!(keeper.next(100), Order::WaitUntil(at) if at <= 350)
                || keeper.next(100) == Order::Dial(1)
        );
        assert_eq!(dial(&mut keeper, 350), 1, "one goes ahead again");
    }

    #[test]
    fn a_long_lived_tunnel_is_redialled_at_once_and_one_goes_ahead() {
        let mut keeper = keeper(4);
        dial(&mut keeper, 1);
        keeper.came_up();
        dial(&mut keeper, 2);
        for _ in 0..3 {
            keeper.came_up();
        }
        for _ in 0..4 {
            keeper.lost(60_000, 2, false);
        }
        assert_eq!(dial(&mut keeper, 60_005), 1);
        assert_eq!(keeper.next(60_006), Order::Rest);
    }

    #[test]
    fn a_tunnel_that_dies_young_is_a_failure_and_the_pause_grows() {
        let mut keeper = keeper(1);
        let (mut now, mut longest) = (1, 0);
        for _ in 0..30 {
            while dial(&mut keeper, now) == 0 {
                let Order::WaitUntil(at) = keeper.next(now) else {
                    panic!("nothing to wait for");
                };
                longest = longest.max(at - now);
                now = at;
            }
            keeper.came_up();
            keeper.lost(now + 50, now, false);
            now += 50;
        }
        assert!((5_000..=30_000).contains(&longest), "{longest}");
    }

    #[test]
    fn a_gateway_that_purges_politely_is_not_blamed() {
        let mut keeper = keeper(1);
        let mut now = 1;
        for _ in 0..50 {
            assert_eq!(dial(&mut keeper, now), 1);
            keeper.came_up();
            keeper.lost(now + 5_000, now, true);
            now += 6_001;
        }
    }

    #[test]
    fn a_changed_network_ends_the_pause() {
        let mut keeper = keeper(1);
        for round in 0..12 {
            keeper.hurry();
            assert_eq!(dial(&mut keeper, round * 10), 1);
            keeper.failed(round * 10 + 1, round * 10, Kind::Rejected);
        }
    }
}
