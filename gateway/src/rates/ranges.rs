//! Many ranges of addresses, in which one address is found in a few steps however many there are. Pure; `lists` reads the files.

use std::net::IpAddr;

use crate::range::Range;

/// Disjoint ranges, and where in the list each stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Sorted<u32>,
    v6: Sorted<u128>,
}

/// Those of one kind, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sorted<T> {
    /// First and last address of each.
    bounds: Vec<(T, T)>,
    lines: Vec<u32>,
}

/// A line that is no range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Counted from one.
    pub line: usize,
    pub text: String,
}

/// Bad lines that are told; nobody reads more.
const TOLD: usize = 10;

/// Octets of a bad line that are told.
const SHOWN: usize = 60;

impl Ranges {
    /// One range to a line; what follows `#` is a comment, and empty lines are none.
    ///
    /// # Errors
    /// The first lines that are no range.
    pub fn parse(text: &str) -> Result<Self, Vec<BadLine>> {
        let (mut found, mut bad) = (Vec::new(), Vec::new());
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let said = line.split('#').next().unwrap_or_default().trim();
            if said.is_empty() {
                continue;
            }
            match said.parse::<Range>() {
                Ok(range) => found.push((range, u32::try_from(at + 1).unwrap_or(u32::MAX))),
                Err(text) if bad.len() < TOLD => bad.push(BadLine {
                    line: at + 1,
                    text: if said.len() > SHOWN || said.contains(|c: char| c.is_control()) {
                        "this is not an address range".to_owned()
                    } else {
                        text
                    },
                }),
                Err(_text) => break,
            }
        }
        if bad.is_empty() {
            Ok(Self::of(found))
        } else {
            Err(bad)
        }
    }

    /// In any order, and overlapping as they like, each with its line.
    pub fn of(ranges: impl IntoIterator<Item = (Range, u32)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (range, line) in ranges {
            match range.bounds() {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((first.to_bits(), last.to_bits(), line));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push((first.to_bits(), last.to_bits(), line));
                }
                // Both ends of a range are of one kind.
                _ => {}
            }
        }
        Self {
            v4: Sorted::of(v4),
            v6: Sorted::of(v6),
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.line_of(address).is_some()
    }

    /// The line of the widest range that an address is in, of several the first.
    pub fn line_of(&self, address: IpAddr) -> Option<u32> {
        match address.to_canonical() {
            IpAddr::V4(address) => self.v4.line_of(address.to_bits()),
            IpAddr::V6(address) => self.v6.line_of(address.to_bits()),
        }
    }

    /// Whether the same addresses are in both, wherever these stand.
    pub fn is_same(&self, other: &Self) -> bool {
        self.v4.bounds == other.v4.bounds && self.v6.bounds == other.v6.bounds
    }

    /// Ranges, those that overlap being one.
    pub fn len(&self) -> usize {
        self.v4.bounds.len() + self.v6.bounds.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Ord + Copy> Sorted<T> {
    fn of(mut ranges: Vec<(T, T, u32)>) -> Self {
        ranges.sort_unstable();
        let mut all = Self {
            bounds: Vec::with_capacity(ranges.len()),
            lines: Vec::with_capacity(ranges.len()),
        };
        for (first, last, line) in ranges {
            match (all.bounds.last_mut(), all.lines.last_mut()) {
                (Some((_, end)), Some(of)) if first <= *end => {
                    // Of two ranges of addresses that overlap one is within the other.
                    if last > *end {
                        (*end, *of) = (last, line);
                    }
                }
                _ => {
                    all.bounds.push((first, last));
                    all.lines.push(line);
                }
            }
        }
        all.bounds.shrink_to_fit();
        all.lines.shrink_to_fit();
        all
    }

    fn line_of(&self, address: T) -> Option<u32> {
        let behind = self.bounds.partition_point(|(first, _)| *first <= address);
        let at = behind.checked_sub(1)?;
        (address <= self.bounds[at].1).then(|| self.lines[at])
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_list_has_comments_and_what_is_none_is_named() {
        let text = "\u{feff}# blocked\r\n10.0.0.0/8\r\n\r\n  192.0.2.7   # one\n2001:db8::/32\n::ffff:198.51.100.0/120\n";
        let ranges = Ranges::parse(text).unwrap();
        assert_eq!(ranges.len(), 4);
        for (address, is) in [
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.8", false),
            ("198.51.100.200", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(ranges.contains(address.parse().unwrap()), is, "{address}");
        }
        for (address, line) in [("10.1.2.3", 2), ("192.0.2.7", 4), ("2001:db8::1", 5)] {
            let address = address.parse().unwrap();
            assert_eq!(ranges.line_of(address), Some(line), "{address}");
        }
        let twice = Ranges::parse("10.0.0.0/16\n10.0.0.0/8\n10.0.0.0/8\n10.1.0.0/16\n").unwrap();
        assert_eq!(
            (twice.len(), twice.line_of([10, 1, 0, 1].into())),
            (1, Some(2))
        );
        let moved = Ranges::parse("\n10.0.0.0/8\n").unwrap();
        assert!(twice.is_same(&Ranges::parse("10.0.0.0/8").unwrap()) && twice.is_same(&moved));
        let bad = Ranges::parse("10.0.0.0/8\n10.0.0.0/33\n\nx y # z\n").unwrap_err();
        assert_eq!(bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [2, 4]);
        assert!(
            bad[0]
                .text
                .starts_with("`10.0.0.0/33` is not an address range"),
            "{}",
            bad[0].text
        );
        let many = Ranges::parse(&"?\n".repeat(100_000)).unwrap_err();
        assert_eq!(many.len(), TOLD);
        assert_eq!(Ranges::parse("").unwrap(), Ranges::default());
    }

    fn range() -> impl Strategy<Value = Range> {
        let v4 = (0_u32..512, 23_u8..=32)
            .prop_map(|(bits, prefix)| format!("{}/{prefix}", Ipv4Addr::from_bits(bits)));
        let v6 = (0_u128..512, 119_u8..=128).prop_map(|(bits, prefix)| {
            format!("{}/{prefix}", Ipv6Addr::from_bits(1 << 120 | bits))
        });
        prop_oneof![v4, v6].prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        #[test]
        fn it_is_what_a_look_at_each_would_find(ranges in prop::collection::vec(range(), 0..40)) {
            let all = Ranges::of(ranges.iter().copied().zip(1..));
            for bits in 0..520 {
                for address in [IpAddr::from(Ipv4Addr::from_bits(bits)), Ipv6Addr::from_bits(1 << 120 | u128::from(bits)).into()] {
                    let naive = ranges.iter().any(|range| range.contains(address));
                    prop_assert_eq!(all.contains(address), naive, "{}", address);
                }
            }
        }
    }

    #[test]
    fn a_hundred_thousand_are_looked_up_at_once() {
        let text: String = (0..100_000_u32)
            .map(|n| format!("{}/32\n", Ipv4Addr::from_bits(n * 7 + 1)))
            .collect();
        let ranges = Ranges::parse(&text).unwrap();
        assert_eq!(ranges.len(), 100_000);
        let found =
            (0..700_000_u32).filter(|bits| ranges.contains(Ipv4Addr::from_bits(*bits).into()));
        assert_eq!(found.count(), 100_000);
    }
}
