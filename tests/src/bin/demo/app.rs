//! The demo's own app: one page, and behind it the things that proxies like to break: what the app saw of a request,
//! server-sent events, a WebSocket, an upload. HTTP/1.1 on loopback; knows nothing of tunnels.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tidegate_shared::drain::Drain;
use tidegate_tests::websocket::accept;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::args::NAME;
use crate::echo;
use crate::stage::Ports;

const PAGE: &str = include_str!("page.html");

/// Between two ticks of the clock.
const TICK: Duration = Duration::from_secs(1);

/// An app that listens and has not served yet.
#[derive(Debug)]
pub(crate) struct App(TcpListener);

/// What the page tells about the way here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) ports: Ports,
    pub(crate) app: SocketAddr,
}

impl App {
    pub(crate) async fn bind() -> io::Result<Self> {
        TcpListener::bind("127.0.0.1:0").await.map(Self)
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until the drain begins. Each connection is a task of the drain's.
    pub(crate) async fn serve(self, facts: Facts, drain: Drain) {
        let site = Arc::new(Site { facts, drain });
        loop {
            let accepted = tokio::select! {
                () = site.drain.finishing() => return,
                accepted = self.0.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = connection(stream, Arc::clone(&site));
                    let _waited_for = site.drain.spawn(serving);
                }
                Err(error) => {
                    debug!("the app accepts no connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, site: Arc<Site>) {
    // Without it small answers wait for acknowledgements; that is slow and not wrong.
    let _slow = stream.set_nodelay(true);
    let drain = site.drain.clone();
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.respond(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = drain.finishing() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        debug!("a connection to the app ended: {error}");
    }
}

/// What every connection shares.
struct Site {
    facts: Facts,
    drain: Drain,
}

impl Site {
    async fn respond(&self, request: Request<Incoming>) -> Response<Content> {
        let path = request.uri().path();
        match (path, request.method()) {
            ("/upload", &Method::POST | &Method::PUT) => upload(request).await,
            ("/upload", _) => only("POST, PUT"),
            ("/" | "/seen" | "/clock" | "/echo", method)
                if !matches!(*method, Method::GET | Method::HEAD) =>
            {
                only("GET, HEAD")
            }
            ("/", _) if wants_page(request.headers()) => answer("text/html; charset=utf-8", PAGE),
            ("/", _) => answer("text/plain; charset=utf-8", self.text(&request)),
            ("/seen", _) => answer("application/json", self.seen(&request)),
            ("/clock", _) => self.clock(),
            ("/echo", _) => self.echo(request),
            _ => status(
                StatusCode::NOT_FOUND,
                "There is no such page; / has them all.\n",
            ),
        }
    }

    /// For those who read in a terminal what browsers get as a page.
    fn text(&self, request: &Request<Incoming>) -> String {
        let Facts { ports, app } = self.facts;
        let url = format!("http://{NAME}:{}", ports.visitors.port());
        let mut text = format!(
            "Tidegate demo: this answer came through a reversed tunnel.\n\n\
             visitor -> gateway {} -> tunnel {} (HTTP/2 over mTLS, dialled by the agent) -> agent {NAME} -> app {app}\n\n\
             What the app saw:\n\n  {} {} {:?}\n",
            ports.visitors,
            ports.tunnels,
            request.method(),
            request.uri(),
            request.version(),
        );
        for (name, value) in request.headers() {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "  {name}: {}", shown(value));
        }
        let _infallible = write!(
            text,
            "\nMore:\n\n  curl -N {url}/clock            server-sent events, one a second\n  \
             curl -T FILE {url}/upload      how fast a file goes up\n  \
             curl {url}/seen                the request as JSON\n",
        );
        text
    }

    fn seen(&self, request: &Request<Incoming>) -> String {
        let Facts { ports, app } = self.facts;
        let fields: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| json!([name.as_str(), shown(value)]))
            .collect();
        json!({
            "name": NAME,
            "gateway": { "visitors": ports.visitors, "tunnels": ports.tunnels, "admin": ports.admin },
            "app": app,
            "request": {
                "method": request.method().as_str(),
                "target": request.uri().to_string(),
                "version": format!("{:?}", request.version()),
                "fields": fields,
            },
        })
        .to_string()
            + "\n"
    }

    /// The time of day, each second, as an event stream.
    fn clock(&self) -> Response<Content> {
        let (give, take) = mpsc::channel(4);
        let drain = self.drain.clone();
        let _waited_for = self.drain.spawn(async move {
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            for number in 0_u64.. {
                tokio::select! {
                    () = drain.finishing() => return,
                    () = give.closed() => return,
                    _ = ticks.tick() => {}
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let event = format!(
                    "id: {number}\ndata: {}\n\n",
                    now.unwrap_or_default().as_millis()
                );
                // A visitor who takes nothing misses ticks: time is not worth waiting for.
                let _missed = give.try_send(Bytes::from(event));
            }
        });
        let mut response = Response::new(Content::Flowing(take));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn echo(&self, mut request: Request<Incoming>) -> Response<Content> {
        let fields = request.headers();
        let websocket = lists(fields, &UPGRADE, "websocket")
            && lists(fields, &CONNECTION, "upgrade")
            && fields.get(SEC_WEBSOCKET_VERSION).is_some_and(|v| v == "13");
        let key = fields
            .get(SEC_WEBSOCKET_KEY)
            .and_then(|key| key.to_str().ok())
            .map(accept)
            .and_then(|key| HeaderValue::from_str(&key).ok());
        let (true, Some(key)) = (websocket, key) else {
            let mut refused = status(
                StatusCode::UPGRADE_REQUIRED,
                "This is for WebSockets (RFC 6455).\n",
            );
            let headers = refused.headers_mut();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            return refused;
        };
        let upgraded = hyper::upgrade::on(&mut request);
        let drain = self.drain.clone();
        let _waited_for = self.drain.spawn(async move {
            let outcome = match upgraded.await {
                Ok(io) => echo::run(TokioIo::new(io), drain.finishing()).await,
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = outcome {
                debug!("a WebSocket ended: {error}");
            }
        });
        let mut response = Response::new(Content::Whole(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
        response
    }
}

/// Takes a body of any length and says how long it took.
async fn upload(request: Request<Incoming>) -> Response<Content> {
    let mut body = request.into_body();
    let (began, mut octets) = (Instant::now(), 0_u64);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => octets += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(error) => {
                let text = format!("The body broke off after {octets} octets: {error}.\n");
                return status(StatusCode::BAD_REQUEST, text);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    answer(
        "application/json",
        format!(
            "{}\n",
            json!({
                "octets": octets,
                "seconds": (seconds * 1e6).round() / 1e6,
                "megabytes_per_second": (octets as f64 / seconds.max(1e-6) / 1e4).round() / 1e2,
            })
        ),
    )
}

fn shown(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Whether a field's comma-separated list has the token.
fn lists(fields: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    fields
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn wants_page(fields: &HeaderMap) -> bool {
    fields
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

fn answer(kind: &'static str, body: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::Whole(body.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn status(status: StatusCode, text: impl Into<Bytes>) -> Response<Content> {
    let mut response = answer("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

fn only(methods: &'static str) -> Response<Content> {
    let text = format!("This is for {methods}.\n");
    let mut refused = status(StatusCode::METHOD_NOT_ALLOWED, text);
    refused
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    refused
}

/// A response's body.
#[derive(Debug)]
enum Content {
    Whole(Bytes),
    /// As it comes; ends when its sender goes.
    Flowing(mpsc::Receiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Flowing(pieces) => pieces
                .poll_recv(cx)
                .map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Flowing(_) => SizeHint::default(),
        }
    }
}
