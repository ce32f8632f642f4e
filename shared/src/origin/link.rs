//! One connection to an app, and one request after another on it. The request's own future drives it.

use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep};

use super::haste::Haste;
use super::{Asking, ENDLESS, First, Line, Upload, framing};
use crate::interim::{Fate, Interims};

/// What of a response is read at once; also the longest head (`reliability` asks for 64 KiB).
const BUFFER: usize = 64 * 1024;

/// Beyond the buffer, or beyond what hyper makes room for on the stack.
const TOO_LARGE: &str = "its head has more than 64 KiB, or more than 100 fields";

/// A connection to an app, whose requests have bodies of the kind `B`.
#[derive(Debug)]
pub struct Link<B: Upload> {
    requests: SendRequest<B>,
    /// `None` once it is over.
    connection: Option<Connection<TokioIo<Line>, B>>,
    /// HTTP on it has ended.
    over: bool,
    haste: Arc<Haste>,
    /// Octets that the app's socket has taken.
    taken: Arc<AtomicU64>,
    first: Arc<First>,
    interim: Arc<Interim>,
    rested_since: u64,
}

/// Interim responses (1xx) of the request in hand.
#[derive(Debug, Default)]
struct Interim(Mutex<Hints>);

#[derive(Debug, Default)]
struct Hints {
    /// To be sent on.
    waiting: Vec<Response<()>>,
    met: Interims,
    /// There is no end of them.
    endless: bool,
}

/// Why a request has no response.
#[derive(Debug)]
pub enum Miss<B> {
    /// Nothing of it was sent; here it is again.
    Unsent(Box<Request<B>>),
    /// The connection ended, or broke, after some or all of it was sent, before any response.
    Closed,
    /// What the app answered is not HTTP as it should be, for this.
    Invalid(String),
    /// No head of a response within the limit.
    Slow,
    /// Nobody waits for it any more.
    Unwanted,
}

impl<B: Upload> Link<B> {
    /// Begins HTTP/1.1 on a connection.
    ///
    /// # Errors
    /// hyper's own, which has none for this as it is used here.
    pub async fn open(line: Line) -> Result<Box<Self>, hyper::Error> {
        let (haste, taken, first) = (line.haste(), line.taken(), line.first());
        let (requests, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(line))
            .await?;
        Ok(Box::new(Self {
            requests,
            connection: Some(connection),
            over: false,
            haste,
            taken,
            first,
            interim: Arc::default(),
            rested_since: 0,
        }))
    }

    /// Lets the connection read and write. Ready when HTTP on it has ended.
    ///
    /// # Errors
    /// hyper's own.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        drive(&mut self.connection, &mut self.over, cx)
    }

    /// The same for the body of a response that is being read: a connection that is over is closed, for what the app has
    /// said on it is with the body already.
    pub fn go_on(&mut self, cx: &mut Context<'_>) {
        if self.drive(cx).is_ready() {
            self.connection = None;
        }
    }

    /// More of the response is due, and is asked for: what came of it is acknowledged in the caller's next turn.
    pub fn more_is_due(&self, cx: &Context<'_>) {
        self.haste.more_is_due(cx);
    }

    /// How many octets the app has taken on it, kept by the connection itself.
    pub fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    /// What the app said first on it, kept by the connection itself.
    pub fn first(&self) -> &First {
        &self.first
    }

    /// Before a request that must not be lost: if the app has closed the connection, or said something that nobody asked for,
    /// the request comes back unsent, even where the runtime has not heard of it yet.
    pub fn look_first(&self) {
        self.haste.doubt();
    }

    /// It waits for another request from this moment on, in milliseconds of a clock of the caller's.
    pub const fn comes_to_rest(&mut self, now: u64) {
        self.rested_since = now;
    }

    /// Since when it has waited, by that clock.
    pub const fn rested_since(&self) -> u64 {
        self.rested_since
    }

    /// Whether HTTP on it has ended.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it waits for another request, as far as it has been driven.
    pub fn is_ready(&self) -> bool {
        !self.over && self.requests.is_ready()
    }

    /// Whether it could carry another request.
    pub(super) fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.requests.is_ready()
    }

    /// The same right after a response, when the connection has mostly been driven as far as it goes.
    pub fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_ready() || (!self.over && self.is_open(cx))
    }

    /// Sends a request and waits for the head of its response, `within` at most, or for the one who asks to go away.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask<A: Asking>(
        &mut self,
        mut request: Request<B>,
        asking: &mut A,
        within: Option<Duration>,
    ) -> Result<Response<Incoming>, Miss<B>> {
        self.interim.begin();
        let interim = Arc::clone(&self.interim);
        hyper::ext::on_informational(&mut request, move |response| {
            interim.note(response.status(), response.headers());
        });
        let mut response = pin!(self.requests.try_send_request(request));
        let settled = |mut response: Response<Incoming>| match framing::settle(&mut response) {
            Ok(()) => Ok(response),
            Err(why) => Err(Miss::Invalid(why.to_owned())),
        };
        let mut limit = pin!(within.map(sleep));
        let mut handed_over = false;
        self.haste.rest();
        poll_fn(|cx| {
            // The request is in the connection's queue before the connection is driven: one turn writes it.
            if !handed_over {
                handed_over = true;
                if let Poll::Ready(answer) = response.as_mut().poll(cx) {
                    return Poll::Ready(answer.map_err(Miss::from).and_then(settled));
                }
            }
            let over = drive(&mut self.connection, &mut self.over, cx);
            if self.interim.pass(asking) {
                return Poll::Ready(Err(Miss::Invalid(ENDLESS.to_owned())));
            }
            if let Poll::Ready(answer) = response.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(Miss::from).and_then(settled));
            }
            if over.is_ready() {
                // What still waits in the connection's queue comes back when the connection is dropped.
                self.connection = None;
                return match response.as_mut().poll(cx) {
                    Poll::Ready(answer) => {
                        Poll::Ready(answer.map_err(Miss::from).and_then(settled))
                    }
                    Poll::Pending => Poll::Ready(Err(Miss::Closed)),
                };
            }
            if asking.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Miss::Unwanted));
            }
            if is_over(limit.as_mut().as_pin_mut(), cx) {
                return Poll::Ready(Err(Miss::Slow));
            }
            self.haste.more_is_due(cx);
            Poll::Pending
        })
        .await
    }

    /// Whether it is fit for another request, after a response. An app may answer before it reads all of a body: what is left of
    /// it goes on until all is there, or either side gives it up, or nothing of it has moved for `rest_within`. Then it is
    /// called off: the connection is to be closed, and so the visitor told (RFC 9113 §8.1).
    pub async fn reusable(&mut self, rest_within: Duration) -> bool {
        let mut limit: Pin<&mut Option<Sleep>> = pin!(None);
        let mut taken = 0;
        poll_fn(|cx| {
            if self.is_reusable(cx) {
                return Poll::Ready(true);
            }
            if self.over {
                return Poll::Ready(false);
            }
            let by_now = self.taken.load(Relaxed);
            if let Some(limit) = limit.as_mut().as_pin_mut() {
                if by_now != taken {
                    limit.reset(Instant::now() + rest_within);
                }
            } else {
                limit.set(Some(sleep(rest_within)));
            }
            taken = by_now;
            is_over(limit.as_mut().as_pin_mut(), cx)
                .then_some(false)
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Ends it so that nothing of it is left, on either side: where one after the other is opened and closed, those that are left
    /// would take all ports.
    pub fn close_abruptly(self) {
        if let Some((line, _)) = self.into_parts() {
            line.close_abruptly();
        }
    }

    /// The socket, and what was read from it beyond the response: for what was upgraded.
    pub fn into_parts(self) -> Option<(Line, Bytes)> {
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Lets a connection read and write until it is over, and then leaves it alone.
fn drive<B: Upload>(
    connection: &mut Option<Connection<TokioIo<Line>, B>>,
    over: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), hyper::Error>> {
    match connection {
        Some(connection) if !*over => {
            let driven = connection.poll_without_shutdown(cx);
            *over = driven.is_ready();
            driven
        }
        _ => Poll::Ready(Ok(())),
    }
}

/// What the app did wrong in the middle of an answer. `None` where the connection ended for the request's sake: then hyper has
/// nothing of the socket's to tell.
pub fn fault_in_reading(error: &hyper::Error) -> Option<&io::Error> {
    error.source()?.downcast_ref()
}

/// Polls a limit that may not be there.
fn is_over(limit: Option<Pin<&mut Sleep>>, cx: &mut Context<'_>) -> bool {
    limit.is_some_and(|limit| limit.poll(cx).is_ready())
}

impl Interim {
    /// Another request is in hand.
    fn begin(&self) {
        *self.hints() = Hints::default();
    }

    /// Takes note of what the app has said.
    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        let mut copy = Response::new(());
        *copy.status_mut() = status;
        *copy.headers_mut() = headers.clone();
        *copy.version_mut() = Version::HTTP_2;
        let mut hints = self.hints();
        match hints.met.meet(&mut copy) {
            Fate::Pass => hints.waiting.push(copy),
            Fate::Drop => {}
            Fate::Flood => hints.endless = true,
        }
    }

    /// Sends on what is to be sent on; whether there is no end of them.
    fn pass<A: Asking>(&self, asking: &mut A) -> bool {
        let mut hints = self.hints();
        for response in hints.waiting.drain(..) {
            asking.interim(response);
        }
        hints.endless
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> From<TrySendError<Request<B>>> for Miss<B> {
    fn from(mut error: TrySendError<Request<B>>) -> Self {
        if let Some(request) = error.take_message() {
            return Self::Unsent(Box::new(request));
        }
        let error = error.into_error();
        if error.is_parse() {
            // hyper has a question for it in its servers only.
            let text = error.to_string();
            let large = text.contains("too large");
            Self::Invalid(if large { TOO_LARGE.to_owned() } else { text })
        } else {
            Self::Closed
        }
    }
}
