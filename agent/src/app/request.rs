//! What the app is sent: the visitor's request without what concerned the tunnel's hop only. Pure but for the body, which
//! arrives from the tunnel while it is sent on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use tidegate_shared::inbound::Inbound;
use tidegate_shared::message::{
    BadLength, declared_length, may_upgrade_to, strip_gateways, strip_hop_by_hop,
};
use tidegate_shared::seam::Wire;

/// The body of a request.
#[derive(Debug)]
pub(super) enum Upload {
    None,
    Tunnel(Inbound),
}

impl Upload {
    pub(super) fn new(recv: RecvStream, wire: Arc<Wire>) -> Self {
        if recv.is_end_stream() {
            Self::None
        } else {
            Self::Tunnel(Inbound::counted(recv, wire))
        }
    }

    pub(super) const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Tunnel(inbound) => Pin::new(inbound).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::None => true,
            Self::Tunnel(inbound) => inbound.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::None => SizeHint::with_exact(0),
            Self::Tunnel(inbound) => inbound.size_hint(),
        }
    }
}

/// Why a request must not be passed to the app, if it must not: whatever the gateway let through, the app is asked one
/// request by it, and none that it has not seen.
pub(super) fn unfit<B>(request: &Request<B>) -> Option<&'static str> {
    if request
        .extensions()
        .get::<Protocol>()
        .is_some_and(|protocol| !may_upgrade_to(protocol.as_str()))
    {
        return Some(
            "the request's :protocol is none that can be passed on (one token, and neither HTTP nor TLS)",
        );
    }
    match declared_length(request.headers()) {
        Ok(_) => None,
        Err(BadLength::Several) => Some("the request has more than one Content-Length"),
        Err(BadLength::NoNumber) => Some("the request's Content-Length is no number"),
    }
}

/// Turns the head of a request from the tunnel into one for an HTTP/1.1 app, in place. With `host`, that replaces the
/// visitor's.
pub(super) fn for_http1(head: &mut Parts, host: Option<&HeaderValue>, has_body: bool) {
    let path = path_of(&head.uri);
    set_host(&mut head.headers, &head.uri, host);
    head.uri = Uri::from(path);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    strip_hop_by_hop(&mut head.headers);
    strip_gateways(&mut head.headers);
    join_cookies(&mut head.headers);
    if head.headers.contains_key(TE) {
        // RFC 9110 §10.1.4: TE goes with a connection option of its name.
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if has_body && !head.headers.contains_key(CONTENT_LENGTH) {
        head.headers
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The target in origin form, or `*` (RFC 9112 §3.2): whatever else was in it does not concern the app.
pub(super) fn path_of(uri: &Uri) -> PathAndQuery {
    uri.path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// `:authority` counts where there is one (RFC 9113 §8.3.1); a HAProxy gateway passes an HTTP/1.1 visitor's `Host` and no
/// `:authority`.
pub(super) fn set_host(headers: &mut HeaderMap, uri: &Uri, host: Option<&HeaderValue>) {
    if let Some(host) = host {
        headers.insert(HOST, host.clone());
        return;
    }
    if let Some(authority) = uri.authority()
        && headers
            .get(HOST)
            .is_none_or(|present| present.as_bytes() != authority.as_str().as_bytes())
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, value);
    }
}

/// HTTP/2 may cut a cookie into several fields; HTTP/1.1 wants one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(whole) = HeaderValue::from_bytes(&whole) {
        headers.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(request: Request<()>, host: Option<&str>, has_body: bool) -> Parts {
        let (mut head, ()) = request.into_parts();
        let host = host.map(|host| HeaderValue::from_str(host).unwrap());
        for_http1(&mut head, host.as_ref(), has_body);
        head
    }

    #[test]
    fn only_path_and_host_are_left_of_the_target() {
        let head = sent(
            Request::get("https://blog.example:8443/a%2Fb//c?q=%20#x")
                .body(())
                .unwrap(),
            None,
            false,
        );
        assert_eq!(head.uri.to_string(), "/a%2Fb//c?q=%20");
        assert_eq!(head.headers[HOST], "blog.example:8443");
        assert_eq!(head.version, Version::HTTP_11);
    }

    #[test]
    fn host_without_authority_is_kept_and_authority_wins_over_host() {
        let kept = Request::get("/x")
            .header(HOST, "A.example:80")
            .body(())
            .unwrap();
        assert_eq!(sent(kept, None, false).headers[HOST], "A.example:80");
        let both = Request::get("http://a.example/")
            .header(HOST, "b.example")
            .body(())
            .unwrap();
        assert_eq!(sent(both, None, false).headers[HOST], "a.example");
        let told = Request::get("http://a.example/")
            .header(HOST, "b.example")
            .body(())
            .unwrap();
        assert_eq!(
            sent(told, Some("localhost:3000"), false).headers[HOST],
            "localhost:3000"
        );
    }

    #[test]
    fn cookies_are_joined_and_one_hops_fields_removed() {
        let request = Request::get("http://a/")
            .header(COOKIE, "a=1")
            .header(COOKIE, "b=2")
            .header("te", "trailers")
            .header("keep-alive", "1")
            .body(())
            .unwrap();
        let head = sent(request, None, false);
        assert_eq!(head.headers[COOKIE], "a=1; b=2");
        assert_eq!(head.headers.get_all(COOKIE).iter().count(), 1);
        assert_eq!(
            (&head.headers[TE], &head.headers[CONNECTION]),
            (
                &HeaderValue::from_static("trailers"),
                &HeaderValue::from_static("te")
            )
        );
        assert!(!head.headers.contains_key("keep-alive"));
    }

    #[test]
    fn what_the_app_could_read_in_two_ways_is_not_passed() {
        let ask = |lengths: &[&str], protocol: Option<&'static str>| {
            let mut request = Request::post("http://a/").body(()).unwrap();
            for length in lengths {
                let value = HeaderValue::from_str(length).unwrap();
                request.headers_mut().append(CONTENT_LENGTH, value);
            }
            if let Some(protocol) = protocol {
                let protocol = Protocol::from_static(protocol);
                request.extensions_mut().insert(protocol);
            }
            unfit(&request)
        };
        for fit in [(&[][..], None), (&["2"], None), (&[], Some("websocket"))] {
            assert_eq!(ask(fit.0, fit.1), None, "{fit:?}");
        }
        for (lengths, protocol) in [
            (&["2", "2"][..], None),
            (&["0", "00"], None),
            (&[""], None),
            (&["+2"], None),
            (&[], Some("h2c")),
            (&[], Some("a\r\nb: c")),
            (&[], Some("")),
        ] {
            assert!(ask(lengths, protocol).is_some(), "{lengths:?} {protocol:?}");
        }
    }

    #[test]
    fn a_body_has_a_length_or_chunks() {
        let long = Request::get("http://a/")
            .header(CONTENT_LENGTH, "3")
            .body(())
            .unwrap();
        assert!(
            !sent(long, None, true)
                .headers
                .contains_key(TRANSFER_ENCODING)
        );
        let streamed = Request::get("http://a/").body(()).unwrap();
        assert_eq!(
            sent(streamed, None, true).headers[TRANSFER_ENCODING],
            "chunked"
        );
        let none = Request::post("http://a/").body(()).unwrap();
        assert!(
            !sent(none, None, false)
                .headers
                .contains_key(TRANSFER_ENCODING)
        );
    }
}
