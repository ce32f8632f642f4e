//! A visitor's request head, made into the one that goes to an agent. Pure.
//!
//! Fields that concern one hop go, the fields that say who asked are ours to set, everything else stays: path octets,
//! field values and their order within a name, methods nobody knows.

use std::net::{IpAddr, SocketAddr};

use http::header::{COOKIE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, VIA};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use tidegate_shared::glance::Glance;
use tidegate_shared::message::{strip_gateways, strip_seen};
use tidegate_shared::name::{VisitorHost, visitor_host};

use crate::failure::Failure;
use crate::range::Range;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields of their kind that others set and that a visitor must not be able to forge towards an app that trusts them.
const FORGEABLE: [&str; 6] = [
    "x-real-ip",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-forwarded-scheme",
    "x-forwarded-prefix",
];

/// Which fields are added, and who may have set them already.
#[derive(Clone, Debug)]
pub struct Policy {
    pub x_forwarded: bool,
    pub forwarded: bool,
    pub via: bool,
    pub trusted: Vec<Range>,
}

/// What a visitor's connection contributes to every one of its requests, made once per connection.
#[derive(Debug)]
pub struct Origin {
    trusted: bool,
    client: HeaderValue,
    /// `for=…;proto=…;host=`, for the host to be appended.
    forwarded: String,
    proto: &'static str,
}

impl Origin {
    pub fn new(policy: &Policy, visitor: SocketAddr, tls: bool) -> Self {
        let address = visitor.ip().to_canonical();
        let proto = if tls { "https" } else { "http" };
        // An address consists of digits, letters, colons and dots, which any field may carry.
        let client = HeaderValue::from_str(&address.to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let node = match address {
            IpAddr::V4(v4) => v4.to_string(),
            // An IPv6 address is bracketed and quoted (RFC 7239 §6).
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        Self {
            trusted: policy.trusted.iter().any(|range| range.contains(address)),
            client,
            forwarded: format!("for={node};proto={proto};host="),
            proto,
        }
    }

    /// Whether what it says in forwarding fields is believed.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }
}

/// A request's head on its way to an agent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub method: Method,
    pub scheme: Scheme,
    /// The host that is asked for, with its port, as it was written. What the fields say of it does not count.
    pub authority: HeaderValue,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
}

impl Outgoing {
    /// As `h2` wants it: the target in pieces, and nothing about it among the fields (RFC 9113 §8.3.1).
    ///
    /// # Errors
    /// An authority that cannot stand in a URI, which none does that is a visitor's host.
    pub fn into_request(mut self) -> Result<http::Request<()>, Failure> {
        self.headers.remove(HOST);
        let authority = Authority::from_maybe_shared(self.authority);
        let mut parts = Parts::default();
        parts.scheme = Some(self.scheme);
        parts.authority = Some(authority.map_err(|_bad| Failure::BadHost)?);
        parts.path_and_query = Some(self.path);
        let mut request = http::Request::new(());
        *request.method_mut() = self.method;
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_bad| Failure::BadHost)?;
        *request.headers_mut() = self.headers;
        *request.version_mut() = Version::HTTP_2;
        Ok(request)
    }
}

/// Whether a request of this kind may be sent twice (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The one host that a request is for, as the visitor wrote it.
///
/// The target's authority counts where there is one (RFC 9112 §3.2.2, RFC 9113 §8.3.1); a Host beside it must name the
/// same host.
///
/// # Errors
/// No host, several, or different ones.
pub fn authority(uri: &Uri, headers: &HeaderMap) -> Result<HeaderValue, Failure> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::ManyHosts);
    }
    let Some(target) = uri.authority() else {
        return host.cloned().ok_or(Failure::NoHost);
    };
    if let Some(host) = host {
        let named = visitor_host(host.as_bytes()).map_err(|_bad| Failure::BadHost)?;
        let target = visitor_host(target.as_str().as_bytes()).map_err(|_bad| Failure::BadHost)?;
        if named.name() != target.name() {
            return Err(Failure::ConflictingHost);
        }
    }
    HeaderValue::from_str(target.as_str()).map_err(|_bad| Failure::BadHost)
}

/// The target is a path, or everything (`*`), which only OPTIONS may ask about (RFC 9112 §3.2.4); an
/// absolute one is of HTTP. A host alone is CONNECT's (§3.2.3).
///
/// # Errors
/// A target that is neither.
pub fn check_target(method: &Method, uri: &Uri) -> Result<(), Failure> {
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(Failure::Malformed);
    }
    match uri.path() {
        "*" if *method != Method::OPTIONS => Err(Failure::Malformed),
        path if path.starts_with('/') || path == "*" => Ok(()),
        _ => Err(Failure::Malformed),
    }
}

/// The host in the form in which names are compared.
///
/// # Errors
/// What is not a host.
pub fn host(authority: &HeaderValue) -> Result<VisitorHost<'_>, Failure> {
    visitor_host(authority.as_bytes()).map_err(|_bad| Failure::BadHost)
}

/// The path that goes on: the visitor's own, with its query.
pub fn path(target: Uri) -> PathAndQuery {
    let path = target.into_parts().path_and_query;
    path.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// The scheme by which a visitor asks.
pub fn scheme(tls: bool) -> Scheme {
    if tls { Scheme::HTTPS } else { Scheme::HTTP }
}

/// Rewrites the fields in place, but for Host, which is its writer's. `version` is the visitor's, for `Via`; `glance` was taken
/// at the fields as they came.
pub fn rewrite(
    headers: &mut HeaderMap,
    policy: &Policy,
    origin: &Origin,
    authority: &HeaderValue,
    version: Version,
    glance: Glance,
) {
    strip_seen(headers, glance);
    if glance.has(Glance::OURS) {
        strip_gateways(headers);
    }
    if version >= Version::HTTP_2 {
        join_cookies(headers);
    }
    if !origin.trusted && glance.has(Glance::X) {
        for name in FORGEABLE {
            headers.remove(name);
        }
    }
    if !origin.trusted && glance.has(Glance::VIA) {
        headers.remove(VIA);
    }
    if glance.has(Glance::UNDERSCORE) {
        remove_lookalikes(headers);
    }
    set_x_forwarded(headers, policy, origin, authority);
    set_forwarded(headers, policy, origin, authority);
    if policy.via {
        headers.append(
            VIA,
            HeaderValue::from_static(match version {
                Version::HTTP_10 => "1.0 tidegate",
                Version::HTTP_11 => "1.1 tidegate",
                _ => "2 tidegate",
            }),
        );
    }
}

/// Apps behind CGI and its kind (RFC 3875 §4.1.18, WSGI) read `_` in a name as `-`: they would take `x_forwarded_for` for ours,
/// and `content_length` for the body's. No hop that is worth trusting writes them so.
fn remove_lookalikes(headers: &mut HeaderMap) {
    let alike = |name: &&HeaderName| {
        let name = name.as_str();
        name.contains('_') && {
            let read = name.replace('_', "-");
            read.starts_with("x-forwarded-")
                || ["x-real-ip", "content-length", "transfer-encoding"].contains(&read.as_str())
        }
    };
    let found: Vec<HeaderName> = headers.keys().filter(alike).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Splitting `cookie` is a matter of HTTP/2's own compression (RFC 9113 §8.2.3); an app expects one field.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) {
        let mut joined = [first.as_bytes(), b"; ", second.as_bytes()].concat();
        for crumb in crumbs {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(crumb.as_bytes());
        }
        if let Ok(joined) = HeaderValue::from_bytes(&joined) {
            headers.insert(COOKIE, joined);
        }
    }
}

fn set_x_forwarded(
    headers: &mut HeaderMap,
    policy: &Policy,
    origin: &Origin,
    authority: &HeaderValue,
) {
    if !policy.x_forwarded {
        if !origin.trusted {
            for name in [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST] {
                headers.remove(name);
            }
        }
        return;
    }
    let chain = origin
        .trusted
        .then(|| joined(headers, &X_FORWARDED_FOR, &origin.client))
        .flatten();
    headers.insert(
        X_FORWARDED_FOR.clone(),
        chain.unwrap_or_else(|| origin.client.clone()),
    );
    if !(origin.trusted && headers.contains_key(&X_FORWARDED_PROTO)) {
        headers.insert(
            X_FORWARDED_PROTO.clone(),
            HeaderValue::from_static(origin.proto),
        );
    }
    if !(origin.trusted && headers.contains_key(&X_FORWARDED_HOST)) {
        headers.insert(X_FORWARDED_HOST.clone(), authority.clone());
    }
}

fn set_forwarded(
    headers: &mut HeaderMap,
    policy: &Policy,
    origin: &Origin,
    authority: &HeaderValue,
) {
    if !policy.forwarded {
        if !origin.trusted {
            headers.remove(FORWARDED);
        }
        return;
    }
    let mut value = Vec::with_capacity(origin.forwarded.len() + authority.len() + 2);
    value.extend_from_slice(origin.forwarded.as_bytes());
    // A host with a port or brackets is no token and must be quoted (RFC 7239 §4).
    let quoted = authority
        .as_bytes()
        .iter()
        .any(|octet| matches!(octet, b':' | b'[' | b']'));
    value.extend_from_slice(if quoted { b"\"" } else { b"" });
    value.extend_from_slice(authority.as_bytes());
    value.extend_from_slice(if quoted { b"\"" } else { b"" });
    // Both parts come from values that a field already carried.
    let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)) else {
        return;
    };
    let chain = origin
        .trusted
        .then(|| joined(headers, &FORWARDED, &value))
        .flatten();
    headers.insert(FORWARDED, chain.unwrap_or(value));
}

/// What trusted hops said before us, and what we say, in one list.
fn joined(headers: &HeaderMap, name: &HeaderName, ours: &HeaderValue) -> Option<HeaderValue> {
    let mut list = Vec::new();
    for value in headers.get_all(name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(ours.as_bytes());
    HeaderValue::from_bytes(&list).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(trusted: &[&str]) -> Policy {
        Policy {
            x_forwarded: true,
            forwarded: true,
            via: true,
            trusted: trusted.iter().map(|range| range.parse().unwrap()).collect(),
        }
    }

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn rewritten(policy: &Policy, visitor: &str, lines: &[(&str, &str)]) -> HeaderMap {
        let origin = Origin::new(policy, visitor.parse().unwrap(), true);
        let mut headers = map(lines);
        let glance = Glance::of(&headers);
        rewrite(
            &mut headers,
            policy,
            &origin,
            &HeaderValue::from_static("app.test:8443"),
            Version::HTTP_11,
            glance,
        );
        headers
    }

    #[test]
    fn a_stranger_cannot_say_who_asked() {
        let headers = rewritten(
            &policy(&["10.0.0.0/8"]),
            "192.0.2.9:4444",
            &[
                ("host", "app.test:8443"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "gopher"),
                ("x-real-ip", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
                ("x-kept", "1"),
                ("x-kept", "2"),
            ],
        );
        let expected = map(&[
            ("host", "app.test:8443"),
            ("x-kept", "1"),
            ("x-kept", "2"),
            ("x-forwarded-for", "192.0.2.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "app.test:8443"),
            (
                "forwarded",
                "for=192.0.2.9;proto=https;host=\"app.test:8443\"",
            ),
            ("via", "1.1 tidegate"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn a_name_that_cgi_would_read_as_ours_is_dropped() {
        for (trusted, who) in [(&[][..], "a stranger"), (&["192.0.2.0/24"][..], "trusted")] {
            let headers = rewritten(
                &policy(trusted),
                "192.0.2.9:1",
                &[
                    ("x_forwarded_for", "6.6.6.6"),
                    ("x-forwarded_for", "6.6.6.6"),
                    ("x_forwarded-proto", "https"),
                    ("x_forwarded_prefix", "/admin"),
                    ("x-real_ip", "6.6.6.6"),
                    ("x_real_ip", "6.6.6.6"),
                    ("x_kept", "1"),
                    ("x_real_ip_of_a_peer", "2"),
                    ("my_forwarded_for", "3"),
                ],
            );
            let mut kept: Vec<&str> = headers
                .keys()
                .map(HeaderName::as_str)
                .filter(|name| name.contains('_'))
                .collect();
            kept.sort_unstable();
            assert_eq!(
                kept,
                ["my_forwarded_for", "x_kept", "x_real_ip_of_a_peer"],
                "{who}"
            );
            assert_eq!(headers["x-forwarded-for"], "192.0.2.9", "{who}");
        }
    }

    #[test]
    fn a_trusted_hop_is_believed_and_continued() {
        let headers = rewritten(
            &policy(&["2001:db8::/32"]),
            "[2001:db8::7]:1",
            &[
                ("x-forwarded-for", "198.51.100.1"),
                ("x-forwarded-proto", "http"),
                ("forwarded", "for=198.51.100.1"),
            ],
        );
        assert_eq!(headers["x-forwarded-for"], "198.51.100.1, 2001:db8::7");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(
            headers["forwarded"],
            "for=198.51.100.1, for=\"[2001:db8::7]\";proto=https;host=\"app.test:8443\""
        );
    }

    #[test]
    fn switched_off_means_absent_and_still_not_forged() {
        let off = Policy {
            x_forwarded: false,
            forwarded: false,
            via: false,
            trusted: Vec::new(),
        };
        let headers = rewritten(
            &off,
            "192.0.2.9:1",
            &[("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6")],
        );
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn one_host_or_none() {
        let of =
            |target: &str, lines: &[(&str, &str)]| authority(&target.parse().unwrap(), &map(lines));
        assert_eq!(of("/", &[("host", "a.test")]).unwrap(), "a.test");
        assert_eq!(
            of("http://A.test:80/", &[("host", "a.test")]).unwrap(),
            "A.test:80"
        );
        assert_eq!(of("/", &[]), Err(Failure::NoHost));
        assert_eq!(
            of("/", &[("host", "a"), ("host", "a")]),
            Err(Failure::ManyHosts)
        );
        assert_eq!(
            of("http://a.test/", &[("host", "b.test")]),
            Err(Failure::ConflictingHost)
        );
    }

    #[test]
    fn a_host_alone_is_no_target() {
        let of = |method, target: &str| check_target(&method, &target.parse().unwrap());
        for target in [
            "/",
            "/a?b",
            "http://a.test",
            "http://a.test/b",
            "http://a.test?b",
        ] {
            assert_eq!(of(Method::GET, target), Ok(()), "{target}");
        }
        assert_eq!(of(Method::OPTIONS, "*"), Ok(()));
        for (method, target) in [
            (Method::GET, "*"),
            (Method::GET, "a.test"),
            (Method::POST, "a.test:80"),
            (Method::OPTIONS, "a.test"),
            (Method::GET, "ftp://a.test/"),
        ] {
            assert_eq!(of(method, target), Err(Failure::Malformed), "{target}");
        }
    }
}
