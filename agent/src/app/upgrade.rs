//! Extended CONNECT (RFC 8441) to an HTTP/1.1 app: the request becomes `GET` with `Upgrade`, the app's 101 becomes 200, and
//! then bytes go both ways.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use data_encoding::BASE64;
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::SendResponse;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use tidegate_shared::duplex;
use tidegate_shared::inbound::Inbound;
use tidegate_shared::message::{STATUS, UPGRADE_OPTIONAL, strip_agents, strip_hop_by_hop};
use tidegate_shared::origin::Head;
use tidegate_shared::seam::Wire;
use tracing::debug;

use super::App;
use super::answer::{Asker, REASON, Trouble, excess};
use super::greeting::Greeting;
use super::http1::{self, Link};
use super::request::{Upload, for_http1};

/// Serves one upgraded stream. Ends when both directions are closed, when either side breaks off, or with the app's refusal.
pub(super) async fn relay(
    app: Arc<App>,
    protocol: Protocol,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wire: Arc<Wire>,
) {
    let greeting = app.greeting(&request, &wire);
    let (mut head, recv) = request.into_parts();
    let asker = Asker::of(&Method::GET, &head.headers);
    let optional = head.headers.remove(UPGRADE_OPTIONAL).is_some();
    let key = match ask_for(&mut head, &protocol, &app) {
        Ok(key) => key,
        Err(trouble) => return asker.send(&app, respond, &trouble),
    };
    let (link, response) = match fetch(&app, head, greeting.as_ref(), &mut respond).await {
        Ok(answered) => answered,
        Err(Some(trouble)) => return asker.send(&app, respond, &trouble),
        Err(None) => return,
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refused(&app, asker, optional, link, response, respond).await;
    }
    if let Some(key) = key
        && response
            .headers()
            .get(SEC_WEBSOCKET_ACCEPT)
            .is_none_or(|accept| accept.as_bytes() != accept_for(&key).as_bytes())
    {
        let wrong = Trouble::UpgradeInvalid(
            "its Sec-WebSocket-Accept does not fit the key (RFC 6455 §4.1)",
        );
        return asker.send(&app, respond, &wrong);
    }
    let (mut head, ()) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    strip_agents(&mut head.headers);
    head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    head.status = StatusCode::OK;
    head.version = Version::HTTP_2;
    head.extensions.clear();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), false) else {
        return;
    };
    let (line, ahead) = link.into_parts();
    let recv = Inbound::counted(recv, wire);
    let (traffic, ended) = duplex::join(line, ahead, stream, recv, None).await;
    debug!(
        ?traffic,
        ?ended,
        protocol = protocol.as_str(),
        "an upgraded stream ended"
    );
}

/// Turns the head into an upgrade's. Returns the key whose acceptance must be checked, for a WebSocket.
fn ask_for(head: &mut Parts, protocol: &Protocol, app: &App) -> Result<Option<String>, Trouble> {
    let name = HeaderValue::from_str(protocol.as_str())
        .map_err(|_| Trouble::UpgradeInvalid("the protocol's name cannot stand in a header"))?;
    for_http1(head, app.settings.host.as_ref(), false);
    head.method = Method::GET;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(TRANSFER_ENCODING);
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, name);
    if !protocol.as_str().eq_ignore_ascii_case("websocket") {
        return Ok(None);
    }
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce)
        .map_err(|_| Trouble::UpgradeInvalid("this machine has no randomness"))?;
    let key = BASE64.encode(&nonce);
    if let Ok(value) = HeaderValue::from_str(&key) {
        head.headers.insert(SEC_WEBSOCKET_KEY, value);
    }
    head.headers
        .entry(SEC_WEBSOCKET_VERSION)
        .or_insert(HeaderValue::from_static("13"));
    Ok(Some(key))
}

/// What an app must answer to a key (RFC 6455 §4.2.2).
fn accept_for(key: &str) -> String {
    let salted = [key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &salted).as_ref())
}

/// An upgrade always gets a connection of its own: it never comes back.
async fn fetch(
    app: &App,
    head: Parts,
    greeting: Option<&Greeting>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(Box<Link>, Response<()>), Option<Trouble>> {
    let mut link = http1::connect(app, greeting, respond).await?;
    let asked = Head {
        method: &head.method,
        target: head.uri.path_and_query(),
        headers: &head.headers,
    };
    let within = app.settings.first_byte_within;
    match link.ask(asked, Upload::None, respond, within).await {
        Ok(response) => Ok((link, response)),
        Err(miss) => Err(http1::trouble(miss, respond)),
    }
}

/// Passes the app's answer on; only a success that is none is replaced, which the visitor would take for an open stream,
/// or wrapped, where the gateway knows how to unwrap it.
async fn refused(
    app: &App,
    asker: Asker,
    optional: bool,
    mut link: Box<Link>,
    mut response: Response<()>,
    respond: SendResponse<Bytes>,
) {
    app.speaks(response.status());
    if let Some(excess) = excess(response.headers()) {
        return asker.send(app, respond, &excess);
    }
    strip_agents(response.headers_mut());
    if response.status().is_success() {
        let ignored = Trouble::UpgradeIgnored(response.status());
        if !optional {
            return asker.send(app, respond, &ignored);
        }
        let status = HeaderValue::from(response.status().as_u16());
        *response.status_mut() = ignored.status();
        let headers = response.headers_mut();
        headers.insert(STATUS, status);
        headers.insert(REASON, HeaderValue::from_static(ignored.reason()));
    }
    let _reusable = http1::pass(&mut link, response, respond, app).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_the_rfcs() {
        // RFC 6455 §1.3.
        assert_eq!(
            accept_for("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
