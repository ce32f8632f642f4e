//! Connections to one app that rest between two requests, of one worker. Last in, first out: under a light load few
//! connections are used, and those that are used are warm.

use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

use super::Upload;
use super::link::Link;
use super::manners::{ANY, SETTLED_MS};

/// Connections that may rest on one worker; more are closed when their request ends.
pub const RESTING: usize = 256;

/// See the module's head.
#[derive(Debug)]
pub struct Pool<B: Upload> {
    /// A connection that has rested so long, in milliseconds, is closed.
    rest_ms: u64,
    // Only ever touched by its own worker, so never waited for.
    // Boxed, as they move in and out with every request.
    resting: Mutex<Vec<Box<Link<B>>>>,
}

impl<B: Upload> Pool<B> {
    /// One whose connections are closed when they have rested for so many milliseconds.
    pub fn new(rest_ms: u64) -> Self {
        Self {
            rest_ms,
            resting: Mutex::default(),
        }
    }

    /// The connection that was used last, of those that have rested for so many milliseconds. It may turn out to be closed.
    pub fn take(&self, now: u64, rested: &RangeInclusive<u64>) -> Option<Box<Link<B>>> {
        let mut resting = self.lock();
        let rest = |link: &Link<B>| now.saturating_sub(link.rested_since());
        // They stand in the order in which they came to rest.
        let at = resting
            .iter()
            .rposition(|link| rest(link) >= *rested.start())?;
        (rest(&resting[at]) <= *rested.end()).then(|| resting.remove(at))
    }

    /// How many rest.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none rests.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Takes back a connection that is ready for another request.
    pub fn put(&self, now: u64, mut link: Box<Link<B>>) {
        link.comes_to_rest(now);
        let mut resting = self.lock();
        if resting.len() < RESTING {
            resting.push(link);
        }
    }

    /// To be called where one is opened because none has rested for long enough: those that have hardly rested do not become ever
    /// more; nor do ports that wait for the end of one (RFC 9293 §3.6.1).
    pub fn shed(&self, now: u64) {
        if self.len() >= RESTING / 2
            && let Some(surplus) = self.take(now, &ANY)
        {
            surplus.close_abruptly();
        }
    }

    /// Closes what the app has closed, and what has rested for long. `seen` is told of each for how many milliseconds it has
    /// rested, and whether it is open.
    pub fn sweep(&self, now: u64, mut seen: impl FnMut(u64, bool)) {
        let mut resting = self.lock();
        if resting.is_empty() {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        resting.retain_mut(|link| {
            let rested = now.saturating_sub(link.rested_since());
            if rested >= SETTLED_MS {
                // That it is open says something then, and the runtime may not have heard of its end.
                link.look_first();
            }
            let open = link.is_open(&mut cx);
            seen(rested, open);
            open && rested < self.rest_ms
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Box<Link<B>>>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
