//! The same server for the same visitor, by rendezvous hashing: each server draws a number from what the request is known by and
//! from its own name, by its weight, and the best one takes the request. A server that leaves gives up its own visitors and no
//! others, one that comes back has the same ones again, and gateways and restarts agree on all of it without a word. Pure.

use std::net::IpAddr;

use http::header::{COOKIE, HeaderMap, HeaderName};

/// What a request is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The visitor's address; of IPv6 the first 64 bits, in which one household changes.
    Source,
    /// The first value of a field.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
}

/// A request, as far as it counts here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key(u64);

/// A server, likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    /// Of a server's name: it keeps its visitors when its address changes.
    pub(super) fn of(name: &str) -> Self {
        Self(mixed(folded(name.as_bytes())))
    }
}

impl Key {
    /// `None` where the request has not what it is to be known by, or has it empty.
    pub(super) fn of(by: &By, source: IpAddr, headers: &HeaderMap) -> Option<Self> {
        match by {
            By::Source => Some(Self::of_source(source)),
            By::Header(name) => {
                let value = headers.get(name)?.as_bytes();
                (!value.is_empty()).then(|| Self::of_octets(value))
            }
            By::Cookie(name) => cookie(headers, name.as_bytes()).map(Self::of_octets),
        }
    }

    /// Of what has no head.
    pub(super) fn of_source(source: IpAddr) -> Self {
        match source.to_canonical() {
            IpAddr::V4(address) => Self::of_octets(&address.octets()),
            IpAddr::V6(address) => Self::of_octets(&address.octets()[..8]),
        }
    }

    fn of_octets(octets: &[u8]) -> Self {
        Self(folded(octets))
    }

    /// What a server draws; the highest takes the request. Of many keys each server draws the highest as often as its weight
    /// says: the least of exponential variables, with weights as rates, is each one's in proportion to its rate.
    pub(super) fn draw(self, place: Place, weight: u32) -> f64 {
        // 53 bits, which is what a fraction has.
        let number = mixed(mixed(self.0) ^ place.0) >> 11;
        #[expect(clippy::cast_precision_loss, reason = "53 bits lose none")]
        let unit = (number as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(weight) / -unit.ln()
    }
}

/// The value of the first cookie of this name (RFC 6265 §5.4), in however many fields it came.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let mut crumbs = fields.flat_map(|field| field.as_bytes().split(|octet| *octet == b';'));
    let value = crumbs.find_map(|crumb| {
        let crumb = crumb.trim_ascii();
        let at = crumb.iter().position(|octet| *octet == b'=')?;
        (crumb[..at].trim_ascii_end() == name).then(|| crumb[at + 1..].trim_ascii_start())
    })?;
    (!value.is_empty()).then_some(value)
}

/// FNV-1a: the same for ever and everywhere, which the standard library's hashes are not.
fn folded(octets: &[u8]) -> u64 {
    let begin = 0xcbf2_9ce4_8422_2325_u64;
    octets.iter().fold(begin, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Every bit depends on every bit (the finalizer of `splitmix64`).
fn mixed(mut hash: u64) -> u64 {
    hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn best(key: Key, servers: &[(String, u32)]) -> &str {
        let draw = |(name, weight): &(String, u32)| key.draw(Place::of(name), *weight);
        let best = servers
            .iter()
            .max_by(|one, other| draw(one).total_cmp(&draw(other)));
        &best.unwrap().0
    }

    fn keys() -> impl Iterator<Item = Key> {
        (0..4_000).map(|number| Key::of_octets(format!("user-{number}").as_bytes()))
    }

    fn named(weights: &[u32]) -> Vec<(String, u32)> {
        let each = weights.iter().enumerate();
        each.map(|(place, weight)| (format!("s{place}"), *weight))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Each server has its share, a twentieth of the whole more or less: five times what chance makes of 4000 at most.
        #[test]
        fn weights_count(weights in prop::collection::vec(1_u32..10, 1..8)) {
            let servers = named(&weights);
            let total: u32 = weights.iter().sum();
            for (name, weight) in &servers {
                let taken = keys().filter(|key| best(*key, &servers) == name).count();
                let due = f64::from(*weight) / f64::from(total);
                let share = taken as f64 / 4_000.0;
                prop_assert!((share - due).abs() < 0.05, "{} {} {}", name, share, due);
            }
        }

        /// Who was not the leaver's stays where he was, and who was the joiner's before is his again.
        #[test]
        fn a_server_that_leaves_moves_its_own_visitors_only(
            weights in prop::collection::vec(1_u32..10, 2..8), gone in any::<prop::sample::Index>(),
        ) {
            let all = named(&weights);
            let mut left = all.clone();
            let (gone, _) = left.remove(gone.index(all.len()));
            for key in keys() {
                let before = best(key, &all);
                if before != gone {
                    prop_assert_eq!(best(key, &left), before);
                }
            }
        }

        /// One that gets more of its weight takes visitors from others, who exchange none.
        #[test]
        fn a_weight_that_grows_moves_visitors_to_its_server_only(
            weights in prop::collection::vec(1_u32..10, 2..8), which in any::<prop::sample::Index>(),
        ) {
            let before = named(&weights);
            let mut after = before.clone();
            let which = which.index(before.len());
            after[which].1 *= 2;
            for key in keys() {
                let (one, other) = (best(key, &before), best(key, &after));
                prop_assert!(one == other || other == before[which].0, "{} {}", one, other);
            }
        }
    }

    #[test]
    fn a_request_is_known_by_what_is_said() {
        let source: IpAddr = "192.0.2.7".parse().unwrap();
        let mut headers = HeaderMap::new();
        let header = By::Header(HeaderName::from_static("x-user"));
        let cookie = By::Cookie("sid".to_owned());
        assert_eq!(Key::of(&header, source, &headers), None);
        assert_eq!(Key::of(&cookie, source, &headers), None);
        headers.insert("x-user", HeaderValue::from_static(""));
        assert_eq!(Key::of(&header, source, &headers), None);
        headers.insert("x-user", HeaderValue::from_static("ann"));
        let ann = Some(Key::of_octets(b"ann"));
        assert_eq!(Key::of(&header, source, &headers), ann);
        for (fields, known) in [
            (&["sid=ann"][..], true),
            (&["a=b; sid=ann; sid=bob"], true),
            (&["a=b", "xsid=bob;sid = ann "], true),
            (&["a=sid=ann"], false),
            (&["sid="], false),
            (&["sid"], false),
            (&["SID=ann", ";;=;"], false),
        ] {
            headers.remove(COOKIE);
            for field in fields {
                headers.append(COOKIE, HeaderValue::from_static(field));
            }
            let key = Key::of(&cookie, source, &headers);
            assert_eq!(key, ann.filter(|_| known), "{fields:?}");
        }
    }

    #[test]
    fn a_source_is_an_address_or_the_half_of_one() {
        let of = |text: &str| Key::of_source(text.parse().unwrap());
        assert_eq!(of("192.0.2.7"), of("::ffff:192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    /// Gateways of different builds agree.
    #[test]
    fn what_is_drawn_never_changes() {
        let draw = Key::of_octets(b"ann").draw(Place::of("one"), 1);
        assert!((draw - 0.256308244286).abs() < 1e-9, "{draw}");
    }
}
