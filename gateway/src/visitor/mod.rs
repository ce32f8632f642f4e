//! A visitor's connection, from its first octet to its last: TLS or not, HTTP/1 or HTTP/2, then one request after
//! another into the exchange.
//!
//! ```text
//!  listen ─▶ serve ─┬─ TLS, ALPN decides ─┬─▶ h1 ─┐
//!                   └─ first octets decide┴─▶ h2 ─┴─▶ exchange
//! ```

mod ahead;
mod due;
mod echo;
mod framed;
mod front;
mod h1;
mod h2;
mod heads;
mod in_hand;
mod inlet;
mod io;
mod ledger;
mod pass;
pub mod pulse;
mod rate;
mod rest;
mod stray;
mod stuck;
mod talk;
mod upgrade;
mod wait;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, ServerConfig};
use tidegate_shared::drain::{Drain, IDLE_OVER};
use tidegate_shared::reversal::PREFACE;
use tidegate_shared::tls::{By, HandshakeFault, Layer, VisitorCerts};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info};

use crate::backend::greeting::TlsFacts;
use crate::complaint::Complaints;
use crate::config::listeners::Named;
use crate::door::{Arrival, Taken};
use crate::exchange::{Gateway, Visit};
use crate::forward::Origin;
use crate::handshake::{Unshaken, shake};
use crate::introduction::Introduction;
use crate::listen::Front;
use crate::opening::{Opening, Untold};
use crate::rates::Guest;
use pulse::Patience;
use stray::may_become_header;
pub use stray::{Expected, Scene, Strays};
pub(crate) use upgrade::accept;

/// What a visitor may use, and for how long.
#[derive(Clone, Debug)]
pub struct Limits {
    pub patience: Patience,
    /// TLS handshake.
    pub tls: Duration,
    /// Octets of a request's head.
    pub head: usize,
    /// Fields of a request's head.
    pub fields: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Without a response head; `None` for ever.
    pub response: Option<Duration>,
}

/// What serves visitors; one for all listeners.
#[derive(Debug)]
pub struct Reception {
    pub gateway: Arc<Gateway>,
    pub limits: Limits,
    pub drain: Drain,
    /// TLS handshakes that came to nothing.
    pub(crate) unshaken: Complaints,
}

/// TLS towards visitors.
#[derive(Clone, Debug)]
pub struct Secured {
    pub config: Arc<ServerConfig>,
    pub certs: Arc<VisitorCerts>,
    /// What names the certificates.
    pub named: Named,
}

/// Which protocol a connection speaks.
enum Spoken {
    Http1(Bytes),
    Http2(Bytes),
    Nothing,
}

impl Reception {
    /// Serves one connection until it ends.
    pub async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        arrival: Arrival,
        front: Arc<Front>,
        guest: Guest,
    ) {
        if let Some(secured) = front.secured.clone() {
            // Boxed, so that a connection in clear text does not keep the room that TLS needs.
            return Box::pin(self.serve_tls(stream, arrival, secured, front, guest)).await;
        }
        let introduction = Introduction::new(arrival.to.or_else(|| stream.local_addr().ok()))
            .received(arrival.tlvs, arrival.header);
        let opening = Opening {
            header: arrival.header.map(|header| header.took),
            tls: None,
        };
        let visit = self.visit(arrival.from, None, front, introduction, guest, opening);
        self.speak(stream, arrival.taken, visit).await;
    }

    /// Anybody can cause it: one line at once, and then one a minute, for each reason.
    fn tell_unshaken(&self, visitor: SocketAddr, front: &Front, what: &'static str, why: &str) {
        let listener = &front.door.listener;
        if let Some(times) = self.unshaken.due(what, Instant::now()) {
            info!(%visitor, %listener, what, times, "TLS with a visitor failed: {why}");
        } else {
            debug!(%visitor, %listener, what, "TLS with a visitor failed: {why}");
        }
    }

    /// What came of a handshake that gave no TLS.
    fn unshaken(&self, visitor: SocketAddr, header: Option<Taken>, front: &Front, why: Unshaken) {
        match why {
            Unshaken::Failed {
                error,
                instead,
                offered,
            } => {
                self.gateway.metrics.tls_failed.inc();
                let fault = HandshakeFault::from_io(&error);
                // What it lacks beside is of no use to whoever mends it.
                if let Some(most) = offered.and_then(outdated)
                    && (fault.layer, fault.by) == (Layer::Tls, By::Us)
                {
                    let why = format!("it speaks no TLS 1.2 or later, but {most} at most");
                    return self.tell_unshaken(visitor, front, "version-mismatch", &why);
                }
                if fault.label == "not-tls"
                    && let Some(seen) = instead
                {
                    let scene = Scene {
                        header,
                        ..Scene::at(&front.door, header.map_or(visitor, |header| header.by))
                    };
                    front.door.strays.clear_text(seen, &scene);
                }
                self.tell_unshaken(visitor, front, fault.label, of_a_visitor(&fault));
            }
            Unshaken::Overdue(came) => {
                self.gateway.metrics.tls_overdue.inc();
                let within = self.limits.tls;
                let why = format!("it was not finished within {within:?} (`tls_timeout`): {came}");
                self.tell_unshaken(visitor, front, OVERDUE, &why);
            }
        }
    }

    async fn serve_tls(
        self: Arc<Self>,
        stream: TcpStream,
        arrival: Arrival,
        secured: Secured,
        front: Arc<Front>,
        guest: Guest,
    ) {
        let visitor = arrival.from;
        let to = arrival.to.or_else(|| stream.local_addr().ok());
        let began = Instant::now();
        let looking = async |stream: &TcpStream| {
            let door = &front.door;
            door.look_before_tls(stream, visitor, arrival.header).await
        };
        // Boxed, so that a connection does not keep the room that its handshake needed.
        let shaking = Box::pin(shake(stream, secured.config, self.limits.tls, looking));
        let shaken = tokio::select! {
            biased;
            shaken = shaking => shaken,
            () = self.drain.idle_over() => return,
        };
        let tls = match shaken {
            Ok(tls) => tls,
            Err(why) => return self.unshaken(visitor, arrival.header, &front, why),
        };
        let opening = Opening {
            header: arrival.header.map(|header| header.took),
            tls: Some(began.elapsed()),
        };
        let session = tls.get_ref().1;
        let sni = session.server_name().map(str::to_owned);
        let http2 = session.alpn_protocol() == Some(b"h2");
        let alpn: Option<&[u8]> = match session.alpn_protocol() {
            Some(b"h2") => Some(b"h2"),
            Some(b"http/1.1") => Some(b"http/1.1"),
            _ => None,
        };
        let facts = TlsFacts {
            version: session.protocol_version().and_then(tls_version),
            group: session
                .negotiated_key_exchange_group()
                .and_then(|group| tls_group(group.name())),
            cipher: session
                .negotiated_cipher_suite()
                .and_then(|suite| tls_cipher(suite.suite())),
        };
        let introduction = Introduction::new(to)
            .over_tls(facts, alpn)
            .received(arrival.tlvs, arrival.header);
        let tls_of = Some((secured.certs, sni));
        let visit = self.visit(visitor, tls_of, front, introduction, guest, opening);
        if http2 {
            Box::pin(h2::serve(self, tls, Bytes::new(), visit)).await;
        } else {
            Box::pin(self.speak(tls, Bytes::new(), visit)).await;
        }
    }

    fn visit(
        &self,
        visitor: SocketAddr,
        tls: Option<(Arc<VisitorCerts>, Option<String>)>,
        front: Arc<Front>,
        introduction: Introduction,
        guest: Guest,
        opening: Opening,
    ) -> Arc<Visit> {
        let origin = Origin::new(&self.gateway.policy, visitor, tls.is_some());
        Arc::new(Visit {
            gateway: Arc::clone(&self.gateway),
            visitor,
            label: Arc::new(introduction.label(visitor)),
            tls,
            origin,
            front,
            introduction,
            guest: Arc::new(guest),
            opening: Untold::new(opening),
        })
    }

    /// Lets the first octets decide: no method of HTTP/1 begins like the preface of HTTP/2 (RFC 9113 §3.3).
    async fn speak<T>(self: Arc<Self>, mut stream: T, taken: Bytes, visit: Arc<Visit>)
    where
        T: AsyncRead + AsyncWrite + io::Ends + Send + Unpin + 'static,
    {
        let drain = self.drain.clone();
        let began = Instant::now();
        let spoken = tokio::select! {
            biased;
            spoken = timeout(self.limits.patience.head, listen(&mut stream, &taken)) => spoken,
            // Nothing was asked yet, so nothing is lost; but the question of one who has just come is on its way.
            () = async {
                drain.finishing().await;
                sleep_until((began + IDLE_OVER).into()).await;
            } => return,
        };
        match spoken {
            Ok(Spoken::Http1(seen)) => Box::pin(h1::serve(self, stream, seen, visit)).await,
            Ok(Spoken::Http2(seen)) => Box::pin(h2::serve(self, stream, seen, visit)).await,
            Ok(Spoken::Nothing) => {
                debug!(visitor = %visit.visitor, "a visitor left without a word")
            }
            Err(_elapsed) => h1::head_timeout(stream, &visit, began, None).await,
        }
    }
}

/// The word for a handshake that was not finished in time.
const OVERDUE: &str = "timeout";

/// Why a handshake failed, of somebody who is no agent: some of it has another reason.
fn of_a_visitor(fault: &HandshakeFault) -> &str {
    match fault.label {
        "alpn-mismatch" => {
            "it offers protocols by ALPN, and neither h2 nor http/1.1 is one of them"
        }
        "peer-closed" => {
            "it closed the connection before the handshake was over, as a check of the port does"
        }
        _ => &fault.reason,
    }
}

/// The newest version that a ClientHello offers, by its own field (RFC 5246 §7.4.1.2), where that is older than any of ours.
fn outdated(version: u16) -> Option<&'static str> {
    match version {
        0x0303.. => None,
        0x0302 => Some("TLS 1.1"),
        0x0301 => Some("TLS 1.0"),
        _ => Some("SSL 3.0"),
    }
}

/// As OpenSSL names it, whose words PROXY headers use (proxy-protocol.txt §2.2.6).
fn tls_version(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        _ => None,
    }
}

/// Likewise.
fn tls_group(group: NamedGroup) -> Option<&'static str> {
    Some(match group {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => return None,
    })
}

/// Likewise; these are all that the gateway offers.
fn tls_cipher(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

/// `taken` has been read already, and was looked at for something else.
async fn listen<T: AsyncRead + Unpin>(stream: &mut T, taken: &[u8]) -> Spoken {
    let mut seen = BytesMut::with_capacity(4096);
    seen.extend_from_slice(taken);
    loop {
        match stream.read_buf(&mut seen).await {
            Ok(0) | Err(_) if seen.is_empty() => return Spoken::Nothing,
            // What came is no preface; HTTP/1 says what is wrong with it.
            Ok(0) | Err(_) => return Spoken::Http1(seen.freeze()),
            Ok(_) => {}
        }
        let common = seen.len().min(PREFACE.len());
        if seen[..common] != PREFACE[..common] {
            // Of one that arrives octet by octet it is to be told as well.
            if may_become_header(&seen) {
                continue;
            }
            return Spoken::Http1(seen.freeze());
        }
        // `PRI ` is enough: HTTP/1 reserves that method for nobody (RFC 9113 §3.4).
        if common >= 4 {
            return Spoken::Http2(seen.freeze());
        }
    }
}
