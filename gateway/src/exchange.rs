//! The life of one request: its host and path become a name, the name a place on a tunnel, the tunnel an answer; and if the
//! tunnel fails first, another tunnel, where that is safe. The same for every kind of visitor: generic over the body.

mod wait; // for the head of an answer

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::{Reason, client};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, response};
use http_body::Body;
use tidegate_shared::clock;
use tidegate_shared::inbound::Inbound;
use tidegate_shared::interim::Interims;
use tidegate_shared::message::{DETAIL, DETAIL_MAX};
use tidegate_shared::name::{VisitorHost, visitor_host};
use tidegate_shared::page::full_stop;
use tidegate_shared::pump::Pump;
use tidegate_shared::tls::VisitorCerts;
use tokio::time::sleep;

use crate::access::{Access, Record};
use crate::backend::joined::Joined;
use crate::backend::passing::Passing;
use crate::backend::{self, Backend, Caller};
use crate::cloud::Label;
use crate::failure::Failure;
use crate::forward::{Origin, Outgoing, Policy, is_idempotent};
use crate::introduction::Introduction;
use crate::lasting::Lasting;
use crate::listen::Front;
use crate::metrics::Metrics;
use crate::opening::Untold;
use crate::page::REASON;
use crate::pool::{Pool, Tried, Unavailable};
use crate::rates::Guest;
use crate::spent::Spent;
use crate::tunnel::{Ending, Lease, Tunnel};
use crate::upload::{Upload, upload};
use wait::{Gate, Outcome, Wait};

/// What every visitor's connection shares.
#[derive(Debug)]
pub struct Gateway {
    pub pool: Arc<Pool>,
    pub metrics: Arc<Metrics>,
    pub access: Arc<Access>,
    pub policy: Policy,
    /// Octets of a request's body; `None` for any.
    pub max_body: Option<u64>,
    /// How long what is upgraded may be silent.
    pub lasting: Lasting,
    /// Agents may bring names.
    pub has_tunnels: bool,
}

/// One visitor's connection, as its requests see it.
#[derive(Debug)]
pub struct Visit {
    pub gateway: Arc<Gateway>,
    pub visitor: SocketAddr,
    /// The same for every line of the access log.
    pub label: Arc<Label>,
    /// Which certificates were offered, and for which SNI.
    pub tls: Option<(Arc<VisitorCerts>, Option<String>)>,
    pub origin: Origin,
    /// The listener that it came to.
    pub front: Arc<Front>,
    pub introduction: Introduction,
    /// Its source, and what that may still do.
    pub guest: Arc<Guest>,
    /// What came before its first request.
    pub opening: Untold,
}

impl Visit {
    /// Begins the record of a request whose first octet came at `began`.
    pub(crate) fn record(&self, began: Instant) -> Box<Record> {
        self.record_of(began, Instant::now())
    }

    /// The same for one whose head was complete at a moment that is known.
    pub(crate) fn record_of(&self, began: Instant, headed: Instant) -> Box<Record> {
        let access = &self.gateway.access;
        let mut record = access.record_of(&self.label, self.tls.is_some(), began, headed);
        if let Some(opening) = self.opening.take() {
            record.opened(opening);
        }
        record
    }

    /// Where a request goes: what a route says, or else the tunnels of the host that it asks for.
    pub fn target(&self, host: VisitorHost<'_>, path: &str, fields: &HeaderMap) -> Target {
        let routes = &self.front.routes;
        match routes.target(host.name(), path, fields) {
            Some(target) => target.clone(),
            None => Target::Tunnel(host.name().to_owned()),
        }
    }

    /// What a request is for that names no host, as one in HTTP/1.0 need not (RFC 9112 §3.2, §3.3): whom TLS was opened for, or else
    /// the address that its visitor connected to.
    pub fn place(&self) -> Option<HeaderValue> {
        let server_name = self.tls.as_ref().and_then(|(_, sni)| sni.as_deref());
        match server_name {
            Some(name) => HeaderValue::from_str(name).ok(),
            None => HeaderValue::from_str(&self.introduction.to()?.to_string()).ok(),
        }
    }

    /// Whether a route wants it, so that no tunnel has to be of its name.
    pub fn is_routed(&self, host: &VisitorHost<'_>, path: &str, fields: &HeaderMap) -> bool {
        let routes = &self.front.routes;
        routes.target(host.name(), path, fields).is_some()
    }

    /// Whether the connection was opened for a name whose certificate does not cover this one (RFC 9110 §15.5.20).
    pub fn misdirects(&self, host: &str) -> bool {
        matches!(&self.tls, Some((certs, Some(sni))) if !certs.covers(Some(sni), host))
    }
}

/// The visitor's side of a request that waits for its answer.
pub trait Side {
    /// An interim response (RFC 9110 §15.2) other than 100 and 101, without what must not go on.
    fn interim(&mut self, response: Response<()>);

    /// The app wants the body that the visitor held back (RFC 9110 §10.1.1).
    fn go_on(&mut self);

    /// How many octets of the visitor's body have gone on, while its next ones are what everything waits for.
    fn body_due(&mut self, moved: Option<u64>);

    /// The request waits for a place on a tunnel, or no longer.
    fn held(&mut self, holds: bool);

    /// Ready when there is no use in waiting: the visitor left, or time is up.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Failure>;
}

/// Where requests go.
#[derive(Clone, Debug)]
pub enum Target {
    /// To the tunnels of this name.
    Tunnel(String),
    /// To the servers of this backend.
    Backend(Arc<Backend>),
}

/// A request, ready to go.
#[derive(Debug)]
pub struct Ask<B> {
    pub target: Target,
    /// Boxed, as it is handed on from hand to hand.
    pub head: Box<Outgoing>,
    /// `None` where the head is all there is.
    pub body: Option<B>,
    /// For an upgrade (RFC 8441).
    pub protocol: Option<Protocol>,
    /// The visitor waits for a 100 before it sends its body.
    pub expects: bool,
    /// Octets of the head, for what holding it costs.
    pub octets: usize,
    /// The field that the gateway marks requests with, if it does.
    pub mark: Option<HeaderName>,
}

/// An answer that has begun.
#[derive(Debug)]
pub struct Opened<B> {
    pub parts: response::Parts,
    /// What it opened goes on in both directions for as long as either likes (RFC 8441), or until both are silent for so long.
    pub upgraded: Option<Lasting>,
    /// Where it comes from.
    pub way: Way<B>,
}

/// Which way an answer comes, and the rest of its request goes.
#[derive(Debug)]
pub enum Way<B> {
    Tunnel(Box<Stream<B>>),
    Backend(Box<Passing>),
    /// A server's connection behind a change of protocol.
    Joined(Box<Joined<B>>),
}

/// A stream of a tunnel.
#[derive(Debug)]
pub struct Stream<B> {
    pub inbound: Inbound,
    /// A status after which nothing follows (RFC 9110 §15.3.5, §15.4.5), whatever the agent sends.
    pub headed_only: bool,
    /// The rest of the request, on its way.
    pub upload: Pump<Upload<B>>,
    /// Until the answer is over.
    pub lease: Option<Lease>,
    /// The visitor waits for a 100 that has not come (RFC 9110 §10.1.1).
    pub held_back: bool,
}

/// How often a request is tried, at most.
const ATTEMPTS: usize = 4;

/// A visitor that waits for a 100 is not kept waiting for ever by an app that never sends one (RFC 9110 §10.1.1).
pub(crate) const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// Sends a request and waits for the head of its answer.
pub(crate) async fn open<B, S>(
    visit: &Visit,
    mut ask: Ask<B>,
    record: &mut Record,
    side: &mut S,
) -> Result<Opened<B>, Unavailable>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin + 'static,
    S: Side,
{
    if let Some(header) = visit.introduction.nameless() {
        visit
            .front
            .door
            .came_for_nobody(header, "a visitor's request");
    }
    let target = std::mem::replace(&mut ask.target, Target::Tunnel(String::new()));
    let name = match target {
        Target::Tunnel(_) if !visit.gateway.has_tunnels => {
            return Err(Unavailable::plain(Failure::NoRoute));
        }
        Target::Tunnel(name) => name,
        Target::Backend(backend) => return open_at(visit, &backend, ask, record, side).await,
    };
    let Ask {
        target: _,
        head,
        body,
        protocol,
        expects,
        octets,
        mark,
    } = ask;
    let pool = &visit.gateway.pool;
    let mut tried = Tried::default();
    // What goes on on an upgraded stream is no body.
    let most = visit.gateway.max_body.filter(|_| protocol.is_none());
    let mut body = upload(body, most, mark);
    let mut last: Option<Failure> = None;
    let mut expects = expects;
    loop {
        let lease = lease(pool, &name, &tried, octets, record, side).await;
        let (mut lease, sent_at) = match (lease, last) {
            (Ok(leased), _) => leased,
            // The tunnel that was tried is still there, and no limit is what went wrong with it.
            (Err(unavailable), Some(failure)) if unavailable.failure == Failure::Limit => {
                return Err(Unavailable::plain(failure));
            }
            // The request could be sent again, and nobody came to take it.
            (Err(unavailable), _) => return Err(unavailable),
        };
        let tunnel = Arc::clone(lease.tunnel());
        if protocol.is_some() && !tunnel.upgrades {
            record.tunnel = Some(tunnel);
            return Err(Unavailable::plain(Failure::NoUpgrade));
        }
        // What is upgraded stays open, whatever the head said of a body.
        let ends = body.is_none() && protocol.is_none();
        // Noted before it is sent: the driver that the sending wakes looks whether somebody waits.
        lease.waits(clock::ms(sent_at));
        let mut told = (*head).clone();
        if tunnel.wants_visitors {
            visit
                .introduction
                .tell(&mut told.headers, visit, &record.id());
        }
        let told = told.into_request().map_err(Unavailable::plain)?;
        let sent = send(&tunnel, told, protocol.clone(), ends);
        record.attempts += 1;
        record.tunnel = Some(Arc::clone(&tunnel));
        let Some((response, stream)) = sent else {
            tried.add(&tunnel);
            last = Some(Failure::TunnelLost);
            if tried.count() >= ATTEMPTS {
                return Err(Unavailable::plain(Failure::TunnelLost));
            }
            continue;
        };
        lease.sent();
        if record.attempts > 1 {
            visit.gateway.metrics.retries.inc();
        }
        let had_body = !body.is_none();
        let mut upload = if had_body {
            Pump::new(body, stream)
        } else {
            Pump::spent(body, stream)
        };
        let upgrades = protocol.is_some();
        let idempotent = is_idempotent(&head.method) && !upgrades;
        let mut wait = Wait {
            response,
            upload: &mut upload,
            tunnel: &tunnel,
            gate: if expects {
                Gate::Shut(Box::pin(sleep(CONTINUE_AFTER)))
            } else {
                Gate::Open
            },
            may_leave: |upload: &Pump<Upload<B>>, tried: &Tried| {
                let safe = if upload.is_untouched() {
                    idempotent || had_body
                } else {
                    idempotent && upload.body().is_kept()
                };
                safe && {
                    let mut tried = tried.clone();
                    tried.add(&tunnel);
                    tried.count() < ATTEMPTS && pool.has_alternative(&name, &tried)
                }
            },
            tried: &tried,
            received: &mut record.received,
            waited: &mut record.upload,
            interims: Interims::default(),
        };
        let outcome = wait.run(side).await;
        let held_back = matches!(wait.gate, Gate::Shut(_));
        side.body_due(None);
        record.upload.note(false);
        let answered = |response, record: &mut Record, lease, upload| {
            let (parts, mut stream) = answered(response, record, lease, upload, sent_at, upgrades);
            stream.held_back = held_back;
            apps(parts, stream, upgrades.then_some(visit.gateway.lasting))
        };
        let failure = match outcome {
            Outcome::Answered(response) if app_is_down(&response) => {
                // Nothing reached the app: another agent of the name may have one that answers.
                tunnel.app_is_down(clock::now_ms());
                let mut others = tried.clone();
                others.add(&tunnel);
                if upload.body().is_kept()
                    && others.count() < ATTEMPTS
                    && pool.has_other_agent(&name, &others)
                {
                    Verdict {
                        failure: Failure::TunnelLost,
                        untaken: true,
                    }
                } else {
                    return answered(response, record, lease, upload);
                }
            }
            Outcome::Answered(response) => {
                return answered(response, record, lease, upload);
            }
            Outcome::Over(failure) => {
                upload.reset(Reason::CANCEL);
                return Err(Unavailable::plain(failure));
            }
            Outcome::Left => Verdict {
                failure: Failure::TunnelSilent,
                untaken: false,
            },
            Outcome::Lost(error) => verdict(&error, &tunnel),
            Outcome::NoAnswer => Verdict {
                failure: Failure::BadResponse,
                untaken: false,
            },
        };
        tunnel.count_failed();
        upload.reset(Reason::CANCEL);
        drop(lease);
        tried.add(&tunnel);
        last = Some(failure.failure);
        let untouched = upload.is_untouched();
        let safe = failure.untaken || idempotent || (had_body && untouched);
        if !safe || failure.failure == Failure::BadResponse || tried.count() >= ATTEMPTS {
            return Err(Unavailable::plain(failure.failure));
        }
        let Some(again) = upload.into_body().rewound() else {
            return Err(Unavailable::plain(failure.failure));
        };
        body = again;
        // Nobody holds back what he has sent.
        expects &= untouched;
    }
}

/// The same for one that goes to a backend.
async fn open_at<B, S>(
    visit: &Visit,
    backend: &Arc<Backend>,
    ask: Ask<B>,
    record: &mut Record,
    side: &mut S,
) -> Result<Opened<B>, Unavailable>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Send + Unpin + 'static,
    S: Side,
{
    if backend.send_proxy().is_none() {
        let caller = Caller::from(visit.visitor.ip());
        return backend::exchange::open(&visit.gateway, backend, ask, &caller, record, side).await;
    }
    let host = visitor_host(ask.head.authority.as_bytes()).ok();
    let host = host.map(|host| host.name().to_owned());
    let id = record.id();
    let caller = visit.introduction.caller(visit, host.as_deref(), &id);
    backend::exchange::open(&visit.gateway, backend, ask, &caller, record, side).await
}

fn answered<B>(
    response: Response<h2::RecvStream>,
    record: &mut Record,
    mut lease: Lease,
    mut upload: Pump<Upload<B>>,
    sent_at: Instant,
    upgrades: bool,
) -> (response::Parts, Box<Stream<B>>) {
    let at = Instant::now();
    lease.answered(at.saturating_duration_since(sent_at));
    upload.body_mut().settle();
    let (parts, recv) = response.into_parts();
    record.answered(parts.status, at);
    let inbound = Inbound::counted(recv, Arc::clone(&lease.tunnel().wire));
    let headed_only = match parts.status {
        StatusCode::NOT_MODIFIED => true,
        // Any success has opened an upgraded stream (RFC 8441 §4).
        StatusCode::NO_CONTENT => !upgrades,
        _ => false,
    };
    // Boxed, as it is handed on from here to the answer, and on to whoever writes that.
    let stream = Box::new(Stream {
        inbound,
        headed_only,
        upload,
        lease: Some(lease),
        held_back: false,
    });
    (parts, stream)
}

/// Passes an app's answer. An agent's own becomes ours: with the request's id, and with nothing of the agent's in it but one
/// short line of text.
fn apps<B>(
    mut parts: response::Parts,
    mut stream: Box<Stream<B>>,
    upgraded: Option<Lasting>,
) -> Result<Opened<B>, Unavailable> {
    let failure = agents_own(parts.status, &parts.headers);
    // Agents use it between themselves and us.
    let detail = parts.headers.remove(DETAIL);
    let Some(failure) = failure else {
        return Ok(Opened {
            parts,
            upgraded,
            way: Way::Tunnel(stream),
        });
    };
    let about = detail
        .as_ref()
        .and_then(|detail| detail.to_str().ok())
        .map(|detail| {
            let kept = &detail[..detail.len().min(DETAIL_MAX)];
            format!("The agent says: {kept}{}", full_stop(kept))
        });
    if !stream.upload.is_finished() {
        stream.upload.reset(Reason::CANCEL);
    }
    Err(Unavailable { failure, about })
}

/// What an agent says that went wrong, if the answer is its own. The reason alone would not tell: an app may be a gateway
/// that says the same of its own agent.
pub(crate) fn agents_own(status: StatusCode, fields: &HeaderMap) -> Option<Failure> {
    if !status.is_server_error() || !fields.contains_key(DETAIL) {
        return None;
    }
    Failure::of_agent(fields.get(REASON)?.as_bytes()).filter(|failure| failure.status() == status)
}

/// Whether an agent says that its app is not there.
fn app_is_down<T>(response: &Response<T>) -> bool {
    agents_own(response.status(), response.headers()) == Some(Failure::AppUnreachable)
}

async fn lease<S: Side>(
    pool: &Pool,
    name: &str,
    tried: &Tried,
    octets: usize,
    record: &mut Record,
    side: &mut S,
) -> Result<(Lease, Instant), Unavailable> {
    let before = record.seeks_since();
    if let Some(lease) = pool.take(name, tried)? {
        let at = Instant::now();
        record.pick += at.saturating_duration_since(before);
        return Ok((lease, at));
    }
    let _spent = Spent::since(before, &mut record.hold);
    side.held(true);
    let mut held = pin!(pool.hold(name, tried, octets));
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(failure) = side.poll_over(cx) {
            return Poll::Ready(Err(Unavailable::plain(failure)));
        }
        held.as_mut().poll(cx)
    })
    .await;
    side.held(false);
    Ok((outcome?, Instant::now()))
}

type Sent = (client::ResponseFuture, h2::SendStream<Bytes>);

/// Hands the request to the tunnel's connection; `None` where nothing of it can have left.
fn send(
    tunnel: &Tunnel,
    mut request: Request<()>,
    protocol: Option<Protocol>,
    ends: bool,
) -> Option<Sent> {
    let mut requests = tunnel.requests()?;
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(protocol);
    }
    requests.send_request(request, ends).ok()
}

/// What is wrong with a visitor whose body ended before its end: it left, or it sent what is no body.
pub(crate) fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), InvalidData | InvalidInput)
        {
            return Failure::Malformed;
        }
        // What `h2` itself has found: a body that is not what its head has said (RFC 9113 §8.1.1).
        if let Some(h2) = error.downcast_ref::<h2::Error>()
            && h2.is_library()
            && h2.reason() == Some(Reason::PROTOCOL_ERROR)
        {
            return Failure::Malformed;
        }
        cause = error.source();
    }
    Failure::VisitorGone
}

struct Verdict {
    failure: Failure,
    /// The agent said that it did nothing with the request (RFC 9113 §8.7).
    untaken: bool,
}

fn verdict(error: &h2::Error, tunnel: &Tunnel) -> Verdict {
    if matches!(tunnel.ending(), Some(Ending::Silent { .. })) {
        return Verdict {
            failure: Failure::TunnelSilent,
            untaken: false,
        };
    }
    if error.is_reset() {
        let refused = error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM);
        let failure = if refused {
            Failure::TunnelLost
        } else {
            Failure::BadResponse
        };
        return Verdict {
            failure,
            untaken: refused,
        };
    }
    // Streams that a GOAWAY names are not ended by it; those above its last one were not taken (RFC 9113 §6.8).
    Verdict {
        failure: Failure::TunnelLost,
        untaken: error.is_go_away() && error.is_remote(),
    }
}

/// Whether a request with this head has a body that must be waited for.
pub(crate) fn may_have_body(method: &Method) -> bool {
    !matches!(*method, Method::TRACE | Method::CONNECT)
}
