//! The host that a visitor asks for: Host field, `:authority`, or the authority of an absolute-form target.
//!
//! Every request passes here, so nothing is allocated unless the text has upper case letters, and neither IDNA nor
//! the public suffix list is asked: whatever no certificate can name simply matches nothing.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use thiserror::Error;

use super::MAX_NAME;

/// A host in comparable form, and the port that stood beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisitorHost<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

impl VisitorHost<'_> {
    /// Lower case, without port and trailing dot: the key to look an [`super::AgentName`] up with. An IPv6 literal
    /// keeps its brackets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, where one was given and not empty.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Reads a Host field value or an authority.
///
/// A port of digits up to 65535 may follow, or be empty (RFC 3986 §3.2.3); one trailing dot is dropped. Characters
/// are letters, digits, `-`, `.`, `_` and `~`. Percent-encodings and sub-delims, which RFC 3986 would allow in a
/// `reg-name`, are in no host name, and are how two parsers are made to see two hosts; `*` would read as a pattern.
///
/// # Errors
/// Everything else, userinfo included, with the reason; the visitor is due a 400 (RFC 9112 §3.2).
pub fn visitor_host(raw: &[u8]) -> Result<VisitorHost<'_>, BadHost> {
    if raw.is_empty() {
        return Err(BadHost::Empty);
    }
    if raw[0] == b'[' {
        return ipv6_host(raw);
    }
    let (name, port) = match raw.iter().position(|b| *b == b':') {
        Some(colon) => (&raw[..colon], read_port(&raw[colon + 1..], raw)?),
        None => (raw, None),
    };
    check_name(name)?;
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err(BadHost::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(BadHost::TooLong);
    }
    if name[0] == b'.' || name.windows(2).any(|pair| pair == b"..") || name.ends_with(b".") {
        return Err(BadHost::EmptyLabel);
    }
    Ok(VisitorHost {
        name: lower(name)?,
        port,
    })
}

/// Why a visitor's host is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHost {
    /// No host at all.
    #[error("the host is empty")]
    Empty,
    /// Longer than any name can be.
    #[error("the host is over {MAX_NAME} octets long")]
    TooLong,
    /// `user@host`.
    #[error("the host carries user information (@)")]
    UserInfo,
    /// Two dots in a row, or one in front.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// A byte that no host has.
    #[error("the host contains the byte 0x{0:02x}")]
    Byte(u8),
    /// Not digits, or over 65535.
    #[error("the port is not a number up to 65535")]
    Port,
    /// Brackets without an IPv6 address inside.
    #[error("the brackets of the host do not hold an IPv6 address")]
    Ipv6,
}

/// `[2001:db8::1]` with an optional port. Zone identifiers mean something on one machine only and are refused.
fn ipv6_host(raw: &[u8]) -> Result<VisitorHost<'_>, BadHost> {
    let close = raw.iter().position(|b| *b == b']').ok_or(BadHost::Ipv6)?;
    let literal = str::from_utf8(&raw[1..close]).map_err(|_| BadHost::Ipv6)?;
    literal.parse::<Ipv6Addr>().map_err(|_| BadHost::Ipv6)?;
    let port = match &raw[close + 1..] {
        [] => None,
        [b':', port @ ..] => read_port(port, raw)?,
        [other, ..] => return Err(BadHost::Byte(*other)),
    };
    Ok(VisitorHost {
        name: lower(&raw[..=close])?,
        port,
    })
}

/// `whole` only serves the better reason: `user:secret@host` has its colon before the `@`.
fn read_port(digits: &[u8], whole: &[u8]) -> Result<Option<u16>, BadHost> {
    if digits.is_empty() {
        return Ok(None);
    }
    let mut port: u16 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(if whole.contains(&b'@') {
                BadHost::UserInfo
            } else {
                BadHost::Port
            });
        }
        port = port
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u16::from(digit - b'0')))
            .ok_or(BadHost::Port)?;
    }
    Ok(Some(port))
}

fn check_name(name: &[u8]) -> Result<(), BadHost> {
    let odd = name.iter().find(
        |b| !matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~'),
    );
    match odd {
        None => Ok(()),
        Some(b'@') => Err(BadHost::UserInfo),
        Some(other) => Err(BadHost::Byte(*other)),
    }
}

/// Lower-cased; borrowed where it already is.
fn lower(name: &[u8]) -> Result<Cow<'_, str>, BadHost> {
    // Only ASCII gets here; the error arm keeps this free of a panic all the same.
    let name = str::from_utf8(name).map_err(|e| BadHost::Byte(name[e.valid_up_to()]))?;
    Ok(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::AgentName;
    use super::*;

    #[test]
    fn hosts_are_read() {
        for (raw, name, port) in [
            ("app1", "app1", None),
            ("App1.Example", "app1.example", None),
            ("app1:8080", "app1", Some(8080)),
            ("app1:", "app1", None),
            ("app1.:443", "app1", Some(443)),
            ("app1:65535", "app1", Some(65535)),
            ("app1:0080", "app1", Some(80)),
            ("_dmarc.example", "_dmarc.example", None),
            ("192.0.2.7:80", "192.0.2.7", Some(80)),
            ("[2001:DB8::1]:80", "[2001:db8::1]", Some(80)),
            ("[::1]", "[::1]", None),
            ("[::1]:", "[::1]", None),
        ] {
            let host = visitor_host(raw.as_bytes()).unwrap();
            assert_eq!((host.name(), host.port()), (name, port), "{raw}");
        }
    }

    #[test]
    fn lower_case_is_borrowed() {
        let host = visitor_host(b"app1.example:8080").unwrap();
        assert!(matches!(host.name, Cow::Borrowed("app1.example")));
    }

    #[test]
    fn malformed_hosts_are_refused_with_the_reason() {
        let long = "a".repeat(254);
        let cases: [(&[u8], BadHost); 34] = [
            (b"", BadHost::Empty),
            (b".", BadHost::Empty),
            (b":80", BadHost::Empty),
            (b"a..", BadHost::EmptyLabel),
            (b".a", BadHost::EmptyLabel),
            (b"a..b", BadHost::EmptyLabel),
            (long.as_bytes(), BadHost::TooLong),
            (b"u@app1", BadHost::UserInfo),
            (b"u:secret@app1", BadHost::UserInfo),
            (b"app1:80@evil", BadHost::UserInfo),
            (b"app 1", BadHost::Byte(b' ')),
            (b" app1", BadHost::Byte(b' ')),
            (b"app1/x", BadHost::Byte(b'/')),
            (b"app1,app2", BadHost::Byte(b',')),
            (b"app1\0", BadHost::Byte(0)),
            (b"app1\r\nx", BadHost::Byte(b'\r')),
            (b"app1\x7f", BadHost::Byte(0x7f)),
            (b"app1#x", BadHost::Byte(b'#')),
            (b"app1?x", BadHost::Byte(b'?')),
            (b"app1\\x", BadHost::Byte(b'\\')),
            (b"*.example.com", BadHost::Byte(b'*')),
            (b"a%2e.example", BadHost::Byte(b'%')),
            ("bücher".as_bytes(), BadHost::Byte(0xc3)),
            (b"app1:65536", BadHost::Port),
            (b"app1:99999999999999999999", BadHost::Port),
            (b"app1:+80", BadHost::Port),
            (b"app1:80:80", BadHost::Port),
            (b"2001:db8::1", BadHost::Port),
            (b"[::1", BadHost::Ipv6),
            (b"[]", BadHost::Ipv6),
            (b"[app1]", BadHost::Ipv6),
            (b"[fe80::1%25eth0]", BadHost::Ipv6),
            (b"[::1]x", BadHost::Byte(b'x')),
            (b"app1]", BadHost::Byte(b']')),
        ];
        for (raw, reason) in cases {
            assert_eq!(visitor_host(raw), Err(reason), "{}", raw.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn every_name_is_found_however_it_is_written(
            text in "[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z])?(\\.[a-zA-Z]{1,9}){0,3}",
            dot in proptest::bool::ANY,
            port in proptest::option::of(proptest::num::u16::ANY),
        ) {
            prop_assume!(AgentName::parse(&text).is_ok());
            let mut raw = text.clone();
            if dot { raw.push('.'); }
            if let Some(port) = port { raw.push_str(&format!(":{port}")); }
            let host = visitor_host(raw.as_bytes()).unwrap();
            let name = AgentName::parse(&text).unwrap();
            prop_assert_eq!(host.name(), name.as_str());
            prop_assert_eq!(host.port(), port);
        }

        #[test]
        fn any_bytes_end_in_an_answer_and_a_good_one_is_stable(raw in proptest::collection::vec(0u8.., 0..300)) {
            if let Ok(host) = visitor_host(&raw) {
                prop_assert!(host.name().bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
                prop_assert!(!b"@/,#?\\*%".iter().any(|b| host.name().as_bytes().contains(b)));
                let again = visitor_host(host.name().as_bytes()).unwrap();
                prop_assert_eq!(again.name(), host.name());
            }
        }

        #[test]
        fn host_like_bytes_too(raw in "[a-zA-Z0-9.:@\\[\\]-]{0,24}") {
            if let Ok(host) = visitor_host(raw.as_bytes()) {
                let again = visitor_host(host.name().as_bytes()).unwrap();
                prop_assert_eq!(again.name(), host.name());
                prop_assert!(!host.name().contains('@'));
            }
        }
    }
}
