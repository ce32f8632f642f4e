//! A connection of a listener in TCP mode, from its first octet to its last: whom it asks for, where it goes, and then octets
//! both ways, untouched. Called by `listen` once it is known whose connection it is.
//!
//! ```text
//!  listen ─▶ hello ─▶ route ─┬─▶ tunnel: CONNECT on a place of the pool ─▶ duplex
//!            SNI, in  pure   ├─▶ servers: dialled, PROXY header written ─▶ relay
//!            its time        └─▶ backend: dialled by its terms ─▶ relay
//! ```
//!
//! Whatever becomes of a connection, `record` writes its one line.

mod counters; // what is counted
mod hello; // what a visitor says first
mod record; // one line per connection
pub mod route; // whose connection it is to be
mod servers; // those that the gateway dials
mod tunnel; // those that agents bring

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use tidegate_shared::client_hello::ClientHello;
use tidegate_shared::duplex::{self, Join};
use tidegate_shared::idle::Silence;
use tidegate_shared::name::AgentName;
use tidegate_shared::proxy_header::Tlvs;
use tidegate_shared::relay::{self, Relay};
use tidegate_shared::socket::{break_off, close_abruptly, tune_plain};
use tidegate_shared::unacked::Unacked;
use tidegate_shared::visitor::Visitor;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::backend::greeting::Introduced;
use crate::backend::mismatch::{AT_ONCE, Adding, Asked, End, Got, Mismatch, Setting, Spoken};
use crate::backend::{Backend, Caller, carry};
use crate::cloud::Cloud;
use crate::complaint::Complaint;
use crate::door::{self, Arrival, Door, Taken};
use crate::failure::Failure;
use crate::visitor::{Expected, Reception, Scene};
pub use counters::Counters;
use hello::Heard;
pub use record::Ended;
use record::Record;
use route::{Refusal, Routes, Target};
pub use servers::Servers;

/// How long everything may take.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// For a visitor to say whom it asks for, where a route wants to know.
    pub hello: Duration,
    /// For the other end to be there: a tunnel's agent and its app, or a server that is dialled.
    pub connect: Duration,
    /// For which nothing may move in either direction.
    pub silence: Silence,
}

/// A listener in TCP mode.
#[derive(Debug)]
pub struct Tcp {
    pub listener: Arc<str>,
    pub routes: Routes,
    pub terms: Terms,
    pub counters: Arc<Counters>,
    /// Agents that serve no TCP.
    mistaken: Mutex<Complaint>,
}

/// A connection, and what is known of it.
struct Connection<'a> {
    tcp: &'a Tcp,
    reception: &'a Reception,
    door: &'a Door,
    visitor: TcpStream,
    from: SocketAddr,
    /// What the visitor connected to.
    to: Option<SocketAddr>,
    /// What it has said already.
    ahead: Bytes,
    /// Whom its TLS asks for, and for what, where that was looked at.
    asks: Option<ClientHello>,
    /// The header with which it came, and what that said.
    header: Option<Taken>,
    received: Tlvs,
    /// It has been told of what it says first.
    told: bool,
    record: Record,
}

/// What of a connection is to be told of while it lasts, and has not been.
struct Untold<'a> {
    scene: Scene<'a>,
    /// That its visitor begins with a header.
    first: bool,
    /// That the header with which it came names nobody, though it is no check of the port.
    nobody: Option<Taken>,
}

/// Why a connection is turned away before it is served.
#[derive(Debug)]
pub struct Shed {
    pub failure: Failure,
    /// The line of a list that says so.
    pub list: Option<String>,
}

/// Fatal alerts (RFC 8446 §6.2): what a client whose hello leads nowhere understands.
const UNRECOGNIZED_NAME: u8 = 112;
const DECODE_ERROR: u8 = 50;

impl Tcp {
    /// A listener's, with nothing complained of yet.
    pub fn new(listener: Arc<str>, routes: Routes, terms: Terms, counters: Arc<Counters>) -> Self {
        Self {
            listener,
            routes,
            terms,
            counters,
            mistaken: Mutex::default(),
        }
    }

    /// Serves one connection until it ends. `began` is when it was accepted.
    pub async fn serve(
        &self,
        reception: &Reception,
        door: &Door,
        mut visitor: TcpStream,
        arrival: Arrival,
        began: Instant,
    ) {
        let access = &reception.gateway.access;
        let mut record = Record::begin(access, self, arrival.from, began);
        record.cloud = Cloud::of(&arrival.tlvs);
        let local = || visitor.local_addr().ok().map(door::canonical);
        let to = arrival.to.or_else(local);
        let mut said = BytesMut::from(&arrival.taken[..]);
        let mut told = false;
        let heard = if self.routes.want_hello() {
            let listening = hello::listen(&mut visitor, &mut said, self.terms.hello);
            let heard = tokio::select! {
                biased;
                heard = listening => heard,
                () = reception.drain.idle_over() => return record.end(Ended::Draining),
            };
            record.heard(&heard);
            if matches!(heard, Heard::Not(_)) {
                let scene = scene(door, arrival.from, arrival.header);
                told = door.strays.look(&said, &scene);
                if told && scene.refuses_headers() {
                    close_abruptly(&visitor, true);
                    return record.end(Ended::Refused(Refusal::Header));
                }
            }
            heard
        } else {
            Heard::Unasked
        };
        let target = self.routes.choose(&heard);
        let connection = Connection {
            tcp: self,
            reception,
            door,
            visitor,
            from: arrival.from,
            to,
            ahead: said.freeze(),
            asks: heard.hello(),
            header: arrival.header,
            received: arrival.tlvs,
            told,
            record,
        };
        match target {
            Ok(Target::Tunnel(name)) => Box::pin(connection.through(name)).await,
            Ok(Target::Servers(servers)) => Box::pin(connection.to(servers)).await,
            Ok(Target::Backend(backend)) => Box::pin(connection.onto(backend)).await,
            Err(refusal) => connection.refuse(refusal).await,
        }
    }

    /// A connection for which there is no room has its line as well.
    pub fn shed(&self, reception: &Reception, visitor: SocketAddr, began: Instant, shed: Shed) {
        let access = &reception.gateway.access;
        let mut record = Record::begin(access, self, visitor, began);
        record.held_back(shed.list);
        record.end(Ended::Failed(shed.failure));
    }
}

impl<'a> Connection<'a> {
    /// Says why in the one way that a TLS client understands, and closes.
    async fn refuse(mut self, refusal: Refusal) {
        let alert = match refusal {
            Refusal::NoRoute => Some(UNRECOGNIZED_NAME),
            Refusal::BadHello(no) => no.is_tls().then_some(DECODE_ERROR),
            Refusal::Overdue | Refusal::NotTls | Refusal::Header | Refusal::Left => None,
        };
        debug!(visitor = %self.from, listener = %self.tcp.listener, "a connection goes nowhere: {refusal}");
        if let Some(alert) = alert {
            // Seven octets always find room in a buffer that has held none.
            let _gone = self.visitor.write_all(&[21, 3, 3, 0, 2, 2, alert]).await;
            let _gone = self.visitor.shutdown().await;
        }
        self.record.end(Ended::Refused(refusal));
    }

    /// Over a tunnel of this name.
    async fn through(mut self, name: &AgentName) {
        let reception = self.reception;
        self.record.to = Some(name.as_str().into());
        let caller = Visitor {
            connection: self.record.id().into(),
            from: self.from,
            to: self.to,
            tls: None,
            asks: self.asks.as_ref().and_then(|asks| asks.server_name.clone()),
        };
        let open = tunnel::open(
            &reception.gateway,
            name.as_str(),
            &caller,
            &self.visitor,
            &mut self.record,
        );
        let opened = tokio::select! {
            biased;
            opened = timeout(self.tcp.terms.connect, open) => opened,
            _cut = reception.drain.until_last_call(pending::<()>()) => {
                return self.fail(Ended::Draining);
            }
        };
        let opened = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(unavailable)) => {
                let failure = unavailable.failure;
                if failure == Failure::ConnectUnsupported {
                    self.tcp.complain_of_agent(name);
                }
                debug!(visitor = %self.from, about = unavailable.about, "{}", failure.sentence());
                return self.fail(Ended::Failed(failure));
            }
            Err(_elapsed) => return self.fail(Ended::Failed(Failure::ResponseTimeout)),
        };
        self.record.opened();
        let tunnel::Opened { lease, send, recv } = opened;
        let terms = duplex::Terms {
            stall: None,
            silence: self.tcp.terms.silence,
            failed: Reason::CANCEL,
        };
        let mut untold = self.untold();
        let beneath = Unacked::of(&self.visitor);
        let join = Join::new(self.visitor, self.ahead, send, recv, &terms);
        let mut join = join.over(beneath).refusing(untold.scene.unwanted());
        let running = join.watched(|join| {
            let duplex::Traffic { sent, received } = join.traffic();
            untold.look(join.first_octets(), sent, received)
        });
        let ended = reception.drain.until_last_call(running).await;
        let traffic = join.traffic();
        self.record.moved(traffic.sent, traffic.received);
        let ended = match ended {
            Some(Ok(())) => Ended::Closed,
            Some(Err(broken)) => broken.into(),
            None => Ended::Draining,
        };
        if ended.is_abrupt() {
            let told = join.is_told();
            break_off(&join.into_io(), told);
        }
        drop(lease);
        self.record.end(ended);
    }

    /// To a server that is dialled.
    async fn to(mut self, servers: &Servers) {
        let reception = self.reception;
        self.record.to = Some(Arc::clone(&servers.name));
        let (listener, within) = (&self.tcp.listener, self.tcp.terms.connect);
        let dialling = servers.dial(listener, within, &self.visitor, &mut self.record);
        let dialled = tokio::select! {
            biased;
            dialled = dialling => dialled,
            _cut = reception.drain.until_last_call(pending::<()>()) => {
                return self.fail(Ended::Draining);
            }
        };
        let server = match dialled {
            Ok(server) => server,
            Err(ended) => return self.fail(ended),
        };
        tune_plain(&server);
        let id = self.record.id();
        let header = servers.proxy.as_ref().map(|proxy| {
            proxy.header(&introduced(
                self.from,
                self.to,
                self.asks.as_ref(),
                &self.received,
                &id,
            ))
        });
        let (tcp, at) = (self.tcp, self.record.server);
        let judge = |first: First<'_>, end| tcp.look_at(servers, at, first, end);
        self.relay(server, header, judge).await;
    }

    /// To one of a backend's servers.
    async fn onto(mut self, backend: &Arc<Backend>) {
        let reception = self.reception;
        self.record.to = Some(Arc::clone(&backend.name));
        let id = self.record.id();
        let introduced = introduced(self.from, self.to, self.asks.as_ref(), &self.received, &id);
        let caller = Caller {
            source: self.from.ip(),
            introduced: Some(introduced),
            tie: None,
        };
        let connecting = carry::connect(backend, &caller, &mut self.record.carried);
        let connected = tokio::select! {
            biased;
            connected = connecting => connected.map_err(|failure| match failure {
                Failure::BackendUnreachable => Ended::NoServer,
                failure => Ended::Failed(failure),
            }),
            _gone = self.visitor.ready(Interest::ERROR) => Err(Ended::Failed(Failure::VisitorGone)),
            _cut = reception.drain.until_last_call(pending::<()>()) => Err(Ended::Draining),
        };
        let retries = self.record.carried.attempts.saturating_sub(1);
        reception.gateway.metrics.retries.inc_by(retries.into());
        let connected = match connected {
            Ok(connected) => connected,
            Err(ended) => return self.fail(ended),
        };
        let server = self.record.carried.server.clone();
        let judge = |first: First<'_>, end| {
            if let Some(server) = &server {
                server.carried(first.asked, first.said, end);
            }
        };
        let _held = connected.carried;
        self.relay(connected.tcp, connected.header, judge).await;
    }

    /// Passes everything on in both directions, behind a header of ours. `judge` is told once how the server took it, as soon as
    /// that shows that it expects something else, and else at the end.
    async fn relay(
        mut self,
        server: TcpStream,
        header: Option<Vec<u8>>,
        judge: impl Fn(First<'_>, End),
    ) {
        self.record.opened();
        let began = Instant::now();
        let ours = header.as_ref().map_or(0, Vec::len) as u64;
        let asked = self.ahead.clone();
        let mut untold = self.untold();
        let ahead = match header {
            Some(mut header) => {
                header.extend_from_slice(&self.ahead);
                header.into()
            }
            None => self.ahead,
        };
        let mut relay = Relay::new(self.visitor, server, self.tcp.terms.silence)
            .ahead(ahead)
            .began(&asked, untold.scene.unwanted());
        let end = |relay: &Relay| {
            let relay::Traffic { forth, back } = relay.traffic();
            let ended = relay.far_ended_first();
            let after = ended.map(|at| at.saturating_duration_since(began));
            let silent = back == 0 && forth <= ours;
            End {
                soon: began.elapsed() < AT_ONCE,
                by_server: after.is_some_and(|after| after < AT_ONCE),
                in_silence: silent && after.is_some_and(|after| after >= AT_ONCE),
            }
        };
        let (mut looked, mut judged) = (false, false);
        let running = relay.watched(|relay| {
            let relay::Traffic { forth, back } = relay.traffic();
            let first = First::of(relay);
            let all_told = untold.look(first.asked, forth.saturating_sub(ours), back);
            // The visitor may keep its half for as long as it likes.
            if !looked && relay.far_ended_first().is_some() {
                looked = true;
                let end = end(relay);
                if end.in_silence || first.shows(ours > 0, end) {
                    judged = true;
                    judge(first, end);
                }
            }
            looked && all_told
        });
        let ended = self.reception.drain.until_last_call(running).await;
        let relay::Traffic { forth, back } = relay.traffic();
        self.record.moved(forth.saturating_sub(ours), back);
        if !judged {
            judge(First::of(&relay), end(&relay));
        }
        let ended = match ended {
            Some(Ok(())) => Ended::Closed,
            Some(Err(broken)) => broken.into(),
            None => Ended::Draining,
        };
        if ended.is_abrupt() {
            relay.break_off();
        }
        self.record.end(ended);
    }

    fn untold(&self) -> Untold<'a> {
        Untold {
            scene: scene(self.door, self.from, self.header),
            first: !self.told,
            nobody: self.header.filter(Taken::is_nameless),
        }
    }

    /// The other end is not there: the visitor's connection breaks off, which no protocol takes for an answer.
    fn fail(self, ended: Ended) {
        close_abruptly(&self.visitor, true);
        self.record.end(ended);
    }
}

/// Where octets come that are passed on.
fn scene(door: &Door, from: SocketAddr, header: Option<Taken>) -> Scene<'_> {
    Scene {
        door,
        peer: header.map_or(from, |header| header.by),
        header,
        due: Expected::Anything,
    }
}

impl Untold<'_> {
    /// What the visitor has said first is so much, and so much has moved in either direction. Whether all is told.
    fn look(&mut self, said: &[u8], forth: u64, back: u64) -> bool {
        if self.first {
            self.first = !self.scene.door.strays.look_as_it_comes(said, &self.scene);
        }
        // A connection on which both have said something is no check of whether the port is open.
        if let Some(header) = self.nobody.take_if(|_| forth > 0 && back > 0) {
            let door = self.scene.door;
            door.came_for_nobody(header, "a visitor's connection");
        }
        !self.first && self.nobody.is_none()
    }
}

/// What the visitor and the server have said first.
#[derive(Clone, Copy)]
struct First<'a> {
    asked: &'a [u8],
    said: &'a [u8],
}

impl<'a> First<'a> {
    fn of(relay: &'a Relay) -> Self {
        let (asked, said) = relay.first_octets();
        Self { asked, said }
    }

    /// Whether it shows, with this end, that the server expects something else; `told` is whether it was told a header.
    fn shows(self, told: bool, end: End) -> bool {
        Mismatch::of_first(told, self.asked, self.said)
            .is_some_and(|(mismatch, got)| end.bears_out(mismatch, got))
    }
}

/// What is known of a connection of whose TLS nothing is ended here.
fn introduced<'a>(
    from: SocketAddr,
    to: Option<SocketAddr>,
    asks: Option<&'a ClientHello>,
    received: &'a Tlvs,
    id: &'a str,
) -> Introduced<'a> {
    // Which of several protocols it will be is the server's choice; it is known where there is only one.
    let alpn = match asks.map(|asks| &asks.alpn[..]) {
        Some([only]) => Some(&**only),
        _ => None,
    };
    Introduced {
        from,
        to,
        authority: asks.and_then(|asks| asks.server_name.as_deref()),
        alpn,
        id,
        tls: None,
        received: Some(received),
    }
}

impl Tcp {
    fn complain_of_agent(&self, name: &AgentName) {
        if let Some(times) = due(&self.mistaken) {
            warn!(
                listener = %self.listener, times,
                "the agent of {name} serves HTTP, and a connection of a TCP listener came for it: start it with `tidegate tcp`, or send this listener to another name"
            );
        }
    }

    /// Whether a server has shown that it expects something else, and what to do about it.
    fn look_at(&self, servers: &Servers, at: Option<SocketAddr>, first: First<'_>, end: End) {
        let told = servers.proxy.is_some();
        let complain = |what| self.complain_of_server(servers, at, first.asked, what);
        if end.in_silence && !told && servers.mismatches.is_credible_silence() {
            return complain((Mismatch::HeaderWanted, Got::Silence));
        }
        let Some((mismatch, got)) = Mismatch::of_first(told, first.asked, first.said) else {
            if !first.said.is_empty() {
                servers.mismatches.understood();
            }
            return;
        };
        if end.bears_out(mismatch, got) && servers.mismatches.is_credible() {
            complain((mismatch, got));
        }
    }

    fn complain_of_server(
        &self,
        servers: &Servers,
        server: Option<SocketAddr>,
        asked: &[u8],
        (mismatch, got): (Mismatch, Got),
    ) {
        let Some(server) = server else {
            return;
        };
        self.counters.mismatch(mismatch);
        let Some(times) = servers.mismatches.came(mismatch) else {
            return;
        };
        let setting = Setting {
            header: servers.proxy.as_ref(),
            place: &servers.place,
            adding: Adding::Beside,
            spoken: Spoken::untouched(asked),
            asked: Asked::Visitors,
            address: server.to_string(),
        };
        let sentence = mismatch.sentence(got, &setting);
        warn!(
            said.what = mismatch.label(), said.why = %sentence,
            listener = %self.listener, servers = %servers.name, %server, times,
            "a server does not fit how it is spoken to: {sentence}"
        );
    }
}

fn due(complaint: &Mutex<Complaint>) -> Option<u64> {
    complaint
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .due(Instant::now())
}
