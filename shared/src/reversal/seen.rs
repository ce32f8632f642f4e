//! Names for what came in place of HTTP/2, so that a log line can say it. Called by the opening, and by its IO when the
//! time is up.

use std::fmt;

use super::{Fault, PREFACE, Step};
use crate::proxy_header::SIGNATURE;

/// What the peer sent in place of what the dialect wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seen {
    #[default]
    Nothing,
    Http1Request,
    Http1Response,
    /// The beginning of a TLS handshake.
    TlsRecord,
    /// What a TLS server answers to what is no TLS.
    TlsAlert,
    ProxyV1,
    ProxyV2,
    Ssh,
    /// An HTTP/2 preface from the side that must not send one.
    Preface,
    /// Began like a preface and went wrong.
    DamagedPreface,
    /// A beginning that was good as far as it went.
    Unfinished {
        octets: usize,
    },
    /// The first octets, at most eight, and whether more followed.
    Unknown {
        first: Vec<u8>,
        more: bool,
    },
}

impl Seen {
    /// Names what stands where a preface was due, or asks for more while it could still become two things.
    pub(super) fn instead_of_preface(seen: &[u8]) -> Step {
        match Self::classify(seen) {
            Some(what) => Step::Refuse(Fault::Instead(what)),
            None => Step::More(seen.len() + 1),
        }
    }

    /// Names what stands where a gateway's SETTINGS were due; `None` where it may be a frame.
    ///
    /// A frame of HTTP/2 begins with the high octet of its length, which for SETTINGS that are read at all is zero.
    pub(super) fn instead_of_settings(seen: &[u8]) -> Option<Step> {
        let first = *seen.first()?;
        if first == 0 {
            return None;
        }
        let common = seen.len().min(PREFACE.len());
        if seen[..common] == PREFACE[..common] {
            return Some(if seen.len() < PREFACE.len() {
                Step::More(PREFACE.len())
            } else {
                Step::Refuse(Fault::Instead(Self::Preface))
            });
        }
        Some(Self::instead_of_preface(seen))
    }

    /// What the octets are, as far as they go; for the moment when no more will come.
    pub fn at_the_end(seen: &[u8]) -> Self {
        if seen.is_empty() {
            return Self::Nothing;
        }
        let common = seen.len().min(PREFACE.len());
        if seen[..common] == PREFACE[..common] {
            return Self::Unfinished { octets: seen.len() };
        }
        Self::classify(seen).unwrap_or_else(|| Self::unknown(seen))
    }

    fn classify(seen: &[u8]) -> Option<Self> {
        let could_be = |pattern: &[u8]| {
            let common = seen.len().min(pattern.len());
            seen[..common] == pattern[..common]
        };
        for (pattern, name) in [
            (b"\x16\x03".as_slice(), Self::TlsRecord),
            (b"\x15\x03".as_slice(), Self::TlsAlert),
            (SIGNATURE.as_slice(), Self::ProxyV2),
            (b"PROXY ".as_slice(), Self::ProxyV1),
            (b"SSH-".as_slice(), Self::Ssh),
            (b"HTTP/".as_slice(), Self::Http1Response),
        ] {
            if could_be(pattern) {
                return (seen.len() >= pattern.len()).then_some(name);
            }
        }
        // `PRI ` is no method of HTTP/1 (RFC 9113 §3.4 reserves it).
        if seen.starts_with(b"PRI ") {
            return Some(Self::DamagedPreface);
        }
        let method = seen
            .iter()
            .take_while(|octet| octet.is_ascii_uppercase())
            .count();
        match seen.get(method) {
            Some(b' ') if (3..=16).contains(&method) => Some(Self::Http1Request),
            None if method <= 16 => None,
            _ if seen.len() < 8 && seen[0] != 0 && seen[0].is_ascii_graphic() => None,
            _ => Some(Self::unknown(seen)),
        }
    }

    fn unknown(seen: &[u8]) -> Self {
        Self::Unknown {
            first: seen[..seen.len().min(8)].to_vec(),
            more: seen.len() > 8,
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Http1Request => f.write_str("an HTTP/1.1 request"),
            Self::Http1Response => f.write_str("an HTTP/1.1 response"),
            Self::TlsRecord => f.write_str("the beginning of a TLS handshake"),
            Self::TlsAlert => f.write_str("a TLS alert"),
            Self::ProxyV1 => f.write_str("a PROXY v1 header"),
            Self::ProxyV2 => f.write_str("a PROXY v2 header"),
            Self::Ssh => f.write_str("an SSH greeting"),
            Self::Preface => {
                f.write_str("an HTTP/2 preface, which only the side that dials may send")
            }
            Self::DamagedPreface => f.write_str("a damaged HTTP/2 preface"),
            Self::Unfinished { octets } => {
                write!(f, "only the first {octets} octets of an HTTP/2 opening")
            }
            Self::Unknown { first, more } => {
                f.write_str("octets that no known protocol begins with (")?;
                for (at, octet) in first.iter().enumerate() {
                    write!(f, "{}{octet:02x}", if at == 0 { "" } else { " " })?;
                }
                f.write_str(if *more { " …)" } else { ")" })
            }
        }
    }
}
