//! Time that a record is told of when a wait ends, however it ends: a visitor who leaves takes what waits for it along. Called by
//! whoever waits for room, for a tunnel, for a connection or for a visitor's body; does not know what for.

use std::time::{Duration, Instant};

/// See the module's head. Adds what has passed since it was made when it is dropped.
#[derive(Debug)]
pub(crate) struct Spent<'a> {
    on: &'a mut Duration,
    since: Instant,
}

impl<'a> Spent<'a> {
    pub(crate) const fn since(since: Instant, on: &'a mut Duration) -> Self {
        Self { on, since }
    }
}

impl Drop for Spent<'_> {
    fn drop(&mut self) {
        *self.on += self.since.elapsed();
    }
}

/// Time in which one side let everything wait, over and over, as it is noted.
#[derive(Debug, Default)]
pub(crate) struct Waited {
    spent: Duration,
    since: Option<Instant>,
}

impl Waited {
    /// It does from now on, or no longer.
    pub(crate) fn note(&mut self, waits: bool) {
        match (waits, self.since) {
            (true, None) => self.since = Some(Instant::now()),
            (false, Some(since)) => {
                self.spent += since.elapsed();
                self.since = None;
            }
            _ => {}
        }
    }

    /// All of it up to a moment.
    pub(crate) fn until(&self, end: Instant) -> Duration {
        let going_on = |since| end.saturating_duration_since(since);
        self.spent + self.since.map_or(Duration::ZERO, going_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_counts_and_what_is_over_does_not_grow() {
        let mut waited = Waited::default();
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(waited.until(later), Duration::ZERO);
        waited.note(true);
        waited.note(true);
        assert!(waited.until(later) > Duration::from_secs(59));
        waited.note(false);
        let spent = waited.until(later);
        assert!(spent < Duration::from_secs(30), "{spent:?}");
        assert_eq!(waited.until(later + Duration::from_secs(60)), spent);
    }
}
