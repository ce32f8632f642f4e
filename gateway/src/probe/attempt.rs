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
use tidegate_shared::reversal::{PREFACE, Seen};
use tidegate_shared::tls::HandshakeFault;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

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

/// What is read of an answer: enough to tell what it is.
const GLANCE: usize = 64;

/// An empty SETTINGS frame: what an HTTP/2 client says first.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// How much of HTTP/2 is read: what servers say before they acknowledge our SETTINGS is a few frames.
const FRAMES: usize = 4096;

impl Trial {
    /// Tries one way, on a connection of its own.
    pub(super) async fn of(&self, way: Way) -> Found {
        let until = Instant::now() + self.within;
        match timeout_at(until, self.on(way, until)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) if is_end(&error) => Found::Closed,
            Ok(Err(error)) => Found::Broken(error.to_string()),
            Err(_elapsed) => Found::Silent,
        }
    }

    async fn on(&self, way: Way, until: Instant) -> io::Result<Found> {
        let mut tcp = self.begun(way).await?;
        match way.inner {
            Inner::Tls => {
                let (found, asked) = self.over_tls(tcp, &ALPN).await?;
                // Whether that was a demand is not known before a request is answered.
                if asked && matches!(found, Found::Tls { .. }) {
                    let again = self.over_tls(self.begun(way).await?, &ALPN[1..]).await;
                    if let Ok((demanded @ Found::CertificateDemanded(_), _)) = again {
                        return Ok(demanded);
                    }
                }
                Ok(found)
            }
            Inner::Http2 => over_http2(&mut tcp, until).await,
            Inner::Http => {
                tcp.write_all(self.question().as_bytes()).await?;
                Ok(told(&answer(&mut tcp).await?))
            }
        }
    }

    /// A connection, and the header on it.
    async fn begun(&self, way: Way) -> io::Result<TcpStream> {
        let mut tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        if let Some(version) = way.header {
            let header = header(version, &tcp)?;
            tcp.write_all(&header).await?;
        }
        Ok(tcp)
    }

    /// Asks for nothing but a head.
    fn question(&self) -> String {
        format!(
            "HEAD / HTTP/1.1\r\nHost: {}\r\nUser-Agent: tidegated-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            self.host
        )
    }

    /// What is found, and whether a certificate was asked for.
    async fn over_tls(&self, tcp: TcpStream, alpn: &[&str]) -> io::Result<(Found, bool)> {
        let asked = Arc::<Asked>::default();
        let mut config = ClientConfig::clone(&self.tls);
        config.client_auth_cert_resolver = Arc::<Asked>::clone(&asked);
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let is_asked = || asked.0.load(Relaxed);
        let mut tls = match connector.connect(self.name.clone(), tcp).await {
            Ok(tls) => tls,
            // Of TLS 1.2 it is a part of the handshake, and the alert is often one that says nothing.
            Err(error) if is_asked() => {
                let why = HandshakeFault::from_io(&error);
                let what = format!("asked for a certificate, got none, and refused: {why}");
                return Ok((Found::CertificateDemanded(what), true));
            }
            Err(error) => return Ok((refused(&error), false)),
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
        let answer = timeout(self.within / 2, self.inside(&mut tls, http2)).await;
        let (then, is_refusal) = match answer {
            Ok(Ok(found)) => (
                found.words(),
                matches!(found, Found::Http(400) | Found::Closed),
            ),
            Ok(Err(error)) if is_end(&error) => (Found::Closed.words(), true),
            Ok(Err(error)) => {
                let why = HandshakeFault::from_io(&error);
                (format!("refused: {why}"), true)
            }
            Err(_elapsed) => (Found::Silent.words(), false),
        };
        let found = if is_asked() && is_refusal {
            Found::CertificateDemanded(format!(
                "{agreed}; asked for a certificate, got none, and {then}"
            ))
        } else {
            Found::Tls { agreed, then }
        };
        Ok((found, is_asked()))
    }

    async fn inside<S>(&self, tls: &mut S, http2: bool) -> io::Result<Found>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if http2 {
            let until = Instant::now() + self.within / 2;
            return over_http2(tls, until).await;
        }
        tls.write_all(self.question().as_bytes()).await?;
        tls.flush().await?;
        Ok(told(&answer(tls).await?))
    }
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
async fn answer<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Vec<u8>> {
    let mut seen = Vec::with_capacity(GLANCE);
    while seen.len() < GLANCE && !is_clear(&seen) {
        match io
            .take((GLANCE - seen.len()) as u64)
            .read_buf(&mut seen)
            .await
        {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if seen.is_empty() => return Err(error),
            Err(_broken) => break,
        }
    }
    Ok(seen)
}

/// Begins HTTP/2 with prior knowledge (RFC 9113 §3.3), and reads as far as it takes to know whether that was understood, `until`
/// then at most.
async fn over_http2<S>(io: &mut S, until: Instant) -> io::Result<Found>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&[PREFACE.as_slice(), &SETTINGS].concat())
        .await?;
    io.flush().await?;
    let mut seen = Vec::with_capacity(GLANCE);
    loop {
        if let Some(found) = began(&seen, false) {
            return Ok(found);
        }
        match timeout_at(until, io.read_buf(&mut seen)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(_)) => {}
            Ok(Err(error)) if seen.is_empty() => return Err(error),
            Err(_elapsed) if seen.is_empty() => return Ok(Found::Silent),
            // What has come is all there is.
            Ok(Err(_)) | Err(_) => break,
        }
    }
    Ok(began(&seen, true).unwrap_or(Found::Closed))
}

/// What the first octets of an answer to the beginning of HTTP/2 are; `None` while more could tell more, unless this is the `end`.
///
/// A server may say its SETTINGS before it has read anything: only their acknowledgement shows that ours were understood
/// (RFC 9113 §6.5.3).
fn began(seen: &[u8], end: bool) -> Option<Found> {
    if !is_http2(seen) {
        return (end || is_clear(seen)).then(|| told(seen));
    }
    let mut rest = seen;
    while let Some(([high, mid, low, kind, flags, ..], after)) = rest.split_first_chunk::<9>() {
        match kind {
            4 if flags & 1 != 0 => return Some(Found::Http2),
            // GOAWAY.
            7 => return Some(Found::Http2Only),
            _ => {}
        }
        let length = u32::from_be_bytes([0, *high, *mid, *low]) as usize;
        match after.get(length..) {
            Some(next) => rest = next,
            None => break,
        }
    }
    (end || seen.len() >= FRAMES).then_some(Found::Http2Only)
}

/// Whether more would not tell more.
fn is_clear(seen: &[u8]) -> bool {
    seen.len() >= b"HTTP/1.1 200".len()
}

fn told(seen: &[u8]) -> Found {
    if seen.is_empty() {
        return Found::Closed;
    }
    if is_http2(seen) {
        return Found::Http2Only;
    }
    let status = seen
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| digits.parse().ok());
    status.map_or_else(|| Found::Other(Seen::at_the_end(seen)), Found::Http)
}

/// Whether a server answers in HTTP/2: its first frame is SETTINGS (RFC 9113 §3.4), or where it likes nothing of what it got,
/// GOAWAY.
fn is_http2(seen: &[u8]) -> bool {
    matches!(seen, [0, _, _, 4 | 7, 0, 0, 0, 0, 0, ..])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        for (seen, found) in [
            (&b""[..], Found::Closed),
            (b"HTTP/1.1 200 OK\r\n", Found::Http(200)),
            (b"HTTP/1.0 503 ", Found::Http(503)),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", Found::Http2Only),
            (b"\0\0\x08\x07\0\0\0\0\0\0\0\0", Found::Http2Only),
            (b"SSH-2.0-OpenSSH", Found::Other(Seen::Ssh)),
            (b"\x15\x03\x01\0\x02\x02\x46", Found::Other(Seen::TlsAlert)),
            (b"HTTP/1.1 abc", Found::Other(Seen::Http1Response)),
        ] {
            assert_eq!(told(seen), found, "{}", seen.escape_ascii());
        }
    }

    #[test]
    fn http2_is_understood_once_our_settings_are_acknowledged() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x80";
        let window = b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
        let acknowledged = b"\0\0\0\x04\x01\0\0\0\0";
        let away = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
        let [first, more] = [&settings[..], &window[..]].map(Vec::from);
        let begun = [first, more].concat();
        for (seen, end, found) in [
            (
                [&begun[..], acknowledged].concat(),
                false,
                Some(Found::Http2),
            ),
            ([&begun[..], away].concat(), false, Some(Found::Http2Only)),
            (away.to_vec(), false, Some(Found::Http2Only)),
            (begun.clone(), false, None),
            (begun[..12].to_vec(), false, None),
            (begun, true, Some(Found::Http2Only)),
            (b"HTTP/1.1 400 Bad".to_vec(), false, Some(Found::Http(400))),
            (b"HTTP/1.1 4".to_vec(), false, None),
            (Vec::new(), true, Some(Found::Closed)),
        ] {
            assert_eq!(began(&seen, end), found, "{}", seen.escape_ascii());
        }
    }
}
