//! A connection over a tunnel: CONNECT on a place of the pool (RFC 9113 §8.5). Until it is answered nothing of the visitor's has
//! left, so that every tunnel of the name may be tried. Called by the connection's own future.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client};
use http::{Method, Request, Response, Uri};
use tidegate_shared::clock;
use tidegate_shared::inbound::Inbound;
use tidegate_shared::visitor::{self, VISITOR, Visitor};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::record::Record;
use crate::exchange::{Gateway, agents_own};
use crate::failure::Failure;
use crate::pool::{Pool, Tried, Unavailable};
use crate::spent::Spent;
use crate::tunnel::{Ending, Lease, Life, Tunnel};

/// A stream that an agent has joined with its app.
pub(super) struct Opened {
    pub(super) lease: Lease,
    pub(super) send: SendStream<Bytes>,
    pub(super) recv: Inbound,
}

/// Tunnels that are tried, at most.
const ATTEMPTS: usize = 4;

/// Interim responses that are overlooked; none is due.
const INTERIMS: usize = 16;

/// What holding a connection back costs, beside its sockets: its hello, if there is one.
const HELD_OCTETS: usize = 2048;

/// Opens a stream to the app of an agent of this name, for `caller`.
pub(super) async fn open(
    gateway: &Gateway,
    name: &str,
    caller: &Visitor,
    visitor: &TcpStream,
    record: &mut Record,
) -> Result<Opened, Unavailable> {
    let opening = attempts(gateway, name, caller, record);
    tokio::select! {
        biased;
        opened = opening => opened,
        // A visitor that has said all that it has to say may still want the answer; one that is gone does not.
        _gone = visitor.ready(Interest::ERROR) => Err(Unavailable::plain(Failure::VisitorGone)),
    }
}

async fn attempts(
    gateway: &Gateway,
    name: &str,
    caller: &Visitor,
    record: &mut Record,
) -> Result<Opened, Unavailable> {
    let pool = &gateway.pool;
    let mut tried = Tried::default();
    let mut last: Option<Unavailable> = None;
    loop {
        let mut lease = match (lease(pool, name, &tried, record).await, last.take()) {
            (Ok(lease), _) => lease,
            // The tunnel that was tried is still there, and no limit is what went wrong with it.
            (Err(unavailable), Some(before)) if unavailable.failure == Failure::Limit => {
                return Err(before);
            }
            (Err(unavailable), _) => return Err(unavailable),
        };
        let tunnel = Arc::clone(lease.tunnel());
        record.attempts += 1;
        record.tunnel = Some(Arc::clone(&tunnel));
        tried.add(&tunnel);
        let may_leave = || tried.count() < ATTEMPTS && pool.has_alternative(name, &tried);
        let why = match attempt(&mut lease, name, caller, may_leave).await {
            Ok((send, recv)) => return Ok(Opened { lease, send, recv }),
            Err(why) => why,
        };
        drop(lease);
        let elsewhere = match why.failure {
            Failure::AppUnreachable | Failure::ConnectUnsupported => {
                pool.has_other_agent(name, &tried)
            }
            Failure::TunnelLost | Failure::TunnelSilent => true,
            _ => false,
        };
        if !elsewhere || tried.count() >= ATTEMPTS {
            return Err(why);
        }
        gateway.metrics.retries.inc();
        last = Some(why);
    }
}

async fn lease(
    pool: &Pool,
    name: &str,
    tried: &Tried,
    record: &mut Record,
) -> Result<Lease, Unavailable> {
    let before = Instant::now();
    if let Some(lease) = pool.take(name, tried)? {
        return Ok(lease);
    }
    let _spent = Spent::since(before, &mut record.hold);
    pool.hold(name, tried, HELD_OCTETS).await
}

async fn attempt(
    lease: &mut Lease,
    name: &str,
    caller: &Visitor,
    may_leave: impl Fn() -> bool,
) -> Result<(SendStream<Bytes>, Inbound), Unavailable> {
    let tunnel = Arc::clone(lease.tunnel());
    let lost = || Unavailable::plain(Failure::TunnelLost);
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    let port = caller.to.map_or(0, |to| to.port());
    *request.uri_mut() = Uri::try_from(format!("{name}:{port}")).map_err(|_no_host| lost())?;
    if tunnel.wants_visitors
        && let Some(field) = visitor::field(&caller.stem(), &caller.connection)
    {
        request.headers_mut().insert(VISITOR, field);
    }
    let sent_at = Instant::now();
    // Noted before it is sent: the driver that the sending wakes looks whether somebody waits.
    lease.waits(clock::ms(sent_at));
    let sent = tunnel
        .requests()
        .and_then(|mut requests| requests.send_request(request, false).ok());
    let (response, mut stream) = sent.ok_or_else(lost)?;
    lease.sent();
    let answered = Answered {
        response,
        tunnel: &tunnel,
        interims: 0,
    };
    let failure = match answered.wait(may_leave).await {
        Ok(response) if response.status().is_success() => {
            lease.answered(sent_at.elapsed());
            let recv = Inbound::counted(response.into_body(), Arc::clone(&tunnel.wire));
            return Ok((stream, recv));
        }
        Ok(response) => {
            lease.answered(sent_at.elapsed());
            refused(&response)
        }
        Err(failure) => Unavailable::plain(failure),
    };
    stream.send_reset(Reason::CANCEL);
    if failure.failure == Failure::AppUnreachable {
        tunnel.app_is_down(clock::now_ms());
    } else {
        tunnel.count_failed();
    }
    Err(failure)
}

/// An agent that does not do it says why; whatever else answers a CONNECT does not know what it is.
fn refused(response: &Response<RecvStream>) -> Unavailable {
    let own = agents_own(response.status(), response.headers());
    Unavailable::plain(own.unwrap_or(Failure::ConnectUnsupported))
}

/// A CONNECT that waits for its answer.
struct Answered<'a> {
    response: client::ResponseFuture,
    tunnel: &'a Tunnel,
    interims: usize,
}

impl Answered<'_> {
    async fn wait(mut self, may_leave: impl Fn() -> bool) -> Result<Response<RecvStream>, Failure> {
        let tunnel = self.tunnel;
        let mut trouble = pin!(tunnel.trouble().notified());
        // Registered before the first look, so that no trouble goes unnoticed.
        trouble.as_mut().enable();
        let mut doubted = tunnel.life() == Life::Doubted;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = self.poll(cx) {
                    return Poll::Ready(answer);
                }
                if trouble.as_mut().poll(cx).is_ready() {
                    trouble.set(tunnel.trouble().notified());
                    doubted = true;
                    continue;
                }
                if std::mem::take(&mut doubted) && tunnel.life() == Life::Doubted && may_leave() {
                    return Poll::Ready(Err(Failure::TunnelSilent));
                }
                return Poll::Pending;
            }
        })
        .await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Failure>> {
        loop {
            match self.response.poll_informational(cx) {
                Poll::Ready(Some(Ok(_))) if self.interims < INTERIMS => self.interims += 1,
                Poll::Ready(Some(Ok(_))) => return Poll::Ready(Err(Failure::BadResponse)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.lost(&error))),
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.response)
            .poll(cx)
            .map(|answer| answer.map_err(|error| self.lost(&error)))
    }

    fn lost(&self, error: &h2::Error) -> Failure {
        if matches!(self.tunnel.ending(), Some(Ending::Silent { .. })) {
            return Failure::TunnelSilent;
        }
        match error.reason() {
            // What is said of a TCP connection that failed (RFC 9113 §8.5).
            Some(Reason::CONNECT_ERROR) if error.is_reset() => Failure::AppUnreachable,
            Some(reason) if error.is_reset() && reason != Reason::REFUSED_STREAM => {
                Failure::BadResponse
            }
            _ => Failure::TunnelLost,
        }
    }
}
