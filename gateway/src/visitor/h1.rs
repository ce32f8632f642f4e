//! HTTP/1.0 and 1.1: `talk` reads and writes, the pulse keeps time, and each request goes into the exchange.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::{Method, Response, Uri, Version};
use http_body::Body;
use tidegate_shared::clock;
use tidegate_shared::drain::{Drain, IDLE_OVER};
use tidegate_shared::glance::Glance;
use tidegate_shared::http1::request::{Flaw, Found};
use tidegate_shared::page::Wants;
use tidegate_shared::timer::Timer;
use tidegate_shared::unacked::{Ebb, LOOKS};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::framed::{
    begun, check_framing, declared, first_line, first_line_takes, head_octets, is_about_all,
    is_ambiguous,
};
use super::in_hand::InHand;
use super::inlet::{Asked, Incoming, Inlet, Shared};
use super::io::{Ends, VisitorIo};
use super::pass::{Unanswered, pass};
use super::pulse::{LOOK_EVERY, Overdue, Pulse};
use super::rest::Left;
use super::stray::Stray;
use super::talk::{Spoken, talk};
use super::{Limits, Reception, upgrade};
use crate::access::Record;
use crate::answer::Answer;
use crate::exchange::{Ask, Side, Visit, may_have_body, open};
use crate::failure::Failure;
use crate::forward::{self, Outgoing};
use crate::lasting::TimedOut;
use crate::page;
use crate::pool::Unavailable;
use crate::smuggling::Form;

/// Serves one connection until the visitor leaves, is overdue, or the gateway drains and the request in hand is answered.
pub(super) async fn serve<T>(reception: Arc<Reception>, stream: T, seen: Bytes, visit: Arc<Visit>)
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin + 'static,
{
    let pulse = Arc::new(Pulse::default());
    let watched = Arc::new(Watched {
        pulse: Arc::clone(&pulse),
        verdict: AtomicU8::new(NONE),
        drain: reception.drain.clone(),
        left: Left::new(Arc::clone(&pulse)),
        joining: Mutex::default(),
    });
    let limits = reception.limits.clone();
    let io = VisitorIo::new(stream, Arc::clone(&pulse));
    let early = Stray::of(&seen);
    let inlet = Inlet::new(io, seen, Arc::clone(&pulse), limits.head, limits.fields);
    let shared = Shared::new(inlet);
    let serving = |found, body, asked| {
        // The request is in hand from here on, before the visitor's end is looked for again.
        let headed = Instant::now();
        let now = clock::ms(headed);
        let began = headed - Duration::from_millis(now.saturating_sub(pulse.request_began(now)));
        watched.verdict.store(NONE, Relaxed);
        let (reception, visit, watched) = (&reception, &visit, &watched);
        async move {
            let mut headed = headed;
            if watched.left.is_some() {
                // All of the last request has come, but not all of it has gone on.
                poll_fn(|cx| watched.left.poll(cx)).await;
                headed = Instant::now();
            }
            let times = (began, headed);
            respond(reception, visit, watched, found, body, asked, times).await
        }
    };
    let refusing = |flaw, octets: &[u8]| refusal(&reception, &visit, &pulse, early, flaw, octets);
    let mut connection = Box::pin(talk(&shared, serving, refusing, limits.patience.stall));
    let ends = (
        || shared.lock().finish(),
        || shared.lock().io().beneath()?.octets(),
    );
    let ended = attend(connection.as_mut(), ends, &reception, &watched).await;
    drop(connection);
    match ended {
        Ended::Over(Ok(Spoken::Switched)) => {
            let joining = watched.joining().take();
            if let (Some((joining, record)), Some(io)) = (joining, shared.into_io()) {
                // Boxed, so that a connection that is not upgraded has no room for it.
                let (drain, stall) = (&reception.drain, limits.patience.stall);
                Box::pin(joining.run(io, drain, visit.visitor, stall, record)).await;
            }
        }
        Ended::Over(Ok(Spoken::Closed)) => {}
        Ended::Over(Err(error)) => {
            debug!(visitor = %visit.visitor, "a visitor's connection failed: {error}");
            if let Some((_, mut record)) = watched.joining().take() {
                record.failed(Failure::VisitorGone);
            }
        }
        Ended::Overdue(Overdue::Head) => {
            let (began, said) = (instant(pulse.head_began()), shared.lock().first_line());
            if let Some(io) = shared.into_io() {
                head_timeout(io.into_inner(), &visit, began, Some(said)).await;
            }
        }
        // A connection that nobody used is closed without a word (RFC 9112 §9.5).
        Ended::Overdue(Overdue::Idle) => {
            visit.gateway.metrics.idle_overdue.inc();
            debug!(visitor = %visit.visitor, "a visitor's connection was idle for too long");
        }
        // One that is not read is cut, and one whose body stays out while it is answered.
        Ended::Overdue(overdue @ (Overdue::Body | Overdue::Reading)) => {
            debug!(visitor = %visit.visitor, ?overdue, "a visitor's connection was cut");
        }
        Ended::LastCall => {}
    }
}

/// Lets a connection go on until it is over, or until something on it is overdue. `finish` tells it of the drain, and `waits` how
/// much of what was written the visitor has not taken, where the system says so.
async fn attend<C>(
    mut connection: Pin<&mut C>,
    (finish, waits): (impl Fn(), impl Fn() -> Option<u64>),
    reception: &Reception,
    watched: &Watched,
) -> Ended
where
    C: Future<Output = io::Result<Spoken>>,
{
    let limits = &reception.limits;
    let mut finishing = Box::pin(reception.drain.finishing());
    let mut told = false;
    let mut watch = Timer::until(after(limits.patience.grain()));
    // The next look is one for the visitor.
    let mut looks = false;
    let mut beneath = Beneath::default();
    poll_fn(|cx| {
        loop {
            if !told && finishing.as_mut().poll(cx).is_ready() {
                told = true;
                finish();
                watch.reset(after(IDLE_OVER));
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(Ended::Over(result));
            }
            // Whoever waited for a response has been given one just then.
            if told && reception.drain.is_last_call() && watched.pulse.is_answering() {
                watched.pulse.cut(Failure::Draining);
                return Poll::Ready(Ended::LastCall);
            }
            // What is read for nobody holds up no drain.
            if told && watched.pulse.is_lingering() {
                return Poll::Ready(Ended::LastCall);
            }
            if watched.left.is_some() && watched.left.poll(cx).is_ready() {
                continue;
            }
            if !looks && watched.pulse.is_held_back() {
                looks = true;
                let soon = after(LOOK_EVERY).min(watch.deadline());
                watch.reset(soon);
            }
            ready!(watch.poll(cx));
            if std::mem::take(&mut looks) {
                watched.pulse.look_for_visitor();
            }
            if told && watched.pulse.is_at_rest() {
                return Poll::Ready(Ended::Overdue(Overdue::Idle));
            }
            beneath.look(&watched.pulse, limits.patience.stall, &waits);
            match watched.look(limits) {
                Ok(again) => watch.reset(again.into()),
                Err(None) => watch.reset(after(Duration::from_secs(1))),
                Err(Some(overdue)) => {
                    if matches!(overdue, Overdue::Body | Overdue::Reading) {
                        watched.pulse.cut(Failure::VisitorStalled);
                    }
                    return Poll::Ready(Ended::Overdue(overdue));
                }
            }
        }
    })
    .await
}

/// What the system still has of what was written to one who takes nothing from us: up to some megabytes, on which he may read on.
#[derive(Default)]
struct Beneath {
    /// Since when nothing could be written.
    since: Option<u64>,
    ebb: Ebb,
}

impl Beneath {
    /// Where nothing could be written for a part of `stall`, looks whether that is because he is still at what was written.
    fn look(&mut self, pulse: &Pulse, stall: Duration, waits: impl Fn() -> Option<u64>) {
        let since = pulse.blocked_since();
        if since != self.since {
            *self = Self {
                since,
                ebb: Ebb::default(),
            };
        }
        let now = clock::now_ms();
        let part = |since| u128::from(now.saturating_sub(since)) >= (stall / LOOKS).as_millis();
        if since.is_some_and(part) && self.ebb.falls(waits()) {
            pulse.blocked_from(now);
            self.since = pulse.blocked_since();
        }
    }
}

enum Ended {
    Over(io::Result<Spoken>),
    Overdue(Overdue),
    /// The gateway ends, and a response is not complete.
    LastCall,
}

/// The moment that the clock called so.
pub(super) fn instant(ms: u64) -> Instant {
    let now = Instant::now();
    let ago = Duration::from_millis(clock::ms(now).saturating_sub(ms));
    now.checked_sub(ago).unwrap_or(now)
}

fn after(pause: Duration) -> tokio::time::Instant {
    (Instant::now() + pause).into()
}

/// The pulse, and what the watch has decided about the request in hand.
pub(super) struct Watched {
    pub(super) pulse: Arc<Pulse>,
    verdict: AtomicU8,
    drain: Drain,
    pub(super) left: Left,
    /// What is to be joined behind a 101.
    joining: Mutex<Option<(upgrade::Joining, Box<Record>)>>,
}

const NONE: u8 = 0;
const BODY: u8 = 1;
const RESPONSE: u8 = 2;
const GONE: u8 = 3;

impl Watched {
    fn joining(&self) -> MutexGuard<'_, Option<(upgrade::Joining, Box<Record>)>> {
        self.joining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the pulse: when to look again, or what is overdue. `None` where the request in hand answers for itself.
    fn look(&self, limits: &Limits) -> Result<Instant, Option<Overdue>> {
        let now = clock::now_ms();
        if let Some(most) = limits.response
            && self.pulse.waits_for_response(now, most)
        {
            self.verdict.store(RESPONSE, Relaxed);
            return Err(None);
        }
        if self.pulse.is_gone(now, &limits.patience) {
            self.verdict.store(GONE, Relaxed);
            return Err(None);
        }
        match self.pulse.overdue(&limits.patience, now) {
            Ok(again) => Ok(
                Instant::now() + Duration::from_millis(again.saturating_sub(now).clamp(1, 5000))
            ),
            Err(Overdue::Body) if !self.pulse.is_responding() => {
                self.verdict.store(BODY, Relaxed);
                Err(None)
            }
            Err(overdue) => Err(Some(overdue)),
        }
    }
}

/// What is said, and logged, of what is no head of a request, or one that is too large. `early` is what the connection began
/// with, if that is no HTTP.
fn refusal(
    reception: &Reception,
    visit: &Visit,
    pulse: &Pulse,
    early: Option<Stray>,
    flaw: Flaw,
    octets: &[u8],
) -> Vec<u8> {
    if let Some(stray) = early {
        stray.came(visit);
    }
    let failure = match flaw {
        Flaw::TargetTooLong => Failure::TargetTooLong,
        Flaw::TooLarge if first_line_takes(octets, reception.limits.head) => Failure::TargetTooLong,
        Flaw::TooLarge => Failure::HeadTooLarge,
        Flaw::Malformed if is_ambiguous(octets) => Failure::AmbiguousFraming,
        Flaw::Malformed => Failure::Malformed,
    };
    let began = instant(pulse.head_began());
    let mut record = visit.record(began);
    record.unparsed(first_line(octets));
    record.counts(visit.guest.blame());
    // What is a handshake or a header is none of two requests, whatever its octets are.
    if early.is_none()
        && matches!(failure, Failure::Malformed | Failure::AmbiguousFraming)
        && let Some(form) = Form::of_head(begun(octets))
    {
        record.smuggled(form);
    }
    page::last_words(failure, &mut record)
}

/// Answers a visitor whose head does not come, and closes. `began` is since when it was waited for, and `said` what came.
pub(super) async fn head_timeout<T: AsyncWrite + Unpin>(
    mut stream: T,
    visit: &Visit,
    began: Instant,
    said: Option<Vec<u8>>,
) {
    visit.gateway.metrics.head_overdue.inc();
    let mut record = visit.record(began);
    record.counts(visit.guest.blame());
    if let Some(said) = said {
        record.unparsed(&said);
    }
    let answer = page::last_words(Failure::HeadTimeout, &mut record);
    // Whoever does not send does not always read either.
    let _told = timeout(Duration::from_secs(1), async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    })
    .await;
}

async fn respond(
    reception: &Reception,
    visit: &Arc<Visit>,
    watched: &Arc<Watched>,
    found: Box<Found>,
    body: Incoming,
    asked: Asked,
    (began, headed): (Instant, Instant),
) -> Result<Response<InHand>, Unanswered> {
    let mut record = visit.record_of(began, headed);
    let version = asked.version;
    let wants = if asked.glance.has(Glance::ACCEPT) {
        Wants::of(found.head.headers())
    } else {
        Wants::Text
    };
    let close = reception.drain.is_finishing();
    let outcome = ask(visit, watched, found, body, asked, &mut record).await;
    watched.pulse.response_began();
    let (mut response, close) = match outcome {
        Ok(Responded::Tunnel(opened)) => {
            let (parts, answer) = Answer::of(opened, record);
            let close = close || answer.is_held_back();
            if version == Version::HTTP_10
                && !asked.head_only
                && !parts.headers.contains_key(CONTENT_LENGTH)
                && !answer.is_end_stream()
            {
                watched.pulse.ends_with_connection();
            }
            let in_hand = InHand {
                answer: Some(answer),
                watched: Arc::clone(watched),
            };
            (Response::from_parts(parts, in_hand), close)
        }
        Ok(Responded::Upgraded(response, joining)) => {
            record.switched();
            *watched.joining() = Some((joining, record));
            return Ok(response.map(|()| InHand {
                answer: None,
                watched: Arc::clone(watched),
            }));
        }
        Err(Unavailable { failure, about }) => {
            record.failed(failure);
            if record.is_refused() {
                return Err(Unanswered::Refused);
            }
            if failure == Failure::VisitorGone {
                if watched.verdict.load(Relaxed) == GONE {
                    let within = reception.limits.patience.half_closed;
                    record.timed_out(TimedOut::half_closed(within));
                }
                return Err(Unanswered::Gone);
            }
            let mut response = page::failed(failure, about.as_deref(), &record.id(), wants);
            page::later(&mut response, &record);
            let close = close || failure.closes_connection();
            (
                response.map(|body| InHand {
                    answer: Some(Answer::own(body, record)),
                    watched: Arc::clone(watched),
                }),
                close,
            )
        }
    };
    *response.version_mut() = version;
    if close {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

enum Responded {
    Tunnel(crate::exchange::Opened<Incoming>),
    Upgraded(Response<()>, upgrade::Joining),
}

/// Checks a request and sends it.
async fn ask(
    visit: &Arc<Visit>,
    watched: &Arc<Watched>,
    mut found: Box<Found>,
    body: Incoming,
    asked: Asked,
    record: &mut Record,
) -> Result<Responded, Unavailable> {
    let mut authority = forward::authority(found.head.uri(), found.head.headers());
    let unnamed = asked.version == Version::HTTP_10 && authority == Err(Failure::NoHost);
    if unnamed {
        authority = visit.place().ok_or(Failure::NoHost);
    }
    if is_about_all(&found.head, &found.octets) {
        *found.head.uri_mut() = Uri::from_static("*");
    }
    let request = &found.head;
    let version = asked.version;
    record.version = version;
    record.method = Some(request.method().clone());
    record.path = request.uri().path_and_query().cloned();
    let refused = Unavailable::plain;
    record.host = authority.as_ref().ok().filter(|_| !unnamed).cloned();
    let mut side = Front {
        watched,
        interim: version >= Version::HTTP_11,
    };
    let marked = pass(visit, request.headers(), record, &mut side, &watched.drain).await?;
    if request.method() == Method::CONNECT {
        return Err(refused(Failure::ConnectRefused));
    }
    forward::check_target(request.method(), request.uri()).map_err(refused)?;
    check_framing(request.headers(), asked.bare_line, asked.glance).map_err(
        |(failure, form)| {
            record.smuggled(form);
            refused(failure)
        },
    )?;
    // Nobody sends content with it (RFC 9110 §9.3.8), and no app is to guess where the next request begins.
    if request.method() == Method::TRACE && !body.is_end_stream() {
        return Err(refused(Failure::Malformed));
    }
    let authority = authority.map_err(refused)?;
    let host = forward::host(&authority).map_err(refused)?;
    if visit.misdirects(host.name()) {
        return Err(refused(Failure::Misdirected));
    }
    if unnamed && !visit.is_routed(&host, request.uri().path(), request.headers()) {
        return Err(refused(Failure::NoHost));
    }
    let target = visit.target(host, request.uri().path(), request.headers());
    if let Some(most) = visit.gateway.max_body
        && declared(request.headers()).is_some_and(|length| length > most)
    {
        return Err(refused(Failure::BodyTooLarge));
    }
    let upgrading = if asked.glance.has(Glance::UPGRADE) {
        upgrade::wanted(&mut found.head, &body)
    } else {
        None
    };
    record.well_headed();
    let octets = head_octets(found.head.headers());
    let Found { head, .. } = *found;
    let (parts, ()) = head.into_parts();
    let mut head = Box::new(Outgoing {
        method: parts.method,
        scheme: forward::scheme(visit.tls.is_some()),
        authority,
        path: forward::path(parts.uri),
        headers: parts.headers,
    });
    forward::rewrite(
        &mut head.headers,
        &visit.gateway.policy,
        &visit.origin,
        &head.authority,
        version,
        asked.glance,
    );
    visit.guest.write(&mut head.headers, marked);
    if let Some(upgrading) = upgrading {
        let ask = Ask {
            target,
            head,
            body: None,
            protocol: None,
            expects: false,
            octets,
            mark: None,
        };
        // Boxed, so that other requests do not keep the room that this needs.
        let opening = Box::pin(upgrade::http1(visit, upgrading, ask, record, &mut side));
        return opening.await.map(Responded::from);
    }
    let body = (!body.is_end_stream() && may_have_body(&head.method)).then_some(body);
    let ask = Ask {
        target,
        head,
        body,
        protocol: None,
        expects: asked.expects,
        octets,
        mark: visit.guest.field(),
    };
    open(visit, ask, record, &mut side)
        .await
        .map(Responded::Tunnel)
}

impl From<upgrade::Http1> for Responded {
    fn from(outcome: upgrade::Http1) -> Self {
        match outcome {
            upgrade::Http1::Switched(response, joining) => Self::Upgraded(response, joining),
            upgrade::Http1::Plain(opened) => Self::Tunnel(opened),
        }
    }
}

/// The visitor's side of a waiting request on HTTP/1.
struct Front<'a> {
    watched: &'a Watched,
    /// HTTP/1.0 knows no interim responses (RFC 9110 §15.2).
    interim: bool,
}

impl Side for Front<'_> {
    fn interim(&mut self, response: Response<()>) {
        if !self.interim {
            return;
        }
        let status = response.status();
        let mut octets = format!(
            "HTTP/1.1 {} {}\r\n",
            status.as_u16(),
            status.canonical_reason().unwrap_or("")
        )
        .into_bytes();
        for (name, value) in response.headers() {
            octets.extend_from_slice(name.as_str().as_bytes());
            octets.extend_from_slice(b": ");
            octets.extend_from_slice(value.as_bytes());
            octets.extend_from_slice(b"\r\n");
        }
        octets.extend_from_slice(b"\r\n");
        self.watched.pulse.send_interim(&octets);
    }

    fn go_on(&mut self) {
        // The inlet says 100 when the body is first asked for.
    }

    fn body_due(&mut self, moved: Option<u64>) {
        // The socket counts what arrives.
        self.watched.pulse.body_due(moved.is_some());
    }

    fn held(&mut self, holds: bool) {
        self.watched.pulse.held(holds);
    }

    fn poll_over(&mut self, _cx: &mut Context<'_>) -> Poll<Failure> {
        // `talk` drops this request when the visitor leaves; the watch polls the connection when it has decided.
        match self.watched.verdict.load(Relaxed) {
            BODY => Poll::Ready(Failure::BodyTimeout),
            RESPONSE => Poll::Ready(Failure::ResponseTimeout),
            GONE => Poll::Ready(Failure::VisitorGone),
            _ if self.watched.drain.is_last_call() => Poll::Ready(Failure::Draining),
            _ => Poll::Pending,
        }
    }
}
