//! What the operator asks: `/metrics`, `/live`, `/ready`, `/tunnels`; and what a gateway asks of one that ends: `/give-way`.
//! Loopback unless told otherwise; a page of another site that got a browser to ask is refused by its Host and Origin.

mod seats;
mod stray;
mod talk;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tidegate_shared::drain::Drain;
use tidegate_shared::name::visitor_host;
use tidegate_shared::when;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::pool::Pool;
use crate::succession::{Handover, Part};
use crate::tunnel::{Life, Tunnel};
use seats::Seats;
pub use stray::{LISTENER, Strays};
use talk::talk;

/// What the page shows.
#[derive(Debug)]
pub struct Admin {
    pub registry: Registry,
    pub pool: Arc<Pool>,
    pub handover: Arc<Handover>,
    pub address: SocketAddr,
    /// What came that is no question.
    pub strays: Strays,
}

/// Connections served at once. One more costs the oldest of its source, or of a busier one, its place.
const MOST: usize = 64;

/// How long one connection is served, whatever it does.
const CONNECTION_LIVES: Duration = Duration::from_secs(60);

/// Serves the page until the drain is over, so that a drain can be watched, or until another gateway takes the address.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, until: Drain) {
    let seats = Seats::new(MOST);
    loop {
        let accepted = tokio::select! {
            () = until.finishing() => return,
            () = admin.handover.given(Part::Page) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, source)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (admin, seat) = (Arc::clone(&admin), seats.take(source.ip().to_canonical()));
        until.spawn(async move {
            tokio::select! {
                () = connection(stream, source, admin) => {}
                () = seat.is_needed() => {}
            }
        });
    }
}

async fn connection(mut stream: TcpStream, source: SocketAddr, admin: Arc<Admin>) {
    let stray = |said: &[u8]| admin.strays.came(said, source);
    let stays = || !admin.handover.has_given(Part::Page);
    let talking = talk(&mut stream, |request| admin.respond(request), stays, stray);
    // One who does not read what it asked for must not keep its place from others.
    if let Ok(Err(error)) = timeout(CONNECTION_LIVES, talking).await {
        tracing::debug!("an admin connection failed: {error}");
    }
}

impl Admin {
    fn respond<B>(&self, request: &Request<B>) -> Response<Bytes> {
        if !self.is_meant(request) {
            let text = "This page is asked for by its own address, not by way of another site.\n";
            return answer(StatusCode::FORBIDDEN, TEXT, text.into());
        }
        if request.uri().path() == "/give-way" {
            return self.give_way(request.method());
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return only("GET", "GET, HEAD");
        }
        match request.uri().path() {
            "/live" => answer(StatusCode::OK, TEXT, "live\n".into()),
            "/ready" if self.handover.is_draining() => {
                answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".into())
            }
            "/ready" => answer(StatusCode::OK, TEXT, "ready\n".into()),
            "/metrics" => {
                let mut page = String::new();
                match encode(&mut page, &self.registry) {
                    Ok(()) => answer(StatusCode::OK, METRICS, page),
                    Err(error) => answer(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        TEXT,
                        format!("{error}\n"),
                    ),
                }
            }
            "/tunnels" => {
                let tunnels: Vec<Row> = self
                    .pool
                    .tunnels()
                    .iter()
                    .map(|tunnel| Row::of(tunnel))
                    .collect();
                match serde_json::to_string(&tunnels) {
                    Ok(list) => answer(StatusCode::OK, JSON, list),
                    Err(error) => answer(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        TEXT,
                        format!("{error}\n"),
                    ),
                }
            }
            "/" => answer(
                StatusCode::OK,
                TEXT,
                "tidegated: /metrics /live /ready /tunnels\n".into(),
            ),
            _ => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                "There is /metrics, /live, /ready and /tunnels.\n".into(),
            ),
        }
    }

    /// What another gateway asks that is to have this address.
    fn give_way(&self, method: &Method) -> Response<Bytes> {
        if *method != Method::POST {
            return only("POST", "POST");
        }
        if !self.handover.give(Part::Page) {
            let text = "This gateway is not draining and keeps its address; stop it, or choose another one for the other gateway.\n";
            return answer(StatusCode::CONFLICT, TEXT, text.into());
        }
        answer(StatusCode::OK, TEXT, "gives way\n".into())
    }

    /// Whether the request names an address and no other site's name, which a browser's page could have had resolved to
    /// this one, and comes from no page of another site.
    fn is_meant<B>(&self, request: &Request<B>) -> bool {
        let ours = |host: &[u8]| {
            visitor_host(host).is_ok_and(|host| {
                let name = host.name().trim_start_matches('[').trim_end_matches(']');
                name == "localhost"
                    || name.parse::<IpAddr>().is_ok()
                    || !self.address.ip().is_loopback()
            })
        };
        let host = request
            .headers()
            .get(HOST)
            .is_none_or(|host| ours(host.as_bytes()));
        let origin = request.headers().get(ORIGIN).is_none_or(|origin| {
            origin
                .as_bytes()
                .strip_prefix(b"http://")
                .is_some_and(&ours)
        });
        host && origin
    }
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// That a path takes no other method.
fn only(method: &str, allow: &'static str) -> Response<Bytes> {
    let text = format!("Only {method} is answered here.\n");
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// One tunnel, as `/tunnels` and `tidegated tunnels` show it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub id: u64,
    pub name: String,
    pub names: Vec<String>,
    pub agent: SocketAddr,
    pub state: String,
    /// Seconds since the epoch; `None` on clear text.
    pub certificate_expires: Option<u64>,
    pub age_seconds: u64,
    pub rtt_ms: Option<f64>,
    pub latency_ms: Option<f64>,
    pub streams: usize,
    pub requests: u64,
    pub failed: u64,
    pub octets_received: u64,
    pub octets_sent: u64,
    pub upgrades: bool,
}

impl Row {
    fn of(tunnel: &Tunnel) -> Self {
        let ms = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        let (octets_received, octets_sent) = tunnel.wire.octets();
        Self {
            id: tunnel.id,
            name: tunnel.agent.primary.to_string(),
            names: tunnel.agent.names.iter().map(ToString::to_string).collect(),
            agent: tunnel.agent.address,
            state: match tunnel.life() {
                Life::Filed if tunnel.outstanding() > 0 => "busy",
                Life::Filed => "idle",
                Life::Doubted => "doubted",
                Life::Draining => "draining",
                Life::Gone => "gone",
            }
            .to_owned(),
            certificate_expires: tunnel
                .agent
                .not_after
                .and_then(|end| end.duration_since(UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
            age_seconds: tunnel.since.elapsed().unwrap_or_default().as_secs(),
            rtt_ms: tunnel.rtt().map(ms),
            latency_ms: tunnel.latency().map(ms),
            streams: tunnel.outstanding(),
            requests: tunnel.sent(),
            failed: tunnel.failed(),
            octets_received,
            octets_sent,
            upgrades: tunnel.upgrades,
        }
    }

    /// When the certificate expires, for people.
    pub fn expires(&self) -> String {
        self.certificate_expires.map_or_else(
            || "-".to_owned(),
            |seconds| when::utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        )
    }
}
