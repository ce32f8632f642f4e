//! HTTP/1.1 to the app. A request's future drives the app's connection itself, so that a request costs no second task and
//! dropping it closes the connection.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tidegate_shared::interim::{Fate, Interims};
use tidegate_shared::message::{strip_agents, strip_hop_by_hop};
use tidegate_shared::pump::{Pump, Stop};
use tidegate_shared::seam::Wire;
use tokio::time::{Instant, Sleep, sleep};

use super::App;
use super::answer::{Asker, ENDLESS, Trouble, excess};
use super::connect::Line;
use super::framing;
use super::haste::Haste;
use super::request::{Upload, for_http1, is_idempotent};

/// What of a response is read at once; also the longest head (`reliability` asks for 64 KiB).
const BUFFER: usize = 64 * 1024;

/// Beyond the buffer, or beyond what hyper makes room for on the stack.
const TOO_LARGE: &str = "its head has more than 64 KiB, or more than 100 fields";

/// A request that cannot be repeated goes on a fresh connection rather than on one that has rested longer than this: the
/// app may be about to close it.
const FRESH_MS: u64 = 1_000;

/// A connection to the app.
#[derive(Debug)]
pub(super) struct Link {
    requests: SendRequest<Upload>,
    /// `None` once it is over.
    connection: Option<Connection<TokioIo<Line>, Upload>>,
    /// HTTP on it has ended.
    over: bool,
    haste: Arc<Haste>,
    /// Octets that the app's socket has taken.
    taken: Arc<AtomicU64>,
    interim: Arc<Interim>,
    pub(super) rested_since: u64,
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
pub(super) enum Miss {
    /// Nothing of it was sent; here it is again.
    Unsent(Box<Request<Upload>>),
    /// The connection ended, or broke, after some or all of it was sent, before any response.
    Closed,
    Invalid(String),
    Slow,
    /// The visitor went away.
    Unwanted,
}

impl Link {
    pub(super) async fn open(app: &App) -> Result<Box<Self>, Trouble> {
        let line = app.connect().await?;
        let (haste, taken) = (line.haste(), line.taken());
        let (requests, connection) = Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(line))
            .await
            .map_err(|error| Trouble::Invalid(error.to_string()))?;
        Ok(Box::new(Self {
            requests,
            connection: Some(connection),
            over: false,
            haste,
            taken,
            interim: Arc::default(),
            rested_since: 0,
        }))
    }

    /// Lets the connection read and write.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        drive(&mut self.connection, &mut self.over, cx)
    }

    /// Whether it could carry another request.
    pub(super) fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.requests.is_ready()
    }

    /// The same right after a response, when the connection has mostly been driven as far as it goes.
    fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        !self.over && (self.requests.is_ready() || self.is_open(cx))
    }

    /// Sends a request and waits for the head of its response, or for the visitor to go away.
    pub(super) async fn ask(
        &mut self,
        mut request: Request<Upload>,
        respond: &mut SendResponse<Bytes>,
        within: Option<Duration>,
    ) -> Result<Response<Incoming>, Miss> {
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
            if self.interim.pass(respond) {
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
            if respond.poll_reset(cx).is_ready() {
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

    /// Moves the body of a response to the visitor, and goes on with the request's. Says whether the connection is fit for
    /// another request.
    pub(super) async fn stream(&mut self, mut pump: Pump<Incoming>, app: &App) -> bool {
        let ended = poll_fn(|cx| {
            // A small body came together with the head.
            if let Poll::Ready(ended) = pump.poll(cx) {
                return Poll::Ready(ended);
            }
            if self.drive(cx).is_ready() {
                // What the app has said is with the body already.
                self.connection = None;
            }
            let ended = pump.poll(cx);
            if ended.is_pending() {
                self.haste.more_is_due(cx);
            }
            ended
        })
        .await;
        if let Err(stop) = ended {
            if let Stop::Body(error) = &stop
                && let Some(why) = fault_in_reading(error)
            {
                app.broke_off(why);
            }
            // A turn for the tunnel to send what came before the end, which the reset would overtake.
            tokio::task::yield_now().await;
            pump.reset(Reason::CANCEL);
            return false;
        }
        self.reusable(app.settings.rest_within).await
    }

    /// Whether it is fit for another request, after a response. An app may answer before it reads all of a body: what is left of
    /// it goes on until all is there, or either side gives it up, or nothing of it has moved for `rest_within`. Then it is
    /// called off: the app's connection is closed, and the tunnel's stream reset (RFC 9113 §8.1).
    pub(super) async fn reusable(&mut self, rest_within: Duration) -> bool {
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

    /// The socket, and what was read from it beyond the response: for what was upgraded.
    pub(super) fn into_parts(self) -> Option<(Line, Bytes)> {
        let parts = self.connection?.into_parts();
        Some((parts.io.into_inner(), parts.read_buf))
    }
}

/// Lets a connection read and write until it is over, and then leaves it alone.
fn drive(
    connection: &mut Option<Connection<TokioIo<Line>, Upload>>,
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
fn fault_in_reading(error: &hyper::Error) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
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
    fn pass(&self, respond: &mut SendResponse<Bytes>) -> bool {
        let mut hints = self.hints();
        for response in hints.waiting.drain(..) {
            // Only a visitor who has gone cannot be told.
            let _gone = respond.send_informational(response);
        }
        hints.endless
    }

    fn hints(&self) -> MutexGuard<'_, Hints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<TrySendError<Request<Upload>>> for Miss {
    fn from(mut error: TrySendError<Request<Upload>>) -> Self {
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

/// Serves one request. Ends when the response has gone to the visitor, or the visitor has gone, or either side broke off;
/// a response that the app did not finish is reset and never ended.
pub(super) async fn relay(
    app: Arc<App>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wire: Arc<Wire>,
) {
    let (mut head, recv) = request.into_parts();
    let asker = Asker::of(&head.method, &head.headers);
    let upload = Upload::new(recv, wire);
    for_http1(&mut head, app.settings.host.as_ref(), !upload.is_none());
    let (mut link, mut response) = match fetch(&app, head, upload, &mut respond).await {
        Ok(answered) => answered,
        Err(Some(trouble)) => return asker.send(&app, respond, &trouble),
        Err(None) => return,
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let why = "it changed the protocol, which nobody had asked for (RFC 9110 §7.8)";
        return asker.send(&app, respond, &Trouble::Invalid(why.to_owned()));
    }
    app.speaks();
    if let Some(excess) = excess(response.headers()) {
        return asker.send(&app, respond, &excess);
    }
    strip_agents(response.headers_mut());
    let Some(pump) = begin(response, respond) else {
        return;
    };
    let reusable = match pump {
        Some(pump) => link.stream(pump, &app).await,
        None => link.reusable(app.settings.rest_within).await,
    };
    if reusable {
        app.pool().put(app.now_ms(), link);
    }
}

/// Sends the head of the app's response, in which the agent has had its say. Returns what is left to do; nothing for a visitor who has gone.
#[expect(
    clippy::option_option,
    reason = "the outer one says whether to go on, the inner one whether there is a body"
)]
pub(super) fn begin(
    response: Response<Incoming>,
    mut respond: SendResponse<Bytes>,
) -> Option<Option<Pump<Incoming>>> {
    use http_body::Body as _;

    let (mut head, body) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_2;
    head.extensions.clear();
    let empty = body.is_end_stream();
    let stream = respond
        .send_response(Response::from_parts(head, ()), empty)
        .ok()?;
    Some((!empty).then(|| Pump::new(body, stream)))
}

/// Gets a response, on a connection that rests or on a fresh one. `Err(None)` when the visitor has gone.
async fn fetch(
    app: &App,
    head: Parts,
    upload: Upload,
    respond: &mut SendResponse<Bytes>,
) -> Result<(Box<Link>, Response<Incoming>), Option<Trouble>> {
    let repeatable = upload.is_none() && is_idempotent(&head.method);
    let within = app.settings.first_byte_within;
    let mut request = Request::from_parts(head, upload);
    let mut refused = false;
    while !refused
        && let Some(mut link) = app
            .pool()
            .take(app.now_ms(), if repeatable { u64::MAX } else { FRESH_MS })
    {
        // Apps close a connection right after a response too, so however short it rested the head is kept.
        let again = repeatable.then(|| head_of(&request));
        request = match (link.ask(request, respond, within).await, again) {
            (Ok(response), _) => return Ok((link, response)),
            (Err(Miss::Unsent(unsent)), _) => *unsent,
            // The app closed while the request was on its way to it. Once is chance; a fresh connection must tell.
            (Err(Miss::Closed), Some(again)) => {
                refused = true;
                again
            }
            (Err(miss), _) => return Err(miss.trouble(respond)),
        };
    }
    let mut link = connect(app, respond).await?;
    match link.ask(request, respond, within).await {
        Ok(response) => Ok((link, response)),
        Err(miss) => Err(miss.trouble(respond)),
    }
}

/// A fresh connection, unless the visitor goes away first.
pub(super) async fn connect(
    app: &App,
    respond: &mut SendResponse<Bytes>,
) -> Result<Box<Link>, Option<Trouble>> {
    let mut opening = pin!(Link::open(app));
    poll_fn(|cx| {
        if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
            return Poll::Ready(opened.map_err(Some));
        }
        respond.poll_reset(cx).map(|_gone| Err(None))
    })
    .await
}

/// The same request once more; only for one without a body.
fn head_of(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::None);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

impl Miss {
    /// What to tell the visitor, if there still is one.
    pub(super) fn trouble(self, respond: &mut SendResponse<Bytes>) -> Option<Trouble> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // An upload that the visitor broke off looks like a broken connection to the app.
        if respond.poll_reset(&mut cx).is_ready() {
            return None;
        }
        match self {
            Self::Unsent(_) | Self::Closed => Some(Trouble::Closed),
            Self::Invalid(why) => Some(Trouble::Invalid(why)),
            Self::Slow => Some(Trouble::Slow),
            Self::Unwanted => None,
        }
    }
}
