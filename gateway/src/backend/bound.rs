//! Connections to one server that began with a PROXY header: those in HTTP/1.1 at rest between two requests of the visitor's
//! connection that the header names, and those in HTTP/2 that its requests share. Nobody else's request ever goes on one, and they
//! are closed when the visitor's is. Held by a server for the visitors of all workers.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use tidegate_shared::origin::{Link, SETTLED_MS};

use super::body::Carried;
use super::http2::links::Links;
use super::http2::seat::Seat;
use super::queue::Permit;
use super::server::Server;

/// One visitor's connection, as far as servers' connections are its own. Gone with the last who holds it: the visitor's
/// connection, and what is in flight for it.
pub struct Tie {
    id: u64,
    /// Where something of it is.
    servers: Mutex<Vec<Arc<Server>>>,
}

impl Tie {
    /// A visitor's connection that has just begun.
    pub(crate) fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Relaxed),
            servers: Mutex::default(),
        })
    }

    /// Notes that something of it is there.
    pub(super) fn rests_at(&self, server: &Arc<Server>) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if !servers.iter().any(|known| Arc::ptr_eq(known, server)) {
            servers.push(Arc::clone(server));
        }
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        let servers = self
            .servers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for server in servers {
            server.bound.forget(self.id);
        }
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tie").field(&self.id).finish()
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Bound {
    resting: Mutex<HashMap<u64, Vec<Rested>>>,
    count: AtomicUsize,
    /// In HTTP/2.
    shared: Mutex<HashMap<u64, Arc<Links>>>,
}

#[derive(Debug)]
struct Rested {
    since: u64,
    link: Box<Link<Carried>>,
}

impl Bound {
    /// Whether none rests.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// The one of this visitor that was used last, of those that have rested for so many milliseconds. It may turn out to be
    /// closed.
    pub(super) fn take(
        &self,
        tie: &Tie,
        now: u64,
        rested: &RangeInclusive<u64>,
    ) -> Option<Box<Link<Carried>>> {
        if self.is_empty() {
            return None;
        }
        let mut resting = self.lock();
        let its = resting.get_mut(&tie.id)?;
        let rest = |it: &Rested| now.saturating_sub(it.since);
        let at = its.iter().rposition(|it| rest(it) >= *rested.start())?;
        if rest(&its[at]) > *rested.end() {
            return None;
        }
        let taken = its.remove(at);
        if its.is_empty() {
            resting.remove(&tie.id);
        }
        self.count.fetch_sub(1, Relaxed);
        Some(taken.link)
    }

    /// Takes back one that is ready for another request of its visitor.
    pub(super) fn put(&self, tie: &Tie, now: u64, link: Box<Link<Carried>>) {
        let rested = Rested { since: now, link };
        let mut resting = self.lock();
        resting.entry(tie.id).or_default().push(rested);
        self.count.fetch_add(1, Relaxed);
    }

    /// The one that has rested longest, whosever it is, to be closed.
    pub(super) fn oldest(&self) -> Option<Box<Link<Carried>>> {
        if self.is_empty() {
            return None;
        }
        let mut resting = self.lock();
        // Those of one visitor stand in the order in which they came to rest.
        let since = |its: &Vec<Rested>| its.first().map_or(u64::MAX, |first| first.since);
        let id = *resting.iter().min_by_key(|(_, its)| since(its))?.0;
        let its = resting.get_mut(&id)?;
        let oldest = (!its.is_empty()).then(|| its.remove(0));
        if its.is_empty() {
            resting.remove(&id);
        }
        self.count.fetch_sub(1, Relaxed);
        Some(oldest?.link)
    }

    /// Closes what the server has closed, and what has rested for so many milliseconds. `seen` is told of each for how many it
    /// has, and whether it is open.
    pub(super) fn sweep(&self, now: u64, rest_ms: u64, mut seen: impl FnMut(u64, bool)) {
        if self.is_empty() {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut closed = Vec::new();
        let mut resting = self.lock();
        resting.retain(|_, its| {
            closed.extend(its.extract_if(.., |it| {
                let rested = now.saturating_sub(it.since);
                if rested >= SETTLED_MS {
                    it.link.look_first();
                }
                let open = it.link.drive(&mut cx).is_pending();
                seen(rested, open);
                !open || rested >= rest_ms
            }));
            !its.is_empty()
        });
        drop(resting);
        // Sockets are closed when nobody waits for the list.
        self.count.fetch_sub(closed.len(), Relaxed);
    }

    fn forget(&self, id: u64) {
        let its = self.lock().remove(&id).unwrap_or_default();
        self.count.fetch_sub(its.len(), Relaxed);
        drop(self.sharing().remove(&id));
    }

    /// Those in HTTP/2 of this visitor; none yet where it is the first request of its that is to go on one.
    pub(super) fn links(&self, tie: &Tie) -> Arc<Links> {
        Arc::clone(self.sharing().entry(tie.id).or_default())
    }

    /// A place on one in HTTP/2 of this visitor.
    pub(super) fn seat(&self, tie: &Tie) -> Option<Seat> {
        self.sharing().get(&tie.id)?.take()
    }

    /// The same on one that is in doubt, where there is no better one.
    pub(super) fn any_seat(&self, tie: &Tie) -> Option<Seat> {
        self.sharing().get(&tie.id)?.take_any()
    }

    /// Whether there may be a place on one in HTTP/2 for this visitor, or somebody else's would make room.
    pub(super) fn may_seat(&self, tie: Option<&Arc<Tie>>) -> bool {
        let shared = self.sharing();
        let its = tie.and_then(|tie| shared.get(&tie.id));
        its.is_some_and(|its| its.have_room()) || shared.values().any(|links| links.have_idle())
    }

    /// The place among all connections of one in HTTP/2 on which nothing is in flight, whosever it is. It ends for that.
    pub(super) fn idle(&self) -> Option<Permit> {
        self.sharing().values().find_map(|links| links.let_one_go())
    }

    /// Closes those in HTTP/2 on which nothing has been in flight for so many milliseconds.
    pub(super) fn sweep_shared(&self, now: u64, rest_ms: u64) {
        for links in self.sharing().values() {
            links.sweep(now, rest_ms);
        }
    }

    /// Lets all in HTTP/2 end with their last request.
    pub(super) fn clear_shared(&self) {
        for links in self.sharing().values() {
            links.clear();
        }
    }

    fn sharing(&self) -> MutexGuard<'_, HashMap<u64, Arc<Links>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Vec<Rested>>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
