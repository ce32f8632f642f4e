//! Time since the program first asked: small enough for an atomic, monotonic, never zero. In milliseconds for deadlines and ages
//! at both ends, in nanoseconds for rates; what a person reads is `when`'s.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Milliseconds since the first call, plus one; so zero can stand for "never".
pub fn now_ms() -> u64 {
    ms(Instant::now())
}

/// The same for a moment that is at hand. Moments before the first call count as one.
pub fn ms(moment: Instant) -> u64 {
    let since = since_start(moment);
    let whole = since.as_secs().saturating_mul(1000);
    whole.saturating_add(u64::from(since.subsec_millis()) + 1)
}

/// Nanoseconds, likewise: enough for 584 years.
pub fn ns(moment: Instant) -> u64 {
    let since = since_start(moment);
    let whole = since.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::from(since.subsec_nanos()) + 1)
}

fn since_start(moment: Instant) -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    moment.saturating_duration_since(*START.get_or_init(Instant::now))
}
