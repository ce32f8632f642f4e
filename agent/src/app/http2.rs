//! HTTP/2 with prior knowledge to the app: streams are relayed frame by frame, trailers included (gRPC). One connection per
//! worker, and another when the app lets no more streams onto those that are there; with `--proxy-protocol` the same for each
//! visitor's connection.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Ping, Reason, RecvStream};
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri, Version};
use tidegate_shared::inbound::Inbound;
use tidegate_shared::interim::{Fate, Interims};
use tidegate_shared::message::{strip_agents, strip_gateways, strip_hop_by_hop};
use tidegate_shared::origin::{ENDLESS, is_idempotent};
use tidegate_shared::pump::{Pump, Stop};
use tidegate_shared::rewind::Rewind;
use tidegate_shared::seam::Wire;
use tidegate_shared::visitor::Visitor;
use tidegate_shared::window;
use tokio::time::{Instant, sleep, timeout};

use super::App;
use super::answer::{Asker, Trouble, excess};
use super::bound::REST_MS as BOUND_REST_MS;
use super::greeting::Greeting;
use super::request::{path_of, set_host};

/// The worker's connections to the app.
#[derive(Debug, Default)]
pub(super) struct Links {
    open: Mutex<Vec<Link>>,
}

#[derive(Clone, Debug)]
struct Link {
    requests: SendRequest<Bytes>,
    /// One clone per stream, and one in [`Links`].
    in_flight: Arc<()>,
    /// Whose it is, where it began with a header that says so.
    of: Option<Arc<Visitor>>,
    /// Since when nothing has been in flight on it, as far as the sweep has seen; for those of visitors.
    idle_since: Option<u64>,
}

/// Most connections of one worker; with `--proxy-protocol`, for one visitor's connection.
const MOST: usize = 16;

/// Most connections of one worker that are kept for more requests of their visitors.
const MOST_BOUND: usize = 512;

/// What the app may send ahead on all streams of one connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The largest header list taken from an app.
const HEADER_LIST: u32 = 64 * 1024;

/// How long an app may take to answer the first PING: with that its SETTINGS have arrived.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);

impl Links {
    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of this visitor's, or of nobody's, with room for a stream; the last one, full or not, when there are as
    /// many as there may be.
    fn take(&self, of: Option<&Arc<Visitor>>) -> Option<Link> {
        let mut open = self.lock();
        let mut cx = Context::from_waker(Waker::noop());
        open.retain_mut(|link| {
            !matches!(link.requests.poll_ready(&mut cx), Poll::Ready(Err(_over)))
        });
        let room = |link: &&Link| {
            Arc::strong_count(&link.in_flight) <= link.requests.current_max_send_streams()
        };
        let its = || open.iter().filter(|link| link.of.as_ref() == of);
        let full = its().count() >= MOST;
        its()
            .find(room)
            .or_else(|| its().next_back().filter(|_| full))
            .cloned()
    }

    /// Keeps a connection. There is room for so many visitors: one of whom nothing is in flight makes room for another, and
    /// where there is none, the connection ends with its request.
    fn put(&self, link: Link) {
        let mut open = self.lock();
        if link.of.is_some() && open.len() >= MOST_BOUND {
            let idle = open
                .iter()
                .position(|link| Arc::strong_count(&link.in_flight) == 1);
            let Some(idle) = idle else { return };
            open.remove(idle);
        }
        open.push(link);
    }

    /// Lets visitors' connections end on which nothing has been in flight for a while.
    pub(super) fn sweep(&self, now: u64) {
        self.lock().retain_mut(|link| {
            if link.of.is_none() || Arc::strong_count(&link.in_flight) > 1 {
                link.idle_since = None;
                return true;
            }
            now.saturating_sub(*link.idle_since.get_or_insert(now)) < BOUND_REST_MS
        });
    }

    /// Lets the connections end with their last stream.
    fn clear(&self) {
        self.lock().clear();
    }
}

impl App {
    async fn link(self: &Arc<Self>, greeting: Option<&Greeting>) -> Result<Link, Trouble> {
        let of = greeting.and_then(Greeting::visitor);
        // A connection of which nobody knows whose it is serves the request that it was made for.
        let known = greeting.is_none() || of.is_some();
        match known.then(|| self.links().take(of)).flatten() {
            Some(link) => Ok(link),
            None => self.fresh_link(greeting).await,
        }
    }

    async fn fresh_link(self: &Arc<Self>, greeting: Option<&Greeting>) -> Result<Link, Trouble> {
        let of = greeting.and_then(Greeting::visitor);
        let line = self.connect(greeting).await?;
        let invalid = |error: h2::Error| Trouble::Invalid(error.to_string().into());
        let (requests, mut connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(window::BASE)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_local_error_reset_streams(None)
            .handshake(line)
            .await
            .map_err(invalid)?;
        let pings = connection.ping_pong();
        let app = Arc::clone(self);
        let _detached = self.drain.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = app.drain.finishing() => {
                    app.links().clear();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!("an HTTP/2 connection to the app ended: {error}");
            }
        });
        if let Some(mut pings) = pings {
            match timeout(SETTLE_WITHIN, pings.ping(Ping::opaque())).await {
                Ok(answered) => answered.map_err(invalid)?,
                Err(_elapsed) => return Err(Trouble::Slow),
            };
        }
        let link = Link {
            requests,
            in_flight: Arc::default(),
            of: of.cloned(),
            idle_since: None,
        };
        if !self.drain.is_finishing() && (greeting.is_none() || of.is_some()) {
            self.links().put(link.clone());
        }
        Ok(link)
    }
}

/// Serves one request, or one upgraded stream. Ends when the app's response has gone to the visitor, or either side broke
/// off; dropping it resets the app's stream.
pub(super) async fn relay(
    app: Arc<App>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wire: Arc<Wire>,
) {
    let greeting = app.greeting(&request, &wire);
    let (mut head, recv) = request.into_parts();
    let asker = Asker::of(&head.method, &head.headers);
    for_http2(&mut head, &app);
    let body = (!recv.is_end_stream()).then(|| Rewind::new(Some(Inbound::counted(recv, wire))));
    let request = Request::from_parts(head, ());
    let mut open = match fetch(&app, &request, body, greeting.as_ref(), &mut respond).await {
        Ok(open) => open,
        Err(Some(trouble)) => return asker.send(&app, respond, &trouble),
        Err(None) => return,
    };
    app.speaks(open.response.status());
    if let Some(excess) = excess(open.response.headers()) {
        return asker.send(&app, respond, &excess);
    }
    let (mut head, body) = open.response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    strip_agents(&mut head.headers);
    head.extensions.clear();
    let empty = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), empty) else {
        return;
    };
    if !empty {
        let mut download = Pump::new(Inbound::new(body), stream);
        let whole = poll_fn(|cx| {
            if let Err(Unwanted) = push(&mut open.upload, cx) {
                return Poll::Ready(false);
            }
            download.poll(cx).map(|ended| {
                if let Err(Stop::Body(error)) = &ended
                    && (error.is_remote() || error.is_io())
                {
                    app.broke_off(error);
                }
                ended.is_ok()
            })
        });
        if !whole.await {
            return;
        }
    }
    finish(open.upload, app.settings.rest_within).await;
}

/// Goes on with the body of a request that is answered, until all is there, or either side gives it up, or nothing of it
/// has moved for `within`.
async fn finish(mut upload: Option<Upload>, within: Duration) {
    let mut limit = pin!(sleep(within));
    let mut moved = 0;
    poll_fn(|cx| {
        if push(&mut upload, cx).is_err() {
            return Poll::Ready(());
        }
        let Some(pump) = &upload else {
            return Poll::Ready(());
        };
        if pump.sent() != moved {
            moved = pump.sent();
            limit.as_mut().reset(Instant::now() + within);
        }
        limit.as_mut().poll(cx)
    })
    .await;
}

/// A request that the app has begun to answer.
struct Open {
    response: Response<RecvStream>,
    upload: Option<Upload>,
    _in_flight: Arc<()>,
}

/// The visitor broke the upload off.
struct Unwanted;

/// A request's body on its way, all of it while it may have to be said once more.
type Upload = Pump<Rewind<Inbound>>;

/// Moves the request's body on, if there still is one.
fn push(upload: &mut Option<Upload>, cx: &mut Context<'_>) -> Result<(), Unwanted> {
    // What the app no longer wants is left to the visitor's window; its answer says the rest.
    if let Some(pump) = upload
        && is_over(pump, cx)?
    {
        *upload = None;
    }
    Ok(())
}

/// Moves it on; whether there is nothing left to move, or nobody who wants it.
fn is_over(pump: &mut Upload, cx: &mut Context<'_>) -> Result<bool, Unwanted> {
    match pump.poll(cx) {
        Poll::Pending => Ok(false),
        Poll::Ready(Err(Stop::Body(_))) => Err(Unwanted),
        Poll::Ready(Ok(()) | Err(Stop::Reset(_) | Stop::Gone(_))) => Ok(true),
    }
}

fn for_http2(head: &mut Parts, app: &App) {
    let target = &app.settings.target;
    set_host(&mut head.headers, &head.uri, app.settings.host.as_ref());
    strip_hop_by_hop(&mut head.headers);
    strip_gateways(&mut head.headers);
    let authority = head
        .headers
        .remove(HOST)
        .and_then(|host| Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok())
        .or_else(|| target.authority().parse().ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if target.tls() {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    });
    parts.authority = authority;
    parts.path_and_query = Some(path_of(&head.uri));
    head.uri = Uri::from_parts(parts).unwrap_or_default();
    head.version = Version::HTTP_2;
    let protocol = head.extensions.get::<Protocol>().cloned();
    head.extensions.clear();
    if let Some(protocol) = protocol {
        head.extensions.insert(protocol);
    }
}

/// How often an app is asked that says it has not begun with a request (RFC 9113 §8.7).
const ATTEMPTS: u32 = 4;

/// How long before it is asked for the third time; twice as long before the fourth.
const PAUSE: Duration = Duration::from_millis(100);

/// Gets the head of a response; `Err(None)` when the visitor has gone. What the app has not begun with is asked again, if its body
/// is kept; and a request without one that may be repeated once more when the connection ended before the app said anything.
async fn fetch(
    app: &Arc<App>,
    request: &Request<()>,
    mut body: Option<Rewind<Inbound>>,
    greeting: Option<&Greeting>,
    respond: &mut SendResponse<Bytes>,
) -> Result<Open, Option<Trouble>> {
    let mut repeatable = body.is_none() && is_idempotent(request.method());
    let mut attempt = 1;
    loop {
        let link = link_for(app, request, greeting, respond).await?;
        let mut requests = link.requests;
        let (response, stream) = requests
            .send_request(request.clone(), body.is_none())
            .map_err(|error| Some(Trouble::Invalid(error.to_string().into())))?;
        let mut upload = body.take().map(|body| Pump::new(body, stream));
        let limit = app.settings.first_byte_within;
        let error = match head_of(response, &mut upload, respond, limit).await {
            Ok(response) => {
                if let Some(upload) = &mut upload {
                    upload.body_mut().settle();
                }
                return Ok(Open {
                    response,
                    upload,
                    _in_flight: link.in_flight,
                });
            }
            Err(Miss::Unwanted) => return Err(None),
            Err(Miss::Slow) => return Err(Some(Trouble::Slow)),
            Err(Miss::Endless) => return Err(Some(Trouble::Invalid(ENDLESS.into()))),
            Err(Miss::Broken(error)) => error,
        };
        let untaken = is_untaken(&error);
        let broke_off = error.is_io() || error.is_go_away();
        let again = untaken && attempt < ATTEMPTS || broke_off && std::mem::take(&mut repeatable);
        if !again {
            return Err(Some(in_words(&error)));
        }
        if let Some(upload) = upload {
            let whole = upload.into_body().rewound();
            body = Some(whole.ok_or_else(|| Some(in_words(&error)))?);
        }
        pause(attempt, respond).await?;
        attempt += 1;
    }
}

/// Whether the app says that it has not begun with the request: of one stream, or of those above the last that its GOAWAY counts.
fn is_untaken(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// Before a request is asked once more, unless the visitor goes away first.
async fn pause(attempt: u32, respond: &mut SendResponse<Bytes>) -> Result<(), Option<Trouble>> {
    if attempt == 1 {
        return Ok(());
    }
    let mut pause = pin!(sleep(PAUSE * (attempt - 1)));
    poll_fn(|cx| {
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(None));
        }
        pause.as_mut().poll(cx).map(Ok)
    })
    .await
}

/// What is wrong with an app that has not answered but spoken.
fn in_words(error: &h2::Error) -> Trouble {
    match error.reason() {
        Some(reason) if error.is_reset() => Trouble::Reset(reason),
        None if error.is_io() => Trouble::Closed,
        _ => Trouble::Invalid(error.to_string().into()),
    }
}

/// A connection that takes the request, unless the visitor goes away first.
async fn link_for(
    app: &Arc<App>,
    request: &Request<()>,
    greeting: Option<&Greeting>,
    respond: &mut SendResponse<Bytes>,
) -> Result<Link, Option<Trouble>> {
    let upgrade = request.extensions().get::<Protocol>().is_some();
    let mut opening = pin!(async {
        let mut link = app.link(greeting).await?;
        if poll_fn(|cx| link.requests.poll_ready(cx)).await.is_err() {
            link = app.fresh_link(greeting).await?;
        }
        if upgrade && !link.requests.is_extended_connect_protocol_enabled() {
            return Err(Trouble::UpgradeInvalid(
                "it does not offer extended CONNECT (RFC 8441 §3)",
            ));
        }
        Ok(link)
    });
    poll_fn(|cx| {
        if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
            return Poll::Ready(opened.map_err(Some));
        }
        respond.poll_reset(cx).map(|_gone| Err(None))
    })
    .await
}

enum Miss {
    Broken(h2::Error),
    /// Interim responses without end.
    Endless,
    Slow,
    Unwanted,
}

/// Waits for the head of a response, while the request's body goes on and interim responses pass.
async fn head_of(
    response: ResponseFuture,
    upload: &mut Option<Upload>,
    respond: &mut SendResponse<Bytes>,
    within: Option<Duration>,
) -> Result<Response<RecvStream>, Miss> {
    let mut response = response;
    let mut met = Interims::default();
    let mut limit = pin!(within.map(sleep));
    poll_fn(|cx| {
        // Kept though it may be over: the app may say that it has not begun with it.
        if let Some(upload) = upload
            && let Err(Unwanted) = is_over(upload, cx)
        {
            return Poll::Ready(Err(Miss::Unwanted));
        }
        while let Poll::Ready(Some(Ok(mut interim))) = response.poll_informational(cx) {
            match met.meet(&mut interim) {
                // Only a visitor who has gone cannot be told.
                Fate::Pass => drop(respond.send_informational(interim)),
                Fate::Drop => {}
                Fate::Flood => return Poll::Ready(Err(Miss::Endless)),
            }
        }
        if let Poll::Ready(answer) = Pin::new(&mut response).poll(cx) {
            return Poll::Ready(answer.map_err(Miss::Broken));
        }
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Miss::Unwanted));
        }
        match limit.as_mut().as_pin_mut().map(|limit| limit.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(Miss::Slow)),
            _ => Poll::Pending,
        }
    })
    .await
}
