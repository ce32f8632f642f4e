//! A range of addresses, as whoever is trusted, believed or refused is written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses, as `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    address: IpAddr,
    prefix: u8,
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an address range; write it like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7"
            )
        };
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|bits| *bits <= most)
                .ok_or_else(wrong)?,
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Range {
    /// The first and the last of its addresses; those of IPv4 as IPv4.
    pub fn bounds(&self) -> (IpAddr, IpAddr) {
        match (self.address, self.prefix) {
            (IpAddr::V4(address), prefix) => of_v4(address, prefix),
            (IpAddr::V6(address), prefix) => {
                match (address.to_ipv4_mapped(), prefix.checked_sub(96)) {
                    (Some(v4), Some(prefix)) => of_v4(v4, prefix),
                    _ => {
                        let below = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
                        let first = address.to_bits() & !below;
                        (
                            Ipv6Addr::from_bits(first).into(),
                            Ipv6Addr::from_bits(first | below).into(),
                        )
                    }
                }
            }
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(one)) => {
                let shift = 32 - u32::from(self.prefix);
                shift == 32 || u32::from(range) >> shift == u32::from(one) >> shift
            }
            (IpAddr::V6(range), IpAddr::V6(one)) => {
                let shift = 128 - u32::from(self.prefix);
                shift == 128 || u128::from(range) >> shift == u128::from(one) >> shift
            }
            _ => false,
        }
    }
}

fn of_v4(address: Ipv4Addr, prefix: u8) -> (IpAddr, IpAddr) {
    let below = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let first = address.to_bits() & !below;
    (
        Ipv4Addr::from_bits(first).into(),
        Ipv4Addr::from_bits(first | below).into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range: Range = "10.0.0.0/8".parse().unwrap();
        assert!(
            range.contains("10.255.0.1".parse().unwrap())
                && !range.contains("11.0.0.1".parse().unwrap())
        );
        assert!(range.contains("::ffff:10.1.1.1".parse().unwrap()));
        let all: Range = "::/0".parse().unwrap();
        assert!(
            all.contains("2001:db8::1".parse().unwrap())
                && !all.contains("10.0.0.1".parse().unwrap())
        );
        for wrong in ["10.0.0.0/33", "10.0.0/8", "", "::/129", "1.2.3.4/-1"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }
}
