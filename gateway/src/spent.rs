//! Time that a record is told of when a wait ends, however it ends: a visitor who leaves takes what waits for it along. Called by
//! whoever waits for room, for a tunnel or for a connection; does not know what for.

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
