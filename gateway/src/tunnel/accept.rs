//! From a TCP connection on the tunnel listener to a tunnel in the pool, one type per step: nothing is filed whose
//! certificate has not been named and whose SETTINGS have not arrived.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tidegate_certs::peer::PeerCertificate;
use tidegate_shared::drain::Drain;
use tidegate_shared::name::NamePattern;
use tidegate_shared::reversal::Seen;
use tidegate_shared::reversal::frames::{NO_SETTINGS, goaway};
use tidegate_shared::reversal::io::{Accepted, Terms, accept};
use tidegate_shared::socket::poll_write_pieces;
use tidegate_shared::tls::{HandshakeFault, Trust, require_h2};
use tidegate_shared::workers;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use super::drive::{Care, drive};
use super::places::Places;
use super::{Agent, Ending, Tunnel};
use crate::door::{Kind, Taken};
use crate::listen::Gate;
use crate::metrics::{Ids, Metrics};
use crate::pool::Pool;
use crate::source::Entry;
use crate::visitor::{Expected, Scene};

/// What the tunnel listener needs to bring tunnels up.
#[derive(Debug)]
pub struct Intake {
    pub pool: Arc<Pool>,
    pub metrics: Arc<Metrics>,
    pub terms: Terms,
    pub care: Care,
    pub handshake_within: Duration,
    /// Whether agents may hold wildcards.
    pub wildcards: bool,
    /// The names that agents may bring; `None` for any.
    pub names: Option<Arc<[NamePattern]>>,
    pub drain: Drain,
    pub ids: Ids,
}

/// How a tunnel's connection is secured.
#[derive(Clone, Debug)]
pub enum Security {
    Tls(Arc<Trust<ServerConfig>>),
    /// Clear text: the names come from the configuration, because nothing on the wire can be believed.
    Clear(Arc<[NamePattern]>),
}

/// Why a connection did not become a tunnel.
struct Refused {
    layer: &'static str,
    /// One of a few words, more exact than the layer.
    label: &'static str,
    why: String,
    /// Where there is still a stream to say so on.
    tell: Option<TlsStream<Gag>>,
    /// An answer that TLS wanted to give and that waits for the end of the pause.
    gagged: Option<Gag>,
}

impl Refused {
    fn new(layer: &'static str, label: &'static str, why: impl Into<String>) -> Self {
        Self {
            layer,
            label,
            why: why.into(),
            tell: None,
            gagged: None,
        }
    }
}

impl Intake {
    /// Brings up one tunnel and drives it until it is gone. Runs on the worker that is to keep it.
    pub async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        header: Option<Taken>,
        gate: &Gate,
        mut entry: Entry,
    ) {
        if let Some(pause) = entry.wait(Instant::now()) {
            sleep(pause).await;
        }
        let scene = Scene {
            header,
            ..Scene::at(&gate.door, header.map_or(address, |header| header.by))
        };
        let opening = async {
            match &gate.security {
                // Boxed, so that a tunnel does not keep the room that its handshake needed.
                Security::Tls(trust) => {
                    Box::pin(self.secured(stream, address, trust.config(), scene)).await
                }
                Security::Clear(names) => Box::pin(self.clear(stream, address, names, scene)).await,
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = opening => outcome,
            () = self.drain.idle_over() => return,
        };
        let driving = match outcome {
            Ok(driving) => {
                if let Some(header) = header.filter(Taken::is_nameless) {
                    gate.door.came_for_nobody(header, "an agent's tunnel");
                }
                entry.succeeded();
                drop(entry);
                driving
            }
            Err(refused) => return Box::pin(self.hold_back(refused, address, &mut entry)).await,
        };
        driving.await;
    }

    async fn secured(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        config: Arc<ServerConfig>,
        scene: Scene<'_>,
    ) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, Refused> {
        let handshake = async {
            let door = scene.door;
            let seen = door.look_before_tls(&stream, address, scene.header).await;
            if seen.is_some_and(|seen| seen != Seen::Nothing) {
                door.counters.mismatch(Kind::ClearText);
            }
            TlsAcceptor::from(config)
                .accept(Gag::new(stream))
                .into_fallible()
                .await
        };
        let tls = match timeout(self.handshake_within, handshake).await {
            Ok(Ok(tls)) => tls,
            Ok(Err((error, gagged))) => {
                let fault = HandshakeFault::from_io(&error);
                let mut refused =
                    Refused::new(fault.layer.as_str(), fault.label, fault.to_string());
                refused.gagged = Some(gagged);
                return Err(refused);
            }
            Err(_elapsed) => {
                let why = format!(
                    "the TLS handshake was not finished within {:?}",
                    self.handshake_within
                );
                return Err(Refused::new("tls", "timeout", why));
            }
        };
        let mut tls = tls;
        tls.get_mut().0.release();
        let session = tls.get_ref().1;
        if let Err(fault) = require_h2(session) {
            return Err(Refused::new("alpn", fault.label, fault.to_string()));
        }
        let certificate = match session.peer_certificates().and_then(|chain| chain.first()) {
            Some(leaf) => PeerCertificate::read(leaf, self.wildcards),
            None => {
                return Err(Refused::new(
                    "certificate",
                    "no-certificate",
                    "the agent sent no certificate",
                ));
            }
        };
        let named = certificate
            .map_err(|refusal| (refusal.label(), refusal.to_string()))
            .and_then(|certificate| match self.served(&certificate.names) {
                Ok(served) => Ok((served, certificate)),
                Err(why) => Err(("not-served", why)),
            });
        match named {
            Ok((Served { names, left_out }, certificate)) => {
                let agent = Agent {
                    primary: certificate.primary,
                    names,
                    address,
                    not_after: Some(certificate.facts.not_after),
                    fingerprint: certificate.facts.fingerprint_sha256,
                };
                let inside = Scene {
                    due: Expected::HttpInsideTls,
                    ..scene
                };
                self.reverse(tls, agent, &left_out, inside).await
            }
            Err((label, why)) => {
                let mut refused = Refused::new("certificate", label, why);
                refused.tell = Some(tls);
                Err(refused)
            }
        }
    }

    /// Which of an agent's names are served here.
    fn served(&self, brought: &[NamePattern]) -> Result<Served, String> {
        let is_served = |name: &NamePattern| match &self.names {
            Some(served) => served.iter().any(|pattern| pattern.covers(name)),
            None => true,
        };
        let (names, left_out) = brought.iter().cloned().partition::<Vec<_>, _>(is_served);
        if names.is_empty() {
            return Err(format!(
                "the gateway does not serve {}: its tunnels.names has none of them",
                list(brought)
            ));
        }
        Ok(Served { names, left_out })
    }

    async fn clear(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        names: &[NamePattern],
        scene: Scene<'_>,
    ) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, Refused> {
        let Some(primary) = names.first().cloned() else {
            return Err(Refused::new(
                "reversal",
                "no-name",
                "no name is configured for clear-text tunnels",
            ));
        };
        let agent = Agent {
            primary,
            names: names.to_vec(),
            address,
            not_after: None,
            fingerprint: String::new(),
        };
        self.reverse(stream, agent, &[], scene).await
    }

    async fn reverse<T>(
        self: &Arc<Self>,
        stream: T,
        agent: Agent,
        left_out: &[NamePattern],
        scene: Scene<'_>,
    ) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, Refused>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Accepted {
            requests,
            connection,
            peer,
            wire,
        } = accept(stream, &self.terms)
            .await
            .map_err(|unsettled| {
                let clear = agent.not_after.is_none();
                if let Some(seen) = unsettled.instead() {
                    scene.door.strays.instead_of_tunnel(seen, &scene);
                }
                let remedy = match (unsettled.is_tls(), clear) {
                    (false, _) => "",
                    (true, true) => {
                        "; this port takes clear text: have the agent dial that of --tunnels, or give it --clear"
                    }
                    (true, false) => "; does something between wrap the agent's TLS in TLS once more?",
                };
                Refused::new("reversal", unsettled.label(), format!("{unsettled}{remedy}"))
            })?;
        let places = Places::new(self.terms.max_streams, peer.max_concurrent_streams);
        let tunnel = Arc::new(Tunnel::new(
            self.ids.next(),
            agent,
            workers::here(),
            places,
            &peer,
            wire,
            requests,
        ));
        if let Err(full) = self.pool.file(&tunnel) {
            tunnel.wire.inject(goaway(
                0,
                ENHANCE_YOUR_CALM,
                &format!("tidegate: not filed: {full}"),
            ));
            // The connection goes with the next lines; its goodbye is worth one attempt.
            let mut connection = connection;
            let said = std::future::poll_fn(|cx| Pin::new(&mut connection).poll(cx));
            let _either = timeout(Duration::from_millis(250), said).await;
            return Err(Refused::new("limit", full.label(), full.to_string()));
        }
        info!(
            tunnel = tunnel.id,
            name = %tunnel.agent.primary,
            names = %list(&tunnel.agent.names),
            agent = %tunnel.agent.address,
            "tunnel filed"
        );
        if !left_out.is_empty() {
            info!(
                tunnel = tunnel.id,
                agent = %tunnel.agent.address,
                not_served = %list(left_out),
                "tunnel filed without names that its certificate holds: nothing in tunnels.names covers them, and visitors who ask for them are not sent there"
            );
        }
        let driving = drive(
            connection,
            Arc::clone(&tunnel),
            Arc::clone(&self.pool),
            self.care,
            &self.drain,
        );
        Ok(Box::pin(async move {
            let ending = driving.await;
            gone(&tunnel, &ending);
        }))
    }

    /// Says why, to the log and to the agent; the agent hears it after a pause that grows.
    async fn hold_back(&self, mut refused: Refused, address: SocketAddr, entry: &mut Entry) {
        self.metrics.tunnels_refused.count(refused.layer);
        let penalty = entry.failed(Instant::now(), refused.label);
        let (layer, why) = (refused.layer, &refused.why);
        match penalty.log {
            Some(0) => warn!(agent = %address, layer, "tunnel refused: {why}"),
            Some(unlogged) => warn!(
                agent = %address,
                layer,
                "tunnel refused: {why} (and {unlogged} more of this kind from there since the last line)"
            ),
            None => debug!(agent = %address, layer, "tunnel refused: {why}"),
        }
        let pause = penalty.pause;
        if let Some(tls) = refused.tell.take() {
            // The reason goes at once, so that whoever waits at the agent can read it; the end of the connection waits.
            tell(tls, &refused.why, pause).await;
        } else if let Some(mut gagged) = refused.gagged.take() {
            gagged.wait_then_speak(pause).await;
        } else {
            sleep(pause).await;
        }
    }
}

/// An agent's names.
struct Served {
    names: Vec<NamePattern>,
    /// Those that are not served here.
    left_out: Vec<NamePattern>,
}

const INADEQUATE_SECURITY: u32 = 0xc;
const ENHANCE_YOUR_CALM: u32 = 0xb;

async fn tell(mut tls: TlsStream<Gag>, why: &str, pause: Duration) {
    let said = async {
        tls.write_all(&NO_SETTINGS).await?;
        tls.write_all(&goaway(0, INADEQUATE_SECURITY, &format!("tidegate: {why}")))
            .await?;
        tls.flush().await?;
        let mut sink = [0; 1024];
        while tls.read(&mut sink).await? > 0 {}
        Ok::<(), io::Error>(())
    };
    // An agent that is refused may leave before or after it has heard why; either is its own affair.
    let _heard = timeout(pause.max(Duration::from_millis(250)), said).await;
}

fn gone(tunnel: &Tunnel, ending: &Ending) {
    let (received, sent) = tunnel.wire.octets();
    info!(
        tunnel = tunnel.id,
        name = %tunnel.agent.primary,
        agent = %tunnel.agent.address,
        ending = ending.label(),
        requests = tunnel.sent(),
        received,
        sent,
        "tunnel gone: {ending}"
    );
}

fn list(names: &[NamePattern]) -> String {
    names
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// A socket that can keep TLS from answering a failed handshake at once: the alert is what a failing agent waits for
/// before it dials again.
#[derive(Debug)]
struct Gag {
    stream: TcpStream,
    gagged: bool,
    withheld: Vec<u8>,
}

impl Gag {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            gagged: true,
            withheld: Vec::new(),
        }
    }

    /// The handshake succeeded: everything passes from here on.
    fn release(&mut self) {
        self.gagged = false;
    }

    async fn wait_then_speak(&mut self, pause: Duration) {
        let mut sink = [0; 1024];
        let closed = async {
            while self.stream.read(&mut sink).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        if timeout(pause, closed).await.is_err() {
            let withheld = std::mem::take(&mut self.withheld);
            // The peer may be gone; it was told nothing either way.
            let _spoken =
                timeout(Duration::from_millis(250), self.stream.write_all(&withheld)).await;
        }
    }
}

/// An alert: its own record type, or in TLS 1.3 an encrypted record of two octets, one for its type and a tag. No other
/// record of a server's handshake is that short, since no tickets are sent (RFC 8446 §5.2, §6).
fn is_alert(record: &[u8]) -> bool {
    matches!(record, [0x15, ..] | [0x17, 3, 3, 0, 19, ..])
}

impl AsyncRead for Gag {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gag {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gagged && is_alert(octets) {
            self.withheld.extend_from_slice(octets);
            return Poll::Ready(Ok(octets.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.gagged
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && is_alert(first)
        {
            self.withheld.extend_from_slice(first);
            return Poll::Ready(Ok(first.len()));
        }
        poll_write_pieces(Pin::new(&mut self.stream), cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
