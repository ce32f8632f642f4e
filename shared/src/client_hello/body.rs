//! The body of a ClientHello: a walk to its extensions, and two of them read. Pure. Every length is checked against what
//! stands around it; nothing may be left over.

use std::net::Ipv4Addr;

use super::{ClientHello, NoHello};
use crate::name::visitor_host;

/// RFC 6066 §3.
const SERVER_NAME: u16 = 0;
/// RFC 7301 §3.1.
const ALPN: u16 = 16;
/// The one kind of server name that there is (RFC 6066 §3).
const HOST_NAME: u8 = 0;
/// `legacy_version` and `random`.
const FIXED: usize = 2 + 32;
/// `legacy_session_id<0..32>`.
const SESSION_ID_MOST: usize = 32;

/// Reads what follows the handshake message's head.
pub(super) fn read(octets: &[u8]) -> Result<ClientHello, NoHello> {
    let mut rest = Reader(octets);
    rest.take(FIXED)
        .ok_or(bad("ends in the middle of its fixed part"))?;
    let session = rest
        .vector8()
        .ok_or(bad("has a session id that is longer than the hello"))?;
    if session.0.len() > SESSION_ID_MOST {
        return Err(bad("has a session id of more than 32 octets"));
    }
    let suites = rest
        .vector16()
        .ok_or(bad("has cipher suites that are longer than the hello"))?;
    if suites.0.is_empty() || suites.0.len() % 2 != 0 {
        return Err(bad("has no list of cipher suites"));
    }
    let compressions = rest.vector8().ok_or(bad(
        "has compression methods that are longer than the hello",
    ))?;
    if compressions.0.is_empty() {
        return Err(bad("has no compression method"));
    }
    // Before TLS 1.3 there need be none (RFC 5246 §7.4.1.2).
    if rest.0.is_empty() {
        return Ok(ClientHello::default());
    }
    let extensions = rest
        .vector16()
        .ok_or(bad("has extensions that are longer than the hello"))?;
    if !rest.0.is_empty() {
        return Err(bad("has something behind its extensions"));
    }
    extended(extensions)
}

fn extended(mut extensions: Reader<'_>) -> Result<ClientHello, NoHello> {
    let mut hello = ClientHello::default();
    let mut kinds = Vec::with_capacity(24);
    while !extensions.0.is_empty() {
        let overruns = bad("has an extension that is longer than their list");
        let kind = extensions.number16().ok_or(overruns)?;
        let value = extensions.vector16().ok_or(overruns)?;
        kinds.push(kind);
        match kind {
            SERVER_NAME => hello.server_name = Some(server_name(value)?),
            ALPN => hello.alpn = protocols(value)?,
            _ => {}
        }
    }
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(bad("has the same extension twice (RFC 8446 §4.2)"));
    }
    Ok(hello)
}

fn server_name(mut value: Reader<'_>) -> Result<Box<str>, NoHello> {
    let mut list = value.vector16().filter(|_| value.0.is_empty()).ok_or(bad(
        "has a list of server names that does not fill its extension",
    ))?;
    let kind = list
        .number8()
        .ok_or(bad("has a list of server names with none in it"))?;
    if kind != HOST_NAME {
        return Err(bad("has a server name that is no host name"));
    }
    let name = list
        .vector16()
        .ok_or(bad("has a server name that is longer than its list"))?;
    if !list.0.is_empty() {
        return Err(bad("has more than one server name (RFC 6066 §3)"));
    }
    host(name.0).ok_or(bad("has a server name that is not the name of a host"))
}

/// The comparable form of a name. Addresses are not permitted, and neither are ports (RFC 6066 §3).
fn host(raw: &[u8]) -> Option<Box<str>> {
    let host = visitor_host(raw).ok()?;
    let name = host.name();
    // `host:` has an empty port, which `visitor_host` gives as none.
    let plain = !raw.contains(&b':') && name.parse::<Ipv4Addr>().is_err();
    plain.then(|| name.into())
}

fn protocols(mut value: Reader<'_>) -> Result<Vec<Box<[u8]>>, NoHello> {
    let mut list = value.vector16().filter(|_| value.0.is_empty()).ok_or(bad(
        "has a list of protocols (ALPN) that does not fill its extension",
    ))?;
    let mut all = Vec::new();
    while !list.0.is_empty() {
        let one = list
            .vector8()
            .ok_or(bad("has a protocol (ALPN) that is longer than their list"))?;
        if one.0.is_empty() {
            return Err(bad("has a protocol (ALPN) without a name"));
        }
        all.push(one.0.into());
    }
    if all.is_empty() {
        return Err(bad("has a list of protocols (ALPN) with none in it"));
    }
    Ok(all)
}

const fn bad(what: &'static str) -> NoHello {
    NoHello::Malformed(what)
}

/// Octets that have not been read; what is taken off it is whole or nothing.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Option<Self> {
        let (taken, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(Self(taken))
    }

    fn number8(&mut self) -> Option<u8> {
        let taken = self.take(1)?;
        taken.0.first().copied()
    }

    fn number16(&mut self) -> Option<u16> {
        let taken = self.take(2)?;
        Some(u16::from_be_bytes(taken.0.try_into().ok()?))
    }

    /// With its length in one octet before it.
    fn vector8(&mut self) -> Option<Self> {
        let length = self.number8()?;
        self.take(usize::from(length))
    }

    /// With its length in two octets before it.
    fn vector16(&mut self) -> Option<Self> {
        let length = self.number16()?;
        self.take(usize::from(length))
    }
}
