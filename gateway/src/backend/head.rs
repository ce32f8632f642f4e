//! A request's head as an HTTP/1.1 server is to read it. Pure.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};

use crate::failure::Failure;
use crate::forward::{self, Outgoing};

/// From the head that was made ours already: its host a field (RFC 9112 §3.2), and its body's length stated.
pub(super) fn for_http1(mut head: Box<Outgoing>, has_body: bool) -> Box<Outgoing> {
    let Outgoing {
        authority, headers, ..
    } = &mut *head;
    if headers.get(HOST) != Some(authority) {
        headers.insert(HOST, authority.clone());
    }
    if headers.keys().any(|name| name == TE) {
        // It goes with a connection option of its name (RFC 9110 §10.1.4).
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    if has_body && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    head
}

/// From that, the same as an HTTP/2 server is to read it (RFC 9113 §8.3.1). Its scheme is that of the connection, as servers
/// insist.
///
/// # Errors
/// An authority that cannot stand in a URI.
pub(super) fn for_http2(head: &Outgoing, secured: bool) -> Result<http::Request<()>, Failure> {
    let mut head = head.clone();
    for field in [CONNECTION, TRANSFER_ENCODING] {
        head.headers.remove(field);
    }
    head.scheme = forward::scheme(secured);
    head.into_request()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method, Uri};

    use super::*;

    fn made(uri: &str, fields: &[(&'static str, &'static str)], has_body: bool) -> Outgoing {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let uri: Uri = uri.parse().unwrap();
        let head = Outgoing {
            method: Method::GET,
            scheme: forward::scheme(uri.scheme_str() == Some("https")),
            authority: uri.authority().unwrap().as_str().parse().unwrap(),
            path: forward::path(uri),
            headers,
        };
        *for_http1(Box::new(head), has_body)
    }

    #[test]
    fn target_and_host_part() {
        for fields in [
            &[][..],
            &[("host", "App.test:8443")],
            &[("host", "app.test:8443")],
        ] {
            let head = made("https://App.test:8443/a%2Fb//c?q=%20", fields, false);
            assert_eq!(head.path, "/a%2Fb//c?q=%20");
            assert_eq!(head.headers[HOST], "App.test:8443");
            assert_eq!(head.headers.len(), 1);
        }
        assert_eq!(made("http://a.test/*", &[], false).path, "/*");
    }

    #[test]
    fn http2_has_its_target_in_pieces() {
        let fields = [("te", "trailers"), ("x-a", "1")];
        let head = for_http2(&made("http://App.test:8443/a%2Fb?q", &fields, true), true).unwrap();
        assert_eq!(head.uri().to_string(), "https://App.test:8443/a%2Fb?q");
        let mut names: Vec<_> = head.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-a"]);
        let head = for_http2(&made("https://a.test/*", &[], false), false).unwrap();
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
