//! Connections to the app that began with a PROXY header, at rest between two requests of the visitor's connection that the
//! header names: nobody else's request ever goes on one. Of all workers, because a visitor's requests come by several tunnels.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tidegate_shared::visitor::Visitor;

use super::http1::Link;

/// Connections that may rest; beyond them, the one that has rested longest is closed.
const RESTING: usize = 512;

/// A connection that has rested so long is closed, in milliseconds: nobody says when the visitor has left.
pub(super) const REST_MS: u64 = 10_000;

/// See the module's head. Those that have rested longest are in front.
#[derive(Debug, Default)]
pub(super) struct Bound {
    resting: Mutex<VecDeque<Rested>>,
}

#[derive(Debug)]
struct Rested {
    of: Arc<Visitor>,
    link: Box<Link>,
}

impl Rested {
    /// For how many milliseconds it has rested.
    fn rest(&self, now: u64) -> u64 {
        now.saturating_sub(self.link.rested_since())
    }
}

impl Bound {
    /// The visitor's connection that was used last, of those that have rested for so many milliseconds. It may turn out to be
    /// closed.
    pub(super) fn take(
        &self,
        of: &Visitor,
        now: u64,
        rested: &RangeInclusive<u64>,
    ) -> Option<Box<Link>> {
        let mut resting = self.lock();
        let at = resting
            .iter()
            .rposition(|its| *its.of == *of && its.rest(now) >= *rested.start())?;
        if resting[at].rest(now) > *rested.end() {
            return None;
        }
        resting.remove(at).map(|its| its.link)
    }

    /// Takes back a connection that is ready for another request of its visitor.
    pub(super) fn put(&self, of: &Arc<Visitor>, now: u64, mut link: Box<Link>) {
        link.comes_to_rest(now);
        let mut resting = self.lock();
        let surplus = (resting.len() >= RESTING).then(|| resting.pop_front());
        resting.push_back(Rested {
            of: Arc::clone(of),
            link,
        });
        // A socket is closed when nobody waits for the list.
        drop(resting);
        drop(surplus);
    }

    /// Closes what the app has closed, and what has rested for long. `seen` is told of each for how many milliseconds it has
    /// rested, and whether it is open.
    pub(super) fn sweep(&self, now: u64, mut seen: impl FnMut(u64, bool)) {
        let mut resting = self.lock();
        if resting.is_empty() {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        resting.retain_mut(|its| {
            let rested = its.rest(now);
            let open = its.link.drive(&mut cx).is_pending();
            seen(rested, open);
            open && rested < REST_MS
        });
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Rested>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
