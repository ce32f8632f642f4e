//! Which fields that anybody between looks for a head has, found in one pass over their names: most heads have few of them, and
//! looking up each in vain would cost more than all else that is done with a head. Pure.

use std::ops::BitOr;

use http::header::HeaderMap;

/// See the module's head. What is added to a head later is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glance(u16);

impl Glance {
    pub const CONNECTION: Self = Self(1);
    pub const KEEP_ALIVE: Self = Self(1 << 1);
    pub const PROXY_CONNECTION: Self = Self(1 << 2);
    pub const HTTP2_SETTINGS: Self = Self(1 << 3);
    pub const UPGRADE: Self = Self(1 << 4);
    pub const TRANSFER_ENCODING: Self = Self(1 << 5);
    pub const CONTENT_LENGTH: Self = Self(1 << 6);
    pub const TE: Self = Self(1 << 7);
    pub const EXPECT: Self = Self(1 << 8);
    pub const VIA: Self = Self(1 << 9);
    pub const ACCEPT: Self = Self(1 << 10);
    /// A name that begins with `x-`, or with `x_`.
    pub const X: Self = Self(1 << 11);
    /// A name that begins with `tidegate-`.
    pub const OURS: Self = Self(1 << 12);
    /// A name with `_` in it.
    pub const UNDERSCORE: Self = Self(1 << 13);

    /// Looks at all names.
    pub fn of(headers: &HeaderMap) -> Self {
        let all = headers.keys().map(|name| {
            let name = name.as_str();
            kind(name) | shape(name)
        });
        all.fold(Self::default(), Self::bitor)
    }

    /// The same for an answer, in which nobody looks for names by their beginnings, nor for `_`.
    pub fn of_answer(headers: &HeaderMap) -> Self {
        let all = headers.keys().map(|name| kind(name.as_str()));
        all.fold(Self::default(), Self::bitor)
    }

    /// Whether there is one of these kinds.
    pub const fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }
}

impl BitOr for Glance {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

fn kind(name: &str) -> Glance {
    // By its length first: one comparison says of most names that they are none of these.
    let (known, kind) = match name.len() {
        2 => ("te", Glance::TE),
        3 => ("via", Glance::VIA),
        6 if name.starts_with('a') => ("accept", Glance::ACCEPT),
        6 => ("expect", Glance::EXPECT),
        7 => ("upgrade", Glance::UPGRADE),
        10 if name.starts_with('c') => ("connection", Glance::CONNECTION),
        10 => ("keep-alive", Glance::KEEP_ALIVE),
        14 if name.starts_with('c') => ("content-length", Glance::CONTENT_LENGTH),
        14 => ("http2-settings", Glance::HTTP2_SETTINGS),
        16 => ("proxy-connection", Glance::PROXY_CONNECTION),
        17 => ("transfer-encoding", Glance::TRANSFER_ENCODING),
        _ => return Glance::default(),
    };
    if name == known {
        kind
    } else {
        Glance::default()
    }
}

fn shape(name: &str) -> Glance {
    let octets = name.as_bytes();
    let mut shape = Glance::default();
    if matches!(octets, [b'x', b'-' | b'_', ..]) {
        shape = shape | Glance::X;
    }
    if octets.starts_with(b"tidegate-") {
        shape = shape | Glance::OURS;
    }
    if octets.contains(&b'_') {
        shape = shape | Glance::UNDERSCORE;
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(names: &[&'static str]) -> Glance {
        let fields = names
            .iter()
            .map(|name| (name.parse().unwrap(), "1".parse().unwrap()));
        Glance::of(&fields.collect())
    }

    #[test]
    fn what_is_there_is_seen_and_nothing_else() {
        let kinds = [
            ("Connection", Glance::CONNECTION),
            ("Keep-Alive", Glance::KEEP_ALIVE),
            ("Proxy-Connection", Glance::PROXY_CONNECTION),
            ("HTTP2-Settings", Glance::HTTP2_SETTINGS),
            ("Upgrade", Glance::UPGRADE),
            ("Transfer-Encoding", Glance::TRANSFER_ENCODING),
            ("Content-Length", Glance::CONTENT_LENGTH),
            ("TE", Glance::TE),
            ("Expect", Glance::EXPECT),
            ("Via", Glance::VIA),
            ("Accept", Glance::ACCEPT),
            ("X-Real-IP", Glance::X),
            ("Tidegate-Visitor", Glance::OURS),
            ("content_length", Glance::UNDERSCORE),
        ];
        for (at, (name, kind)) in kinds.iter().enumerate() {
            let seen = glance(&["host", name, "user-agent", "accept-encoding"]);
            for (other, (_, kind)) in kinds.iter().enumerate() {
                assert_eq!(seen.has(*kind), at == other, "{name} {other}");
            }
            assert_eq!(seen, *kind);
            let fields = [(name.parse().unwrap(), "1".parse().unwrap())];
            let of_answer = Glance::of_answer(&fields.into_iter().collect());
            let by_shape = Glance::X | Glance::OURS | Glance::UNDERSCORE;
            assert_eq!(of_answer.has(*kind), !by_shape.has(*kind), "{name}");
        }
        let seen = glance(&["x_real_ip", "te"]);
        assert_eq!(seen, Glance::X | Glance::UNDERSCORE | Glance::TE);
        assert_eq!(
            glance(&["host", "xy", "upgraded", "tes"]),
            Glance::default()
        );
    }
}
