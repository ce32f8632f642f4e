//! Milliseconds since the program first asked: small enough for an atomic, monotonic, never zero. For deadlines and ages at
//! both ends; what a person reads is `when`'s.

use std::sync::OnceLock;
use std::time::Instant;

/// Milliseconds since the first call, plus one; so zero can stand for "never".
pub fn now_ms() -> u64 {
    ms(Instant::now())
}

/// The same for a moment that is at hand. Moments before the first call count as one.
pub fn ms(moment: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = moment.saturating_duration_since(*START.get_or_init(Instant::now));
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - 1) + 1
}
