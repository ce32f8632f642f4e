//! Names to tunnels. A tunnel is filed under each name of its certificate; a request takes a [`Lease`] on one of them,
//! or waits a moment for a name that was here moments ago, or learns why there is none.
//!
//! Nothing here expires for being idle. The pool outlives every connection and, later, every configuration.

mod moving; // agents go to another gateway, or come from one

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tidegate_shared::name::{AgentName, NamePattern, below};
use tidegate_shared::when;
use tidegate_shared::{clock, workers};
use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::failure::Failure;
use crate::held::{Held, Share};
use crate::metrics::Metrics;
use crate::pick::{Candidate, Standing, pick};
use crate::tunnel::{Ending, Lease, Life, Tunnel};
use moving::Moving;

/// How much the pool takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub tunnels: usize,
    pub tunnels_per_name: usize,
    pub tunnels_per_source: usize,
    /// Requests held for a name that left moments ago, over all names.
    pub held: usize,
    pub held_per_name: usize,
    /// Octets of their heads, over all names.
    pub held_octets: usize,
    /// How long a name that left is waited for.
    pub hold: Duration,
}

/// How long a name that left is remembered, so that its visitors can be told.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// Names without a tunnel that are remembered at most.
const MOST_REMEMBERED: usize = 10_000;

/// See the module's head.
#[derive(Debug)]
pub struct Pool {
    exact: DashMap<AgentName, Arc<Group>>,
    /// Wildcards, by what stands below their asterisk.
    below: DashMap<AgentName, Arc<Group>>,
    tunnels: Mutex<HashMap<u64, Arc<Tunnel>>>,
    limits: Limits,
    held: Held,
    moving: Moving,
    metrics: Arc<Metrics>,
}

/// One name.
#[derive(Debug)]
pub struct Group {
    pub name: NamePattern,
    tunnels: ArcSwap<Vec<Arc<Tunnel>>>,
    queue: Mutex<VecDeque<Waiter>>,
    queued: AtomicUsize,
    /// One who waited has been given a place and has not sent its request yet.
    passing: AtomicBool,
    departed: Mutex<Option<Departed>>,
    /// The first name in the certificate of the agent that attached last.
    owner: Mutex<NamePattern>,
    pub requests: AtomicU64,
}

/// Goes along with a place handed to one who waited, until the request has been sent: only then is it the next one's turn.
#[derive(Debug)]
pub(crate) struct Baton(Arc<Group>);

impl Drop for Baton {
    fn drop(&mut self) {
        self.0.passing.store(false, Relaxed);
        if self.0.queued.load(Relaxed) > 0 {
            self.0.serve_queue();
        }
    }
}

#[derive(Debug)]
struct Waiter {
    tried: Tried,
    give: oneshot::Sender<Lease>,
}

/// What a name's last tunnel left behind.
#[derive(Clone, Debug)]
pub struct Departed {
    at: Instant,
    pub wall: SystemTime,
    pub ending: Ending,
}

/// Tunnels on which a request already failed.
#[derive(Clone, Debug, Default)]
pub struct Tried(Vec<Arc<Tunnel>>);

impl Tried {
    pub(crate) fn add(&mut self, tunnel: &Arc<Tunnel>) {
        self.0.push(Arc::clone(tunnel));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    fn standing(&self, tunnel: &Tunnel, now: u64) -> Standing {
        let mut standing = match tunnel.life() {
            Life::Filed if tunnel.is_quiet(now) || tunnel.has_no_app(now) => Standing::Quiet,
            Life::Filed => Standing::Good,
            _ => Standing::Doubted,
        };
        for tried in &self.0 {
            if tried.id == tunnel.id {
                return Standing::Tried;
            }
            if tried.agent.is_same(&tunnel.agent) {
                standing = standing.max(Standing::SameAgent);
            }
        }
        standing
    }
}

/// Why there is no tunnel for a request, and what else the gateway knows about the name.
#[derive(Clone, Debug)]
pub struct Unavailable {
    pub failure: Failure,
    pub about: Option<String>,
}

impl Unavailable {
    /// With nothing more to say of it.
    pub(crate) const fn plain(failure: Failure) -> Self {
        Self {
            failure,
            about: None,
        }
    }
}

/// Why a tunnel was not filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("the gateway holds {0} tunnels, its limit (--max-tunnels)")]
    Gateway(usize),
    #[error("its name has {0} tunnels, the limit (--max-tunnels-per-name)")]
    Name(usize),
    #[error("its source has {0} tunnels, the limit (--max-tunnels-per-source)")]
    Source(usize),
}

impl Full {
    /// One word.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Gateway(_) => "max-tunnels",
            Self::Name(_) => "max-tunnels-per-name",
            Self::Source(_) => "max-tunnels-per-source",
        }
    }
}

impl Pool {
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            exact: DashMap::new(),
            below: DashMap::new(),
            tunnels: Mutex::default(),
            limits,
            held: Held::new(Share {
                requests: limits.held,
                octets: limits.held_octets,
            }),
            moving: Moving::default(),
            metrics,
        }
    }

    /// Files a tunnel under all its names and releases those who waited for one of them.
    pub(crate) fn file(&self, tunnel: &Arc<Tunnel>) -> Result<(), Full> {
        let mut tunnels = self.lock();
        if tunnels.len() >= self.limits.tunnels {
            return Err(Full::Gateway(self.limits.tunnels));
        }
        let source = tunnel.agent.address.ip();
        // A count over all tunnels, once per tunnel: cheap beside the handshake that came before.
        let of_source = tunnels
            .values()
            .filter(|other| other.agent.address.ip() == source)
            .count();
        if of_source >= self.limits.tunnels_per_source {
            return Err(Full::Source(self.limits.tunnels_per_source));
        }
        let groups: Vec<Arc<Group>> = tunnel
            .agent
            .names
            .iter()
            .map(|name| self.group_of(name))
            .collect();
        if groups
            .iter()
            .any(|group| group.tunnels.load().len() >= self.limits.tunnels_per_name)
        {
            return Err(Full::Name(self.limits.tunnels_per_name));
        }
        tunnels.insert(tunnel.id, Arc::clone(tunnel));
        tunnel.set_groups(&groups);
        for group in &groups {
            group.tunnels.rcu(|present| {
                let mut next = Vec::with_capacity(present.len() + 1);
                next.extend(present.iter().cloned());
                next.push(Arc::clone(tunnel));
                next
            });
        }
        self.metrics.tunnels_opened.inc();
        drop(tunnels);
        for group in &groups {
            group.attached(tunnel);
        }
        self.moving.filed.notify_waiters();
        Ok(())
    }

    /// Takes a tunnel out from under all its names; says under which it was the last. Doing it twice does nothing.
    pub(crate) fn unfile(&self, tunnel: &Tunnel, ending: &Ending) -> Vec<NamePattern> {
        let mut tunnels = self.lock();
        if tunnels.remove(&tunnel.id).is_none() {
            return Vec::new();
        }
        self.metrics.tunnels_closed(ending);
        let mut last_of = Vec::new();
        for name in &tunnel.agent.names {
            let group = self.group_of(name);
            // Noted before the last one goes: a request that finds none must find why.
            if group
                .tunnels
                .load()
                .iter()
                .all(|other| other.id == tunnel.id)
            {
                *group
                    .departed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(Departed {
                    at: Instant::now(),
                    wall: SystemTime::now(),
                    ending: ending.clone(),
                });
                last_of.push(name.clone());
            }
            group.tunnels.rcu(|present| {
                present
                    .iter()
                    .filter(|other| other.id != tunnel.id)
                    .cloned()
                    .collect::<Vec<_>>()
            });
        }
        last_of
    }

    /// A place on a tunnel of the name, if there is one at this moment and nobody waits for one.
    pub(crate) fn take(&self, host: &str, tried: &Tried) -> Result<Option<Lease>, Unavailable> {
        let Some(group) = self.group(host) else {
            if self.expecting().is_some() {
                return Ok(None);
            }
            return Err(Unavailable::plain(Failure::NoSuchName));
        };
        Ok(if group.queued.load(Relaxed) == 0 {
            group.take(tried)
        } else {
            None
        })
    }

    /// A place on a tunnel of the name within the hold. `octets` is what the request's head costs while it waits.
    pub(crate) async fn hold(
        &self,
        host: &str,
        tried: &Tried,
        octets: usize,
    ) -> Result<Lease, Unavailable> {
        let group = match self.group(host) {
            Some(group) => group,
            None => self.expected(host, octets).await?,
        };
        self.wait(&group, tried, octets).await
    }

    async fn wait(
        &self,
        group: &Arc<Group>,
        tried: &Tried,
        octets: usize,
    ) -> Result<Lease, Unavailable> {
        let started = Instant::now();
        let mut deadline = started + self.limits.hold;
        if group.tunnels.load().is_empty()
            && let Some(departed) = group.departed()
        {
            deadline = departed.at + self.limits.hold;
        }
        if deadline <= started {
            return Err(group.unavailable(false));
        }
        let Some(_place) = self.held.enter(&group.owner(), octets) else {
            self.metrics.held_refused.inc();
            return Err(group.unavailable(true));
        };
        let (give, mut given) = oneshot::channel();
        {
            let mut queue = group.queue();
            if queue.len() >= self.limits.held_per_name {
                self.metrics.held_refused.inc();
                return Err(group.unavailable(true));
            }
            queue.push_back(Waiter {
                tried: tried.clone(),
                give,
            });
            group.queued.store(queue.len(), Relaxed);
        }
        // A tunnel that came, or a place that became free, before this one stood in the queue.
        group.serve_queue();
        self.metrics.held_total.inc();
        let outcome = timeout_at(deadline.into(), &mut given).await;
        match outcome {
            Ok(Ok(lease)) => Ok(lease),
            _ => {
                given.close();
                group.forget_the_gone();
                // A lease may have been handed over at the last moment.
                given.try_recv().map_err(|_none| group.unavailable(false))
            }
        }
    }

    /// Whether another tunnel than those tried stands ready for this host.
    pub(crate) fn has_alternative(&self, host: &str, tried: &Tried) -> bool {
        self.has(host, tried, |standing| standing <= Standing::SameAgent)
    }

    /// Whether another agent than those tried stands ready for this host.
    pub(crate) fn has_other_agent(&self, host: &str, tried: &Tried) -> bool {
        self.has(host, tried, |standing| standing < Standing::SameAgent)
    }

    fn has(&self, host: &str, tried: &Tried, fit: impl Fn(Standing) -> bool) -> bool {
        let now = clock::now_ms();
        self.group(host).is_some_and(|group| {
            let tunnels = group.tunnels.load();
            tunnels
                .iter()
                .any(|tunnel| fit(tried.standing(tunnel, now)))
        })
    }

    /// Has every other tunnel of the same agent probed: what silenced one may have silenced all.
    pub(crate) fn doubt_siblings(&self, tunnel: &Tunnel) {
        for other in self.lock().values() {
            if other.id != tunnel.id
                && other.life() == Life::Filed
                && other.agent.is_same(&tunnel.agent)
            {
                other.ask();
            }
        }
    }

    /// Whether the same agent has brought a tunnel since that moment.
    pub(crate) fn has_younger_sibling(&self, tunnel: &Tunnel, than_ms: u64) -> bool {
        self.lock().values().any(|other| {
            other.id != tunnel.id
                && other.since_ms >= than_ms
                && other.agent.fingerprint == tunnel.agent.fingerprint
        })
    }

    /// All tunnels, in the order in which they came.
    pub fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        let mut tunnels: Vec<Arc<Tunnel>> = self.lock().values().cloned().collect();
        tunnels.sort_by_key(|tunnel| tunnel.id);
        tunnels
    }

    /// All names that have or had a tunnel.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<Arc<Group>> = self
            .exact
            .iter()
            .chain(self.below.iter())
            .map(|entry| Arc::clone(entry.value()))
            .collect();
        groups.sort_by(|one, other| one.name.cmp(&other.name));
        groups
    }

    /// Requests that wait for a tunnel.
    pub fn held(&self) -> usize {
        self.held.requests()
    }

    /// Forgets names that left long ago. Called once a minute.
    pub(crate) fn forget(&self) {
        let stale = |group: &Arc<Group>, age: Duration| {
            Arc::strong_count(group) == 1
                && group.tunnels.load().is_empty()
                && group
                    .departed()
                    .is_none_or(|departed| departed.at.elapsed() >= age)
        };
        // Filing takes the same lock, so no tunnel can be filed into a group that goes.
        let _filing = self.lock();
        for map in [&self.exact, &self.below] {
            map.retain(|_, group| !stale(group, REMEMBERED));
            if map.len() > MOST_REMEMBERED {
                map.retain(|_, group| !stale(group, self.limits.hold));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Tunnel>>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exact name's group, else the wildcard's. A name that an agent has held is never served by a wildcard's agent
    /// while it is remembered: its visitors are not somebody else's.
    fn group(&self, host: &str) -> Option<Arc<Group>> {
        if let Some(group) = self.exact.get(host) {
            return Some(Arc::clone(group.value()));
        }
        self.below
            .get(below(host)?)
            .map(|group| Arc::clone(group.value()))
    }

    fn group_of(&self, name: &NamePattern) -> Arc<Group> {
        let (map, key) = match name {
            NamePattern::Exact(name) => (&self.exact, name),
            NamePattern::Wildcard(rest) => (&self.below, rest),
        };
        Arc::clone(
            map.entry(key.clone())
                .or_insert_with(|| Arc::new(Group::new(name.clone())))
                .value(),
        )
    }
}

impl Group {
    fn new(name: NamePattern) -> Self {
        Self {
            owner: Mutex::new(name.clone()),
            name,
            tunnels: ArcSwap::default(),
            queue: Mutex::default(),
            queued: AtomicUsize::new(0),
            passing: AtomicBool::new(false),
            departed: Mutex::default(),
            requests: AtomicU64::new(0),
        }
    }

    fn owner(&self) -> NamePattern {
        self.owner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many tunnels the name has.
    pub fn count(&self) -> usize {
        self.tunnels.load().len()
    }

    pub fn departed(&self) -> Option<Departed> {
        self.departed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, tried: &Tried) -> Option<Lease> {
        let tunnels = self.tunnels.load();
        let (here, now) = (workers::here(), clock::now_ms());
        let candidates = tunnels.iter().map(|tunnel| Candidate {
            outstanding: tunnel.outstanding(),
            limit: tunnel.places.limit(),
            latency_us: tunnel.latency_us(),
            local: tunnel.worker == here,
            standing: tried.standing(tunnel, now),
        });
        let lease = tunnels[pick(candidates)?].lease();
        self.requests.fetch_add(1, Relaxed);
        Some(lease)
    }

    fn attached(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = tunnel.agent.primary.clone();
        self.slot_freed(tunnel);
    }

    /// Hands places on this tunnel to those who wait, in the order in which they came.
    pub(crate) fn slot_freed(self: &Arc<Self>, tunnel: &Arc<Tunnel>) {
        if self.queued.load(Relaxed) > 0 && tunnel.life() <= Life::Doubted {
            self.serve_queue();
        }
    }

    /// Hands a place to the first who waits and can use one. The next one's turn comes when that request has been sent
    /// (its lease carries the [`Baton`]), so that they leave in the order in which they came, whichever worker each is on.
    fn serve_queue(self: &Arc<Self>) {
        let mut returned = Vec::new();
        {
            let mut queue = self.queue();
            let mut passed_over = VecDeque::new();
            while !self.passing.load(Relaxed)
                && let Some(waiter) = queue.pop_front()
            {
                if waiter.give.is_closed() {
                    continue;
                }
                match self.take(&waiter.tried) {
                    Some(mut lease) => {
                        self.passing.store(true, Relaxed);
                        lease.carry(Baton(Arc::clone(self)));
                        // Refused only by one who left between the check and this.
                        returned.extend(waiter.give.send(lease).err());
                    }
                    None => {
                        let anyone_would_do = waiter.tried.count() == 0;
                        passed_over.push_back(waiter);
                        if anyone_would_do {
                            break;
                        }
                    }
                }
            }
            passed_over.append(&mut queue);
            *queue = passed_over;
            self.queued.store(queue.len(), Relaxed);
        }
        // A lease that goes comes back here for the next in the queue, so it goes outside the lock; each time round one
        // waiter has left.
        drop(returned);
    }

    fn forget_the_gone(&self) {
        let mut queue = self.queue();
        queue.retain(|waiter| !waiter.give.is_closed());
        self.queued.store(queue.len(), Relaxed);
    }

    fn unavailable(&self, refused: bool) -> Unavailable {
        let here = self.count() > 0;
        let Some(departed) = self.departed().filter(|_| !here) else {
            return Unavailable {
                failure: if here || refused {
                    Failure::Limit
                } else {
                    Failure::NoSuchName
                },
                about: None,
            };
        };
        let failure = match departed.ending {
            _ if refused => Failure::Limit,
            Ending::Silent { .. } => Failure::AllEjected,
            _ => Failure::AgentGone,
        };
        let about = format!(
            "It was connected until {}: {}.",
            when::utc(departed.wall),
            departed.ending
        );
        Unavailable {
            failure,
            about: Some(about),
        }
    }
}
