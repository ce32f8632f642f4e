//! Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n` (proxy-protocol.txt §2.1). Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Ends, Header, Malformed, Pair, Parsed, Tlvs, Version};

/// Octets of the longest line, CRLF included.
pub const MAX_LINE: usize = 107;

const BEGIN: &[u8] = b"PROXY ";
const FAMILIES: [&[u8]; 4] = [b"TCP4 ", b"TCP6 ", b"UNKNOWN ", b"UNKNOWN\r"];

pub(super) fn parse(octets: &[u8]) -> Result<Parsed, Malformed> {
    let begun = octets.len().min(BEGIN.len());
    if octets[..begun] != BEGIN[..begun] {
        return Err(Malformed::NoHeader);
    }
    let family = &octets[begun..];
    if !FAMILIES.iter().any(|known| {
        let common = family.len().min(known.len());
        family[..common] == known[..common]
    }) {
        return Err(Malformed::Line(
            "names no protocol of TCP4, TCP6 and UNKNOWN",
        ));
    }
    let Some(end) = line_end(octets)? else {
        return Ok(Parsed::More);
    };
    let header = Header {
        version: Version::V1,
        ends: ends(&octets[BEGIN.len()..end])?,
        tlvs: Tlvs::default(),
    };
    Ok(Parsed::Whole(header, end + 2))
}

/// Where the line's CR is, once its LF has come as well.
fn line_end(octets: &[u8]) -> Result<Option<usize>, Malformed> {
    let line = &octets[..octets.len().min(MAX_LINE)];
    // Neither stands alone in a line, and no other control character in one at all.
    let Some(end) = line.iter().position(|octet| octet.is_ascii_control()) else {
        return if line.len() == MAX_LINE {
            Err(Malformed::Line("does not end within 107 octets"))
        } else {
            Ok(None)
        };
    };
    match (line[end], line.get(end + 1)) {
        (b'\r', Some(b'\n')) => Ok(Some(end)),
        (b'\r', None) if end + 1 < MAX_LINE => Ok(None),
        (b'\r', None) => Err(Malformed::Line("does not end within 107 octets")),
        (b'\r', Some(_)) => Err(Malformed::Line("has a CR without its LF")),
        (b'\n', _) => Err(Malformed::Line("has an LF without its CR")),
        _ => Err(Malformed::Line("has a control character")),
    }
}

/// What stands between `PROXY ` and CRLF.
fn ends(line: &[u8]) -> Result<Ends, Malformed> {
    // Whatever follows UNKNOWN is to be ignored, and need not be text.
    if line.starts_with(b"UNKNOWN") {
        return Ok(Ends::Unknown);
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed::Line("is not ASCII"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, from, to] = words[..] else {
        return Err(Malformed::Line(
            "does not have two addresses and two ports, with one space between them",
        ));
    };
    let ip = |word: &str| -> Result<IpAddr, Malformed> {
        if family == "TCP4" {
            let ip = word.parse::<Ipv4Addr>().map(IpAddr::V4);
            ip.map_err(|_| Malformed::Line("has an address that is not IPv4, and says TCP4"))
        } else {
            // The last 32 bits may be dotted: nginx writes a mapped address so.
            let ip = word.parse::<Ipv6Addr>().map(IpAddr::V6);
            ip.map_err(|_| Malformed::Line("has an address that is not IPv6, and says TCP6"))
        }
    };
    let (source, destination) = (ip(source)?, ip(destination)?);
    Ok(Ends::Stream(Pair {
        source: SocketAddr::new(source, port(from)?),
        destination: SocketAddr::new(destination, port(to)?),
    }))
}

/// Decimal, without sign and without leading zeros.
fn port(word: &str) -> Result<u16, Malformed> {
    let plain = word.bytes().all(|octet| octet.is_ascii_digit());
    let canonical = word == "0" || !word.starts_with('0');
    match word.parse() {
        Ok(port) if plain && canonical => Ok(port),
        _ => Err(Malformed::Line(
            "has a port that is no number from 0 to 65535 without leading zeros",
        )),
    }
}

pub(super) fn write(ends: &Ends) -> Vec<u8> {
    match ends {
        Ends::Stream(Pair {
            source,
            destination,
        }) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!(
                "PROXY {family} {} {} {} {}\r\n",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            )
            .into_bytes()
        }
        _ => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(line: &[u8]) -> Ends {
        match parse(line) {
            Ok(Parsed::Whole(header, octets)) => {
                assert_eq!(octets, line.len());
                header.ends
            }
            other => panic!("{}: {other:?}", line.escape_ascii()),
        }
    }

    #[test]
    fn what_the_specification_shows() {
        for (line, source, destination) in [
            (
                "TCP4 255.255.255.255 255.255.255.255 65535 65535",
                "255.255.255.255:65535",
                "255.255.255.255:65535",
            ),
            (
                "TCP4 192.168.0.1 192.168.0.11 56324 0",
                "192.168.0.1:56324",
                "192.168.0.11:0",
            ),
            ("TCP6 2001:DB8::1 ::1 1 443", "[2001:db8::1]:1", "[::1]:443"),
            (
                "TCP6 ::ffff:192.0.2.1 ::ffff:c000:202 1 443",
                "[::ffff:192.0.2.1]:1",
                "[::ffff:192.0.2.2]:443",
            ),
        ] {
            let pair = whole(format!("PROXY {line}\r\n").as_bytes())
                .pair()
                .unwrap();
            assert_eq!(pair.source(), source.parse().unwrap());
            assert_eq!(pair.destination(), destination.parse().unwrap());
        }
        let worst = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
        assert_eq!(worst.len(), MAX_LINE);
        assert_eq!(whole(worst.as_bytes()), Ends::Unknown);
        assert_eq!(whole(b"PROXY UNKNOWN\r\n"), Ends::Unknown);
        assert_eq!(whole(b"PROXY UNKNOWN \xff anything\r\n"), Ends::Unknown);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in [
            "PROXYXTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY tcp4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY UNKNOWN\rX",
            "PROXY TCP4\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
            "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP6 1::2::3 ::1 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP6 [::1] ::1 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +5 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 -5 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 05 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\0\r\n",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{}", line.escape_debug());
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(&endless.as_bytes()[..MAX_LINE - 1]), Ok(Parsed::More));
        assert!(parse(&endless.as_bytes()[..MAX_LINE]).is_err());
        let late = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE - 15));
        assert_eq!(late.len(), MAX_LINE + 1);
        assert!(parse(&late.as_bytes()[..MAX_LINE]).is_err());
    }
}
