//! Fields that concern one hop only (RFC 9110 §7.6.1), and those that would frame a message in two ways once it is written
//! as HTTP/1. Pure. Called by the gateway and the agent for what they pass on, and for what they do not.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use crate::glance::Glance;

/// Set by a gateway on an extended CONNECT that stands for an HTTP/1.1 `Upgrade`, which an app may ignore (RFC 9110 §7.8):
/// this gateway understands [`STATUS`] in the answer. Any value; the agent keeps it from the app.
pub const UPGRADE_OPTIONAL: HeaderName = HeaderName::from_static("tidegate-upgrade-optional");

/// Set by an agent on a 502 that answers such a request: the status with which the app has answered as if no change of
/// protocol had been asked for. The tunnel's own status must not be a success, which would mean that the protocol has
/// changed (RFC 8441 §4); so whoever does not know this field, or gets it unasked, sees a failure and no open stream.
pub const STATUS: HeaderName = HeaderName::from_static("tidegate-status");

/// Set by an agent on an answer that is its own and not its app's: what happened, as a part of a sentence. A gateway that
/// knows it answers with its own page, which has the request's id; others pass the agent's. An agent keeps it off what its
/// app says, and a gateway off what its visitors see.
pub const DETAIL: HeaderName = HeaderName::from_static("tidegate-detail");

/// Most octets of a [`DETAIL`], for who writes it and for who reads it.
pub const DETAIL_MAX: usize = 500;

/// Removes from an app's answer what only its agent may say.
pub fn strip_agents(headers: &mut HeaderMap) {
    // A glance costs less than two look-ups that find nothing.
    if headers.keys().any(is_ours) {
        headers.remove(DETAIL);
        headers.remove(STATUS);
    }
}

/// Removes from a request what only a gateway may say to its agent, and an app is not to hear of: every field whose name is
/// Tidegate's own.
pub fn strip_gateways(headers: &mut HeaderMap) {
    if !headers.keys().any(is_ours) {
        return;
    }
    let ours: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_ours(name))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("tidegate-")
}

/// Names that `Connection` cannot have removed: they frame or route the message, or say who sent it, and a visitor who
/// could strip them would be believed to be somebody else.
const PROTECTED: [&str; 14] = [
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "te",
    "trailer",
    "via",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "authorization",
    "cookie",
];

/// Removes what concerns one hop, and what `Connection` names. `TE: trailers` stays, alone (RFC 9113 §8.2.2).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let glance = Glance::of_answer(headers);
    strip_seen(headers, glance);
}

/// The same for a head that was looked at already.
pub fn strip_seen(headers: &mut HeaderMap, glance: Glance) {
    // It names more of them.
    if glance.has(Glance::CONNECTION) {
        strip_named(headers);
    }
    for (kind, name) in &ONE_HOP {
        if glance.has(*kind) {
            headers.remove(name);
        }
    }
    if glance.has(Glance::TE)
        && let Some(first) = headers.get(TE)
        && first != "trailers"
    {
        if wants_trailers(headers) {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// What always concerns one hop.
static ONE_HOP: [(Glance, HeaderName); 6] = [
    (Glance::CONNECTION, CONNECTION),
    (Glance::KEEP_ALIVE, HeaderName::from_static("keep-alive")),
    (
        Glance::PROXY_CONNECTION,
        HeaderName::from_static("proxy-connection"),
    ),
    (
        Glance::HTTP2_SETTINGS,
        HeaderName::from_static("http2-settings"),
    ),
    (Glance::TRANSFER_ENCODING, TRANSFER_ENCODING),
    (Glance::UPGRADE, UPGRADE),
];

/// Removes what must not be in trailers (RFC 9110 §6.5.1): what concerns one hop; what frames or routes a message, or says who
/// sent it, because an app that merges trailers into the head would believe a visitor; and our own. `h2` refuses to send some
/// of these, and the message would never end.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    let in_heads_only = |name: &HeaderName| {
        // Apps behind CGI and its kind read `_` as `-` (RFC 3875 §4.1.18).
        let name = name.as_str().replace('_', "-");
        PROTECTED.contains(&name.as_str())
            || name.starts_with("x-forwarded-")
            || name.starts_with("tidegate-")
    };
    let found: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| in_heads_only(name))
        .cloned()
        .collect();
    for name in found {
        trailers.remove(name);
    }
}

/// Why a message's `Content-Length` cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLength {
    /// More than one field. Even two that agree can be read in two ways, and no honest hop writes them.
    Several,
    /// Not digits alone, or more than a length can be.
    NoNumber,
}

/// The length that a head declares, in octets; `None` where it declares none.
///
/// # Errors
/// Where it is not one field of digits (RFC 9110 §8.6): whoever writes such a head as HTTP/1 leaves it to the next hop to
/// guess where the body ends (RFC 9112 §11.2).
pub fn declared_length(headers: &HeaderMap) -> Result<Option<u64>, BadLength> {
    let mut fields = headers.get_all(CONTENT_LENGTH).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(BadLength::Several);
    }
    // `parse` takes a sign, which no length has.
    field
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .map(Some)
        .ok_or(BadLength::NoNumber)
}

/// Whether an app may be asked to change to this protocol (RFC 9110 §7.8), given by an `Upgrade` or a `:protocol`: one token
/// with a version or without, and no kind of HTTP or TLS. Behind those, requests would reach the app that nobody in front of
/// it has seen; RFC 9113 §3.1 has withdrawn `h2c`.
pub fn may_upgrade_to(protocol: &str) -> bool {
    const UNSEEN: [&str; 4] = ["http", "h2", "h3", "tls"];
    let (name, version) = match protocol.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (protocol, None),
    };
    let unseen = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    is_token(name) && version.is_none_or(is_token) && !UNSEEN.into_iter().any(unseen)
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let member = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
    !text.is_empty() && text.bytes().all(member)
}

/// Whether the sender takes trailers (RFC 9110 §10.1.4).
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    tokens(headers, &TE).any(|token| {
        token
            .split(';')
            .next()
            .is_some_and(|t| t.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// Whether `Connection` names `token`, in any case (RFC 9110 §7.6.1).
pub fn connection_names(headers: &HeaderMap, token: &str) -> bool {
    tokens(headers, &CONNECTION).any(|named| named.eq_ignore_ascii_case(token))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn strip_named(headers: &mut HeaderMap) {
    let usual = |token: &str| {
        ["close", "keep-alive", "upgrade"]
            .iter()
            .any(|known| token.eq_ignore_ascii_case(known))
    };
    let all_usual = |value: &HeaderValue| value.to_str().is_ok_and(usual);
    if headers.get_all(CONNECTION).iter().all(all_usual) {
        return;
    }
    let named: Vec<String> = tokens(headers, &CONNECTION)
        .filter(|token| !usual(token))
        .map(str::to_ascii_lowercase)
        .collect();
    for name in named {
        if !PROTECTED.contains(&name.as_str()) {
            headers.remove(name.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn one_hop_is_all_they_go() {
        let mut map = headers(&[
            ("connection", "close, X-Secret"),
            ("connection", "Other"),
            ("x-secret", "1"),
            ("other", "2"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers;q=0.5"),
            ("x-kept", "a"),
            ("x-kept", "b"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(
            map,
            headers(&[("te", "trailers"), ("x-kept", "a"), ("x-kept", "b")])
        );
    }

    #[test]
    fn trailers_neither_frame_nor_route() {
        let mut map = headers(&[
            ("connection", "close"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "1"),
            ("content-length", "5"),
            ("host", "b"),
            ("x-sum", "1"),
        ]);
        strip_trailers(&mut map);
        assert_eq!(map, headers(&[("x-sum", "1")]));
    }

    #[test]
    fn a_length_is_one_field_of_digits() {
        let length = |values: &[&str]| {
            let fields: Vec<_> = values
                .iter()
                .map(|value| ("content-length", *value))
                .collect();
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(name, HeaderValue::from_str(value).unwrap());
            }
            declared_length(&map)
        };
        assert_eq!(length(&[]), Ok(None));
        for (text, octets) in [("0", 0), ("007", 7), ("18446744073709551615", u64::MAX)] {
            assert_eq!(length(&[text]), Ok(Some(octets)));
        }
        for two in [["2", "2"], ["0", "00"], ["", ""], ["2", "x"]] {
            assert_eq!(length(&two), Err(BadLength::Several), "{two:?}");
        }
        for none in [
            "",
            "+2",
            "-1",
            "2, 2",
            " 2",
            "0x2",
            "18446744073709551616",
            "\u{b2}",
        ] {
            assert_eq!(length(&[none]), Err(BadLength::NoNumber), "{none:?}");
        }
    }

    #[test]
    fn behind_an_upgrade_no_requests_go_unseen() {
        for good in [
            "websocket",
            "WebSocket",
            "foo",
            "foo/1.0",
            "connect-udp",
            "IRC/6.9",
            "t",
        ] {
            assert!(may_upgrade_to(good), "{good}");
        }
        for bad in [
            "h2c",
            "H2C",
            "h2",
            "h2c-14",
            "h3",
            "http",
            "HTTP/2.0",
            "https",
            "tls/1.0",
            "TLS",
            "",
            "/",
            "foo/",
            "/1",
            "a/b/c",
            "a b",
            "a,h2c",
            "a, h2c",
            "web\r\nX-Inj: 1",
            "a\0",
            "f\u{f6}o",
        ] {
            assert!(!may_upgrade_to(bad), "{bad:?}");
        }
    }

    #[test]
    fn connection_cannot_strip_what_frames_or_identifies() {
        let mut map = headers(&[
            (
                "connection",
                "Host, Content-Length, X-Forwarded-For, cookie",
            ),
            ("host", "a"),
            ("content-length", "3"),
            ("x-forwarded-for", "192.0.2.1"),
            ("cookie", "c"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map.len(), 4);
    }
}
