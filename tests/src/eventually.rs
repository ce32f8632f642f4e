//! Waiting with a deadline: for a future ([`within`]) or until something can be observed ([`eventually`]).

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// The deadline of a step that is expected to take milliseconds; long enough for a loaded machine.
pub const SOON: Duration = Duration::from_secs(15);

const POLL_EVERY: Duration = Duration::from_millis(15);

/// The result of `future`; fails the test with `what` when it takes longer than `limit`.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    match timeout(limit, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Looks until `look` returns something, at most for `limit`; fails the test with `what` after that.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + limit;
    let mut ticks = interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(value) = look().await {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
    }
}
