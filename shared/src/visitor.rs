//! Who asked, said by a Tidegate gateway to its agent with each request: one field, [`VISITOR`], which the agent takes off. It
//! may be believed only where the gateway has said in its SETTINGS that no visitor can write it
//! ([`crate::reversal::Marks::VISITOR`]). Pure: the gateway writes it, the agent reads it.
//!
//! ```text
//! tidegate-visitor: c=5f3a9c1e-c42;f=192.0.2.1:4711;t=198.51.100.7:443;v=TLSv1.3;a=h2;n=app.example.com;r=5f3a9c1e-977
//! ```
//! `c` the connection's id, `f` from where, `t` to where, `v` TLS version, `a` ALPN, `n` SNI, `r` the request's id; `s` the SNI
//! of TLS that the gateway passes on and does not end. What is not known is left out; keys that a reader does not know are passed over. An octet that is neither a letter nor a digit nor
//! one of `.:/_-[]` is written as `%` and two hexadecimal digits.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use http::header::{HeaderName, HeaderValue};

/// See the module's head.
pub const VISITOR: HeaderName = HeaderName::from_static("tidegate-visitor");

/// Octets of the field that are read.
const MOST: usize = 2048;

/// Octets of an id: what a PROXY header has room for (proxy-protocol.txt §2.2.5).
const ID_MOST: usize = 128;

/// Octets of a name and of an ALPN (RFC 1035 §2.3.4, RFC 7301 §3.1).
const TEXT_MOST: usize = 255;

/// One visitor's connection to a gateway. Two are equal only where they are the same connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Visitor {
    /// Unique over all gateways and their runs.
    pub connection: Box<str>,
    /// Whose it is, as the gateway believes: the socket's other end, or what a PROXY header said.
    pub from: SocketAddr,
    /// What it connected to.
    pub to: Option<SocketAddr>,
    /// Where it came over TLS that the gateway ended.
    pub tls: Option<Tls>,
    /// The host that it asks for in TLS that the gateway passes on.
    pub asks: Option<Box<str>>,
}

/// What is known of a visitor's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// As in `TLSv1.3`.
    pub version: Option<Box<str>>,
    /// As negotiated.
    pub alpn: Option<Box<[u8]>>,
    /// The host that the visitor opened the connection for (SNI).
    pub server_name: Option<Box<str>>,
}

impl Visitor {
    /// What is the same for all requests of the connection: the field without the request's id, to be kept.
    pub fn stem(&self) -> String {
        let mut stem = String::with_capacity(160);
        put(&mut stem, "c=", self.connection.as_bytes());
        put(&mut stem, ";f=", self.from.to_string().as_bytes());
        if let Some(to) = self.to {
            put(&mut stem, ";t=", to.to_string().as_bytes());
        }
        if let Some(tls) = &self.tls {
            // That there is TLS is said even where nothing is known of it.
            let version = tls.version.as_deref().unwrap_or_default();
            put(&mut stem, ";v=", version.as_bytes());
            if let Some(alpn) = &tls.alpn {
                put(&mut stem, ";a=", alpn);
            }
            if let Some(name) = &tls.server_name {
                put(&mut stem, ";n=", name.as_bytes());
            }
        }
        if let Some(asks) = &self.asks {
            put(&mut stem, ";s=", asks.as_bytes());
        }
        stem
    }
}

/// The field of one request. `None` where an id is none, which a gateway's own is not.
pub fn field(stem: &str, request: &str) -> Option<HeaderValue> {
    let mut value = String::with_capacity(stem.len() + 3 + request.len());
    value.push_str(stem);
    put(&mut value, ";r=", request.as_bytes());
    let mut value = HeaderValue::try_from(value).ok()?;
    // Each request has another: what HPACK keeps for the next one is not spent on it (RFC 7541 §7.1.3).
    value.set_sensitive(true);
    Some(value)
}

fn put(value: &mut String, key: &str, octets: &[u8]) {
    value.push_str(key);
    for octet in octets {
        if is_plain(*octet) {
            value.push(char::from(*octet));
        } else {
            // Writing to a `String` cannot fail.
            let _infallible = write!(value, "%{octet:02x}");
        }
    }
}

fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b".:/_-[]".contains(&octet)
}

/// Why a field cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread(&'static str);

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the field tidegate-visitor {}", self.0)
    }
}

impl std::error::Error for Unread {}

/// Reads a field: whose request it is, and the request's id.
///
/// # Errors
/// Where a part that must be there is not, a part is there twice, or is none of its kind.
pub fn read(field: &[u8]) -> Result<(Visitor, Box<str>), Unread> {
    if field.len() > MOST {
        return Err(Unread("is longer than any that a gateway writes"));
    }
    let mut parts: [Option<Vec<u8>>; KEYS.len()] = Default::default();
    for part in field.split(|octet| *octet == b';') {
        let [key, b'=', value @ ..] = part else {
            return Err(Unread("has a part that is no key and value"));
        };
        let value = unescaped(value).ok_or(Unread("has a part that is escaped wrongly"))?;
        if let Some(at) = KEYS.iter().position(|known| known == key)
            && parts[at].replace(value).is_some()
        {
            return Err(Unread("says the same thing twice"));
        }
    }
    let [connection, from, to, version, alpn, name, request, asks] = parts;
    let id = |octets: Option<Vec<u8>>| match octets {
        Some(octets) if (1..=ID_MOST).contains(&octets.len()) => text(octets),
        _ => Err(Unread("has no id, or one that is too long")),
    };
    let address = |octets: Vec<u8>| {
        let address = text(octets)?.parse::<SocketAddr>();
        address.map_err(|_none| Unread("has an address that is none"))
    };
    let visitor = Visitor {
        connection: id(connection)?,
        from: address(from.ok_or(Unread("does not say from where"))?)?,
        to: to.map(address).transpose()?,
        tls: version
            .map(|version| tls(version, alpn, name))
            .transpose()?,
        asks: asks.map(host).transpose()?,
    };
    Ok((visitor, id(request)?))
}

/// In the order in which [`read`] takes them apart.
const KEYS: [u8; 8] = *b"cftvanrs";

fn host(octets: Vec<u8>) -> Result<Box<str>, Unread> {
    if octets.len() > TEXT_MOST {
        return Err(Unread("has a part that is too long"));
    }
    text(octets)
}

fn tls(version: Vec<u8>, alpn: Option<Vec<u8>>, name: Option<Vec<u8>>) -> Result<Tls, Unread> {
    let long = |octets: &Vec<u8>| octets.len() > TEXT_MOST;
    if long(&version) || alpn.as_ref().is_some_and(long) || name.as_ref().is_some_and(long) {
        return Err(Unread("has a part that is too long"));
    }
    Ok(Tls {
        version: Some(text(version)?).filter(|version| !version.is_empty()),
        alpn: alpn.map(Vec::into_boxed_slice),
        server_name: name.map(text).transpose()?,
    })
}

fn text(octets: Vec<u8>) -> Result<Box<str>, Unread> {
    String::from_utf8(octets)
        .map(String::into_boxed_str)
        .map_err(|_not| Unread("has a part that is not UTF-8"))
}

fn unescaped(octets: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(octets.len());
    let mut rest = octets;
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            plain.push(is_plain(*first).then_some(*first)?);
            continue;
        }
        let (digits, behind) = rest.split_first_chunk::<2>()?;
        let digit = |octet: u8| char::from(octet).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        plain.push(u8::try_from(value).ok()?);
        rest = behind;
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_is_what_is_written() {
        let visitor = Visitor {
            connection: "5f3a9c1e-c42".into(),
            from: "192.0.2.1:4711".parse().unwrap(),
            to: Some("198.51.100.7:443".parse().unwrap()),
            tls: Some(Tls {
                version: Some("TLSv1.3".into()),
                alpn: Some(b"h2".as_slice().into()),
                server_name: Some("app.example.com".into()),
            }),
            asks: None,
        };
        let value = field(&visitor.stem(), "5f3a9c1e-977").unwrap();
        assert_eq!(
            value,
            "c=5f3a9c1e-c42;f=192.0.2.1:4711;t=198.51.100.7:443;v=TLSv1.3;a=h2;n=app.example.com;r=5f3a9c1e-977"
        );
        assert!(value.is_sensitive());
        assert_eq!(read(value.as_bytes()), Ok((visitor, "5f3a9c1e-977".into())));
    }

    #[test]
    fn what_is_not_known_is_left_out_and_what_is_not_understood_passed_over() {
        let (visitor, request) = read(b"z=later%20on;c=1;f=[2001:db8::1]:1;r=2").unwrap();
        assert_eq!(visitor.stem(), "c=1;f=[2001:db8::1]:1");
        assert_eq!(&*request, "2");
        let (visitor, _) = read(b"c=1;f=192.0.2.1:1;v=;r=2").unwrap();
        assert_eq!(visitor.tls, Some(Tls::default()));
        let (visitor, _) = read(b"c=1;f=192.0.2.1:1;a=h2;n=x;r=2").unwrap();
        assert_eq!(visitor.tls, None, "no TLS, so nothing of it");
        let (visitor, _) = read(b"c=1;f=192.0.2.1:1;s=db.test;r=2").unwrap();
        assert_eq!(
            (visitor.asks.as_deref(), visitor.tls),
            (Some("db.test"), None)
        );
    }

    #[test]
    fn what_no_gateway_writes_is_refused() {
        let long = format!("c={};f=192.0.2.1:1;r=1", "x".repeat(129));
        let endless = format!("c=1;f=192.0.2.1:1;r=1;z={}", "x".repeat(MOST));
        let name = format!("c=1;f=192.0.2.1:1;r=1;v=;n={}", "x".repeat(256));
        let asks = format!("c=1;f=192.0.2.1:1;r=1;s={}", "x".repeat(256));
        for field in [
            "",
            "c=1",
            "c=1;f=192.0.2.1:1",
            "c=1;r=1",
            "f=192.0.2.1:1;r=1",
            "c=;f=192.0.2.1:1;r=1",
            "c=1;f=192.0.2.1;r=1",
            "c=1;f=host:1;r=1",
            "c=1;f=192.0.2.1:65536;r=1",
            "c=1;f=192.0.2.1:1;t=;r=1",
            "c=1;f=192.0.2.1:1;r=1;r=2",
            "c=1;f=192.0.2.1:1;f=192.0.2.2:1;r=1",
            "c=1;f=192.0.2.1:1;r=1;",
            "c=1;f=192.0.2.1:1;r=%",
            "c=1;f=192.0.2.1:1;r=%0",
            "c=1;f=192.0.2.1:1;r=%zz",
            "c=1;f=192.0.2.1:1;r=%+1",
            "c=1;f=192.0.2.1:1;r=%ff",
            "c=1; f=192.0.2.1:1;r=1",
            "c=1;f=192.0.2.1:1;r=a b",
            "cc=1;f=192.0.2.1:1;r=1",
            "c=1;f=192.0.2.1:1;r=1, c=1;f=192.0.2.2:1;r=1",
            &long,
            &endless,
            &name,
            &asks,
        ] {
            assert!(read(field.as_bytes()).is_err(), "{field}");
        }
    }

    fn any_visitor() -> impl Strategy<Value = Visitor> {
        let tls = (
            proptest::option::of("[ -~]{1,12}"),
            proptest::option::of(prop::collection::vec(any::<u8>(), 0..=64)),
            proptest::option::of("\\PC{0,60}"),
        )
            .prop_map(|(version, alpn, name)| Tls {
                version: version.map(String::into_boxed_str),
                alpn: alpn.map(Vec::into_boxed_slice),
                server_name: name.map(String::into_boxed_str),
            });
        (
            "[!-~]{1,40}",
            any::<SocketAddr>(),
            proptest::option::of(any::<SocketAddr>()),
            proptest::option::of(tls),
            proptest::option::of("\\PC{0,60}"),
        )
            .prop_map(|(connection, from, to, tls, asks)| Visitor {
                connection: connection.into(),
                from: plain(from),
                to: to.map(plain),
                tls,
                asks: asks.map(String::into_boxed_str),
            })
    }

    /// Without scope and flow, which are of this machine.
    fn plain(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip(), address.port())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(visitor in any_visitor(), request in "[ -~]{1,40}") {
            let value = field(&visitor.stem(), &request).unwrap();
            let (said, id) = read(value.as_bytes()).unwrap();
            prop_assert_eq!(said, visitor);
            prop_assert_eq!(&*id, request.as_str());
        }

        /// What is read at all is read as what would be written for it.
        #[test]
        fn noise_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((visitor, request)) = read(&noise) {
                let value = field(&visitor.stem(), &request).unwrap();
                prop_assert_eq!(read(value.as_bytes()), Ok((visitor, request)));
            }
        }

        /// No visitor's choice of a name can say anything else of it.
        #[test]
        fn a_name_stays_a_name(name in "[;=%fr0-9:.]{0,60}") {
            let visitor = Visitor {
                connection: "1".into(),
                from: "192.0.2.1:1".parse().unwrap(),
                to: None,
                tls: Some(Tls { server_name: Some(name.into()), ..Tls::default() }),
                asks: None,
            };
            let value = field(&visitor.stem(), "2").unwrap();
            prop_assert_eq!(read(value.as_bytes()), Ok((visitor, "2".into())));
        }
    }
}
