//! A request's head as an HTTP/1.1 server is to read it. Pure.

use http::Uri;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::PathAndQuery;

use crate::forward::Outgoing;

/// From the head that was made ours already: its target in origin form (RFC 9112 §3.2.1), its host a field again, and its
/// body's length stated.
pub(super) fn for_http1(mut head: Outgoing, has_body: bool) -> Outgoing {
    let headers = &mut head.headers;
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }
    if headers.contains_key(TE) {
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
        for_http1(head, has_body)
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
    fn a_body_has_a_length_or_chunks() {
        let chunked = made("http://a.test/", &[("te", "trailers")], true);
        assert_eq!(chunked.headers[TRANSFER_ENCODING], "chunked");
        assert_eq!(chunked.headers[CONNECTION], "te");
        let long = made("http://a.test/", &[("content-length", "3")], true);
        assert!(!long.headers.contains_key(TRANSFER_ENCODING));
    }
}
