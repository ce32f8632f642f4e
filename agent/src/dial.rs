//! One attempt at a tunnel: TCP, TLS, reversal. Does not decide when (`keeper` does) nor what follows (`serve` does); says
//! in which layer an attempt failed and what can be done about it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use rustls_pki_types::ServerName;
use tidegate_shared::descriptors;
use tidegate_shared::reversal::PeerSettings;
use tidegate_shared::reversal::io::{Dialled, Terms, Unsettled, dial};
use tidegate_shared::socket;
use tidegate_shared::tls::{self, By, HandshakeFault, Trust};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::warn;

use crate::backoff::Kind;

/// How a gateway is to be dialled.
#[derive(Clone, Debug)]
pub struct Dialler {
    /// `None`: clear text.
    pub tls: Option<(Arc<Trust<ClientConfig>>, ServerName<'static>)>,
    pub terms: Terms,
    pub connect_within: Duration,
    /// Whether it has been said that this may be a port for visitors.
    pub told: Arc<AtomicBool>,
}

/// From the end of TCP's handshake to the end of TLS's.
const TLS_WITHIN: Duration = Duration::from_secs(5);

/// Where an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Resolve,
    Tcp,
    Tls,
    Certificate,
    Alpn,
    Reversal,
    Refused,
}

impl Layer {
    /// As it is logged.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Certificate => "certificate",
            Self::Alpn => "ALPN",
            Self::Reversal => "reversal",
            Self::Refused => "refused-by-gateway",
        }
    }
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub layer: Layer,
    pub kind: Kind,
    /// What happened, and what to do about it.
    pub text: String,
}

impl Failure {
    /// The gateway answered, filed nothing, and said why.
    pub fn refused(text: &str) -> Self {
        Self {
            layer: Layer::Refused,
            kind: Kind::Rejected,
            text: format!("refused by the gateway: {text}"),
        }
    }

    /// The gateway's name could not be resolved.
    pub fn resolve(host: &str, error: &io::Error) -> Self {
        Self {
            layer: Layer::Resolve,
            kind: Kind::Path,
            text: format!(
                "{host} cannot be resolved ({error}); check the name in --gateway and this machine's DNS"
            ),
        }
    }

    fn tcp(error: &io::Error) -> Self {
        let (kind, remedy) = match error.kind() {
            io::ErrorKind::ConnectionRefused => (
                Kind::Closed,
                "nothing listens there; is tidegated running, and is this the port of its --tunnels?",
            ),
            io::ErrorKind::ConnectionReset => {
                (Kind::Closed, "something on the way refuses the connection")
            }
            io::ErrorKind::TimedOut => (
                Kind::Path,
                "nobody answers; check the address, the route and the firewalls between",
            ),
            io::ErrorKind::PermissionDenied => {
                (Kind::Path, "a firewall on this machine forbids it")
            }
            _ if descriptors::are_used_up(error) => (Kind::Path, descriptors::REMEDY),
            _ => (Kind::Path, "check this machine's network"),
        };
        Self {
            layer: Layer::Tcp,
            kind,
            text: format!("{error}; {remedy}"),
        }
    }

    fn tls(fault: &HandshakeFault) -> Self {
        let layer = match fault.layer {
            tls::Layer::Tcp => Layer::Tcp,
            tls::Layer::Tls => Layer::Tls,
            tls::Layer::Certificate => Layer::Certificate,
            tls::Layer::Alpn => Layer::Alpn,
        };
        let kind = if fault.label == "timeout" {
            Kind::Path
        } else {
            Kind::Rejected
        };
        let remedy = match (fault.label, fault.by) {
            ("unknown-ca", By::Peer) => {
                "; was --identity issued by the CA that the gateway was given?"
            }
            ("wrong-name", By::Us) => {
                "; give the name in the gateway's certificate with --server-name"
            }
            ("peer-reset" | "peer-closed", By::Peer) => {
                "; a gateway's port does so where it requires a PROXY header (its --tunnels-proxy): dial the load balancer that sends one"
            }
            _ => "",
        };
        Self {
            layer,
            kind,
            text: format!("{fault}{remedy}"),
        }
    }

    fn unsettled(unsettled: &Unsettled, fault: Option<&HandshakeFault>, clear: bool) -> Self {
        // A gateway that dislikes our certificate says so only after our half of the TLS 1.3 handshake is over.
        if let Some(fault) = fault {
            return Self::tls(fault);
        }
        let remedy = match unsettled {
            _ if clear && unsettled.is_tls() => {
                "that port speaks TLS: leave out --clear, and give --identity and --ca"
            }
            Unsettled::Late { .. } | Unsettled::Io(_) => {
                "is this the gateway's tunnel port, and does it speak reverse HTTP?"
            }
            _ => "is this the gateway's tunnel port, and does the gateway's log say more?",
        };
        Self {
            layer: Layer::Reversal,
            kind: Kind::Rejected,
            text: format!("{unsettled}; {remedy}"),
        }
    }
}

/// Hands out the identity, and remembers that the server asked for it.
#[derive(Debug)]
struct Asked {
    identity: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
}

impl Asked {
    /// The configuration for one connection.
    fn about(config: &ClientConfig) -> (Arc<ClientConfig>, Arc<Self>) {
        let asked = Arc::new(Self {
            identity: Arc::clone(&config.client_auth_cert_resolver),
            asked: AtomicBool::new(false),
        });
        let mut config = config.clone();
        config.client_auth_cert_resolver = Arc::<Self>::clone(&asked);
        (Arc::new(config), asked)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Relaxed);
        self.identity.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.identity.has_certs()
    }
}

impl Dialler {
    /// A port for visitors takes an agent for a visitor that never asks anything. What tells it from a gateway's is that it
    /// wants no certificate, and in clear text that it speaks as a server does. Said once, and no more than said: gateways of
    /// others may do the same.
    fn look_for_visitors_port(
        &self,
        address: SocketAddr,
        asked: Option<&Asked>,
        settings: Option<&PeerSettings>,
    ) {
        let suspicion = match asked {
            Some(asked) if !asked.asked.load(Relaxed) => {
                "did not ask for the certificate in --identity, as a gateway's port for tunnels does: is it the port of --visitors-tls?"
            }
            None if settings.is_some_and(PeerSettings::are_a_servers) => {
                "answers as an HTTP/2 server and not as a gateway, which takes the client's role: is it the port of --visitors?"
            }
            _ => return,
        };
        if !self.told.swap(true, Relaxed) {
            warn!("{address} {suspicion} No visitor comes this way then");
        }
    }

    /// One attempt, bounded by the deadlines of its three steps. Returns the address that it came from, too.
    ///
    /// # Errors
    /// The layer that it failed in, and what to do about it.
    pub async fn dial(
        &self,
        address: SocketAddr,
    ) -> Result<(Dialled<Line>, Option<SocketAddr>), Failure> {
        let tcp = socket::connect(address, self.connect_within)
            .await
            .map_err(|error| Failure::tcp(&error))?;
        let local = tcp.local_addr().ok();
        socket::tune_tunnel(&tcp);
        let fault = Arc::new(OnceLock::new());
        let mut asked = None;
        let line = match &self.tls {
            None => Line::Clear(tcp),
            Some((trust, name)) => {
                let (config, question) = Asked::about(&trust.config());
                asked = Some(question);
                let handshake = TlsConnector::from(config).connect(name.clone(), tcp);
                let stream = match timeout(TLS_WITHIN, Box::pin(handshake)).await {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return Err(Failure::tls(&HandshakeFault::from_io(&error))),
                    Err(_elapsed) => return Err(Failure::tls(&HandshakeFault::timed_out())),
                };
                tls::require_h2(stream.get_ref().1).map_err(|fault| Failure::tls(&fault))?;
                Line::Tls {
                    stream,
                    fault: Arc::clone(&fault),
                }
            }
        };
        dial(line, &self.terms)
            .await
            .map(|dialled| (dialled, local))
            .map_err(|unsettled| Failure::unsettled(&unsettled, fault.get(), self.tls.is_none()))
            .inspect(|(dialled, _)| {
                self.look_for_visitors_port(address, asked.as_deref(), dialled.wire.settled());
            })
    }
}

/// The connection to the gateway under the seam.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives inside one boxed tunnel; a box of its own would cost a dereference per read"
)]
pub enum Line {
    Clear(TcpStream),
    Tls {
        stream: TlsStream<TcpStream>,
        /// `h2` keeps only the text of an error; what TLS made of it is kept here.
        fault: Arc<OnceLock<HandshakeFault>>,
    },
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls { stream, fault } => {
                let read = Pin::new(stream).poll_read(cx, buf);
                if let Poll::Ready(Err(error)) = &read
                    && error
                        .get_ref()
                        .is_some_and(|inner| inner.is::<rustls::Error>())
                {
                    // The first one is the cause, what follows are its consequences.
                    let _first = fault.set(HandshakeFault::from_io(error));
                }
                read
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write(cx, octets),
            Self::Tls { stream, .. } => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Tls { stream, .. } => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(tcp) => tcp.is_write_vectored(),
            Self::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
