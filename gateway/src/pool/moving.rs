//! Where one gateway takes another's place, agents go from one pool to the other: the last one's sends them on, and the next one's
//! has visitors wait for names whose agents are on their way.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tidegate_shared::name::NamePattern;
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::{Group, Pool, Unavailable};
use crate::failure::Failure;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Until when a name that nobody has brought may be one whose agent is on its way.
    expecting: OnceLock<Instant>,
    /// Told with each tunnel that is filed.
    pub(super) filed: Notify,
    /// Agents are to bring their tunnels elsewhere.
    sending_on: AtomicBool,
}

impl Pool {
    /// This gateway takes the place of another one, whose agents are on their way: a name that nobody has brought yet is waited
    /// for as one that has just left.
    pub(crate) fn expect_names(&self) {
        let _expected_already = self.moving.expecting.set(Instant::now() + self.limits.hold);
    }

    pub(super) fn expecting(&self) -> Option<Instant> {
        let until = self.moving.expecting.get().copied();
        until.filter(|until| Instant::now() < *until)
    }

    /// Has every agent bring its tunnels elsewhere. Those that are here serve until they do.
    pub(crate) fn send_on(&self) {
        self.moving.sending_on.store(true, Relaxed);
        for tunnel in self.lock().values() {
            tunnel.driver().notify_one();
        }
    }

    /// Whether agents are to bring their tunnels elsewhere.
    pub(crate) fn is_sending_on(&self) -> bool {
        self.moving.sending_on.load(Relaxed)
    }

    /// The group of a name that nobody has brought yet, when somebody has.
    pub(super) async fn expected(
        &self,
        host: &str,
        octets: usize,
    ) -> Result<Arc<Group>, Unavailable> {
        let nobody = || Unavailable::plain(Failure::NoSuchName);
        let until = self.expecting().ok_or_else(nobody)?;
        let owner = NamePattern::from_operator(host).map_err(|_no_name| nobody())?;
        let Some(_place) = self.held.enter(&owner, octets) else {
            self.metrics.held_refused.inc();
            return Err(Unavailable::plain(Failure::Limit));
        };
        self.metrics.held_total.inc();
        loop {
            let mut filed = pin!(self.moving.filed.notified());
            // Registered before the look, so that none comes unnoticed.
            filed.as_mut().enable();
            if let Some(group) = self.group(host) {
                return Ok(group);
            }
            if timeout_at(until.into(), filed).await.is_err() {
                return Err(nobody());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;
    use crate::pool::{Limits, Tried};

    fn failure<T>(outcome: Result<T, Unavailable>) -> Option<Failure> {
        outcome.err().map(|unavailable| unavailable.failure)
    }

    #[tokio::test]
    async fn a_name_is_expected_for_as_long_as_one_that_left() {
        let hold = Duration::from_millis(30);
        let limits = Limits {
            tunnels: 1,
            tunnels_per_name: 1,
            tunnels_per_source: 1,
            held: 1,
            held_per_name: 1,
            held_octets: 1000,
            hold,
        };
        let pool = Pool::new(limits, Arc::new(Metrics::new()));
        let (name, tried) = ("shop.test", Tried::default());
        assert_eq!(failure(pool.take(name, &tried)), Some(Failure::NoSuchName));
        let began = Instant::now();
        pool.expect_names();
        assert!(matches!(pool.take(name, &tried), Ok(None)));
        let (one, other) = tokio::join!(pool.hold(name, &tried, 10), pool.hold(name, &tried, 10));
        assert!(began.elapsed() >= hold);
        // There is room for one.
        assert_eq!(failure(one), Some(Failure::NoSuchName));
        assert_eq!(failure(other), Some(Failure::Limit));
        assert_eq!(failure(pool.take(name, &tried)), Some(Failure::NoSuchName));
        assert_eq!(pool.held(), 0);
    }
}
