//! One server of a backend while the gateway runs: its connections, what becomes of its requests, and whether it is fit.

mod grant; // a request is given a connection

mod open; // others come about

mod in_flight; // requests are counted

mod blame; // and judged

mod absences; // which is told of, within reason

mod misfit; // it is spoken to otherwise than it expects

mod orders; // where it is, and what an operator asks of it there

use std::fmt;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex};

use prometheus_client::metrics::counter::Counter;
use tidegate_shared::origin::{self, ANY, Manners, Pool, SETTLED_MS};
use tidegate_shared::{clock, workers};
use tracing::info;

use super::balance::{Candidate, Standing};
use super::body::Carried;
use super::bound::{Bound, Tie};
use super::check::Checks;
use super::config::{self, Protocol, Terms};
use super::fitness::Fitness;
use super::greeting::SendProxy;
use super::hash::Place;
use super::http2::doubts::Doubts;
use super::http2::links::Links;
use super::http2::seat::Seat;
use super::mismatch::Mismatches;
use super::queue::{Permit, Room};
use super::secured::Secured;
use super::slow_start::SlowStart;
use super::whereabouts::{Here, Whereabouts};
use crate::complaint::Complaint;
use crate::intent::Mode;

use absences::Absences;
pub(super) use in_flight::InFlight;
pub(crate) use orders::Seated;

/// See the module's head.
pub struct Server {
    pub name: String,
    whereabouts: Whereabouts,
    /// What the operator calls it: of a slot, the server that DNS finds.
    called: String,
    is_slot: bool,
    /// See [`Self::sit`].
    seat: Mutex<()>,
    backend: Arc<str>,
    /// `backend=… server=…`, for the access log.
    label: String,
    declared_weight: u16,
    /// What an operator asks, or [`AS_DECLARED`].
    weight: AtomicU16,
    /// A [`Mode`], or [`READY`].
    mode: AtomicU8,
    backup: bool,
    tls: Option<Secured>,
    terms: Terms,
    protocol: Protocol,
    /// What it chose when it was last asked, of [`Protocol::Either`]: HTTP/1.1.
    chose_http1: AtomicBool,
    /// One per worker.
    pools: Vec<Pool<Carried>>,
    /// In common with the other slots of one that DNS finds.
    manners: Arc<Manners>,
    /// In place of those, where each connection is one visitor's.
    pub(super) bound: Bound,
    /// What each connection begins with.
    send_proxy: Option<Arc<SendProxy>>,
    /// Where the operator says how it is spoken to.
    declared: String,
    /// Answers of 400, before it has.
    refusals: AtomicUsize,
    /// Visitors reach it in TCP mode.
    carrying: AtomicBool,
    pub(super) mismatches: Mismatches,
    /// Those that are shared, likewise.
    links: Vec<Links>,
    pub(super) doubts: Arc<Doubts>,
    room: Arc<Room>,
    outstanding: AtomicUsize,
    /// Until when it is left out; 0 where it is not.
    out_until: AtomicU64,
    /// An answer would change something in `fitness`.
    blemished: AtomicBool,
    fitness: Mutex<Fitness>,
    /// What was wrong last while it is left out.
    fault: Mutex<String>,
    slow_start: SlowStart,
    complaints: Mutex<[Complaint; WHATS]>,
    absences: Absences,
    /// Where it is checked.
    pub(super) checks: Option<Checks>,
    pub(super) counts: Counts,
}

/// What a server has been through.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) requests: Counter,
    pub(super) connections: Counter,
    pub(super) failures: [Counter; WHATS],
}

/// What can be wrong with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Unreachable,
    Closed,
    Timeout,
    Invalid,
    Cut,
    /// It stopped in its answer, and that was given up.
    Stalled,
}

const WHATS: usize = 6;

/// In no [`Mode`].
const READY: u8 = u8::MAX;

/// No weight that may be asked for.
const AS_DECLARED: u16 = u16::MAX;

impl What {
    pub(super) const ALL: [Self; WHATS] = [
        Self::Unreachable,
        Self::Closed,
        Self::Timeout,
        Self::Invalid,
        Self::Cut,
        Self::Stalled,
    ];

    /// One word, for metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid-response",
            Self::Cut => "cut",
            Self::Stalled => "stalled",
        }
    }
}

/// A connection for one request, or a place on one, or the right to open one.
pub(super) enum Grant {
    Kept(Kept),
    Shared(Seat),
    Fresh(Permit),
}

/// What a request goes on.
pub(super) enum Way {
    /// A connection of its own, for as long as it takes.
    Http1(Kept),
    /// One that others use as well.
    Http2(Seat),
}

/// A connection in use, and where it rests.
pub(super) struct Kept {
    pub(super) link: Box<origin::Link<Carried>>,
    home: Home,
    /// Of the address that it goes to.
    epoch: u64,
}

/// Where a connection rests between two requests.
#[derive(Clone, Debug)]
enum Home {
    /// Among those of this worker, for anybody.
    Worker(usize),
    /// For this visitor alone.
    Visitor(Arc<Tie>),
    /// Nowhere: it is told to be nobody's.
    Nowhere,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// Which connections a request may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    /// One that has rested for however long.
    Rested,
    /// One that was used a moment ago: the request cannot be repeated, and the server may be about to close the others.
    Recent,
    /// Only one that nobody has used.
    Fresh,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// One of a backend's, or a slot of one, which has no address at first.
    pub(super) fn new(
        of: &config::Backend,
        name: String,
        server: &config::Server,
        tls: Option<Secured>,
        checks: Option<Checks>,
        room: Arc<Room>,
        workers: usize,
    ) -> Self {
        let (backend, terms): (Arc<str>, Terms) = (of.name.as_str().into(), of.terms);
        let doubts = Arc::new(Doubts::new(&backend, &name));
        let rest_ms = rest_ms(&terms);
        let here = match &server.place {
            config::Place::Fixed(address) => Some(Here::declared(address.clone(), &name)),
            config::Place::Addresses { .. } | config::Place::Services { .. } => None,
        };
        Self {
            called: server.name.clone(),
            is_slot: here.is_none(),
            seat: Mutex::default(),
            whereabouts: Whereabouts::new(here),
            label: format!("backend={backend} server={name}"),
            name,
            backend,
            declared_weight: server.weight,
            weight: AtomicU16::new(AS_DECLARED),
            mode: AtomicU8::new(READY),
            backup: server.backup,
            tls,
            terms,
            protocol: of.protocol,
            chose_http1: AtomicBool::new(false),
            pools: (0..workers.max(1)).map(|_| Pool::new(rest_ms)).collect(),
            manners: Arc::new(Manners::wary()),
            bound: Bound::default(),
            send_proxy: of.send_proxy.clone().map(Arc::new),
            declared: format!("backends.{} ({})", of.name, of.place),
            refusals: AtomicUsize::new(0),
            carrying: AtomicBool::new(false),
            mismatches: Mismatches::default(),
            links: (0..workers.max(1)).map(|_| Links::default()).collect(),
            doubts,
            room,
            outstanding: AtomicUsize::new(0),
            out_until: AtomicU64::new(0),
            blemished: AtomicBool::new(false),
            fitness: Mutex::default(),
            fault: Mutex::default(),
            slow_start: SlowStart::new(terms.slow_start),
            complaints: Mutex::default(),
            absences: Absences::default(),
            checks,
            counts: Counts::default(),
        }
    }

    /// With what is known of the other slots.
    pub(super) fn of_the_kind(self, manners: &Arc<Manners>) -> Self {
        Self {
            manners: Arc::clone(manners),
            ..self
        }
    }

    /// What the access log says of it.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The backend that it belongs to.
    pub(crate) fn backend(&self) -> &str {
        &self.backend
    }

    /// Requests in flight on it.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.load(Relaxed)
    }

    /// Connections to it, in use or resting.
    pub(super) fn open(&self) -> usize {
        self.room.open()
    }

    /// What the operator calls it: of a slot, the server that DNS finds.
    pub(crate) fn called(&self) -> &str {
        &self.called
    }

    /// Whether DNS says where it is.
    pub(crate) const fn is_slot(&self) -> bool {
        self.is_slot
    }

    /// Where it is for the time being, as people read it.
    pub(crate) fn address(&self) -> String {
        let here = self.whereabouts.with(|here| here.address.to_string());
        here.unwrap_or_else(|| "no address".to_owned())
    }

    /// Where it is; `None` where DNS has given it no address.
    pub(super) fn at_present(&self) -> Option<Arc<Here>> {
        self.whereabouts.here()
    }

    /// Which of its addresses that is.
    pub(super) fn epoch(&self) -> u64 {
        self.whereabouts.epoch()
    }

    /// Whether DNS has given it no address.
    pub(super) fn is_vacant(&self) -> bool {
        self.whereabouts.with(|_here| ()).is_none()
    }

    /// Closes what rests, and lets nobody else onto what is shared.
    fn close_resting(&self) {
        let now = clock::now_ms();
        for links in &self.links {
            links.clear();
        }
        for pool in &self.pools {
            while let Some(resting) = pool.take(now, &ANY) {
                drop(resting);
            }
        }
        while let Some(resting) = self.bound.oldest() {
            drop(resting);
        }
        self.bound.clear_shared();
    }

    /// Whether nothing is sent to it: it was given no share or DNS gives it no address, or it is drained or in maintenance.
    pub(super) fn is_idle(&self) -> bool {
        self.share() == 0
    }

    /// Its part of what comes.
    pub(super) fn share(&self) -> u32 {
        let share = self.whereabouts.with(|here| self.share_at(here));
        share.unwrap_or_default()
    }

    fn share_at(&self, here: &Here) -> u32 {
        if self.mode.load(Relaxed) == READY {
            self.weight_at(here)
        } else {
            0
        }
    }

    /// Whether it is left out for its failures. One whose time is over is asked again, and only kept from the rest meanwhile.
    pub(super) fn is_out(&self) -> bool {
        self.out_until.load(Relaxed) > clock::now_ms()
    }

    /// Whether its checks say that it is down.
    pub(super) fn is_down(&self) -> bool {
        self.checks.as_ref().is_some_and(Checks::are_failed)
    }

    /// `tie` is the visitor's, where each connection is one visitor's.
    pub(super) fn candidate(&self, tried: bool, tie: Option<&Arc<Tie>>, now: u64) -> Candidate {
        let at = self
            .whereabouts
            .with(|here| self.candidate_at(here, tried, tie, now));
        at.unwrap_or_else(|| Candidate {
            standing: Standing::Idle,
            weight: 0,
            outstanding: 0,
            room: false,
            // It is not taken, and so is nobody's.
            place: Place::of(""),
        })
    }

    fn candidate_at(
        &self,
        here: &Here,
        tried: bool,
        tie: Option<&Arc<Tie>>,
        now: u64,
    ) -> Candidate {
        let until = self.out_until.load(Relaxed);
        let weight = self.share_at(here);
        let backup = self.backup || here.is_backup();
        let standing = match (weight, tried, until > now, backup) {
            (0, ..) => Standing::Idle,
            _ if self.is_down() => Standing::Down,
            (_, true, ..) => Standing::Tried,
            (_, _, false, false) => Standing::Fit,
            (_, _, false, true) => Standing::FitBackup,
            (_, _, true, false) => Standing::Out,
            (_, _, true, true) => Standing::OutBackup,
        };
        Candidate {
            standing,
            weight: weight * self.slow_start.share(now),
            outstanding: self.outstanding(),
            room: self.room.has_room()
                || self.has_resting()
                || (self.shares() && self.may_seat(tie)),
            place: here.place,
        }
    }

    /// Whether there may be a place on a connection that is shared.
    fn may_seat(&self, tie: Option<&Arc<Tie>>) -> bool {
        if self.send_proxy.is_some() {
            self.bound.may_seat(tie)
        } else {
            self.links.iter().any(Links::have_room)
        }
    }

    fn has_resting(&self) -> bool {
        !self.bound.is_empty() || self.pools.iter().any(|pool| !pool.is_empty())
    }

    fn here(&self) -> usize {
        workers::here().min(self.pools.len() - 1)
    }

    /// The worker's shared connections.
    pub(super) fn links(&self) -> &Links {
        &self.links[self.here()]
    }

    /// Lets shared connections end, with those of the worker that asks, and say so to the server.
    pub(super) async fn end_shared(&self) {
        self.bound.clear_shared();
        self.links().finish().await;
    }

    /// Whether a request may share a connection to it with others.
    pub(super) fn shares(&self) -> bool {
        self.protocol != Protocol::Http1
    }

    /// Whether its servers are asked over TLS.
    pub(super) const fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// Its checks have found it down: whoever waits for room at it alone is told at once.
    pub(super) fn is_down_now(&self) {
        self.room.changed();
    }

    /// Its checks have found it up: what was held against it before is over, and there is room for those who wait.
    pub(super) fn is_up_again(&self) {
        let now = clock::now_ms();
        self.with_fitness(|fitness| fitness.answered(now));
        self.slow_start.begin(now);
        self.room.changed();
    }

    /// A connection was closed that had rested for so many milliseconds when a request was to go on it, or it was looked at.
    pub(super) fn closed_resting(&self, rested: u64, now: u64) {
        if self.manners.closed_after(rested, now) {
            let rested = rested.max(1);
            info!(
                said.what = "closes-early",
                said.backend = %self.backend,
                said.server = %self.name,
                said.rested_ms = rested,
                "backend {}: server {} closed a connection within {rested} ms of an answer that did not say so; for 10 minutes, \
                 requests that cannot be repeated go on connections that have rested for {SETTLED_MS} ms, or on fresh ones",
                self.backend, self.name
            );
        }
    }

    /// Takes back a connection that is ready for another request at this moment by `clock::ms`.
    pub(super) fn take_back(self: &Arc<Self>, mut kept: Kept, now: u64) {
        let rests = !self.terms.keep_alive.is_zero() && self.mode() != Some(Mode::Maintenance);
        if !rests || self.epoch() != kept.epoch {
            return;
        }
        kept.link.comes_to_rest(now);
        match &kept.home {
            Home::Worker(home) => self.pools[*home].put(now, kept.link),
            Home::Visitor(tie) => {
                tie.rests_at(self);
                self.bound.put(tie, now, kept.link);
            }
            Home::Nowhere => return,
        }
        if self.epoch() != kept.epoch {
            // It was given another address in between.
            self.close_resting();
        }
        if self.room.is_limited() {
            self.room.rests();
        }
    }

    /// Closes what the server has closed, and what has rested for long; of the worker that asks.
    pub(super) fn sweep(&self, now: u64) {
        let here = workers::here();
        if let (Some(pool), Some(links)) = (self.pools.get(here), self.links.get(here)) {
            self.look_at(pool, now);
            links.sweep(now, rest_ms(&self.terms));
        }
        if here == 0 {
            self.look_at_bound(now);
            self.bound.sweep_shared(now, rest_ms(&self.terms));
        }
    }

    /// Closes what is not to rest there any longer: how the server ends connections shows.
    fn look_at(&self, pool: &Pool<Carried>, now: u64) {
        pool.sweep(now, |rested, open| self.found(rested, open, now));
    }

    /// The same of those that are one visitor's each.
    fn look_at_bound(&self, now: u64) {
        let seen = |rested, open| self.found(rested, open, now);
        self.bound.sweep(now, rest_ms(&self.terms), seen);
    }

    /// A connection that has rested for so many milliseconds was looked at.
    fn found(&self, rested: u64, open: bool, now: u64) {
        if open {
            self.manners.kept_for(rested, now);
        } else {
            self.closed_resting(rested, now);
        }
    }

    /// A connection in TCP mode is to come about.
    pub(super) fn is_to_carry(&self) {
        self.carrying.store(true, Relaxed);
    }

    /// A connection in TCP mode has come about, which is all that is known of how it does.
    pub(super) fn carries(&self) {
        self.counts.requests.inc();
        self.answered();
    }
}

fn rest_ms(terms: &Terms) -> u64 {
    u64::try_from(terms.keep_alive.as_millis()).unwrap_or(u64::MAX)
}
