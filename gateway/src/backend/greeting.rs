//! The PROXY header with which a connection to a server begins (`send_proxy`): whose it is, and what is said of it beyond
//! addresses. Pure. Called by whoever has just connected, for requests and in TCP mode.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use tidegate_shared::proxy_header::{
    Ends, Pair, SslFacts, TlvWriter, Tlvs, Version, write_v1, write_v2,
};

/// What servers are told, as the operator says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendProxy {
    pub version: Version,
    /// In version 2, beside a checksum.
    pub tlvs: Vec<Told>,
    /// The operator has said which.
    pub chosen: bool,
    /// What says so, and where: `backends.site.send_proxy (gateway.toml:31:14)`.
    pub place: String,
}

/// What is said beyond addresses, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The host that the visitor asked for: the server name of its TLS, or else that of the connection's first request.
    Authority,
    /// The protocol above.
    Alpn,
    /// The id that the log has: of the request for which the connection was opened, or of a connection in TCP mode.
    UniqueId,
    /// Version, cipher and group of the visitor's TLS, where the gateway ends it.
    Ssl,
    /// What the header said with which the visitor's own connection came, as far as it is none of the above or is not known
    /// otherwise.
    Received,
}

impl Told {
    /// Unless anything else is said: all that the gateway knows itself.
    pub const USUAL: [Self; 4] = [Self::Authority, Self::Alpn, Self::UniqueId, Self::Ssl];

    const ALL: [Self; 5] = [
        Self::Authority,
        Self::Alpn,
        Self::UniqueId,
        Self::Ssl,
        Self::Received,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Alpn => "alpn",
            Self::UniqueId => "unique-id",
            Self::Ssl => "ssl",
            Self::Received => "received",
        }
    }
}

impl FromStr for Told {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|told| told.word() == text);
        known.ok_or_else(|| {
            format!("`{text}` is nothing to tell; write some of authority, alpn, unique-id, ssl and received")
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whose connection it is, and what is known of it.
#[derive(Clone, Debug)]
pub struct Introduced<'a> {
    pub from: SocketAddr,
    /// What the visitor connected to.
    pub to: Option<SocketAddr>,
    pub authority: Option<&'a str>,
    pub alpn: Option<&'a [u8]>,
    pub id: &'a str,
    /// `None` in clear text, and where the gateway does not end TLS.
    pub tls: Option<TlsFacts>,
    /// What came in the header of the visitor's own connection.
    pub received: Option<&'a Tlvs>,
}

/// What is known of a visitor's TLS that the gateway ends, in OpenSSL's words (proxy-protocol.txt §2.2.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    pub version: Option<&'static str>,
    pub cipher: Option<&'static str>,
    /// Of the key exchange.
    pub group: Option<&'static str>,
}

impl SendProxy {
    /// Whether it says what only a visitor's ClientHello does, by the operator's own word: where the gateway does not end TLS that is
    /// waited for then. What is told unless he says anything does without it.
    pub fn wants_hello(&self) -> bool {
        let of_hello = |told: &Told| matches!(told, Told::Authority | Told::Alpn);
        self.chosen && self.tlvs.iter().any(of_hello)
    }

    /// The header of somebody's connection.
    pub fn header(&self, of: &Introduced<'_>) -> Vec<u8> {
        let ends = of
            .to
            .map_or(Ends::Unknown, |to| Ends::Stream(Pair::new(of.from, to)));
        self.written(&ends, &self.tlvs(of))
    }

    /// That of a connection which is the gateway's own, as a check's, and goes from here to there. Version 1 has no word for it,
    /// and checks send their ends (proxy-protocol.txt §2.1).
    pub fn of_ourselves(&self, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
        let ends = match (self.version, ends) {
            (Version::V1, Some((from, to))) => Ends::Stream(Pair::new(from, to)),
            (Version::V1, None) | (Version::V2, _) => Ends::Local,
        };
        self.written(&ends, &TlvWriter::default())
    }

    fn written(&self, ends: &Ends, tlvs: &TlvWriter) -> Vec<u8> {
        match self.version {
            Version::V1 => write_v1(ends),
            // What is longer than a header can be is left out, and the addresses are not; without TLVs they always fit.
            Version::V2 => write_v2(ends, tlvs)
                .or_else(|_long| write_v2(ends, &TlvWriter::default()))
                .unwrap_or_default(),
        }
    }

    fn tlvs(&self, of: &Introduced<'_>) -> TlvWriter {
        let mut tlvs = TlvWriter::default();
        let mut written = [false; 256];
        for told in &self.tlvs {
            let kind = match told {
                Told::Authority => of.authority.map(|host| {
                    tlvs.authority(host);
                    Tlvs::AUTHORITY
                }),
                Told::Alpn => of.alpn.map(|protocol| {
                    tlvs.alpn(protocol);
                    Tlvs::ALPN
                }),
                Told::UniqueId => {
                    tlvs.unique_id(of.id.as_bytes());
                    Some(Tlvs::UNIQUE_ID)
                }
                Told::Ssl => of.tls.map(|tls| {
                    let facts = SslFacts {
                        version: tls.version,
                        cipher: tls.cipher,
                        group: tls.group,
                        ..SslFacts::default()
                    };
                    tlvs.ssl(&facts);
                    Tlvs::SSL
                }),
                Told::Received => None,
            };
            if let Some(kind) = kind {
                written[usize::from(kind)] = true;
            }
        }
        if self.tlvs.contains(&Told::Received) {
            // A checksum and padding are of the header that they came in.
            written[usize::from(Tlvs::CRC32C)] = true;
            written[usize::from(Tlvs::NOOP)] = true;
            let received = of.received.into_iter().flat_map(Tlvs::iter);
            for tlv in received.filter(|tlv| !written[usize::from(tlv.kind)]) {
                tlvs.put(tlv.kind, tlv.value);
            }
        }
        tlvs.crc32c();
        tlvs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_shared::proxy_header::{Header, Parsed, USUAL_MOST, parse};

    fn plan(version: Version, tlvs: &[Told]) -> SendProxy {
        SendProxy {
            version,
            tlvs: tlvs.to_vec(),
            chosen: true,
            place: String::new(),
        }
    }

    fn read(octets: &[u8]) -> Header {
        match parse(octets, USUAL_MOST) {
            Ok(Parsed::Whole(header, length)) if length == octets.len() => header,
            other => panic!("{other:?}: {}", octets.escape_ascii()),
        }
    }

    fn somebody() -> Introduced<'static> {
        Introduced {
            from: "192.0.2.1:5".parse().unwrap(),
            to: Some("192.0.2.9:443".parse().unwrap()),
            authority: Some("a.test"),
            alpn: Some(b"h2"),
            id: "x-1",
            tls: Some(TlsFacts {
                version: Some("TLSv1.3"),
                cipher: Some("TLS_AES_128_GCM_SHA256"),
                group: Some("X25519MLKEM768"),
            }),
            received: None,
        }
    }

    #[test]
    fn a_server_is_told_whose_connection_it_is() {
        let v1 = plan(Version::V1, &[]).header(&somebody());
        assert_eq!(v1, b"PROXY TCP4 192.0.2.1 192.0.2.9 5 443\r\n");
        let header = read(&plan(Version::V2, &Told::USUAL).header(&somebody()));
        let pair = header.ends.pair().unwrap();
        assert_eq!(pair.source(), somebody().from);
        assert_eq!(Some(pair.destination()), somebody().to);
        let tlvs = &header.tlvs;
        assert_eq!(
            (tlvs.authority(), tlvs.alpn(), tlvs.unique_id()),
            (Some("a.test"), Some(&b"h2"[..]), Some(&b"x-1"[..]))
        );
        let ssl = tlvs.ssl().unwrap();
        assert!(ssl.is_tls() && !ssl.has_certificate() && !ssl.is_verified());
        assert_eq!(ssl.version(), Some("TLSv1.3"));
        assert_eq!(ssl.cipher(), Some("TLS_AES_128_GCM_SHA256"));
        assert_eq!(ssl.group(), Some("X25519MLKEM768"));
        assert!(tlvs.iter().any(|tlv| tlv.kind == 3), "a checksum");
    }

    #[test]
    fn only_what_is_chosen_and_known_is_said() {
        let none = read(&plan(Version::V2, &[]).header(&somebody()));
        assert_eq!(none.tlvs.iter().count(), 1, "the checksum alone");
        let clear = Introduced {
            authority: None,
            alpn: None,
            tls: None,
            ..somebody()
        };
        let known = read(&plan(Version::V2, &Told::USUAL).header(&clear));
        assert_eq!(known.tlvs.iter().count(), 2, "its id and the checksum");
        let nowhere = Introduced {
            to: None,
            ..somebody()
        };
        let unknown = read(&plan(Version::V2, &[]).header(&nowhere));
        assert_eq!(unknown.ends, Ends::Unknown);
        let v1 = plan(Version::V1, &[]);
        assert_eq!(v1.of_ourselves(None), b"PROXY UNKNOWN\r\n");
        let ends = ["192.0.2.1:5", "192.0.2.9:80"].map(|end| end.parse().unwrap());
        let v1 = v1.of_ourselves(Some(ends.into()));
        assert_eq!(v1, b"PROXY TCP4 192.0.2.1 192.0.2.9 5 80\r\n");
        let v6 = ["[2001:db8::1]:5", "[2001:db8::2]:80"].map(|end| end.parse().unwrap());
        let v6 = plan(Version::V1, &[]).of_ourselves(Some(v6.into()));
        assert_eq!(v6, b"PROXY TCP6 2001:db8::1 2001:db8::2 5 80\r\n");
        let own = read(&plan(Version::V2, &Told::USUAL).of_ourselves(Some(ends.into())));
        assert_eq!(own.ends, Ends::Local);
    }

    #[test]
    fn what_came_is_carried_on_where_it_is_chosen_and_says_nothing_twice() {
        let mut came = TlvWriter::default();
        came.authority("balancer.test").unique_id(b"theirs");
        came.aws_vpc_endpoint("vpce-1")
            .gcp_psc_connection(0)
            .padding(9);
        came.crc32c();
        let came = write_v2(
            &Ends::Stream(Pair::new(somebody().from, somebody().from)),
            &came,
        );
        let came = read(&came.unwrap());
        let passed = |tlvs: &[Told]| {
            let somebody = Introduced {
                received: Some(&came.tlvs),
                ..somebody()
            };
            read(&plan(Version::V2, tlvs).header(&somebody)).tlvs
        };
        let usual = passed(&Told::USUAL);
        assert_eq!(usual.aws_vpc_endpoint(), None, "it was not chosen");
        let both = passed(&Told::ALL);
        assert_eq!(both.aws_vpc_endpoint(), Some("vpce-1"));
        assert_eq!(both.gcp_psc_connection(), Some(0));
        assert_eq!(
            both.authority(),
            Some("a.test"),
            "what the gateway knows itself"
        );
        assert_eq!(both.unique_id(), Some(&b"x-1"[..]));
        assert!(both.iter().all(|tlv| tlv.kind != 4), "no padding");
        let theirs = passed(&[Told::Received]);
        assert_eq!(theirs.authority(), Some("balancer.test"));
        assert_eq!(theirs.unique_id(), Some(&b"theirs"[..]));
    }

    #[test]
    fn a_header_that_would_be_too_long_still_has_its_addresses() {
        let long = "x".repeat(70_000);
        let somebody = Introduced {
            authority: Some(&long),
            ..somebody()
        };
        let header = read(&plan(Version::V2, &Told::USUAL).header(&somebody));
        assert!(header.ends.pair().is_some() && header.tlvs.is_empty());
    }
}
