//! HTTP/2, over TLS or by prior knowledge. `h2` is used directly: resets go through in both directions at once, trailers
//! and extended CONNECT (RFC 8441) pass, and one stream that is not read does not slow its neighbours.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, Version};
use http_body::Body;
use tidegate_shared::clock;
use tidegate_shared::glance::Glance;
use tidegate_shared::inbound::Inbound;
use tidegate_shared::message::{BadLength, declared_length, may_upgrade_to};
use tidegate_shared::page::Wants;
use tidegate_shared::pump::{Pump, Stop};
use tidegate_shared::unacked::Unacked;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use super::echo::Echo;
use super::framed::first_line;
use super::front::Front;
use super::h1::instant;
use super::heads;
use super::io::Ends;
use super::ledger::{CANCELLED_IN_TEN_SECONDS, Ledger};
use super::pass::pass;
use super::pulse::Patience;
use super::stray::Stray;
use super::stuck::Stuck;
use super::{Limits, Reception, Spoken, listen, rest};
use crate::access::Record;
use crate::answer::{Answer, Cut};
use crate::exchange::{Ask, Visit, may_have_body, open};
use crate::failure::Failure;
use crate::forward::{self, Outgoing};
use crate::metrics::Metrics;
use crate::page;
use crate::pool::Unavailable;
use crate::smuggling::Form;

/// What a visitor may send ahead on one stream, and on all together.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// What may wait to be written on one stream.
const SEND_BUFFER: usize = 128 * 1024;

/// `h2` ends a connection whose unread small frames add up to this charge (256 less the length, each). They are kept apart,
/// at some 250 octets each: 4,100 frames of one octet, 1 MiB for a connection at its worst. [`heads`] sees to it that
/// whoever takes them has a turn before so many are read.
const SMALL_FRAME_BUDGET: usize = 1024 * 1024;

/// What a head may be larger than `--max-head` and still be read to its end, so that it is answered with a reason.
const HEAD_ROOM: std::ops::RangeInclusive<usize> = 64 * 1024..=192 * 1024;

/// Serves one connection until the visitor leaves, is idle too long, or the gateway drains and its streams are done.
pub(super) async fn serve<T>(reception: Arc<Reception>, stream: T, seen: Bytes, visit: Arc<Visit>)
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin + 'static,
{
    let limits = &reception.limits;
    let room = limits.head.clamp(*HEAD_ROOM.start(), *HEAD_ROOM.end());
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.head + room).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(256))
        .max_pending_accept_reset_streams(CANCELLED_IN_TEN_SECONDS)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .enable_connect_protocol();
    let began = Instant::now();
    // Boxed, so that a connection does not keep the room that its opening needed.
    let opening = Box::pin(async move {
        let mut stream = stream;
        let seen = match seen.is_empty() {
            true => listen(&mut stream, &seen).await,
            false => Spoken::Http2(seen),
        };
        let (seen, instead) = match seen {
            Spoken::Http2(seen) => (seen, None),
            Spoken::Http1(seen) => (seen.clone(), Some(seen)),
            Spoken::Nothing => (Bytes::new(), None),
        };
        let beneath = stream.beneath();
        let (io, ledger) = heads::follow(stream, seen, beneath);
        (builder.handshake(io).await, ledger, instead)
    });
    let shaken = tokio::select! {
        biased;
        shaken = timeout(limits.patience.head, opening) => shaken,
        () = reception.drain.idle_over() => return,
    };
    let (mut connection, ledger) = match shaken {
        Ok((Ok(connection), ledger, _)) => (connection, ledger),
        Ok((Err(error), _, instead)) => {
            if let Some(seen) = instead {
                misbegun(&visit, &seen, began);
            }
            return debug!(visitor = %visit.visitor, "HTTP/2 with a visitor failed: {error}");
        }
        Err(_elapsed) => {
            visit.gateway.metrics.head_overdue.inc();
            return debug!(visitor = %visit.visitor, "a visitor did not begin HTTP/2 in time");
        }
    };
    let mut care = Care::new(&mut connection, &reception, ledger);
    let mut finishing = Box::pin(reception.drain.finishing());
    let mut told = false;
    let ending = poll_fn(|cx| {
        if !told && finishing.as_mut().poll(cx).is_ready() {
            told = true;
            connection.graceful_shutdown();
            care.leaving.get_or_insert_with(Instant::now);
        }
        if told && reception.drain.is_last_call() {
            care.ledger.last_call();
        }
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let began = instant(care.asked(respond.stream_id().as_u32()));
                    let (reception, visit, ledger) = (
                        Arc::clone(&reception),
                        Arc::clone(&visit),
                        Arc::clone(&care.ledger),
                    );
                    reception.drain.clone().spawn(async move {
                        Box::pin(exchange(reception, visit, request, respond, ledger, began)).await;
                    });
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(error)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    write_down(&visit, care.ledger.take_refused());
                    match care.poll(cx, &mut connection) {
                        Poll::Ready(true) => {}
                        Poll::Ready(false) => return Poll::Ready(None),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
    })
    .await;
    write_down(&visit, care.ledger.take_rest(care.otherwise()));
    if let Some(error) = ending {
        debug!(visitor = %visit.visitor, "a visitor's HTTP/2 connection failed: {error}");
    }
}

/// What came is no HTTP/2, though that was agreed on: it has its line, and is named where it is known.
fn misbegun(visit: &Visit, seen: &[u8], began: Instant) {
    if let Some(stray) = Stray::of(seen) {
        stray.came(visit);
    }
    let access = &visit.gateway.access;
    let mut record = access.record(&visit.label, visit.tls.is_some(), began);
    record.version = Version::HTTP_2;
    record.unparsed(first_line(seen));
    record.counts(visit.guest.blame());
    record.failed(Failure::Malformed);
}

/// Writes the access lines of requests that were not handed over: of them is known what became of them, and no more.
fn write_down(visit: &Visit, failures: Vec<Failure>) {
    for failure in failures {
        let mut record = visit.record(Instant::now());
        record.version = Version::HTTP_2;
        record.counts(visit.guest.blame());
        if failure == Failure::Malformed {
            record.smuggled(Form::MalformedHttp2);
        }
        record.failed(failure);
    }
}

/// Looks after one connection as a whole.
struct Care {
    metrics: Arc<Metrics>,
    echo: Echo,
    tick: Pin<Box<Sleep>>,
    grain: Duration,
    idle: Duration,
    head: Duration,
    last: Instant,
    requests: u64,
    calm: bool,
    ledger: Arc<Ledger>,
    /// A head did not come in time.
    overdue: bool,
    /// Since when the visitor has been told that the connection ends.
    leaving: Option<Instant>,
}

impl Care {
    fn new<T>(
        connection: &mut Connection<T, Bytes>,
        reception: &Reception,
        ledger: Arc<Ledger>,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let limits = &reception.limits;
        Self {
            metrics: Arc::clone(&reception.gateway.metrics),
            echo: Echo::new(connection.ping_pong()),
            tick: Box::pin(sleep(limits.patience.grain())),
            grain: limits.patience.grain(),
            idle: limits.patience.idle,
            head: limits.patience.head,
            last: Instant::now(),
            requests: 0,
            calm: true,
            ledger,
            overdue: false,
            leaving: None,
        }
    }

    /// When the head of this request began.
    fn asked(&mut self, stream: u32) -> u64 {
        self.requests += 1;
        self.last = Instant::now();
        self.ledger.handed(stream)
    }

    /// What has become of requests that nothing else is known of, when the connection is over.
    fn otherwise(&self) -> Option<Failure> {
        match self.leaving {
            _ if self.overdue => Some(Failure::HeadTimeout),
            // The visitor was told that they are not begun any more, and may ask elsewhere (RFC 9113 §6.8).
            Some(_) => None,
            None => Some(Failure::VisitorGone),
        }
    }

    /// Whether to go on; pending while there is nothing to do.
    fn poll<T>(&mut self, cx: &mut Context<'_>, connection: &mut Connection<T, Bytes>) -> Poll<bool>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        if self.calm
            && let Some(failure) = self.ledger.unwanted()
        {
            self.calm = false;
            self.ledger.ended_for(u32::MAX, failure);
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            return Poll::Ready(true);
        }
        self.echo.poll(cx);
        if self.tick.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.is_over(connection) {
            return Poll::Ready(false);
        }
        self.tick
            .as_mut()
            .reset((Instant::now() + self.grain).into());
        Poll::Ready(true)
    }

    /// Whether nothing more is to be expected of this connection.
    fn is_over<T>(&mut self, connection: &mut Connection<T, Bytes>) -> bool
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let head = u64::try_from(self.head.as_millis()).unwrap_or(u64::MAX / 4);
        if self
            .ledger
            .unfinished_since()
            .is_some_and(|since| clock::now_ms() >= since.saturating_add(head))
        {
            self.overdue = true;
            self.metrics.head_overdue.inc();
            return true;
        }
        if let Some(since) = self.leaving {
            // A visitor that does not close when told is not waited for a second time.
            return !connection.has_streams() && since.elapsed() >= Duration::from_secs(2);
        }
        if connection.has_streams() {
            self.last = Instant::now();
            return self.echo.is_lost(|| self.ledger.signs());
        }
        let (patience, overdue) = if self.requests == 0 {
            (self.head, &self.metrics.head_overdue)
        } else {
            (self.idle, &self.metrics.idle_overdue)
        };
        if self.last.elapsed() >= patience {
            overdue.inc();
            connection.graceful_shutdown();
            self.leaving = Some(Instant::now());
        }
        false
    }
}

/// One request on one stream, to its end.
async fn exchange(
    reception: Arc<Reception>,
    visit: Arc<Visit>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    ledger: Arc<Ledger>,
    began: Instant,
) {
    let mut record = visit.record(began);
    record.version = Version::HTTP_2;
    let wants = Wants::of(request.headers());
    let mut front = Front::new(respond, Arc::clone(&reception), ledger);
    let asking = ask(&reception.limits, &visit, request, &mut record, &mut front);
    let (parts, answer) = match asking.await {
        Ok(opened) => Answer::of(opened, record),
        Err(Unavailable {
            failure: failure @ (Failure::VisitorGone | Failure::Malformed),
            ..
        }) if failure == Failure::VisitorGone || front.is_reset() => {
            if let Some(failure) = front.ledger().cut_for() {
                return record.failed(failure);
            }
            front.ledger().count_cancelled();
            return record.failed(failure);
        }
        Err(Unavailable { failure, about }) => {
            record.failed(failure);
            if record.is_refused() {
                return front.ledger().refuse_visitor();
            }
            let mut response = page::failed(failure, about.as_deref(), &record.id(), wants);
            page::later(&mut response, &record);
            let (parts, body) = response.into_parts();
            (parts, Answer::own(body, record))
        }
    };
    let (respond, ledger) = front.into_parts();
    send(&reception, respond, parts, answer, &ledger).await;
}

async fn send(
    reception: &Reception,
    mut respond: SendResponse<Bytes>,
    parts: http::response::Parts,
    answer: Answer<Inbound>,
    ledger: &Ledger,
) {
    let mut response = Response::from_parts(parts, ());
    *response.version_mut() = Version::HTTP_2;
    let ends = answer.is_end_stream();
    // An error here means that the stream or the connection is gone; dropping the answer tells the tunnel.
    let Ok(stream) = respond.send_response(response, ends) else {
        return;
    };
    if ends {
        let rest = rest::finish(&reception.limits.patience, answer);
        reception.drain.until_last_call(rest).await;
        return;
    }
    let mut pump = Pump::new(answer, stream);
    let moved = hand_over(&mut pump, &reception.limits.patience, ledger.beneath);
    match reception.drain.until_last_call(moved).await {
        Some(Some(Ok(()))) => {
            let rest = rest::finish(&reception.limits.patience, pump.into_body());
            reception.drain.until_last_call(rest).await;
        }
        Some(Some(Err(Stop::Reset(_) | Stop::Gone(_)))) => {
            if let Some(failure) = ledger.cut_for() {
                pump.into_body().broken(failure);
            }
        }
        // A visitor must see that the response was cut (RFC 9113 §8.1).
        Some(Some(Err(Stop::Body(_)))) => {
            pump.reset(Reason::INTERNAL_ERROR);
        }
        // Not read for too long.
        Some(None) => {
            pump.reset(Reason::CANCEL);
            pump.into_body().broken(Failure::VisitorStalled);
        }
        None => {
            pump.reset(Reason::INTERNAL_ERROR);
            pump.into_body().broken(Failure::Draining);
        }
    }
}

/// Moves an answer to a visitor who takes it; `None` when he has taken nothing of it, nor of what was written earlier, for as long
/// as he may stall, and has sent nothing of his request meanwhile, or too little.
async fn hand_over(
    pump: &mut Pump<Answer<Inbound>>,
    patience: &Patience,
    beneath: Option<Unacked>,
) -> Option<Result<(), Stop<Cut>>> {
    let mut stuck: Option<Stuck> = None;
    poll_fn(|cx| {
        match pump.poll(cx) {
            Poll::Ready(result) => return Poll::Ready(Some(result)),
            Poll::Pending if !pump.waits_for_window() => {
                stuck = None;
                return Poll::Pending;
            }
            Poll::Pending => {}
        }
        let moved = (pump.sent(), pump.body_mut().poll_request(cx));
        let stuck = stuck.get_or_insert_with(|| Stuck::new(moved, patience));
        if stuck.lasts_too_long(moved, patience, || beneath?.octets(), cx) {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Checks a request and sends it.
async fn ask(
    limits: &Limits,
    visit: &Arc<Visit>,
    mut request: Request<RecvStream>,
    record: &mut Record,
    front: &mut Front,
) -> Result<crate::exchange::Opened<Inbound>, Unavailable> {
    record.method = Some(request.method().clone());
    record.path = request.uri().path_and_query().cloned();
    let refused = Unavailable::plain;
    if front.was_reset().await {
        return Err(refused(Failure::VisitorGone));
    }
    let authority = forward::authority(request.uri(), request.headers());
    record.host = authority.as_ref().ok().cloned();
    let drain = front.drain().clone();
    let marked = pass(visit, request.headers(), record, front, &drain).await?;
    let protocol = request.extensions_mut().remove::<Protocol>();
    match &protocol {
        None if request.method() == Method::CONNECT => {
            return Err(refused(Failure::ConnectRefused));
        }
        // The app would be asked for it by an HTTP/1 head, octet by octet.
        Some(protocol) if !may_upgrade_to(protocol.as_str()) => {
            return Err(refused(Failure::Malformed));
        }
        _ => {}
    }
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > limits.head) {
        return Err(refused(Failure::TargetTooLong));
    }
    let fields = request.headers().len();
    let listed = listed(&request);
    if fields > limits.fields || listed > limits.head {
        return Err(refused(Failure::HeadTooLarge));
    }
    forward::check_target(request.method(), request.uri()).map_err(refused)?;
    let authority = authority.map_err(refused)?;
    let host = forward::host(&authority).map_err(refused)?;
    if visit.misdirects(host.name()) {
        return Err(refused(Failure::Misdirected));
    }
    let target = visit.target(host, request.uri().path(), request.headers());
    // Fields that HTTP/2 forbids and `h2` lets pass would frame an HTTP/1 request at the app (RFC 9113 §8.2.2).
    if request.headers().contains_key(TRANSFER_ENCODING) || request.headers().contains_key(UPGRADE)
    {
        record.smuggled(Form::MalformedHttp2);
        return Err(refused(Failure::Malformed));
    }
    // `h2` takes an empty one for zero, and several that agree.
    let declared = declared_length(request.headers()).map_err(|bad| {
        record.smuggled(match bad {
            BadLength::Several => Form::SeveralLengths,
            BadLength::NoNumber => Form::OddLength,
        });
        refused(bad.into())
    })?;
    if let (Some(most), Some(length)) = (visit.gateway.max_body, declared)
        && length > most
    {
        return Err(refused(Failure::BodyTooLarge));
    }
    let expects = request
        .headers()
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    // The map's own entries, and the request around it; what it costs to hold, not what it was on the wire.
    let octets = listed + fields * 32 + 512;
    record.well_headed();
    let (parts, recv) = request.into_parts();
    let mut head = Box::new(Outgoing {
        method: parts.method,
        scheme: forward::scheme(visit.tls.is_some()),
        authority,
        path: forward::path(parts.uri),
        headers: parts.headers,
    });
    let glance = Glance::of(&head.headers);
    debug_assert!(
        head.headers.get_all(HOST).iter().count() <= 1,
        "checked with the authority"
    );
    forward::rewrite(
        &mut head.headers,
        &visit.gateway.policy,
        &visit.origin,
        &head.authority,
        Version::HTTP_2,
        glance,
    );
    visit.guest.write(&mut head.headers, marked);
    let body = Inbound::new(recv);
    let streams = protocol.is_some() || (!body.is_end_stream() && may_have_body(&head.method));
    let ask = Ask {
        target,
        head,
        body: streams.then_some(body),
        protocol,
        expects,
        octets,
        mark: visit.guest.field(),
    };
    open(visit, ask, record, front).await
}

/// The size of a head as HTTP/2 counts it (RFC 9113 §6.5.2).
fn listed(request: &Request<RecvStream>) -> usize {
    const EACH: usize = 32;
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |host| host.as_str().len());
    let names = ":method:scheme:authority:path".len() + 4 * EACH;
    let pseudo = names + request.method().as_str().len() + "https".len() + authority + path;
    let fields = request.headers().iter();
    fields.fold(pseudo, |sum, (name, value)| {
        sum + name.as_str().len() + value.len() + EACH
    })
}
