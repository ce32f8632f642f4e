//! One server of a backend while the gateway runs: its connections, what becomes of its requests, and whether it is fit.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering::Relaxed,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use prometheus_client::metrics::counter::Counter;
use tidegate_shared::origin::{self, FRESH_MS, Line, Pool};
use tidegate_shared::{clock, workers};
use tokio::net::TcpStream;
use tracing::{info, warn};

use super::balance::{Candidate, Standing};
use super::body::Carried;
use super::bound::{Bound, Tie};
use super::check::Checks;
use super::check::terms::Check;
use super::config::{self, Address, Protocol, Terms};
use super::dial::{Agreed, Offer, Secured, dial, dial_plain};
use super::fitness::{Change, Fitness};
use super::greeting::SendProxy;
use super::hash::Place;
use super::http2::links::{Link, Links, Seat};
use super::mismatch::{Got, Mismatch, Mismatches, Setting, Spoken};
use super::queue::{Permit, Room};
use super::slow_start::SlowStart;
use super::whereabouts::{Found, Here, Whereabouts};
use crate::complaint::Complaint;
use crate::intent::talk::Row;
use crate::intent::{Identity, Mode};

/// See the module's head.
pub struct Server {
    pub name: String,
    whereabouts: Whereabouts,
    identity: Identity,
    backend: Arc<str>,
    /// `backend=… server=…`, for the access log.
    label: String,
    declared_weight: u16,
    /// What counts: an operator may have asked for another one, or for none while it is drained or in maintenance.
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
    /// In place of those, where each connection is one visitor's.
    pub(super) bound: Bound,
    /// What each connection begins with.
    send_proxy: Option<Arc<SendProxy>>,
    /// Where the operator says how it is spoken to.
    declared: String,
    /// Answers of 400, before it has.
    refusals: AtomicUsize,
    pub(super) mismatches: Mismatches,
    /// Those that are shared, likewise.
    links: Vec<Links>,
    room: Arc<Room>,
    outstanding: AtomicUsize,
    /// Until when it is left out; 0 where it is not.
    out_until: AtomicU64,
    /// An answer would change something in `fitness`.
    blemished: AtomicBool,
    fitness: Mutex<Fitness>,
    slow_start: SlowStart,
    complaints: Mutex<[Complaint; WHATS]>,
    /// Where it is checked.
    pub(super) checks: Option<Checks>,
    pub(super) counts: Counts,
}

/// Answers of 400 in a row, from a server that has never said anything else, which say more of it than of its visitors.
const REFUSALS: usize = 3;

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
}

const WHATS: usize = 5;

/// In no [`Mode`].
const READY: u8 = u8::MAX;

impl What {
    pub(super) const ALL: [Self; WHATS] = [
        Self::Unreachable,
        Self::Closed,
        Self::Timeout,
        Self::Invalid,
        Self::Cut,
    ];

    /// One word, for metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid-response",
            Self::Cut => "cut",
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
        let rest_ms = rest_ms(&terms);
        let here = match &server.place {
            config::Place::Fixed(address) => Some(Here::declared(address.clone(), &name)),
            config::Place::Addresses { .. } | config::Place::Services { .. } => None,
        };
        Self {
            identity: Identity::of(&backend, &name, &server.place.to_string()),
            whereabouts: Whereabouts::new(here),
            label: format!("backend={backend} server={name}"),
            name,
            backend,
            declared_weight: server.weight,
            weight: AtomicU16::new(server.weight),
            mode: AtomicU8::new(READY),
            backup: server.backup,
            tls,
            terms,
            protocol: of.protocol,
            chose_http1: AtomicBool::new(false),
            pools: (0..workers.max(1)).map(|_| Pool::new(rest_ms)).collect(),
            bound: Bound::default(),
            send_proxy: of.send_proxy.clone().map(Arc::new),
            declared: format!("backends.{} ({})", of.name, of.place),
            refusals: AtomicUsize::new(0),
            mismatches: Mismatches::default(),
            links: (0..workers.max(1)).map(|_| Links::default()).collect(),
            room,
            outstanding: AtomicUsize::new(0),
            out_until: AtomicU64::new(0),
            blemished: AtomicBool::new(false),
            fitness: Mutex::default(),
            slow_start: SlowStart::new(terms.slow_start),
            complaints: Mutex::default(),
            checks,
            counts: Counts::default(),
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

    /// Which one it is, for what operators ask of it.
    pub(crate) const fn identity(&self) -> Identity {
        self.identity
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

    /// What DNS gives it from here on: an address, another one, or none. Connections to a former one that rest are closed; what
    /// is in flight there ends in its own time, and says nothing of this server any more. `joins` where others are there already.
    pub(super) fn sit(&self, found: Option<Found>, joins: bool) {
        if !self.whereabouts.change(found) {
            return;
        }
        // Who comes is not to blame for who was there.
        self.with_fitness(|fitness| *fitness = Fitness::default());
        self.chose_http1.store(false, Relaxed);
        if let Some(checks) = &self.checks {
            checks.forget();
        }
        self.close_resting();
        if joins {
            self.slow_start.begin(clock::now_ms());
        }
        self.room.changed();
    }

    /// Closes what rests, and lets nobody else onto what is shared.
    fn close_resting(&self) {
        let now = clock::now_ms();
        for links in &self.links {
            links.clear();
        }
        for pool in &self.pools {
            while let Some(resting) = pool.take(now, u64::MAX) {
                drop(resting);
            }
        }
        while let Some(resting) = self.bound.oldest() {
            drop(resting);
        }
    }

    /// Whether nothing is sent to it: it was given no share or DNS gives it no address, or it is drained or in maintenance.
    pub(super) fn is_idle(&self) -> bool {
        self.share() == 0 || self.is_vacant()
    }

    /// Its part of what comes.
    pub(super) fn share(&self) -> u16 {
        if self.mode.load(Relaxed) == READY {
            self.weight.load(Relaxed)
        } else {
            0
        }
    }

    /// What an operator asks of it, if anything.
    pub(super) fn mode(&self) -> Option<Mode> {
        [Mode::Drain, Mode::Maintenance]
            .into_iter()
            .find(|mode| *mode as u8 == self.mode.load(Relaxed))
    }

    /// Does what an operator asks: in this mode, with this weight, and as declared where there is none.
    pub(crate) fn obey(&self, mode: Option<Mode>, weight: Option<u16>) {
        let was_idle = self.is_idle();
        self.weight
            .store(weight.unwrap_or(self.declared_weight), Relaxed);
        self.mode
            .store(mode.map_or(READY, |mode| mode as u8), Relaxed);
        if mode == Some(Mode::Maintenance) {
            self.close_resting();
        }
        if was_idle && !self.is_idle() {
            self.slow_start.begin(clock::now_ms());
        }
        // Whoever waits for room looks again: there may be some, or nothing left to wait for.
        self.room.changed();
    }

    /// As `tidegated get` shows it, but for who asked for what.
    pub(crate) fn row(&self) -> Row {
        let state = match self.mode() {
            Some(mode) => mode.to_string(),
            None if self.share() == 0 => "unused".to_owned(),
            None if self.is_vacant() => "no address".to_owned(),
            None if self.is_down() => "down".to_owned(),
            None if self.is_out() => "left out".to_owned(),
            None => "in use".to_owned(),
        };
        Row {
            backend: self.backend().to_owned(),
            server: self.name.clone(),
            address: self.address(),
            state,
            backup: self.backup,
            weight: self.weight.load(Relaxed).into(),
            declared_weight: self.declared_weight.into(),
            in_flight: self.outstanding(),
            connections: self.open(),
            requests: self.counts.requests.get(),
            mode: None,
            weighed: None,
            fault: self.checks.as_ref().and_then(Checks::fault),
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

    pub(super) fn candidate(&self, tried: bool, now: u64) -> Candidate {
        let at = self
            .whereabouts
            .with(|here| self.candidate_at(here, tried, now));
        at.unwrap_or_else(|| Candidate {
            standing: Standing::Idle,
            weight: 0,
            outstanding: 0,
            room: false,
            // It is not taken, and so is nobody's.
            place: Place::of(""),
        })
    }

    fn candidate_at(&self, here: &Here, tried: bool, now: u64) -> Candidate {
        let until = self.out_until.load(Relaxed);
        let weight = self.share();
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
            weight: u32::from(weight) * self.slow_start.share(now) * here.share(),
            outstanding: self.outstanding(),
            room: self.room.has_room()
                || self.has_resting()
                || (self.shares() && self.links().have_room()),
            place: here.place,
        }
    }

    fn has_resting(&self) -> bool {
        !self.bound.is_empty() || self.pools.iter().any(|pool| !pool.is_empty())
    }

    /// A connection that rests, or the right to open one. `None` where there are as many as there may be. `tie` is the
    /// visitor's, where each connection is one visitor's.
    pub(super) fn grant(&self, may: May, tie: Option<&Arc<Tie>>) -> Option<Grant> {
        let epoch = self.epoch();
        let now = clock::now_ms();
        let until = self.out_until.load(Relaxed);
        if until != 0 && until <= now {
            self.with_fitness(|fitness| fitness.tried(now));
        }
        let at_most = match may {
            May::Rested => Some(u64::MAX),
            May::Recent => Some(FRESH_MS),
            May::Fresh => None,
        };
        if self.send_proxy.is_some() {
            return self.grant_bound(now, at_most, tie);
        }
        if at_most.is_some()
            && self.shares()
            && let Some(seat) = self.links().take()
        {
            return Some(Grant::Shared(seat));
        }
        let here = self.here();
        let kept = |home: usize| {
            let link = self.pools[home].take(now, at_most?)?;
            let home = Home::Worker(home);
            Some(Grant::Kept(Kept { link, home, epoch }))
        };
        if let Some(grant) = kept(here).or_else(|| self.room.permit().map(Grant::Fresh)) {
            return Some(grant);
        }
        // What rests on other workers counts as well: it is used from here, or makes room.
        for (home, pool) in self.pools.iter().enumerate() {
            if let Some(grant) = kept(home) {
                return Some(grant);
            }
            if let Some(stale) = pool.take(now, u64::MAX) {
                drop(stale);
                if let Some(permit) = self.room.permit() {
                    return Some(Grant::Fresh(permit));
                }
            }
        }
        None
    }

    /// Where each connection is one visitor's.
    fn grant_bound(&self, now: u64, at_most: Option<u64>, tie: Option<&Arc<Tie>>) -> Option<Grant> {
        let epoch = self.epoch();
        if let Some(tie) = tie {
            if let Some(link) = at_most.and_then(|at_most| self.bound.take(tie, now, at_most)) {
                let home = Home::Visitor(Arc::clone(tie));
                return Some(Grant::Kept(Kept { link, home, epoch }));
            }
            // The one that is opened takes the place of one that has rested for too long.
            drop(self.bound.take(tie, now, u64::MAX));
        }
        loop {
            if let Some(permit) = self.room.permit() {
                return Some(Grant::Fresh(permit));
            }
            // Somebody else's makes room.
            drop(self.bound.oldest()?);
        }
    }

    fn here(&self) -> usize {
        workers::here().min(self.pools.len() - 1)
    }

    /// The worker's shared connections.
    pub(super) fn links(&self) -> &Links {
        &self.links[self.here()]
    }

    /// Opens a connection for one request at a time, which begins with this header, if with any; it may rest for `tie` alone
    /// then. The error is why there is none.
    pub(super) async fn connect(
        &self,
        permit: Permit,
        header: Option<Vec<u8>>,
        tie: Option<&Arc<Tie>>,
    ) -> Result<Kept, String> {
        let home = match tie {
            Some(tie) => Home::Visitor(Arc::clone(tie)),
            None if header.is_some() => Home::Nowhere,
            None => Home::Worker(self.here()),
        };
        let header = header.as_deref().unwrap_or_default();
        let epoch = self.epoch();
        let (line, _agreed) = self.dial(header, Offer::Http1).await?;
        keep(line.holding(permit), home, epoch).await
    }

    /// Finds or opens whatever the server speaks: a place on a connection that somebody else is opening is as good.
    pub(super) async fn join(&self, permit: Permit) -> Result<Way, String> {
        let mut permit = Some(permit);
        loop {
            let epoch = self.epoch();
            // A server that was asked, and chose HTTP/1.1, is not waited for.
            let alone = match self.protocol {
                Protocol::Http1 => true,
                Protocol::Http2 => false,
                Protocol::Either => self.chose_http1.load(Relaxed),
            };
            if alone {
                let opened = self.begin(permit.take()).await?;
                return self.way(opened, epoch);
            }
            let links = self.links();
            if let Some(seat) = links.take() {
                return Ok(Way::Http2(seat));
            }
            let opening = links.opening();
            let mut own = None;
            let told = opening
                .get_or_init(async || {
                    let opened = self.begin(permit.take()).await;
                    links.opened(&opening);
                    own = Some(self.way(opened?, epoch)?);
                    Ok(())
                })
                .await;
            if let Err(why) = told {
                return Err(why.clone());
            }
            if let Some(way) = own {
                return Ok(way);
            }
            // Another one has opened it: there is a place, or this one is next to open one.
            if permit.is_none() {
                return Err(FULL.to_owned());
            }
        }
    }

    /// What a request goes on that has opened a connection: one that may be shared is kept for others as well.
    fn way(&self, opened: Opened, epoch: u64) -> Result<Way, String> {
        let link = match opened {
            Opened::Http1(kept) => return Ok(Way::Http1(kept)),
            Opened::Http2(link) => link,
        };
        let links = self.links();
        links.file(link);
        let seat = links.take().map(Way::Http2);
        if self.epoch() != epoch {
            // It goes to a former address: this one may use it, and nobody else.
            links.clear();
        }
        // Whoever waits for room at this server has some.
        self.room.changed();
        seat.ok_or_else(|| FULL.to_owned())
    }

    /// Opens a connection in whatever the server speaks.
    async fn begin(&self, permit: Option<Permit>) -> Result<Opened, String> {
        let epoch = self.epoch();
        let (line, agreed) = self.dial(&[], Offer::Usual).await?;
        let line = match permit {
            Some(permit) => line.holding(permit),
            None => line,
        };
        let http2 = self.is_http2(agreed)?;
        self.chose_http1.store(!http2, Relaxed);
        if http2 {
            let drivers = &self.links().drivers;
            let link = Link::open(line, self.terms.connect, drivers).await?;
            Ok(Opened::Http2(link))
        } else {
            let home = Home::Worker(self.here());
            keep(line, home, epoch).await.map(Opened::Http1)
        }
    }

    /// What is spoken on a connection that agreed on this. The error is why that cannot be.
    fn is_http2(&self, agreed: Option<Agreed>) -> Result<bool, String> {
        match (self.protocol, agreed) {
            (Protocol::Http1, _) | (Protocol::Either, None | Some(Agreed::Http1)) => Ok(false),
            (Protocol::Http2, None) | (_, Some(Agreed::Http2)) => Ok(true),
            (Protocol::Http2, Some(Agreed::Http1)) => Err(
                "it does not agree on HTTP/2 by ALPN; leave `protocol` out if it speaks HTTP/1.1"
                    .to_owned(),
            ),
        }
    }

    async fn dial(&self, header: &[u8], offer: Offer) -> Result<(Line, Option<Agreed>), String> {
        let (tls, within) = (self.tls.as_ref(), self.terms.connect);
        let here = self.at_present().ok_or_else(|| NOWHERE.to_owned())?;
        let dialled = dial(&here.address, header, tls, offer, within)
            .await
            .map_err(|undialled| self.misfits(undialled.why, undialled.misfit))?;
        self.counts.connections.inc();
        Ok(dialled)
    }

    /// Whether a request may share a connection to it with others.
    pub(super) fn shares(&self) -> bool {
        self.protocol != Protocol::Http1
    }

    /// Whether its servers are asked over TLS.
    pub(super) const fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// The same for a connection in TCP mode.
    pub(super) async fn connect_plain(&self) -> Result<TcpStream, String> {
        let here = self.at_present().ok_or_else(|| NOWHERE.to_owned())?;
        let tcp = dial_plain(&here.address, self.terms.connect).await?;
        self.counts.connections.inc();
        Ok(tcp)
    }

    /// Opens a connection that counts nowhere, for a check of this server; and whether HTTP/2 is spoken on it. It begins as the
    /// traffic's do, but for whose it is.
    pub(super) async fn line_for_check(
        &self,
        at: &Address,
        terms: &Check,
    ) -> Result<(Line, bool), String> {
        let tls = self.tls.as_ref().filter(|_| terms.tls != Some(false));
        // What listens elsewhere is there for checks, which are in HTTP/1.1 everywhere.
        let as_requests = terms.port.is_none() && tls.is_some() == self.is_secured();
        let offer = if as_requests {
            Offer::Usual
        } else {
            Offer::Http1
        };
        let told = self.send_proxy.as_ref();
        let told = told.filter(|_| terms.send_proxy != Some(false));
        let header = told.map(|told| told.of_ourselves()).unwrap_or_default();
        let dialled = dial(at, &header, tls, offer, terms.timeout).await;
        let (line, agreed) = dialled.map_err(|undialled| undialled.why)?;
        Ok((line, as_requests && self.is_http2(agreed)?))
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

    /// Counts that it does not fit how it is spoken to, and puts what to do about it behind the reason of a failure.
    fn misfits(&self, why: String, misfit: Option<(Mismatch, Got)>) -> String {
        match misfit {
            Some((mismatch, got)) if self.mismatches.is_credible() => {
                let _counted = self.mismatches.came(mismatch);
                format!("{why}; {}", self.misfit(mismatch, got))
            }
            _ => why,
        }
    }

    fn misfit(&self, mismatch: Mismatch, got: Got) -> String {
        let spoken = match &self.tls {
            Some(_) => Spoken::Tls,
            None => Spoken::Clear,
        };
        let setting = Setting {
            header: self.send_proxy.as_deref(),
            place: &self.declared,
            spoken,
            address: self.address(),
        };
        mismatch.sentence(got, &setting)
    }

    /// It broke off a connection on which it had said this first and nothing was answered before, and does so at once. What
    /// that shows goes behind the reason.
    pub(super) fn broke_off(&self, why: String, first: Option<&[u8]>) -> String {
        // Behind TLS a header has been taken already.
        let told = self.send_proxy.is_some();
        let misfit = match &self.tls {
            Some(_) => None,
            None => Mismatch::of_first(told, b"HTTP", first.unwrap_or_default()),
        };
        self.misfits(why, misfit)
    }

    /// It has answered with this. Of one that has said nothing but 400 ever, it is told.
    pub(super) fn speaks(&self, status: StatusCode) {
        if status != StatusCode::BAD_REQUEST {
            return self.mismatches.understood();
        }
        if self.mismatches.has_understood() {
            return;
        }
        let refusals = self.refusals.fetch_add(1, Relaxed) + 1;
        let mismatch = match (&self.send_proxy, &self.tls) {
            (Some(_), None) => Mismatch::HeaderUnwanted,
            // Visitors can ask for a 400 or two.
            (None, None) if refusals >= REFUSALS => Mismatch::TlsWanted,
            _ => return,
        };
        self.complain_of(mismatch, Got::BadRequest);
    }

    /// What it has said first, and how soon it ended it, shows on a connection in TCP mode.
    pub(crate) fn carried(&self, asked: &[u8], said: &[u8], at_once: bool) {
        match Mismatch::of_first(self.send_proxy.is_some(), asked, said) {
            Some((mismatch, got)) if at_once && self.mismatches.is_credible() => {
                self.complain_of(mismatch, got);
            }
            None if !said.is_empty() => self.mismatches.understood(),
            _ => {}
        }
    }

    fn complain_of(&self, mismatch: Mismatch, got: Got) {
        let Some(times) = self.mismatches.came(mismatch) else {
            return;
        };
        let (backend, name, address) = (&self.backend, &self.name, self.address());
        let sentence = self.misfit(mismatch, got);
        warn!(
            times,
            "backend {backend}: server {name} ({address}) does not fit how it is spoken to: {sentence}"
        );
    }

    /// Takes back a connection that is ready for another request.
    pub(super) fn take_back(self: &Arc<Self>, kept: Kept) {
        if self.mode() == Some(Mode::Maintenance) || self.epoch() != kept.epoch {
            return;
        }
        match &kept.home {
            Home::Worker(home) => self.pools[*home].put(clock::now_ms(), kept.link),
            Home::Visitor(tie) => {
                tie.rests_at(self);
                self.bound.put(tie, clock::now_ms(), kept.link);
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
            pool.sweep(now);
            links.sweep(now, rest_ms(&self.terms));
        }
        if workers::here() == 0 {
            let rest_ms = u64::try_from(self.terms.keep_alive.as_millis()).unwrap_or(u64::MAX);
            self.bound.sweep(now, rest_ms);
        }
    }

    /// A connection in TCP mode has come about, which is all that is known of how it does.
    pub(super) fn carries(&self) {
        self.counts.requests.inc();
        self.answered();
    }

    /// It has answered.
    pub(super) fn answered(&self) {
        if self.blemished.load(Relaxed) {
            let now = clock::now_ms();
            let change = self.with_fitness(|fitness| fitness.answered(now));
            if change.is_some() {
                self.slow_start.begin(now);
            }
            self.tell(change, "");
        }
    }

    /// A request has failed on it, for this.
    pub(super) fn failed(&self, what: What, why: &str) {
        self.count(what, why);
        let now = clock::now_ms();
        let change = self.with_fitness(|fitness| fitness.failed(now, &self.terms));
        self.tell(change, why);
    }

    /// Something went wrong that says nothing of the next request.
    pub(super) fn count(&self, what: What, why: &str) {
        self.counts.failures[what as usize].inc();
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(times) = complaints[what as usize].due(Instant::now()) else {
            return;
        };
        drop(complaints);
        let (backend, name, address) = (&self.backend, &self.name, self.address());
        let often = match times {
            1 => String::new(),
            _ => format!(" ({times} times since this was last said)"),
        };
        let said = match what {
            What::Unreachable => "cannot be reached",
            What::Closed => "closed the connection without an answer",
            What::Timeout => "has not answered in time",
            What::Invalid => "did not answer in HTTP as it should be",
            What::Cut => "broke off its answer",
        };
        warn!("backend {backend}: server {name} ({address}) {said}: {why}{often}");
    }

    fn with_fitness<T>(&self, change: impl FnOnce(&mut Fitness) -> T) -> T {
        let mut fitness = self.fitness();
        let changed = change(&mut fitness);
        self.out_until.store(fitness.out_until(), Relaxed);
        self.blemished.store(fitness.is_blemished(), Relaxed);
        changed
    }

    fn fitness(&self) -> MutexGuard<'_, Fitness> {
        self.fitness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Option<Change>, why: &str) {
        let (backend, name, address) = (&self.backend, &self.name, self.address());
        match change {
            Some(Change::Out { for_ms, failures }) => warn!(
                "backend {backend}: server {name} ({address}) is left out for {:?}, and longer if it stays so: {failures} requests in a row failed, the last one for this: {why}",
                Duration::from_millis(for_ms)
            ),
            Some(Change::Back { after_ms }) => info!(
                "backend {backend}: server {name} ({address}) answers again, after {:?}",
                Duration::from_millis(after_ms)
            ),
            None => {}
        }
    }
}

async fn keep(line: Line, home: Home, epoch: u64) -> Result<Kept, String> {
    let link = origin::Link::open(line)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Kept { link, home, epoch })
}

fn rest_ms(terms: &Terms) -> u64 {
    u64::try_from(terms.keep_alive.as_millis()).unwrap_or(u64::MAX)
}

/// A connection that was opened.
enum Opened {
    Http1(Kept),
    Http2(Link),
}

/// DNS has taken the address away between the choice of a server and its connection.
const NOWHERE: &str = "it has no address any more";

/// A server lets nobody onto a connection that it has just taken.
const FULL: &str = "it took the connection, and takes no requests on it";

/// A request in flight, for whoever counts them, and where the server was when it came.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) server: Arc<Server>,
    epoch: u64,
    /// The address, where DNS gave it.
    pub(super) at: Option<SocketAddr>,
}

impl InFlight {
    pub(super) fn on(server: &Arc<Server>) -> Self {
        server.outstanding.fetch_add(1, Relaxed);
        let epoch = server.epoch();
        let found = server.whereabouts.with(|here| here.found).flatten();
        Self {
            server: Arc::clone(server),
            epoch,
            at: found.map(|found| found.at),
        }
    }

    /// It has answered, where it is.
    pub(super) fn answered(&self) {
        if self.server.epoch() == self.epoch {
            self.server.answered();
        }
    }

    /// A request has failed on it, for this. Of an address that it had before, that says nothing of the next request.
    pub(super) fn failed(&self, what: What, why: &str) {
        if self.server.epoch() == self.epoch {
            self.server.failed(what, why);
        } else {
            self.server.count(what, why);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.outstanding.fetch_sub(1, Relaxed);
        // A place on a shared connection may be free.
        if self.server.shares() && self.server.room.is_limited() {
            self.server.room.rests();
        }
    }
}
