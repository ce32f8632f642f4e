//! The PROXY protocol: who a connection is really from, said before its first octet by whoever passed it on
//! (proxy-protocol.txt, edition 2026-04-27). Both versions, both directions. Pure: octets in, a decision out, and the other
//! way round; [`io`] reads and writes.
//!
//! A header may arrive octet by octet: every prefix of a valid one asks for more. What it says is taken strictly, because a
//! peer that is wrong about its own header is wrong about the address in it.
//!
//! ```text
//!  first octets ─▶ parse ─┬─ v1: one line of text
//!                         └─ v2: 16 octets, addresses, Tlvs (CRC-32C checked)
//! ```

#[cfg(test)]
mod by_name;
mod crc32c;
pub mod io;
#[cfg(test)]
mod properties;
mod tlv;
mod v1;
mod v2;

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

pub use tlv::{Client, Ssl, SslFacts, Tlv, TlvWriter, Tlvs};
pub use v1::MAX_LINE;
pub use v2::SIGNATURE;

/// Most octets of a header that are read unless told otherwise: a client certificate fits, and no more is kept for
/// somebody who has not yet said who it is.
pub const USUAL_MOST: usize = 4096;

/// The two forms on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// A line of text (§2.1).
    V1,
    /// Binary (§2.2).
    V2,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// What a header says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub version: Version,
    pub ends: Ends,
    /// Empty in version 1, and where the ends are not told.
    pub tlvs: Tlvs,
}

/// The two ends of the connection that was passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The sender speaks for itself, as in a health check: the real ends count.
    Local,
    /// The sender does not know, or speaks of a family that is neither IP nor UNIX: the real ends count.
    Unknown,
    /// Over TCP, or whatever stream it was.
    Stream(Pair),
    /// Over UDP.
    Datagram(Pair),
    /// Paths of UNIX sockets, as they stand up to the first NUL; an abstract one begins with NUL and is kept whole.
    Unix {
        source: Vec<u8>,
        destination: Vec<u8>,
    },
}

/// Two addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Pair {
    /// Where the families differ, the IPv4 one is written as IPv6 (RFC 4291 §2.5.5.2): no header has room for two families,
    /// and "unknown" would lose both.
    pub fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        if source.is_ipv4() == destination.is_ipv4() {
            return Self {
                source: plain(source),
                destination: plain(destination),
            };
        }
        Self {
            source: mapped(source),
            destination: mapped(destination),
        }
    }

    /// The visitor.
    pub fn source(&self) -> SocketAddr {
        self.source
    }

    /// What the visitor connected to.
    pub fn destination(&self) -> SocketAddr {
        self.destination
    }
}

/// Without scope and flow, which no header carries.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::V6(SocketAddrV6::new(ip, address.port(), 0, 0))
}

impl Ends {
    /// The two addresses, where they are IP addresses.
    pub fn pair(&self) -> Option<Pair> {
        match self {
            Self::Stream(pair) | Self::Datagram(pair) => Some(*pair),
            Self::Local | Self::Unknown | Self::Unix { .. } => None,
        }
    }
}

/// What the first octets of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far nothing is wrong, and nothing complete.
    More,
    /// A header of so many octets; what follows belongs to the connection.
    Whole(Header, usize),
}

/// Why octets are no header. The connection that they came on cannot be used: nobody knows whose it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They begin like neither version.
    #[error("it does not begin like a PROXY header")]
    NoHeader,
    #[error("the PROXY v1 line {0}")]
    Line(&'static str),
    #[error("the PROXY v2 header {0}")]
    Binary(&'static str),
    #[error(
        "the PROXY v2 header says that it is {octets} octets long, more than the {most} that are taken"
    )]
    TooLong { octets: usize, most: usize },
    #[error(
        "the PROXY v2 header's CRC-32C is wrong (it says {said:08x}, its octets give {found:08x}): something changed it on the way"
    )]
    Crc { said: u32, found: u32 },
}

/// Reads the beginning of a connection. `most` bounds a header of version 2; one of version 1 is never longer than
/// [`MAX_LINE`].
///
/// # Errors
/// At the first octet that no valid header could have there.
pub fn parse(octets: &[u8], most: usize) -> Result<Parsed, Malformed> {
    match octets.first() {
        None => Ok(Parsed::More),
        Some(b'P') => v1::parse(octets),
        Some(_) => v2::parse(octets, most),
    }
}

/// Why a header cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    #[error("a PROXY header of {0} octets is longer than its length field can say")]
    TooLong(usize),
    #[error(
        "a UNIX socket's path of {0} octets does not fit into the 108 that a PROXY header has for it"
    )]
    Path(usize),
}

/// Writes a header of version 1, which has no room for more than addresses: UDP and UNIX ends become `UNKNOWN`.
pub fn write_v1(ends: &Ends) -> Vec<u8> {
    v1::write(ends)
}

/// Writes a header of version 2.
///
/// # Errors
/// Where something does not fit into its field.
pub fn write_v2(ends: &Ends, tlvs: &TlvWriter) -> Result<Vec<u8>, Unwritable> {
    v2::write(ends, tlvs)
}
