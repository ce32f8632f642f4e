//! Version 2: twelve octets that no other protocol begins with, four that say what follows, two addresses, TLVs
//! (proxy-protocol.txt §2.2). Pure.

use std::net::{IpAddr, SocketAddr};

use super::crc32c::crc32c;
use super::tlv::{TlvWriter, Tlvs};
use super::{Ends, Header, Malformed, Pair, Parsed, Unwritable, Version};

/// What it begins with.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Octets up to the addresses.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Octets of a UNIX socket's path.
const PATH: usize = 108;

/// Family and transport.
#[derive(Clone, Copy)]
struct Kind {
    family: Family,
    transport: Transport,
}

#[derive(Clone, Copy)]
enum Family {
    Unspecified,
    Inet,
    Inet6,
    Unix,
}

#[derive(Clone, Copy)]
enum Transport {
    Unspecified,
    Stream,
    Datagram,
}

impl Kind {
    fn read(octet: u8) -> Result<Self, Malformed> {
        let family = match octet >> 4 {
            0 => Family::Unspecified,
            1 => Family::Inet,
            2 => Family::Inet6,
            3 => Family::Unix,
            _ => return Err(Malformed::Binary("names no address family that exists")),
        };
        let transport = match octet & 0xf {
            0 => Transport::Unspecified,
            1 => Transport::Stream,
            2 => Transport::Datagram,
            _ => return Err(Malformed::Binary("names no transport that exists")),
        };
        Ok(Self { family, transport })
    }

    /// Octets of the two addresses.
    fn room(self) -> usize {
        match self.family {
            Family::Unspecified => 0,
            Family::Inet => 12,
            Family::Inet6 => 36,
            Family::Unix => 2 * PATH,
        }
    }
}

pub(super) fn parse(octets: &[u8], most: usize) -> Result<Parsed, Malformed> {
    let begun = octets.len().min(SIGNATURE.len());
    if octets[..begun] != SIGNATURE[..begun] {
        return Err(Malformed::NoHeader);
    }
    let command = match octets.get(12) {
        None => return Ok(Parsed::More),
        Some(&octet @ (LOCAL | PROXY)) => octet,
        Some(octet) if octet >> 4 == 2 => {
            return Err(Malformed::Binary(
                "has a command that is neither LOCAL nor PROXY",
            ));
        }
        Some(_) => return Err(Malformed::Binary("is of a version other than 2")),
    };
    let kind = match octets.get(13) {
        None => return Ok(Parsed::More),
        // A LOCAL header's family is to be ignored like the rest of it.
        Some(_) if command == LOCAL => Kind {
            family: Family::Unspecified,
            transport: Transport::Unspecified,
        },
        Some(octet) => Kind::read(*octet)?,
    };
    let Some(length) = octets.get(14..FIXED) else {
        return Ok(Parsed::More);
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    if FIXED + length > most {
        return Err(Malformed::TooLong {
            octets: FIXED + length,
            most,
        });
    }
    if length < kind.room() {
        return Err(Malformed::Binary(
            "is too short for the addresses of its family",
        ));
    }
    let Some(header) = octets.get(..FIXED + length) else {
        return Ok(Parsed::More);
    };
    Ok(Parsed::Whole(read(header, command, kind)?, header.len()))
}

/// A header that is there in full.
fn read(header: &[u8], command: u8, kind: Kind) -> Result<Header, Malformed> {
    let (addresses, tlvs) = header[FIXED..].split_at(kind.room());
    let ends = match (command, kind.family, kind.transport) {
        (LOCAL, ..) => Ends::Local,
        (_, Family::Unspecified, _) | (_, _, Transport::Unspecified) => Ends::Unknown,
        (_, Family::Unix, _) => Ends::Unix {
            source: path(&addresses[..PATH]),
            destination: path(&addresses[PATH..]),
        },
        (_, _, Transport::Stream) => Ends::Stream(pair(addresses)?),
        (_, _, Transport::Datagram) => Ends::Datagram(pair(addresses)?),
    };
    // Where the ends are not told, what follows is to be skipped, whatever it is.
    let told = !matches!(ends, Ends::Local | Ends::Unknown);
    if told && let Some(at) = Tlvs::check(tlvs)? {
        let at = FIXED + kind.room() + at;
        let (before, rest) = header.split_at(at);
        let (said, after) = rest.split_at(4);
        let said = u32::from_be_bytes([said[0], said[1], said[2], said[3]]);
        let found = crc32c(&[before, &[0; 4], after]);
        if said != found {
            return Err(Malformed::Crc { said, found });
        }
    }
    Ok(Header {
        version: Version::V2,
        ends,
        tlvs: if told {
            Tlvs::checked(tlvs)
        } else {
            Tlvs::default()
        },
    })
}

/// Two addresses of 4 or of 16 octets, and their two ports.
fn pair(octets: &[u8]) -> Result<Pair, Malformed> {
    let short = || Malformed::Binary("is too short for the addresses of its family");
    let (ips, ports) = octets.split_last_chunk::<4>().ok_or_else(short)?;
    let (source, destination) = ips.split_at(ips.len() / 2);
    let end = |ip: &[u8], port: [u8; 2]| {
        let v4 = <[u8; 4]>::try_from(ip).map(IpAddr::from);
        let ip = v4.or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from));
        let ip = ip.map_err(|_| short())?;
        Ok(SocketAddr::new(ip, u16::from_be_bytes(port)))
    };
    let [a, b, c, d] = *ports;
    Ok(Pair {
        source: end(source, [a, b])?,
        destination: end(destination, [c, d])?,
    })
}

/// Up to the first NUL; an abstract name begins with one, and may have more.
fn path(octets: &[u8]) -> Vec<u8> {
    let length = if octets.first() == Some(&0) {
        octets
            .iter()
            .rposition(|octet| *octet != 0)
            .map_or(0, |last| last + 1)
    } else {
        octets
            .iter()
            .position(|octet| *octet == 0)
            .unwrap_or(octets.len())
    };
    octets[..length].to_vec()
}

pub(super) fn write(ends: &Ends, tlvs: &TlvWriter) -> Result<Vec<u8>, Unwritable> {
    let mut header = SIGNATURE.to_vec();
    header.push(if *ends == Ends::Local { LOCAL } else { PROXY });
    header.extend_from_slice(&[kind(ends), 0, 0]);
    match ends {
        Ends::Local | Ends::Unknown => {}
        Ends::Stream(pair) | Ends::Datagram(pair) => {
            for ip in [pair.source.ip(), pair.destination.ip()] {
                match ip {
                    IpAddr::V4(ip) => header.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => header.extend_from_slice(&ip.octets()),
                }
            }
            header.extend_from_slice(&pair.source.port().to_be_bytes());
            header.extend_from_slice(&pair.destination.port().to_be_bytes());
        }
        Ends::Unix {
            source,
            destination,
        } => {
            for path in [source, destination] {
                if path.len() > PATH {
                    return Err(Unwritable::Path(path.len()));
                }
                let end = header.len() + PATH;
                header.extend_from_slice(path);
                header.resize(end, 0);
            }
        }
    }
    let (tlvs, crc) = tlvs.finish()?;
    let crc = crc.map(|at| header.len() + at);
    header.extend_from_slice(&tlvs);
    let length =
        u16::try_from(header.len() - FIXED).map_err(|_| Unwritable::TooLong(header.len()))?;
    header[14..FIXED].copy_from_slice(&length.to_be_bytes());
    if let Some(at) = crc {
        let sum = crc32c(&[&header]);
        header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(header)
}

/// Family and transport, as one octet.
fn kind(ends: &Ends) -> u8 {
    match ends {
        Ends::Local | Ends::Unknown => 0x00,
        Ends::Stream(pair) if pair.source.is_ipv4() => 0x11,
        Ends::Stream(_) => 0x21,
        Ends::Datagram(pair) if pair.source.is_ipv4() => 0x12,
        Ends::Datagram(_) => 0x22,
        Ends::Unix { .. } => 0x31,
    }
}
