//! One connection of `tidegated probe`: a PROXY header or none, TLS or none, one question, and what comes back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, Error, ProtocolVersion, SignatureScheme};
use tidegate_shared::proxy_header::{
    Ends, Pair, TlvWriter, Unwritable, Version, write_v1, write_v2,
};
use tidegate_shared::reversal::PREFACE;
use tidegate_shared::tls::HandshakeFault;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::told::{Answer, GLANCE, began, is_clear, is_http2, told};
use super::verdict::{Found, Inner, Way};

/// What all tries have in common.
#[derive(Debug)]
pub(super) struct Trial {
    pub address: SocketAddr,
    /// As asked for.
    pub host: String,
    /// In the certificate, and SNI where it is a name.
    pub name: ServerName<'static>,
    /// Takes any certificate: nothing is told to whoever answers but that somebody asks.
    pub tls: Arc<ClientConfig>,
    /// For one connection, all of it.
    pub within: Duration,
}

/// Has no certificate to show, and remembers that one was asked for.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Offered in TLS, HTTP/2 first.
const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// An empty SETTINGS frame: what an HTTP/2 client says first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

impl Trial {
    /// Tries one way, on a connection of its own.
    pub(super) async fn of(&self, way: Way) -> Found {
        let until = Instant::now() + self.within;
        match self.on(way, until).await {
            Ok(found) => found,
            Err(error) if is_end(&error) => Found::Closed,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Found::Silent,
            Err(error) => Found::Broken(error.to_string()),
        }
    }

    async fn on(&self, way: Way, until: Instant) -> io::Result<Found> {
        if way.inner == Inner::Tls {
            let (found, asked) = self.over_tls(way, &ALPN, until).await?;
            // Whether that was a demand is not known before a request is answered.
            if asked && matches!(found, Found::Tls { .. }) {
                let again = self.over_tls(way, &ALPN[1..], until).await;
                if let Ok((demanded @ Found::CertificateDemanded(_), _)) = again {
                    return Ok(demanded);
                }
            }
            return Ok(found);
        }
        let (mut tcp, header) = in_time(until, self.begun(way)).await?;
        match way.inner {
            Inner::Http2 => over_http2(&mut tcp, &header, until).await,
            _ => self.over_http1(&mut tcp, &header, until).await,
        }
    }

    /// A connection, and the header that was said on it.
    async fn begun(&self, way: Way) -> io::Result<(TcpStream, Vec<u8>)> {
        let mut tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let header = match way.header {
            Some(version) => header(version, &tcp)?,
            None => Vec::new(),
        };
        tcp.write_all(&header).await?;
        Ok((tcp, header))
    }

    /// Asks for nothing but a head.
    fn question(&self) -> String {
        format!(
            "HEAD / HTTP/1.1\r\nHost: {}\r\nUser-Agent: tidegated-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.host
        )
    }

    /// What is found, and whether a certificate was asked for. With what comes inside, half of the time that is left is spent.
    async fn over_tls(&self, way: Way, alpn: &[&str], until: Instant) -> io::Result<(Found, bool)> {
        let (tcp, _header) = in_time(until, self.begun(way)).await?;
        let asked = Arc::<Asked>::default();
        let mut config = ClientConfig::clone(&self.tls);
        config.client_auth_cert_resolver = Arc::<Asked>::clone(&asked);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let is_asked = || asked.0.load(Relaxed);
        let connecting = connector.connect(self.name.clone(), tcp);
        let mut tls = match timeout_at(until, connecting).await {
            Ok(Ok(tls)) => tls,
            // Of TLS 1.2 it is a part of the handshake, and the alert is often one that says nothing.
            Ok(Err(error)) if is_asked() => {
                let why = HandshakeFault::from_io(&error);
                let what = format!("asked for a certificate, got none, and refused: {why}");
                return Ok((Found::CertificateDemanded(what), true));
            }
            Ok(Err(error)) => return Ok((refused(&error), false)),
            Err(elapsed) => return Err(elapsed.into()),
        };
        let session = tls.get_ref().1;
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let http2 = session.alpn_protocol() == Some(b"h2");
        let alpn = session.alpn_protocol().map_or_else(
            || "no ALPN".to_owned(),
            |alpn| format!("ALPN {}", alpn.escape_ascii()),
        );
        let agreed = format!("{version}, {alpn}");
        // What is asked for inside is no longer a question of what the port takes, only of what it says.
        let left = until.saturating_duration_since(Instant::now());
        let by = Instant::now() + left / 2;
        let answer = if http2 {
            over_http2(&mut tls, b"", by).await
        } else {
            self.over_http1(&mut tls, b"", by).await
        };
        let (then, is_refusal, http) = match answer {
            Ok(found) => (
                found.words(),
                matches!(found, Found::Http(400) | Found::Closed),
                matches!(found, Found::Http(_) | Found::Http2 | Found::Http2Only),
            ),
            Err(error) if is_end(&error) => (Found::Closed.words(), true, false),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                (Found::Silent.words(), false, false)
            }
            Err(error) => {
                let why = HandshakeFault::from_io(&error);
                (format!("refused: {why}"), true, false)
            }
        };
        let found = if is_asked() && is_refusal {
            Found::CertificateDemanded(format!(
                "{agreed}; asked for a certificate, got none, and {then}"
            ))
        } else {
            Found::Tls { agreed, then, http }
        };
        Ok((found, is_asked()))
    }

    /// Asks a question and reads as much of the answer as tells what it is, `until` then at most.
    async fn over_http1<S>(&self, io: &mut S, header: &[u8], until: Instant) -> io::Result<Found>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let question = self.question();
        in_time(until, say(io, question.as_bytes())).await?;
        let answer = answer(io, until).await?;
        Ok(told(&answer, header, question.as_bytes()))
    }
}

async fn in_time<T>(until: Instant, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(until, what).await?
}

async fn say<S: AsyncWrite + Unpin>(io: &mut S, octets: &[u8]) -> io::Result<()> {
    io.write_all(octets).await?;
    io.flush().await
}

/// That of a connection of our own, to be told as it is: a health check should (proxy-protocol.txt §2.1).
fn header(version: Version, tcp: &TcpStream) -> io::Result<Vec<u8>> {
    let ends = Ends::Stream(Pair::new(tcp.local_addr()?, tcp.peer_addr()?));
    match version {
        Version::V1 => Ok(write_v1(&ends)),
        Version::V2 => write_v2(&ends, TlvWriter::default().crc32c())
            .map_err(|long: Unwritable| io::Error::other(long)),
    }
}

/// The first octets of what comes back; empty where the connection is closed first.
async fn answer<S: AsyncRead + Unpin>(io: &mut S, until: Instant) -> io::Result<Answer> {
    let mut seen = Vec::with_capacity(GLANCE);
    while seen.len() < GLANCE && !is_clear(&seen) {
        let mut room = (&mut *io).take((GLANCE - seen.len()) as u64);
        match timeout_at(until, room.read_buf(&mut seen)).await {
            Ok(Ok(0)) => return Ok(Answer { seen, ended: true }),
            Ok(Ok(_)) => {}
            Ok(Err(error)) if seen.is_empty() => return Err(error),
            Ok(Err(_broken)) => return Ok(Answer { seen, ended: true }),
            Err(elapsed) if seen.is_empty() => return Err(elapsed.into()),
            // What has come is all there is.
            Err(_elapsed) => break,
        }
    }
    Ok(Answer { seen, ended: false })
}

/// Begins HTTP/2 with prior knowledge (RFC 9113 §3.3), and reads as far as it takes to know whether that was understood, `until`
/// then at most.
async fn over_http2<S>(io: &mut S, header: &[u8], until: Instant) -> io::Result<Found>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let beginning = [PREFACE.as_slice(), &SETTINGS].concat();
    in_time(until, say(io, &beginning)).await?;
    let mut answer = Answer {
        seen: Vec::with_capacity(GLANCE),
        ended: false,
    };
    let mut end = false;
    loop {
        let seen = &answer.seen;
        if let Some(frames) = began(seen, end) {
            return Ok(frames);
        }
        if end || !is_http2(seen) && is_clear(seen) {
            return Ok(told(&answer, header, &beginning));
        }
        match timeout_at(until, io.read_buf(&mut answer.seen)).await {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) if answer.seen.is_empty() => return Err(error),
            Err(elapsed) if answer.seen.is_empty() => return Err(elapsed.into()),
            Ok(Ok(0) | Err(_)) => (end, answer.ended) = (true, true),
            Err(_elapsed) => end = true,
        }
    }
}

/// What a handshake that failed says of the port.
fn refused(error: &io::Error) -> Found {
    use AlertDescription as A;
    let fault = HandshakeFault::from_io(error);
    let alert = error
        .get_ref()
        .and_then(|inner| match inner.downcast_ref::<Error>() {
            Some(Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        });
    match alert {
        // These answer what stands in our first message; whoever takes a PROXY header for a record has not read it.
        Some(
            A::UnrecognisedName
            | A::NoApplicationProtocol
            | A::CertificateRequired
            | A::MissingExtension,
        ) => Found::TlsRefused(fault.to_string()),
        _ if matches!(fault.label, "peer-closed" | "peer-reset") => Found::Closed,
        // Nothing but TLS says so: an alert, or an answer of TLS in which is nothing of ours.
        Some(_) => Found::TlsUnlike(fault.to_string()),
        _ if matches!(fault.label, "version-mismatch" | "no-common-cipher") => {
            Found::TlsUnlike(fault.to_string())
        }
        _ => Found::NoTls(fault.to_string()),
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotConnected
    )
}
