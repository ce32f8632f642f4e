//! A request's head as an HTTP/1.1 server is to read it. Pure.

use http::Uri;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::forward::Outgoing;

/// From the head that was made ours already: its target in origin form (RFC 9112 §3.2.1), its host a field again, and its
/// body's length stated.
pub(super) fn for_http1(mut head: Box<Outgoing>, has_body: bool) -> Box<Outgoing> {
    let headers = &mut head.headers;
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    if headers.keys().any(|name| name == TE) {
        // It goes with a connection option of its name (RFC 9110 §10.1.4).
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if has_body && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    head
}

/// From that, the same as an HTTP/2 server is to read it (RFC 9113 §8.3.1). Its scheme is that of the connection, as servers
/// insist.
pub(super) fn for_http2(head: &Outgoing, secured: bool) -> http::Request<()> {
    let mut head = head.clone();
    for field in [CONNECTION, TRANSFER_ENCODING] {
        head.headers.remove(field);
    }
    let host = head.headers.remove(HOST);
    let authority = host.and_then(|host| Authority::from_maybe_shared(host).ok());
    let mut parts = head.uri.into_parts();
    parts.scheme = Some(if secured { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = authority;
    // There is a path, and an authority: the head was made of both.
    head.uri = Uri::from_parts(parts).unwrap_or_default();
    head.into_request()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn made(uri: &str, fields: &[(&'static str, &'static str)], has_body: bool) -> Outgoing {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let head = Outgoing {
            method: Method::GET,
            uri: uri.parse().unwrap(),
            headers,
        };
        *for_http1(Box::new(head), has_body)
    }

    #[test]
    fn target_and_host_part() {
        let head = made("https://App.test:8443/a%2Fb//c?q=%20", &[], false);
        assert_eq!(head.uri.to_string(), "/a%2Fb//c?q=%20");
        assert_eq!(head.headers[HOST], "App.test:8443");
        assert_eq!(made("http://a.test/*", &[], false).uri.path(), "/*");
        assert_eq!(head.headers.len(), 1);
    }

    #[test]
    fn http2_has_its_target_in_pieces() {
        let fields = [("te", "trailers"), ("x-a", "1")];
        let head = for_http2(&made("http://App.test:8443/a%2Fb?q", &fields, true), true);
        assert_eq!(head.uri().to_string(), "https://App.test:8443/a%2Fb?q");
        let mut names: Vec<_> = head.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-a"]);
        let head = for_http2(&made("https://a.test/*", &[], false), false);
        assert_eq!(head.uri().to_string(), "http://a.test/*");
    }

    #[test]
    fn a_body_has_a_length_or_chunks() {
        let chunked = made("http://a.test/", &[("te", "trailers")], true);
        assert_eq!(chunked.headers[TRANSFER_ENCODING], "chunked");
        assert_eq!(chunked.headers[CONNECTION], "te");
        let long = made("http://a.test/", &[("content-length", "3")], true);
        assert!(!long.headers.contains_key(TRANSFER_ENCODING));
    }
}
