//! A connection to a server: its name resolved, its addresses tried in turn, TLS where it is spoken; all within one time.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use tidegate_shared::origin::Line;
use tidegate_shared::origin::dial::plain;
use tidegate_shared::socket;
use tidegate_shared::tls::{By, HandshakeFault, Layer};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::config::Address;
use super::greeting::SendProxy;
use super::mismatch::{Got, Mismatch};
use super::secured::Secured;

/// What a server chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    Http2,
    /// Or nothing.
    Http1,
}

/// Opens a connection for octets as they come, `within` at most. The error is as with [`dial`].
pub(super) async fn dial_plain(address: &Address, within: Duration) -> Result<TcpStream, String> {
    let tcp = reach(address, Instant::now() + within, within).await?;
    socket::tune_plain(&tcp);
    Ok(tcp)
}

/// Why there is no connection: as it follows the server's name and a colon, and what does not fit, as it seems.
pub(super) struct Undialled {
    pub(super) why: String,
    pub(super) misfit: Option<(Mismatch, Got)>,
}

impl From<String> for Undialled {
    fn from(why: String) -> Self {
        Self { why, misfit: None }
    }
}

/// What is offered to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// What the operator says that it speaks.
    Usual,
    Http1,
}

/// With what a connection begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begins<'a> {
    /// A header, or nothing.
    With(&'a [u8]),
    /// One that says that it is the gateway's own.
    AsOurs(&'a SendProxy),
}

impl<'a> Begins<'a> {
    fn octets(self, tcp: &TcpStream) -> Cow<'a, [u8]> {
        match self {
            Self::With(octets) => octets.into(),
            Self::AsOurs(proxy) => {
                let ends = tcp.local_addr().ok().zip(tcp.peer_addr().ok());
                proxy.of_ourselves(ends).into()
            }
        }
    }
}

/// Opens a connection, `within` at most, which begins with a header if with any, before TLS if there is TLS; with TLS, together with what was
/// agreed by ALPN.
pub(super) async fn dial(
    address: &Address,
    begins: Begins<'_>,
    tls: Option<&Secured>,
    offer: Offer,
    within: Duration,
) -> Result<(Line, Option<Agreed>), Undialled> {
    let until = Instant::now() + within;
    let mut tcp = reach(address, until, within).await?;
    socket::tune_plain(&tcp);
    // It always finds room in a buffer that has held nothing.
    let header = begins.octets(&tcp);
    tcp.write_all(&header)
        .await
        .map_err(|error| unreachable(&error))?;
    let Some(Secured { tls, name }) = tls else {
        return Ok((tcp.into(), None));
    };
    let config = match offer {
        Offer::Usual => tls.usual(),
        Offer::Http1 => tls.http1(),
    };
    let handshake = TlsConnector::from(config).connect(name.clone(), tcp);
    match timeout_at(until, Box::pin(handshake)).await {
        Ok(Ok(stream)) => {
            let agreed = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Agreed::Http2,
                _ => Agreed::Http1,
            };
            Ok((stream.into(), Some(agreed)))
        }
        Ok(Err(error)) => {
            let fault = HandshakeFault::from_io(&error);
            let told = !header.is_empty();
            Err(Undialled {
                why: match fault.label {
                    // It may, and have answered to the header.
                    "not-tls" if told => "it answered in clear text".to_owned(),
                    // That of the file, and where: which name is the right one only the operator knows.
                    "wrong-name" => format!(
                        "{}; if that is the right server, write a name that its certificate has as tls.server_name of {}",
                        untrusted(&fault),
                        tls.declared
                    ),
                    _ => untrusted(&fault),
                },
                misfit: misfit(&fault, told),
            })
        }
        Err(_elapsed) => {
            let why = format!("no TLS handshake within {within:?}; does it speak TLS there?");
            Err(why.into())
        }
    }
}

/// What a handshake that failed shows, behind a header or without one.
fn misfit(fault: &HandshakeFault, told: bool) -> Option<(Mismatch, Got)> {
    match (fault.label, told) {
        ("not-tls", _) => Some((Mismatch::TlsUnwanted, Got::Http)),
        ("peer-closed" | "peer-reset", true) => Some((Mismatch::HeaderUnwanted, Got::Nothing)),
        ("peer-closed" | "peer-reset", false) => Some((Mismatch::HeaderWanted, Got::Nothing)),
        (_, true) if fault.layer == Layer::Tls && fault.by == By::Peer => {
            Some((Mismatch::HeaderUnwanted, Got::Alert))
        }
        _ => None,
    }
}

/// Tries every address that a name has. Those that are left share the time that is left, so that one that swallows everything
/// does not keep the next from being tried.
async fn reach(address: &Address, until: Instant, within: Duration) -> Result<TcpStream, String> {
    let silent = || format!("no connection within {within:?}");
    let host = address.host.as_str();
    let found = timeout_at(until, lookup_host((host, address.port)))
        .await
        .map_err(|_elapsed| format!("{host} was not resolved within {within:?}"))?
        .map_err(|error| format!("{host} cannot be resolved: {error}"))?;
    let mut left = found.collect::<Vec<_>>().into_iter();
    let mut first: Option<String> = None;
    while let Some(next) = left.next() {
        let share = u32::try_from(left.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let time = until.saturating_duration_since(Instant::now()) / share;
        let why = match timeout(time, TcpStream::connect(next)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => unreachable(&error),
            Err(_elapsed) => silent(),
        };
        first.get_or_insert(why);
    }
    Err(first.unwrap_or_else(|| format!("{host} has no address")))
}

fn unreachable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "a firewall on this machine does not let the connection out".to_owned()
        }
        _ => plain(error),
    }
}

/// What is wrong with TLS, and what to write about it, as it follows the server's name.
pub(super) fn untrusted(fault: &HandshakeFault) -> String {
    match fault.label {
        "no-certificate" if fault.by == By::Peer => {
            "it demands a certificate and got none; give one that it takes as tls.client_certificate".to_owned()
        }
        "not-tls" => "it does not speak TLS".to_owned(),
        "alpn-mismatch" => {
            "it refuses the protocol by ALPN; give the one that it speaks as `protocol`".to_owned()
        }
        "unknown-ca" | "authority-shown" => {
            "its certificate was not issued by an authority that is believed; give that authority's certificate, or the \
             server's own if it is self-signed, as tls.ca"
                .to_owned()
        }
        // The sentences are for tunnels, whose other end is a peer.
        _ => fault
            .to_string()
            .replace("the peer's", "its")
            .replace("the peer", "it"),
    }
}
