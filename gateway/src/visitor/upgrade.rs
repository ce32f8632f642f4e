//! WebSocket and whatever else a visitor upgrades to: over a tunnel an upgrade is an extended CONNECT (RFC 8441), whose
//! stream is joined with the visitor's connection once the agent agrees. An HTTP/2 visitor's extended CONNECT needs
//! nothing of this: its two streams are pumped like any other bodies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::Reason;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE,
};
use http::{Method, Request, Response, StatusCode, response};
use tidegate_shared::drain::Drain;
use tidegate_shared::duplex::{Broken, Join, Terms};
use tidegate_shared::message::{STATUS, UPGRADE_OPTIONAL, connection_names, may_upgrade_to};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::inlet::Incoming;
use super::io::{Ends, VisitorIo};
use crate::access::Record;
use crate::backend::joined::{Joined, Parted, end_in_order};
use crate::exchange::{Ask, Opened, Side, Stream, Visit, Way, open};
use crate::failure::Failure;
use crate::lasting::Lasting;
use crate::page::REASON;
use crate::pool::Unavailable;

/// An upgrade that a visitor asked for.
pub(super) struct Upgrading {
    protocol: HeaderValue,
    key: Option<HeaderValue>,
}

/// How an upgrade ended.
pub(super) enum Http1 {
    /// 101, and what is to be joined behind it.
    Switched(Response<()>, Joining),
    /// The app answered otherwise.
    Plain(Opened<Incoming>),
}

/// What the visitor upgrades to, if anything. What is not to be passed on (`may_upgrade_to`) is ignored, as it may be
/// (RFC 9110 §7.8): the request stands without it.
pub(super) fn wanted(request: &mut Request<()>, body: &Incoming) -> Option<Upgrading> {
    if request.version() != http::Version::HTTP_11
        || !connection_names(request.headers(), "upgrade")
    {
        return None;
    }
    let mut protocols = request.headers().get_all(UPGRADE).iter();
    let protocol = protocols.next()?.clone();
    if protocols.next().is_some() {
        return None;
    }
    let name = protocol.to_str().ok()?.trim();
    if !may_upgrade_to(name) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    // Only a WebSocket's opening has a fixed method, and a body that could be mistaken for the upgraded protocol's
    // first octets must not be there (RFC 9110 §7.8).
    if request.method() != Method::GET || !http_body::Body::is_end_stream(body) {
        return None;
    }
    let key = request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    Some(Upgrading {
        protocol: HeaderValue::from_str(&lower).ok()?,
        key,
    })
}

/// Opens the tunnel's stream and, returns what is to be joined once the agent agrees.
pub(super) async fn http1<S: Side>(
    visit: &Arc<Visit>,
    upgrading: Upgrading,
    mut ask: Ask<Incoming>,
    record: &mut Record,
    side: &mut S,
) -> Result<Http1, Unavailable> {
    let Upgrading { protocol, key } = upgrading;
    ask.head.method = Method::CONNECT;
    ask.protocol = protocol.to_str().ok().map(Protocol::from);
    ask.head
        .headers
        .insert(UPGRADE_OPTIONAL, HeaderValue::from_static("1"));
    let mut opened = open(visit, ask, record, side).await?;
    let refused = !opened.parts.status.is_success() || has_content(&opened.parts);
    let lasting = opened.upgraded.take().unwrap_or_default();
    let (parts, with) = match opened.way {
        Way::Tunnel(stream) if !refused => (opened.parts, With::Stream(stream)),
        Way::Joined(joined) => (opened.parts, With::Server(joined)),
        Way::Tunnel(_) | Way::Backend(_) => {
            if let Some(status) = ordinary(&mut opened.parts) {
                record.ignored(status);
            }
            return Ok(Http1::Plain(opened));
        }
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = parts.headers;
    let headers = response.headers_mut();
    for framing in [
        CONTENT_LENGTH,
        http::header::TRANSFER_ENCODING,
        http::header::TRAILER,
    ] {
        headers.remove(framing);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    if let Some(key) = key
        && let Ok(accept) = HeaderValue::from_str(&accept(key.as_bytes()))
    {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(Http1::Switched(response, Joining { with, lasting }))
}

/// Whether it is an ordinary answer, whatever its status: an agreement has no content (RFC 9110 §9.3.6). A HAProxy agent
/// passes an app's 200 as it is.
fn has_content(parts: &response::Parts) -> bool {
    parts
        .headers
        .get(CONTENT_LENGTH)
        .is_some_and(|length| length != "0")
}

/// Unwraps the answer of an app that has ignored the upgrade, as it may (RFC 9110 §7.8). Returns the app's status.
fn ordinary(parts: &mut response::Parts) -> Option<StatusCode> {
    let wrapped = parts.headers.remove(STATUS)?;
    let status = StatusCode::from_bytes(wrapped.as_bytes())
        .ok()
        .filter(|status| parts.status == StatusCode::BAD_GATEWAY && status.is_success())?;
    parts.status = status;
    parts.headers.remove(REASON);
    Some(status)
}

/// What a visitor's connection is to be one with.
pub(super) struct Joining {
    with: With,
    lasting: Lasting,
}

enum With {
    /// A tunnel's stream.
    Stream(Box<Stream<Incoming>>),
    /// The connection of a backend's server.
    Server(Box<Joined<Incoming>>),
}

impl Joining {
    /// Joins them until both have ended, one has failed, or the gateway ends; the record ends with it. To be run by the
    /// connection's own task, so that whoever counts connections counts this one to its end, behind the 101.
    /// `stall` is for how long the visitor may take nothing of what waits for it.
    pub(super) async fn run<T>(
        self,
        io: VisitorIo<T>,
        drain: &Drain,
        visitor: SocketAddr,
        stall: Duration,
        mut record: Box<Record>,
    ) where
        T: AsyncRead + AsyncWrite + Ends + Unpin,
    {
        let lasting = self.lasting;
        let beneath = io.beneath();
        let joined = async {
            let stream = match self.with {
                With::Stream(stream) => stream,
                With::Server(joined) => {
                    return Box::pin(joined.run(io, beneath, stall, lasting)).await;
                }
            };
            let Stream {
                inbound,
                upload,
                lease,
                ..
            } = *stream;
            let _held = lease;
            let stream = upload.into_stream();
            let terms = Terms {
                stall: Some(stall),
                silence: lasting.silence,
                failed: Reason::CANCEL,
            };
            let join = Join::new(io, Bytes::new(), stream, inbound, &terms);
            let mut join = join.over(beneath);
            let result = join.run().await;
            let traffic = join.traffic();
            let parted = result.err().map(|broken| {
                debug!(%visitor, ?traffic, "an upgraded connection broke: {broken}");
                Parted::Failed(match broken {
                    Broken::Io(_) | Broken::Unwanted => Failure::VisitorGone,
                    Broken::Stalled(_) => Failure::VisitorStalled,
                    Broken::Idle(quiet) => return Parted::Silent(quiet),
                    Broken::Reset(_) | Broken::Gone(_) => Failure::ResponseCut,
                })
            });
            if let Some(Parted::Silent(_)) = parted {
                end_in_order(&mut join.into_io()).await;
            }
            (traffic.sent, traffic.received, parted)
        };
        let Some((received, sent, parted)) = drain.until_last_call(joined).await else {
            return record.failed(Failure::Draining);
        };
        record.parted();
        record.received = received;
        record.sent = sent;
        match parted {
            Some(Parted::Failed(failure)) => record.failed(failure),
            Some(Parted::Silent(quiet)) => record.fell_silent(quiet, lasting),
            None => {}
        }
    }
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2): over HTTP/2 nobody sends it, so the hop that speaks HTTP/1 makes it.
pub(crate) fn accept(key: &[u8]) -> String {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wrapped_success_is_unwrapped() {
        let unwrapped = |outer: u16, inner: &str| {
            let response = Response::builder().status(outer).header(STATUS, inner);
            let (mut parts, ()) = response.body(()).unwrap().into_parts();
            let status = ordinary(&mut parts).map(|status| status.as_u16());
            (status, parts.status.as_u16())
        };
        assert_eq!(unwrapped(502, "204"), (Some(204), 204));
        for (outer, inner) in [(502, "101"), (502, "404"), (502, "x"), (403, "200")] {
            assert_eq!(unwrapped(outer, inner), (None, outer), "{inner}");
        }
    }

    #[test]
    fn the_example_of_rfc_6455() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
