//! The PROXY header that a connection to the app begins with (`--proxy-protocol`): whose request it is, as far as that is
//! known, and what is written of it. Pure. A visitor has no say in it: a Tidegate gateway tells it in a field that it takes
//! from nobody else, and of another gateway's request only the last element of the operator's field counts, which is the
//! gateway's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use h2::ext::Protocol;
use http::header::{FORWARDED, HOST, HeaderMap, HeaderName};
use http::uri::Authority;
use http::{Method, Request, Uri};
use tidegate_shared::name::visitor_host;
use tidegate_shared::proxy_header::{Ends, Pair, SslFacts, TlvWriter, Version, write_v1, write_v2};
use tidegate_shared::visitor::{self, VISITOR, Visitor};

/// What the command line says of it.
#[derive(Clone, Debug)]
pub struct Plan {
    pub version: Version,
    /// In which field a gateway that is no Tidegate says who asked.
    pub from: Option<HeaderName>,
}

/// One request's.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    version: Version,
    whose: Whose,
    /// Where the visitor's TLS has not said it: whom the request is for.
    host: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    /// A Tidegate gateway has said so: whose connection, and which request.
    Told(Arc<Visitor>, Box<str>),
    /// The operator's field has; the port is 0 where it has none.
    Named(SocketAddr),
    Unknown,
}

/// Why nothing is known of a visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The gateway is no Tidegate, and no field is given.
    NoField,
    /// The field that is given has no address in its last element, or is not there.
    NoAddress(HeaderName),
    /// A Tidegate gateway's own field cannot be read, or is not there.
    Untold(String),
}

impl Plan {
    /// How the header says that it names nobody.
    pub(super) fn nobody(&self) -> &'static str {
        match self.version {
            Version::V1 => "UNKNOWN",
            Version::V2 => "LOCAL",
        }
    }

    /// What to do about an app that breaks off as soon as it has seen the header.
    pub(super) fn remedy(&self) -> String {
        let version = self.version;
        format!(
            "it may not expect the PROXY {version} header that comes first; leave --proxy-protocol out, or make the app expect it \
             (nginx: listen … proxy_protocol; HAProxy: accept-proxy)"
        )
    }

    /// Looks at a request as it came, before anything is taken off it. `marked` is whether its gateway has said that it
    /// lets nobody else say who asked.
    pub(super) fn greeting<B>(
        &self,
        request: &Request<B>,
        marked: bool,
    ) -> (Greeting, Option<Doubt>) {
        let whose = if marked {
            told(request.headers())
        } else {
            self.named(request.headers())
        };
        let (whose, doubt) = match whose {
            Ok(whose) => (whose, None),
            Err(doubt) => (Whose::Unknown, Some(doubt)),
        };
        let named = match &whose {
            Whose::Told(visitor, _) => asked(visitor),
            Whose::Named(_) | Whose::Unknown => None,
        };
        let host = match named {
            Some(_) => None,
            // Where CONNECT leads is the agent's name, and no visitor's word.
            None if is_connect(request) => None,
            None => host(request.uri(), request.headers()),
        };
        let greeting = Greeting {
            version: self.version,
            whose,
            host,
        };
        (greeting, doubt)
    }

    fn named(&self, headers: &HeaderMap) -> Result<Whose, Doubt> {
        let field = self.from.as_ref().ok_or(Doubt::NoField)?;
        let last = headers.get_all(field).iter().next_back();
        last.and_then(|value| last_address(value.as_bytes(), *field == FORWARDED))
            .map(Whose::Named)
            .ok_or_else(|| Doubt::NoAddress(field.clone()))
    }
}

/// The host that a visitor's TLS asks for, whoever ends it.
fn asked(visitor: &Visitor) -> Option<&str> {
    let ended = visitor.tls.as_ref();
    let name = ended.and_then(|tls| tls.server_name.as_deref());
    name.or(visitor.asks.as_deref())
}

/// Whether it opens a TCP connection: an upgrade is a CONNECT as well, and has a host (RFC 8441 §4).
fn is_connect<B>(request: &Request<B>) -> bool {
    *request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none()
}

fn told(headers: &HeaderMap) -> Result<Whose, Doubt> {
    let mut fields = headers.get_all(VISITOR).iter();
    let (Some(field), None) = (fields.next(), fields.next()) else {
        return Err(Doubt::Untold(
            "the field tidegate-visitor is not there once".to_owned(),
        ));
    };
    match visitor::read(field.as_bytes()) {
        Ok((visitor, request)) => Ok(Whose::Told(Arc::new(visitor), request)),
        Err(unread) => Err(Doubt::Untold(unread.to_string())),
    }
}

fn host(uri: &Uri, headers: &HeaderMap) -> Option<Box<str>> {
    let authority = uri.authority().map(Authority::as_str).map(str::as_bytes);
    let host = authority.or_else(|| headers.get(HOST).map(|host| host.as_bytes()))?;
    Some(visitor_host(host).ok()?.name().into())
}

/// The address in the last element of a list (RFC 9110 §5.6.1), which whoever wrote last has appended; what others wrote before
/// it is their word. In `Forwarded` it is what the element's `for` says (RFC 7239 §5.2).
fn last_address(list: &[u8], forwarded: bool) -> Option<SocketAddr> {
    let list = std::str::from_utf8(list).ok()?;
    let last = list.rsplit(',').next()?;
    if !forwarded {
        return address(last.trim());
    }
    // A quotation mark that a visitor has opened, or a host of its choice in quotation marks, could pass somebody's word off
    // as the gateway's: the last comma counts, and has to be none of a quoted text.
    if outside_quotes(list, b',').last() != Some(&last) {
        return None;
    }
    let pairs = outside_quotes(last, b';').into_iter();
    let mut of = pairs.filter_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    });
    match (of.next(), of.next()) {
        (Some(value), None) => address(value),
        _ => None,
    }
}

/// Splits where `separator` is no part of a quoted text (RFC 9110 §5.6.4).
fn outside_quotes(text: &str, separator: u8) -> Vec<&str> {
    let (mut parts, mut begin) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if octet == separator && !quoted => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

/// With a port or without, as the fields have it: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`, and in
/// quotation marks.
fn address(text: &str) -> Option<SocketAddr> {
    let bare = text
        .strip_prefix('"')
        .map_or(Some(text), |text| text.strip_suffix('"'))?;
    let ip = bare
        .strip_prefix('[')
        .and_then(|bare| bare.strip_suffix(']'))
        .unwrap_or(bare);
    let known = match ip.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, 0),
        Err(_) => bare.parse().ok()?,
    };
    Some(SocketAddr::new(known.ip().to_canonical(), known.port()))
}

impl Greeting {
    /// Whose connection this is, where one to the app may serve all of it.
    pub(super) fn visitor(&self) -> Option<&Arc<Visitor>> {
        match &self.whose {
            Whose::Told(visitor, _) => Some(visitor),
            Whose::Named(_) | Whose::Unknown => None,
        }
    }

    /// The header.
    pub(super) fn octets(&self) -> Vec<u8> {
        let ends = match &self.whose {
            Whose::Told(visitor, _) => Ends::Stream(pair(visitor.from, visitor.to)),
            Whose::Named(from) => Ends::Stream(pair(*from, None)),
            // "LOCAL" to version 2, "UNKNOWN" to version 1: the app sees the agent's address, and knows that it is nobody's.
            Whose::Unknown => Ends::Local,
        };
        if self.version == Version::V1 {
            return write_v1(&ends);
        }
        // A name, an ALPN, a version and an id, each of 255 octets at most, fit. Were they more, nobody would be named.
        write_v2(&ends, &self.tlvs())
            .or_else(|_too_long| write_v2(&Ends::Local, &TlvWriter::default()))
            .unwrap_or_default()
    }

    fn tlvs(&self) -> TlvWriter {
        let mut tlvs = TlvWriter::default();
        let (visitor, request) = match &self.whose {
            Whose::Told(visitor, request) => (Some(visitor), Some(request)),
            Whose::Named(_) => (None, None),
            Whose::Unknown => return tlvs,
        };
        let tls = visitor.and_then(|visitor| visitor.tls.as_ref());
        if let Some(alpn) = tls.and_then(|tls| tls.alpn.as_ref()) {
            tlvs.alpn(alpn);
        }
        let name = visitor.and_then(|visitor| asked(visitor));
        if let Some(host) = name.or(self.host.as_deref()) {
            tlvs.authority(host);
        }
        if let Some(request) = request {
            tlvs.unique_id(request.as_bytes());
        }
        if let Some(tls) = tls {
            tlvs.ssl(&SslFacts {
                version: tls.version.as_deref(),
                ..SslFacts::default()
            });
        }
        tlvs.crc32c();
        tlvs
    }
}

/// Where nobody has said what the visitor connected to, it is "any address" of the visitor's family.
fn pair(from: SocketAddr, to: Option<SocketAddr>) -> Pair {
    let to = to.unwrap_or_else(|| {
        let any: IpAddr = match from {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(any, 0)
    });
    Pair::new(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate_shared::proxy_header::{Header, Parsed, USUAL_MOST, parse};
    use tidegate_shared::visitor::Tls;

    const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

    fn plan(version: Version, from: Option<HeaderName>) -> Plan {
        Plan { version, from }
    }

    fn request(fields: &[(HeaderName, &str)]) -> Request<()> {
        let mut request = Request::get("https://App.example:8443/x");
        for (name, value) in fields {
            request = request.header(name, *value);
        }
        request.body(()).unwrap()
    }

    fn written(greeting: &Greeting) -> Header {
        let octets = greeting.octets();
        match parse(&octets, USUAL_MOST) {
            Ok(Parsed::Whole(header, length)) if length == octets.len() => header,
            other => panic!("{other:?}: {}", octets.escape_ascii()),
        }
    }

    fn visitor() -> Visitor {
        Visitor {
            connection: "1-c1".into(),
            from: "192.0.2.1:4711".parse().unwrap(),
            to: Some("198.51.100.7:443".parse().unwrap()),
            tls: Some(Tls {
                version: Some("TLSv1.3".into()),
                alpn: Some(b"h2".as_slice().into()),
                server_name: Some("sni.example".into()),
            }),
            asks: None,
        }
    }

    #[test]
    fn what_a_tidegate_gateway_says_is_all_in_the_header() {
        let field = visitor::field(&visitor().stem(), "1-9").unwrap();
        let asked = request(&[(VISITOR, field.to_str().unwrap()), (FOR, "6.6.6.6")]);
        let (greeting, doubt) = plan(Version::V2, Some(FOR)).greeting(&asked, true);
        assert_eq!(doubt, None);
        assert_eq!(greeting.visitor().map(|known| &**known), Some(&visitor()));
        let header = written(&greeting);
        let pair = header.ends.pair().unwrap();
        assert_eq!(pair.source(), visitor().from);
        assert_eq!(Some(pair.destination()), visitor().to);
        assert_eq!(header.tlvs.alpn(), Some(&b"h2"[..]));
        assert_eq!(header.tlvs.authority(), Some("sni.example"));
        assert_eq!(header.tlvs.unique_id(), Some(&b"1-9"[..]));
        let ssl = header.tlvs.ssl().unwrap();
        assert!(ssl.is_tls() && !ssl.is_verified());
        assert_eq!(ssl.version(), Some("TLSv1.3"));
        let (greeting, _) = plan(Version::V1, None).greeting(&asked, true);
        assert_eq!(
            greeting.octets(),
            b"PROXY TCP4 192.0.2.1 198.51.100.7 4711 443\r\n"
        );
        let mut clear = visitor();
        clear.tls = None;
        let field = visitor::field(&clear.stem(), "1-9").unwrap();
        let asked = request(&[(VISITOR, field.to_str().unwrap())]);
        let header = written(&plan(Version::V2, None).greeting(&asked, true).0);
        assert_eq!(header.tlvs.authority(), Some("app.example"));
        assert_eq!((header.tlvs.alpn(), header.tlvs.ssl()), (None, None));
    }

    #[test]
    fn a_visitor_cannot_say_it() {
        let forged = "c=1;f=6.6.6.6:6;r=1";
        for (fields, from, doubt) in [
            (&[(VISITOR, forged)][..], None, Doubt::NoField),
            (&[(VISITOR, forged), (FOR, "6.6.6.6")], None, Doubt::NoField),
            (&[(VISITOR, forged)], Some(FOR), Doubt::NoAddress(FOR)),
        ] {
            let (greeting, said) = plan(Version::V2, from).greeting(&request(fields), false);
            assert_eq!(said, Some(doubt), "{fields:?}");
            assert_eq!(written(&greeting).ends, Ends::Local, "{fields:?}");
            assert!(greeting.visitor().is_none());
        }
        // One too many: a gateway that lets none pass sends one.
        let twice = request(&[(VISITOR, forged), (VISITOR, forged)]);
        let (greeting, doubt) = plan(Version::V1, None).greeting(&twice, true);
        assert!(matches!(doubt, Some(Doubt::Untold(_))), "{doubt:?}");
        assert_eq!(greeting.octets(), b"PROXY UNKNOWN\r\n");
        let (_, doubt) = plan(Version::V1, Some(FOR)).greeting(&request(&[(FOR, "6.6.6.6")]), true);
        assert!(matches!(doubt, Some(Doubt::Untold(_))), "{doubt:?}");
    }

    #[test]
    fn the_last_of_the_operators_field_counts() {
        let said = |name: &HeaderName, lines: &[&str]| {
            let fields: Vec<_> = lines.iter().map(|line| (name.clone(), *line)).collect();
            let (greeting, _) =
                plan(Version::V2, Some(name.clone())).greeting(&request(&fields), false);
            written(&greeting)
                .ends
                .pair()
                .map(|pair| pair.source().to_string())
        };
        for (lines, known) in [
            (&["192.0.2.7"][..], Some("192.0.2.7:0")),
            (&["6.6.6.6", "192.0.2.7"], Some("192.0.2.7:0")),
            (&["6.6.6.6, 192.0.2.7"], Some("192.0.2.7:0")),
            (&["6.6.6.6\", 192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.7:4711"], Some("192.0.2.7:4711")),
            (&["2001:db8::7"], Some("[2001:db8::7]:0")),
            (&["[2001:db8::7]"], Some("[2001:db8::7]:0")),
            (&["[2001:db8::7]:4711"], Some("[2001:db8::7]:4711")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.7,"], None),
            (&["192.0.2.7", ""], None),
            (&["unknown"], None),
            (&["for=192.0.2.7"], None),
            (&[], None),
        ] {
            assert_eq!(said(&FOR, lines).as_deref(), known, "{lines:?}");
        }
        for (lines, known) in [
            (&["for=192.0.2.7;proto=https"][..], Some("192.0.2.7:0")),
            (
                &["for=6.6.6.6, proto=https;For=\"[2001:db8::7]:4711\""],
                Some("[2001:db8::7]:4711"),
            ),
            (&["for=6.6.6.6", "for=192.0.2.7"], Some("192.0.2.7:0")),
            (
                &["for=\"192.0.2.7\";by=\"a;for=6.6.6.6\""],
                Some("192.0.2.7:0"),
            ),
            (&["for=6.6.6.6;x=\", for=192.0.2.7"], None),
            (&["for=192.0.2.7;host=\"a,for=6.6.6.6;x=\""], None),
            (&["for=192.0.2.7;for=6.6.6.6"], None),
            (&["for=_hidden"], None),
            (&["by=192.0.2.7"], None),
            (&["192.0.2.7"], None),
        ] {
            assert_eq!(said(&FORWARDED, lines).as_deref(), known, "{lines:?}");
        }
        let asked = request(&[(FOR, "192.0.2.7")]);
        let (greeting, _) = plan(Version::V2, Some(FOR)).greeting(&asked, false);
        let header = written(&greeting);
        assert_eq!(
            header.ends.pair().unwrap().destination(),
            "0.0.0.0:0".parse().unwrap()
        );
        assert_eq!(header.tlvs.authority(), Some("app.example"));
        let (greeting, _) = plan(Version::V1, Some(FOR)).greeting(&asked, false);
        assert_eq!(greeting.octets(), b"PROXY TCP4 192.0.2.7 0.0.0.0 0 0\r\n");
    }

    proptest! {
        /// Whatever a visitor writes before what the gateway appends, it is the gateway's word or nobody's.
        #[test]
        fn what_is_before_the_last_comma_is_never_believed(theirs in "[\"\\\\,;= a-z0-9.:\\[\\]]{0,40}") {
            let ours: SocketAddr = "192.0.2.7:0".parse().unwrap();
            prop_assert_eq!(last_address(format!("{theirs}, 192.0.2.7").as_bytes(), false), Some(ours));
            let forwarded = last_address(format!("{theirs}, for=192.0.2.7").as_bytes(), true);
            prop_assert!(forwarded.is_none() || forwarded == Some(ours));
        }
    }
}
