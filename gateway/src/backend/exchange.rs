//! The life of one request to a backend: a server is picked, a connection found or opened, the request sent; and if that fails,
//! another server, where it is safe. The request's own future drives the server's connection.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::Body;
use tidegate_shared::clock;
use tidegate_shared::glance::Glance;
use tidegate_shared::message::{strip_agents, strip_seen};
use tidegate_shared::origin::{Head, Miss, is_idempotent};
use tokio::time::sleep;

use super::asking::{Asker, Patience};
use super::body::{Carried, Feed, Slot};
use super::head::{for_http1, for_http2};
use super::http2::answer::Begun;
use super::http2::ask::Upload;
use super::http2::seat::Seat;
use super::mismatch::AT_ONCE;
use super::passing::Passing;
use super::search::{Caller, Search};
use super::server::{Grant, InFlight, Kept, May, Server, Way, What};
use super::{Backend, answer, http2, upgrade};
use crate::access::Record;
use crate::exchange::{self, Ask, Gateway, Opened, Side};
use crate::failure::Failure;
use crate::forward::Outgoing;
use crate::pool::Unavailable;
use crate::spent::{Spent, Waited};
use crate::upload;

/// Sends a request of `source`'s to one of a backend's servers and waits for the head of its answer.
///
/// # Errors
/// Why there is none; the visitor is to be told.
pub async fn open<B, S>(
    gateway: &Gateway,
    backend: &Arc<Backend>,
    ask: Ask<B>,
    caller: &Caller<'_>,
    record: &mut Record,
    side: &mut S,
) -> Result<Opened<B>, Unavailable>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin + 'static,
    S: Side,
{
    record.backend = Some(Arc::clone(&backend.name));
    if let Some(protocol) = ask.protocol.clone() {
        return Box::pin(upgrade::open(
            gateway, backend, ask, &protocol, caller, record, side,
        ))
        .await
        .map_err(Unavailable::plain);
    }
    let idempotent = is_idempotent(&ask.head.method);
    let key = backend.key(caller.source, &ask.head.headers);
    let feed = ask.body.map(|body| {
        let mut body = upload::upload(Some(body), gateway.max_body, ask.mark);
        // What a connection of its own has taken of it is not asked for again. On one that is shared a server may say that it
        // did nothing with it.
        if !backend.shares() {
            body.settle();
        }
        Arc::new(Slot::new(body, ask.expects)) as Arc<dyn Feed>
    });
    let may = if idempotent && feed.is_none() {
        May::Rested
    } else {
        May::Recent
    };
    let mut errand = Errand {
        search: Search::new(backend, may, key, caller),
        head: for_http1(ask.head, feed.is_some()),
        holds_back: ask.expects && feed.is_some(),
        feed,
        idempotent,
        upgrades: false,
        repeats: 0,
    };
    let outcome = errand.run(gateway, record, side).await;
    side.body_due(None);
    record.upload.note(false);
    let (in_flight, reply) = outcome.map_err(Unavailable::plain)?;
    Ok(errand.answered(in_flight, reply, record))
}

/// One request, and what has been tried with it.
pub(super) struct Errand<'a> {
    search: Search<'a>,
    head: Box<Outgoing>,
    feed: Option<Arc<dyn Feed>>,
    /// The visitor waits for a 100 before it sends its body.
    holds_back: bool,
    idempotent: bool,
    /// It asks for a change of protocol.
    upgrades: bool,
    /// How often it was sent again.
    repeats: u32,
}

/// The head of an answer, and what the rest comes on.
pub(super) enum Reply {
    Http1(Kept, Response<()>),
    Http2(Box<Sharing>),
}

impl Reply {
    fn status(&self) -> StatusCode {
        match self {
            Self::Http1(_, response) => response.status(),
            Self::Http2(sharing) => sharing.response.status(),
        }
    }
}

/// The same on a connection that others use as well.
pub(super) struct Sharing {
    seat: Seat,
    response: Response<h2::RecvStream>,
    upload: Option<Upload>,
    taken: Arc<AtomicU64>,
}

/// Why an attempt came to nothing.
enum Lost {
    /// The visitor left, or what it sent is no request, or time is up.
    Over(Failure),
    /// A connection that had rested was closed, and nothing was sent on it.
    Stale,
    /// The server's failure. `sent` where it may have had an octet of the request.
    Failed { what: What, why: String, sent: bool },
}

impl What {
    const fn failure(self) -> Failure {
        match self {
            Self::Unreachable => Failure::BackendUnreachable,
            Self::Closed => Failure::BackendClosed,
            Self::Timeout | Self::Stalled => Failure::BackendTimeout,
            Self::Invalid => Failure::BackendInvalid,
            Self::Cut => Failure::ResponseCut,
        }
    }
}

impl<'a> Errand<'a> {
    /// One that asks for a change of protocol: on a connection of its own, which never comes back.
    pub(super) fn of_upgrade(
        backend: &'a Arc<Backend>,
        head: Box<Outgoing>,
        caller: &'a Caller<'a>,
    ) -> Self {
        let key = backend.key(caller.source, &head.headers);
        Self {
            search: Search::new(backend, May::Fresh, key, caller),
            head,
            feed: None,
            holds_back: false,
            idempotent: false,
            upgrades: true,
            repeats: 0,
        }
    }

    /// Goes from server to server until one has answered.
    pub(super) async fn run<S: Side>(
        &mut self,
        gateway: &Gateway,
        record: &mut Record,
        side: &mut S,
    ) -> Result<(InFlight, Reply), Failure> {
        loop {
            self.pause(side).await?;
            let (in_flight, grant, at) = self.admit(record, side).await?;
            let shared = matches!(grant, Grant::Shared(_));
            let kept = shared || matches!(grant, Grant::Kept(_));
            record.server = Some(Arc::clone(&in_flight.server));
            record.at = in_flight.at;
            let outcome = self.attempt(&in_flight, grant, at, record, side).await;
            // One on a connection that turned out to be closed has met no server.
            if !matches!(outcome, Err(Lost::Stale)) {
                record.attempts += 1;
                if record.attempts > 1 {
                    gateway.metrics.retries.inc();
                }
            }
            let (what, why, sent) = match outcome {
                Ok(reply) if self.is_asked_again(reply.status()) => {
                    in_flight.answered();
                    self.comes_back(&in_flight.server);
                    drop((reply, in_flight));
                    continue;
                }
                Ok(reply) => return Ok((in_flight, reply)),
                Err(Lost::Over(failure)) => return Err(failure),
                Err(Lost::Stale) => continue,
                Err(Lost::Failed { what, why, sent }) => (what, why, sent),
            };
            let repeatable = self.search.backend.terms.retry_on.covers(what)
                && self.is_there()
                && (self.idempotent || !sent)
                && self.repeats < self.search.backend.terms.retries;
            self.repeats += 1;
            if let Some(feed) = &self.feed {
                feed.rewind();
            }
            if what == What::Closed && kept && repeatable {
                // Servers close a connection right after a response too. Once is chance; a fresh one must tell. One that is
                // shared has gone for all who shared it, and they share the next.
                if !shared {
                    self.search.may = May::Fresh;
                }
                continue;
            }
            in_flight.failed(what, &why);
            self.search.failed_on(&in_flight.server);
            drop(in_flight);
            if !repeatable {
                return Err(what.failure());
            }
        }
    }

    /// Whether an answer with this status is not the visitor's: the request may be sent again, and is.
    fn is_asked_again(&self, status: StatusCode) -> bool {
        let terms = &self.search.backend.terms;
        terms.retry_on.covers_status(status)
            && self.idempotent
            && self.is_there()
            && self.repeats < terms.retries
    }

    /// It goes to another server than this one, if there is one.
    fn comes_back(&mut self, server: &Arc<Server>) {
        self.repeats += 1;
        if let Some(feed) = &self.feed {
            feed.rewind();
        }
        self.search.failed_on(server);
    }

    /// Whether all of the body can still be sent, or once more.
    fn is_there(&self) -> bool {
        let there = |feed: &Arc<dyn Feed>| !feed.progress().touched || feed.is_kept();
        self.feed.as_ref().is_none_or(there)
    }

    /// Gives a server some time with which the request has failed, where there is no other.
    async fn pause<S: Side>(&self, side: &mut S) -> Result<(), Failure> {
        match self.search.pause() {
            Some(wait) => until_over(sleep(wait), side).await,
            None => Ok(()),
        }
    }

    /// Finds a server and a connection, or the right to open one, and when; waits for it where every fit server is full.
    async fn admit<S: Side>(
        &self,
        record: &mut Record,
        side: &mut S,
    ) -> Result<(InFlight, Grant, Instant), Failure> {
        let before = record.seeks_since();
        if let Some((in_flight, grant)) = self.search.at_once(clock::ms(before))? {
            let at = Instant::now();
            record.pick += at.saturating_duration_since(before);
            return Ok((in_flight, grant, at));
        }
        let _spent = Spent::since(before, &mut record.hold);
        side.held(true);
        let found = until_over(self.search.wait_for_room(), side).await;
        side.held(false);
        let (in_flight, grant) = found??;
        Ok((in_flight, grant, Instant::now()))
    }

    /// Sends the request on a connection that was found, or on one that is opened for it.
    async fn attempt<S: Side>(
        &self,
        in_flight: &InFlight,
        grant: Grant,
        at: Instant,
        record: &mut Record,
        side: &mut S,
    ) -> Result<Reply, Lost> {
        let server = &in_flight.server;
        let rested = matches!(grant, Grant::Kept(_));
        match self.connection(server, grant, record, side).await? {
            Way::Http1(kept) => {
                let rested = rested.then_some(at);
                self.ask(server, kept, rested, record, side).await
            }
            // Boxed, so that a request in HTTP/1.1 does not keep the room that this needs.
            Way::Http2(seat) => Box::pin(self.ask_sharing(server, seat, record, side)).await,
        }
    }

    async fn ask<S: Side>(
        &self,
        server: &Server,
        mut kept: Kept,
        rested: Option<Instant>,
        record: &mut Record,
        side: &mut S,
    ) -> Result<Reply, Lost> {
        server.counts.requests.inc();
        let taken = kept.link.taken();
        let before = taken.load(Relaxed);
        let began = rested.unwrap_or_else(Instant::now);
        let rested = rested.is_some();
        let mut asker = self.asker(side, &mut record.received, &mut record.upload, &taken);
        let body = Carried::new(self.feed.as_ref());
        let asked = kept.link.ask(self.head(), body, &mut asker, None).await;
        let over = asker.over;
        if rested
            && matches!(asked, Err(Miss::Unsent(_) | Miss::Closed))
            && began.elapsed() < AT_ONCE
            && self.broke_off().is_none()
        {
            let now = clock::ms(began);
            let rested = now.saturating_sub(kept.link.rested_since());
            server.closed_resting(rested, now);
        }
        match asked {
            Ok(response)
                if response.status() == StatusCode::SWITCHING_PROTOCOLS && !self.upgrades =>
            {
                let why = "it changed the protocol, which nobody had asked for (RFC 9110 §7.8)";
                Err(self.missed(Miss::Invalid(why.into()), over, true))
            }
            Ok(response) => {
                server.speaks(response.status());
                Ok(Reply::Http1(kept, response))
            }
            Err(Miss::Unsent(_)) if rested => Err(Lost::Stale),
            Err(miss) => {
                let slow = matches!(miss, Miss::Unwanted | Miss::Slow);
                let lost = self.missed(miss, over, taken.load(Relaxed) != before);
                Err(match lost {
                    Lost::Failed { what, why, sent }
                        if !rested && !slow && began.elapsed() < AT_ONCE =>
                    {
                        let why = server.broke_off(why, kept.link.first());
                        Lost::Failed { what, why, sent }
                    }
                    lost => lost,
                })
            }
        }
    }

    /// The same on a connection that others use as well.
    async fn ask_sharing<S: Side>(
        &self,
        server: &Server,
        mut seat: Seat,
        record: &mut Record,
        side: &mut S,
    ) -> Result<Reply, Lost> {
        server.counts.requests.inc();
        let taken: Arc<AtomicU64> = Arc::default();
        let mut asker = self.asker(side, &mut record.received, &mut record.upload, &taken);
        let head = for_http2(&self.head, server.is_secured()).map_err(Lost::Over)?;
        let feed = self.feed.as_ref();
        // In doubt it goes elsewhere, if it may be sent once more.
        let terms = &self.search.backend.terms;
        let may_leave = self.idempotent
            && feed.is_none()
            && self.repeats < terms.retries
            && terms.retry_on.covers(What::Closed);
        let asked = http2::ask::ask(&mut seat, head, feed, &mut asker, &taken, may_leave).await;
        let over = asker.over;
        let (miss, sent) = match asked {
            Ok((response, upload)) => {
                return Ok(Reply::Http2(Box::new(Sharing {
                    seat,
                    response,
                    upload,
                    taken,
                })));
            }
            Err(http2::ask::Miss::Untaken(why)) => {
                return Err(Lost::Failed {
                    what: What::Closed,
                    why: why.to_owned(),
                    sent: false,
                });
            }
            Err(http2::ask::Miss::Silent(why)) => {
                return Err(Lost::Failed {
                    what: What::Closed,
                    why,
                    sent: true,
                });
            }
            Err(http2::ask::Miss::Closed) => (Miss::Closed, true),
            Err(http2::ask::Miss::Invalid(why)) => (Miss::Invalid(why.into()), true),
            Err(http2::ask::Miss::Unwanted) => {
                if let Some(fault) = self.broke_off() {
                    return Err(Lost::Over(fault));
                }
                (Miss::Unwanted, true)
            }
        };
        Err(self.missed(miss, over, sent))
    }

    fn asker<'b, S: Side>(
        &'b self,
        side: &'b mut S,
        received: &'b mut u64,
        upload: &'b mut Waited,
        taken: &Arc<AtomicU64>,
    ) -> Asker<'b, S> {
        let within = self.search.backend.terms.response;
        let patience = within.map(|within| Patience::new(within, Arc::clone(taken)));
        Asker::new(
            side,
            self.feed.as_deref(),
            self.holds_back,
            received,
            upload,
            patience,
        )
    }

    async fn connection<S: Side>(
        &self,
        server: &Arc<Server>,
        grant: Grant,
        record: &mut Record,
        side: &mut S,
    ) -> Result<Way, Lost> {
        let permit = match grant {
            Grant::Kept(kept) => {
                if self.search.may != May::Rested {
                    kept.link.look_first();
                }
                return Ok(Way::Http1(kept));
            }
            Grant::Shared(seat) => return Ok(Way::Http2(seat)),
            Grant::Fresh(permit) => permit,
        };
        let header = self.search.header();
        let began = Instant::now();
        // Boxed, so that a request that finds a connection does not keep the room that this needs.
        let connecting = Box::pin(async {
            if self.upgrades || !server.shares() {
                let connected = server.connect(permit, header, self.search.tie()).await;
                connected.map(Way::Http1)
            } else {
                server.join(permit, header, self.search.tie()).await
            }
        });
        let connected = {
            let _spent = Spent::since(began, &mut record.connect);
            until_over(connecting, side).await
        };
        connected.map_err(Lost::Over)?.map_err(|why| Lost::Failed {
            what: What::Unreachable,
            why,
            sent: false,
        })
    }

    /// Why the visitor's body has ended before its end, if it has: to the connection that looks as if the server had closed it.
    fn broke_off(&self) -> Option<Failure> {
        self.feed.as_ref().and_then(|feed| feed.progress().fault)
    }

    /// Whose failure it is that a request has no response. `over` where nobody waits any more, `sent` where the server has had
    /// an octet of it.
    fn missed(&self, miss: Miss<Carried>, over: Option<Failure>, sent: bool) -> Lost {
        let (what, why) = match (miss, over) {
            (Miss::Unwanted, Some(failure)) if failure != Failure::BackendTimeout => {
                return Lost::Over(failure);
            }
            (Miss::Unwanted | Miss::Slow, _) => {
                let within = self.search.backend.terms.response.unwrap_or_default();
                (
                    What::Timeout,
                    format!("nothing for {within:?} (response_timeout)"),
                )
            }
            (Miss::Invalid(why), _) => (What::Invalid, why.into_owned()),
            (Miss::Unsent(_) | Miss::Closed, _) => {
                if let Some(failure) = self.broke_off() {
                    return Lost::Over(failure);
                }
                let why = if sent {
                    "it had the request, or a part of it"
                } else {
                    "it had nothing of the request yet"
                };
                (What::Closed, why.to_owned())
            }
        };
        Lost::Failed { what, why, sent }
    }

    fn head(&self) -> Head<'_> {
        Head {
            method: &self.head.method,
            target: Some(&self.head.path),
            headers: &self.head.headers,
        }
    }

    /// An answer that has begun.
    pub(super) fn answered<B>(
        &mut self,
        in_flight: InFlight,
        reply: Reply,
        record: &mut Record,
    ) -> Opened<B> {
        in_flight.answered();
        let feed = self.feed.take();
        let mut held_back = false;
        if let Some(feed) = &feed {
            held_back = self.holds_back && feed.is_shut();
            // Whether it comes is the visitor's to decide from here on.
            feed.open();
            feed.settle();
        }
        let within = self.search.backend.terms.inactivity;
        let (mut parts, passing) = match reply {
            Reply::Http1(kept, response) => {
                let (parts, ()) = response.into_parts();
                let passing = answer::Passing::new(in_flight, kept, feed, held_back, within);
                (parts, Passing::Http1(passing))
            }
            Reply::Http2(sharing) => {
                let Sharing {
                    seat,
                    response,
                    upload,
                    taken,
                } = *sharing;
                let (mut parts, body) = response.into_parts();
                if parts.status == StatusCode::NO_CONTENT {
                    // It must not be there (RFC 9110 §8.6), whatever a server lets through.
                    parts.headers.remove(CONTENT_LENGTH);
                }
                let passing = http2::answer::Passing::new(Begun {
                    in_flight,
                    seat,
                    status: parts.status,
                    body,
                    upload,
                    feed,
                    held_back,
                    taken,
                    within,
                });
                (parts, Passing::Http2(passing))
            }
        };
        record.answered(parts.status, Instant::now());
        let glance = Glance::of_answer(&parts.headers);
        strip_seen(&mut parts.headers, glance);
        strip_agents(&mut parts.headers);
        parts.extensions.clear();
        Opened {
            parts,
            upgraded: None,
            way: exchange::Way::Backend(Box::new(passing)),
        }
    }
}

/// Waits for something, unless there is no use in waiting any more.
async fn until_over<S: Side, T>(
    something: impl Future<Output = T>,
    side: &mut S,
) -> Result<T, Failure> {
    let mut something = pin!(something);
    poll_fn(|cx| {
        if let Poll::Ready(failure) = side.poll_over(cx) {
            return Poll::Ready(Err(failure));
        }
        something.as_mut().poll(cx).map(Ok)
    })
    .await
}
