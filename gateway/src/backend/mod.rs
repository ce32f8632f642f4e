//! Backends: servers that the gateway dials. A target of routes like the tunnels of a name.
//!
//! ```text
//! exchange::open ─▶ balance (which server) ─▶ queue (room for a connection) ─▶ server (one that rests, or dial)
//!        ▲                                                                        │
//!        └── another server, where that is safe ◀── fitness (failures in a row) ◀─┴─▶ answer, in the visitor's own task
//! ```
//! Beside it, `check` asks servers at intervals whether they are up.
//!
//! Modules stand in the order in which a request meets them.

pub mod config; // what an operator says of one

pub mod retry; // what is tried again

pub mod exchange; // a request on its way to a server

mod head; // as a server is to read it

mod hash; // whose visitor it is

mod balance; // whose turn it is

mod fitness; // who is left out

pub mod check; // who is up

mod slow_start; // who has just come back

mod queue; // who waits for room

mod busy; // who is turned away for want of it

mod search; // how a request comes to a server

mod server; // what becomes of it there

mod whereabouts; // where it is

pub mod names; // servers whose addresses come from DNS

pub mod greeting; // whose connection it is, for servers that are told

mod bound; // connections that are one visitor's

pub mod mismatch; // a server that expects something else

mod secured; // whom to trust, and what is shown

mod dial; // TCP and TLS

pub mod carry; // a connection in TCP mode

mod body; // a visitor's body on its way

mod asking; // who waits for the answer, and how long

mod answer; // a server's answer on its way back

mod http2; // the same where requests share a connection

pub mod passing; // either

mod upgrade; // a change of protocol

pub mod joined; // what follows it

mod metrics; // what is counted

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use rustls::pki_types::ServerName;
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::origin::Manners;
use tidegate_shared::tls::TlsFault;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use balance::{Pick, Round, pick};
pub use bound::Tie;
use busy::Complaints;
use check::Checks;
use config::{Balance, By, Terms};
use greeting::SendProxy;
use hash::Key;
pub(crate) use metrics::encode;
use names::config::Resolver;
use names::{Asker, Named, With};
use queue::{Queue, Room};
pub use search::Caller;
use secured::{Secured, Tls};
pub(crate) use server::Seated;
pub use server::Server;

use crate::failure::Failure;
use crate::intent::Desk;

/// Servers that do the same.
#[derive(Debug)]
pub struct Backend {
    pub name: Arc<str>,
    servers: Vec<Arc<Server>>,
    /// Those of them that come from DNS.
    named: Vec<Arc<Named>>,
    balance: Balance,
    round: Mutex<Round>,
    queue: Arc<Queue>,
    terms: Terms,
    /// What names it, and where.
    declared: String,
    /// Of those who found no room.
    busy: Complaints,
    /// It was said that all of its servers are down.
    deserted: AtomicBool,
    /// What servers are told of whose connection it is.
    send_proxy: Option<Arc<SendProxy>>,
    tls: Option<Arc<Tls>>,
}

/// Why a backend cannot be made: what is wrong with TLS to its servers, and which key says it.
#[derive(Debug)]
pub struct Unusable {
    pub key: &'static str,
    pub fault: TlsFault,
}

impl Unusable {
    fn of(key: &'static str, fault: TlsFault) -> Self {
        Self { key, fault }
    }
}

/// Servers with which one request has failed, by their place in the backend.
#[derive(Clone, Debug, Default)]
struct Tried(Vec<usize>);

impl Backend {
    /// From what an operator says, which has no [`config::Backend::problems`]. `workers` are the gateway's.
    ///
    /// # Errors
    /// A file of `tls` that cannot be used.
    pub fn new(backend: &config::Backend, workers: usize) -> Result<Arc<Self>, Unusable> {
        let name: Arc<str> = backend.name.as_str().into();
        let queue = Queue::new(backend.terms.queued);
        let tls = backend.tls.as_ref();
        let declared = format!("backends.{} ({})", backend.name, backend.place);
        let tls = tls.map(|told| Tls::new((&name, &declared), told, backend.protocol));
        let tls = tls.transpose()?.map(Arc::new);
        let secured = |server: &config::Server| {
            let (Some(tls), Some(told)) = (&tls, &backend.tls) else {
                return Ok(None);
            };
            let name = told.server_name.as_deref().unwrap_or_else(|| server.host());
            // One that cannot be a name is among the problems.
            let name = ServerName::try_from(name.to_owned())
                .map_err(|error| TlsFault::Build(format!("`{name}`: {error}")))
                .map_err(|fault| Unusable::of("server_name", fault))?;
            let tls = Arc::clone(tls);
            Ok(Some(Secured { tls, name }))
        };
        let mut servers = Vec::with_capacity(backend.servers.len());
        let mut named = Vec::new();
        for server in &backend.servers {
            let tls = secured(server)?;
            let manners = Arc::new(Manners::wary());
            let slots = server.places().into_iter().map(|called| {
                let (tls, checks) = (tls.clone(), backend.check.clone().map(Checks::new));
                let most = server.max_connections.map(usize::from);
                let room = Room::new(most, Arc::clone(&queue));
                let made = Server::new(backend, called, server, tls, checks, room, workers);
                Arc::new(made.of_the_kind(&manners))
            });
            let slots: Vec<_> = slots.collect();
            named.extend(Named::of(&name, server, &slots));
            servers.extend(slots);
        }
        Ok(Arc::new(Self {
            name,
            balance: backend.balance.clone(),
            round: Mutex::new(Round::new(servers.len())),
            servers,
            named,
            queue,
            terms: backend.terms,
            declared,
            busy: Complaints::default(),
            deserted: AtomicBool::new(false),
            send_proxy: backend.send_proxy.clone().map(Arc::new),
            tls,
        }))
    }

    /// Its servers, in the operator's order.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// What its servers are told of whose connection it is, if anything.
    pub(crate) fn send_proxy(&self) -> Option<&Arc<SendProxy>> {
        self.send_proxy.as_ref()
    }

    /// What a request is known by, where that decides who takes it.
    fn key(&self, source: IpAddr, headers: &HeaderMap) -> Option<Key> {
        match &self.balance {
            Balance::Hash(hash) => Key::of(&hash.by, source, headers),
            Balance::RoundRobin | Balance::Least => None,
        }
    }

    /// The same of a connection, of which nothing else is known.
    fn key_of_source(&self, source: IpAddr) -> Option<Key> {
        match &self.balance {
            Balance::Hash(hash) if hash.by == By::Source => Some(Key::of_source(source)),
            _ => None,
        }
    }

    /// Those whose addresses come from DNS.
    pub(crate) fn named(&self) -> &[Arc<Named>] {
        &self.named
    }

    /// Why there is nobody to send a request to.
    fn nobody(&self) -> Failure {
        if self.servers.iter().any(|server| server.is_vacant()) {
            Failure::NoAddress
        } else {
            Failure::NoServer
        }
    }

    /// Which server a request goes to that has failed with some. `tie` is the visitor's, where each connection is one visitor's.
    fn pick(&self, tried: &Tried, key: Option<Key>, tie: Option<&Arc<Tie>>, now: u64) -> Pick {
        let candidate =
            |index: usize| self.servers[index].candidate(tried.0.contains(&index), tie, now);
        let mut round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
        pick(
            &self.balance,
            &mut round,
            self.servers.len(),
            key,
            candidate,
        )
    }

    /// Whether requests may share connections.
    fn shares(&self) -> bool {
        self.servers.iter().any(|server| server.shares())
    }

    fn place_of(&self, server: &Arc<Server>) -> Option<usize> {
        self.servers.iter().position(|one| Arc::ptr_eq(one, server))
    }

    /// Whether a request has failed with every server that it could go to.
    fn has_tried_all(&self, tried: &Tried) -> bool {
        let mut servers = self.servers.iter().enumerate();
        servers
            .all(|(index, server)| tried.0.contains(&index) || server.is_idle() || server.is_down())
    }

    /// Whether no server is left that its checks have not found down.
    fn are_all_down(&self) -> bool {
        let used = self.servers.iter().filter(|server| !server.is_idle());
        let mut used = used.peekable();
        used.peek().is_some() && used.all(|server| server.is_down())
    }

    /// Reads the files of its TLS again, if they have changed.
    fn renew(&self) {
        if let Some(tls) = &self.tls {
            tls.renew(&self.name);
        }
    }
}

/// How often resting connections are looked after.
const EVERY: Duration = Duration::from_secs(5);

/// Looks after the resting connections of the worker that it runs on, until everything finishes. To be run on each; on one of
/// them with `renews`, which looks after certificates too.
pub async fn attend(backends: Arc<[Arc<Backend>]>, renews: bool, drain: Drain) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = drain.finishing() => break,
            _ = ticks.tick() => {}
        }
        let now = clock::now_ms();
        for backend in backends.iter() {
            for server in &backend.servers {
                server.sweep(now);
            }
            if renews {
                backend.renew();
            }
        }
    }
    let servers = backends.iter().flat_map(|backend| &backend.servers);
    for server in servers.filter(|server| server.shares()) {
        server.end_shared().await;
    }
}

/// How long a start waits for first answers of DNS.
const FIRST: Duration = Duration::from_secs(1);

/// Starts to look up the servers whose addresses come from DNS, and waits a moment for the first answers: visitors who come right
/// after a start are to find somebody.
pub async fn find(backends: &[Arc<Backend>], resolver: &Resolver, desk: &Arc<Desk>, drain: &Drain) {
    let with = With {
        asker: Arc::new(Asker::new(resolver)),
        terms: resolver.clone(),
        desk: Arc::clone(desk),
    };
    let (first, mut every) = mpsc::channel(1);
    for named in backends.iter().flat_map(|backend| backend.named()) {
        let (named, first) = (Arc::clone(named), first.clone());
        drain.spawn(names::keep(named, with.clone(), first, drain.clone()));
    }
    drop(first);
    // Nothing is ever sent: it ends when everybody has let go. Whoever has not by then is asked for as before.
    let _either = timeout(FIRST, every.recv()).await;
}

#[cfg(test)]
mod tests;
