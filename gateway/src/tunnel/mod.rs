//! One tunnel, as the rest of the gateway sees it: what it is filed under, what it carries, how it stands. `accept`
//! brings it up, `drive` owns its connection until it is gone.
//!
//! ```text
//!             ┌────── probe answered ──────┐
//!             ▼                            │
//!  filed ── probe overdue ──▶ doubted ─────┘
//!    │                           │
//!    ├── GOAWAY, expiry, drain ──┴──▶ draining ── last stream ──▶ gone
//!    └── closed, silent ─────────────────────────────────────────▶ gone
//! ```

pub mod accept;
pub mod drive;
mod flood;
mod places;

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::client::SendRequest;
use tidegate_shared::clock;
use tidegate_shared::name::NamePattern;
use tidegate_shared::reversal::{Marks, PeerSettings};
use tidegate_shared::seam::Wire;
use tokio::sync::Notify;

use crate::pool::{Baton, Group};
use places::Places;

/// Where a tunnel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Life {
    /// In the pool.
    Filed,
    /// In the pool, and taken only where there is no other: a probe is overdue.
    Doubted,
    /// Out of the pool; what it carries is finished.
    Draining,
    /// Over.
    Gone,
}

/// Why a tunnel is over; one line in the log, and what a visitor is told afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent said GOAWAY, with what it said besides.
    Goaway { code: u32, said: String },
    /// The agent closed the connection, or it broke.
    Closed { why: String },
    /// No answer to a PING.
    Silent { for_ms: u64 },
    /// The certificate's time is over.
    Expired,
    /// Replaced by a fresh one at the gateway's wish.
    Replaced,
    /// The gateway shuts down.
    Drained,
    /// More frames that carry nothing, or next to nothing, than any honest agent sends.
    Flood,
}

impl Ending {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Goaway { .. } => "goaway",
            Self::Closed { .. } => "closed",
            Self::Silent { .. } => "silent",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Drained => "drained",
            Self::Flood => "flood",
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goaway { code: 0, said } if said.is_empty() => {
                f.write_str("the agent said goodbye")
            }
            Self::Goaway { code: 0, said } => write!(f, "the agent said: {said}"),
            Self::Goaway { code, said } => write!(f, "the agent ended it with code {code}: {said}"),
            Self::Closed { why } => f.write_str(why),
            Self::Silent { for_ms } => write!(
                f,
                "it said nothing for {for_ms} ms and did not answer a PING"
            ),
            Self::Expired => f.write_str("its certificate expired"),
            Self::Replaced => f.write_str("it was replaced by a fresh one"),
            Self::Drained => f.write_str("the gateway is shutting down"),
            Self::Flood => f.write_str("the agent flooded it with frames"),
        }
    }
}

/// Who is at the other end, from the certificate and the socket.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The certificate's CN.
    pub primary: NamePattern,
    /// What the tunnel is filed under.
    pub names: Vec<NamePattern>,
    pub address: SocketAddr,
    /// `None` for a tunnel on clear text.
    pub not_after: Option<SystemTime>,
    /// SHA-256 of the certificate; empty on clear text.
    pub fingerprint: String,
}

impl Agent {
    /// Whether two tunnels end at the same agent, as far as can be seen: same certificate, same address.
    pub fn is_same(&self, other: &Self) -> bool {
        self.address.ip() == other.address.ip() && self.fingerprint == other.fingerprint
    }
}

/// For how long a tunnel whose agent said that its app is down comes after others.
const APP_DOWN_MS: u64 = 2000;

/// Silence after which a tunnel on which requests wait is taken only where there is no other.
const QUIET_MS: u64 = 100;

/// See the module's head.
pub struct Tunnel {
    pub id: u64,
    pub agent: Agent,
    /// The worker that drives it.
    pub worker: usize,
    /// Streams that may be open on it at once.
    pub places: Places,
    /// Whether the agent announced RFC 8441.
    pub upgrades: bool,
    /// Whether the agent wants to be told who asks.
    pub wants_visitors: bool,
    pub since: SystemTime,
    pub since_ms: u64,
    pub wire: Arc<Wire>,
    /// `name=… agent=… tunnel=…`, for the access log.
    label: String,
    requests: Mutex<Option<SendRequest<Bytes>>>,
    life: AtomicU8,
    outstanding: AtomicUsize,
    waiting: AtomicUsize,
    waiting_since: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    latency_us: AtomicU64,
    rtt_us: AtomicU64,
    asked: AtomicBool,
    app_down_ms: AtomicU64,
    ending: OnceLock<Ending>,
    /// For those who wait for a response: the tunnel is in doubt, or gone.
    trouble: Notify,
    /// For the driver: somebody wants something of it.
    driver: Notify,
    /// The names' groups, for whoever waits there for a free stream.
    groups: OnceLock<Vec<Weak<Group>>>,
}

impl Tunnel {
    pub(crate) fn new(
        id: u64,
        agent: Agent,
        worker: usize,
        places: Places,
        peer: &PeerSettings,
        wire: Arc<Wire>,
        requests: SendRequest<Bytes>,
    ) -> Self {
        let label = format!("name={} agent={} tunnel={id}", agent.primary, agent.address);
        Self {
            id,
            agent,
            worker,
            places,
            upgrades: peer.extended_connect(),
            wants_visitors: peer.marks.contains(Marks::VISITOR),
            since: SystemTime::now(),
            since_ms: clock::now_ms(),
            wire,
            label,
            requests: Mutex::new(Some(requests)),
            life: AtomicU8::new(Life::Filed as u8),
            outstanding: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_since: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latency_us: AtomicU64::new(0),
            rtt_us: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            app_down_ms: AtomicU64::new(0),
            ending: OnceLock::new(),
            trouble: Notify::new(),
            driver: Notify::new(),
            groups: OnceLock::new(),
        }
    }

    /// What the access log says of it.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Filed,
            1 => Life::Doubted,
            2 => Life::Draining,
            _ => Life::Gone,
        }
    }

    /// Moves on; never back from [`Life::Draining`] or [`Life::Gone`]. Tells those who wait when there is trouble.
    pub(crate) fn enter(&self, next: Life) {
        let changed = self
            .life
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |life| {
                let forward =
                    next as u8 > life || (next == Life::Filed && life == Life::Doubted as u8);
                forward.then_some(next as u8)
            });
        if changed.is_ok() && matches!(next, Life::Doubted | Life::Gone) {
            self.trouble.notify_waiters();
        }
        if next >= Life::Draining {
            // The last handle that goes lets `h2` say GOAWAY and close, once the streams are done.
            let _handle = self
                .requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
        }
    }

    /// Why it is over, once it is.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.get()
    }

    /// The tunnel is over.
    pub(crate) fn end(&self, ending: Ending) {
        // Its driver says so once.
        let _first = self.ending.set(ending);
        self.enter(Life::Gone);
    }

    /// A handle to send a request with; `None` once the tunnel takes no more.
    pub(crate) fn requests(&self) -> Option<SendRequest<Bytes>> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// Requests ever sent on it.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests that failed on it.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Recent time from a request to its response head.
    pub fn latency(&self) -> Option<Duration> {
        Some(self.latency_us.load(Ordering::Relaxed))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    /// Smoothed round trip of PING.
    pub fn rtt(&self) -> Option<Duration> {
        Some(self.rtt_us.load(Ordering::Relaxed))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    pub(crate) fn latency_us(&self) -> u64 {
        self.latency_us.load(Ordering::Relaxed)
    }

    pub(crate) fn set_rtt(&self, rtt: Duration) {
        self.rtt_us.store(
            u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    /// Since when a request has waited for its response head while the agent said nothing, if one does.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        (self.waiting.load(Ordering::Relaxed) > 0)
            .then(|| self.waiting_since.load(Ordering::Relaxed))
    }

    /// Whether a request waits on it while it says nothing: not yet a reason for doubt, but for preferring another.
    pub(crate) fn is_quiet(&self, now: u64) -> bool {
        self.waiting_since()
            .is_some_and(|since| now.saturating_sub(since.max(self.wire.heard_ms())) > QUIET_MS)
    }

    /// The agent says that its app is not there: for a while another tunnel is preferred.
    pub(crate) fn app_is_down(&self, now: u64) {
        self.app_down_ms.store(now, Ordering::Relaxed);
    }

    pub(crate) fn has_no_app(&self, now: u64) -> bool {
        let down = self.app_down_ms.load(Ordering::Relaxed);
        down != 0 && now.saturating_sub(down) < APP_DOWN_MS
    }

    /// Has the driver probe the agent at once.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.driver.notify_one();
    }

    pub(crate) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn driver(&self) -> &Notify {
        &self.driver
    }

    pub(crate) fn trouble(&self) -> &Notify {
        &self.trouble
    }

    pub(crate) fn set_groups(&self, groups: &[Arc<Group>]) {
        // Filed once in its life.
        let _first = self.groups.set(groups.iter().map(Arc::downgrade).collect());
    }

    /// Lets those have a place who wait for one.
    pub(crate) fn place_freed(self: &Arc<Self>) {
        for group in self.groups.get().into_iter().flatten() {
            if let Some(group) = group.upgrade() {
                group.slot_freed(self);
            }
        }
    }

    pub(crate) fn lease(self: &Arc<Self>) -> Lease {
        self.outstanding.fetch_add(1, Ordering::Relaxed);
        Lease {
            tunnel: Arc::clone(self),
            waits: false,
            baton: None,
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("id", &self.id)
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}

/// A place on a tunnel for one request; the only way to hold one. Given back when dropped, finished or not.
#[derive(Debug)]
pub struct Lease {
    tunnel: Arc<Tunnel>,
    waits: bool,
    baton: Option<Baton>,
}

impl Lease {
    pub fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    /// Takes along whose turn is next.
    pub(crate) fn carry(&mut self, baton: Baton) {
        self.baton = Some(baton);
    }

    /// The request is about to be handed to the connection ([`clock::ms`]): from here on its response head is due.
    pub(crate) fn waits(&mut self, now_ms: u64) {
        self.waits = true;
        if self.tunnel.waiting.fetch_add(1, Ordering::Relaxed) == 0
            || self.tunnel.wire.heard_ms() >= self.tunnel.waiting_since.load(Ordering::Relaxed)
        {
            self.tunnel.waiting_since.store(now_ms, Ordering::Relaxed);
        }
    }

    /// The request was handed to the connection: whoever waits next may send theirs.
    pub(crate) fn sent(&mut self) {
        self.tunnel.sent.fetch_add(1, Ordering::Relaxed);
        self.baton = None;
    }

    /// The response head arrived, after so long.
    pub(crate) fn answered(&mut self, after: Duration) {
        self.stop_waiting();
        let sample = u64::try_from(after.as_micros())
            .unwrap_or(u64::MAX / 8)
            .clamp(1, u64::MAX / 8);
        let smoothed = self.tunnel.latency_us();
        let next = if smoothed == 0 {
            sample
        } else {
            (smoothed * 7 + sample) / 8
        };
        self.tunnel.latency_us.store(next.max(1), Ordering::Relaxed);
    }

    fn stop_waiting(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.tunnel.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop_waiting();
        let left = self.tunnel.outstanding.fetch_sub(1, Ordering::Relaxed) - 1;
        if left == 0 && self.tunnel.life() == Life::Draining {
            self.tunnel.driver.notify_one();
        }
        self.tunnel.place_freed();
    }
}
