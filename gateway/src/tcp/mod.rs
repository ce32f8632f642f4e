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
use tidegate_shared::duplex::{self, Join};
use tidegate_shared::name::AgentName;
use tidegate_shared::relay::{self, Relay};
use tidegate_shared::socket::{close_abruptly, tune_plain};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::backend::{Backend, carry};
use crate::complaint::Complaint;
use crate::door::Arrival;
use crate::failure::Failure;
use crate::visitor::Reception;
pub use counters::{Counters, Listeners};
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
    /// For which nothing may move in either direction; `None` for any time.
    pub idle: Option<Duration>,
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
    /// Servers that want no PROXY header, as it seems.
    startled: Mutex<Complaint>,
}

/// A connection, and what is known of it.
struct Connection<'a> {
    tcp: &'a Tcp,
    reception: &'a Reception,
    visitor: TcpStream,
    from: SocketAddr,
    /// What the visitor connected to.
    to: Option<SocketAddr>,
    /// What it has said already.
    ahead: Bytes,
    record: Record,
}

/// A connection behind its last octet, whose line is not written yet.
struct Relayed {
    record: Record,
    ended: Ended,
    /// The server has ended it at once, with hardly a word.
    startled: bool,
}

/// Fatal alerts (RFC 8446 §6.2): what a client whose hello leads nowhere understands.
const UNRECOGNIZED_NAME: u8 = 112;
const DECODE_ERROR: u8 = 50;

/// A server that says no more than an alert, and that so soon, did not like what it was told first.
const STARTLED_SAYS: u64 = 7;
const STARTLED_WITHIN: Duration = Duration::from_secs(2);

impl Tcp {
    /// A listener's, with nothing complained of yet.
    pub fn new(listener: Arc<str>, routes: Routes, terms: Terms, counters: Arc<Counters>) -> Self {
        Self {
            listener,
            routes,
            terms,
            counters,
            mistaken: Mutex::default(),
            startled: Mutex::default(),
        }
    }

    /// Serves one connection until it ends. `began` is when it was accepted.
    pub async fn serve(
        &self,
        reception: &Reception,
        mut visitor: TcpStream,
        arrival: Arrival,
        began: Instant,
    ) {
        let access = &reception.gateway.access;
        let mut record = Record::begin(access, self, arrival.from, began);
        let to = arrival.to.or_else(|| visitor.local_addr().ok());
        let mut said = BytesMut::from(&arrival.taken[..]);
        let heard = if self.routes.want_hello() {
            let listening = hello::listen(&mut visitor, &mut said, self.terms.hello);
            let heard = tokio::select! {
                biased;
                heard = listening => heard,
                () = reception.drain.idle_over() => return record.end(Ended::Draining),
            };
            record.heard(&heard);
            heard
        } else {
            Heard::Unasked
        };
        let connection = Connection {
            tcp: self,
            reception,
            visitor,
            from: arrival.from,
            to,
            ahead: said.freeze(),
            record,
        };
        match self.routes.choose(&heard) {
            Ok(Target::Tunnel(name)) => Box::pin(connection.through(name)).await,
            Ok(Target::Servers(servers)) => Box::pin(connection.to(servers, &heard)).await,
            Ok(Target::Backend(backend)) => Box::pin(connection.onto(backend)).await,
            Err(refusal) => connection.refuse(refusal).await,
        }
    }

    /// A connection for which there is no room has its line as well.
    pub fn shed(&self, reception: &Reception, visitor: SocketAddr, failure: Failure) {
        let access = &reception.gateway.access;
        Record::begin(access, self, visitor, Instant::now()).end(Ended::Failed(failure));
    }
}

impl Connection<'_> {
    /// Says why in the one way that a TLS client understands, and closes.
    async fn refuse(mut self, refusal: Refusal) {
        let alert = match refusal {
            Refusal::NoRoute => Some(UNRECOGNIZED_NAME),
            Refusal::BadHello(no) => no.is_tls().then_some(DECODE_ERROR),
            Refusal::Overdue | Refusal::NotTls | Refusal::Left => None,
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
        let port = self.to.map_or(0, |to| to.port());
        let open = tunnel::open(
            &reception.gateway,
            name.as_str(),
            port,
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
            idle: self.tcp.terms.idle,
            failed: Reason::CANCEL,
        };
        let mut join = Join::new(self.visitor, self.ahead, send, recv, &terms);
        let ended = reception.drain.until_last_call(join.run()).await;
        let traffic = join.traffic();
        self.record.moved(traffic.sent, traffic.received);
        let ended = match ended {
            Some(Ok(())) => Ended::Closed,
            Some(Err(broken)) => broken.into(),
            None => Ended::Draining,
        };
        if ended.is_abrupt() {
            close_abruptly(&join.into_io(), true);
        }
        drop(lease);
        self.record.end(ended);
    }

    /// To a server that is dialled.
    async fn to(mut self, servers: &Servers, heard: &Heard) {
        let reception = self.reception;
        self.record.to = Some(Arc::clone(&servers.name));
        let dialling = servers.dial(self.tcp.terms.connect, &self.visitor, &mut self.record);
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
        let header = servers.header(self.from, self.to, heard, &self.record.id());
        let (tcp, told) = (self.tcp, header.is_some());
        let relayed = self.relay(server, header).await;
        if told && relayed.startled {
            tcp.complain_of_server(servers, &relayed.record);
        }
        relayed.record.end(relayed.ended);
    }

    /// To one of a backend's servers.
    async fn onto(mut self, backend: &Arc<Backend>) {
        let reception = self.reception;
        self.record.to = Some(Arc::clone(&backend.name));
        let connecting = carry::connect(backend, self.from.ip(), &mut self.record.carried);
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
        let (server, carried) = match connected {
            Ok(connected) => connected,
            Err(ended) => return self.fail(ended),
        };
        let relayed = self.relay(server, None).await;
        drop(carried);
        relayed.record.end(relayed.ended);
    }

    /// Passes everything on in both directions, behind a header of ours.
    async fn relay(mut self, server: TcpStream, header: Option<Vec<u8>>) -> Relayed {
        self.record.opened();
        let began = Instant::now();
        let ours = header.as_ref().map_or(0, Vec::len) as u64;
        let ahead = match header {
            Some(mut header) => {
                header.extend_from_slice(&self.ahead);
                header.into()
            }
            None => self.ahead,
        };
        let mut relay = Relay::new(self.visitor, server, self.tcp.terms.idle).ahead(ahead);
        let ended = self.reception.drain.until_last_call(relay.run()).await;
        let relay::Traffic { forth, back } = relay.traffic();
        self.record.moved(forth.saturating_sub(ours), back);
        let ended = match ended {
            Some(Ok(())) => Ended::Closed,
            Some(Err(broken)) => broken.into(),
            None => Ended::Draining,
        };
        if ended.is_abrupt() {
            let (visitor, server) = relay.ends();
            close_abruptly(visitor, true);
            close_abruptly(server, true);
        }
        Relayed {
            startled: back <= STARTLED_SAYS
                && began.elapsed() < STARTLED_WITHIN
                && relay.far_ended_first(),
            ended,
            record: self.record,
        }
    }

    /// The other end is not there: the visitor's connection breaks off, which no protocol takes for an answer.
    fn fail(self, ended: Ended) {
        close_abruptly(&self.visitor, true);
        self.record.end(ended);
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

    fn complain_of_server(&self, servers: &Servers, record: &Record) {
        let (Some(version), Some(times)) = (servers.proxy, due(&self.startled)) else {
            return;
        };
        let other = match version {
            tidegate_shared::proxy_header::Version::V1 => "v2",
            tidegate_shared::proxy_header::Version::V2 => "v1",
        };
        self.counters.startled();
        let server = record
            .server
            .map_or_else(String::new, |server| server.to_string());
        warn!(
            listener = %self.listener, servers = %servers.name, %server, times,
            "a server closed at once after our PROXY {version} header, with no more than a TLS alert: it seems to expect none, or {other}; set `send_proxy` to what its port takes or leave it out, or `servers` to the port that takes a header"
        );
    }
}

fn due(complaint: &Mutex<Complaint>) -> Option<u64> {
    complaint
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .due(Instant::now())
}
