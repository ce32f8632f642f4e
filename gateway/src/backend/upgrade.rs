//! A change of protocol at a server: what the visitor asked for by `Upgrade`, or by extended CONNECT (RFC 8441), is a GET with
//! `Upgrade` here; the server's 101 becomes a success, and behind it octets go both ways.

use std::error::Error;
use std::sync::Arc;

use aws_lc_rs::rand;
use bytes::Bytes;
use data_encoding::BASE64;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode};
use http_body::Body;
use tidegate_shared::message::{UPGRADE_OPTIONAL, strip_agents, strip_hop_by_hop};

use super::Backend;
use super::exchange::{Errand, Reply};
use super::head::for_http1;
use super::joined::Joined;
use super::search::Caller;
use super::server::What;
use crate::access::Record;
use crate::exchange::{Ask, Gateway, Opened, Side, Way};
use crate::failure::Failure;
use crate::forward::Outgoing;
use crate::visitor::accept;

/// Asks a server to change to `protocol`.
pub(super) async fn open<B, S>(
    gateway: &Gateway,
    backend: &Arc<Backend>,
    ask: Ask<B>,
    protocol: &Protocol,
    caller: &Caller<'_>,
    record: &mut Record,
    side: &mut S,
) -> Result<Opened<B>, Failure>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin + 'static,
    S: Side,
{
    let mut head = for_http1(ask.head, false);
    // An HTTP/1 visitor takes an ordinary answer too (RFC 9110 §7.8).
    let optional = head.headers.remove(UPGRADE_OPTIONAL).is_some();
    let key = into_upgrade(&mut head, protocol)?;
    let mut errand = Errand::of_upgrade(backend, head, caller);
    let (in_flight, reply) = errand.run(gateway, record, side).await?;
    let server = Arc::clone(&in_flight.server);
    // It was asked on a connection of its own, in HTTP/1.1.
    let Reply::Http1(kept, response) = reply else {
        return Err(Failure::BackendInvalid);
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if response.status().is_success() && !optional {
            return Err(Failure::UpgradeIgnored);
        }
        return Ok(errand.answered(in_flight, Reply::Http1(kept, response), record));
    }
    if let Some(key) = key
        && response
            .headers()
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_none_or(|answer| answer.as_bytes() != accept(key.as_bytes()).as_bytes())
    {
        let why = "its Sec-WebSocket-Accept does not fit the key (RFC 6455 §4.1)";
        server.count(What::Invalid, why);
        return Err(Failure::UpgradeInvalid);
    }
    let (mut parts, ()) = response.into_parts();
    let (line, ahead) = kept.link.into_parts();
    in_flight.answered();
    strip_hop_by_hop(&mut parts.headers);
    strip_agents(&mut parts.headers);
    parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
    parts.extensions.clear();
    parts.status = StatusCode::OK;
    record.answered(parts.status, std::time::Instant::now());
    let lasting = gateway.lasting.at(backend.terms.upgraded);
    Ok(Opened {
        parts,
        upgraded: Some(lasting),
        way: Way::Joined(Box::new(Joined::new(in_flight, line, ahead, ask.body))),
    })
}

/// Turns a head into an upgrade's. Returns the key whose acceptance must be checked, for a WebSocket.
fn into_upgrade(head: &mut Outgoing, protocol: &Protocol) -> Result<Option<String>, Failure> {
    let name = HeaderValue::from_str(protocol.as_str()).map_err(|_bad| Failure::Malformed)?;
    head.method = Method::GET;
    let headers = &mut head.headers;
    for framing in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
        headers.remove(framing);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, name);
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return Ok(None);
    }
    let mut nonce = [0; 16];
    // Without randomness there is no TLS either.
    rand::fill(&mut nonce).map_err(|_none| Failure::BackendUnreachable)?;
    let key = BASE64.encode(&nonce);
    if let Ok(value) = HeaderValue::from_str(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, value);
    }
    headers
        .entry(SEC_WEBSOCKET_VERSION)
        .or_insert(HeaderValue::from_static("13"));
    Ok(Some(key))
}
