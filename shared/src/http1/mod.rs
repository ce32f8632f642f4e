//! HTTP/1's messages as octets (RFC 9112): what a client's side (`origin`) and a server's have in common. What a message means,
//! and which are refused, is theirs to decide. Pure but for what moves octets, which does so in its caller's task.

mod fields; // of a head, and trailers

pub mod request; // a request's head

pub mod response; // an answer's head

pub mod chunks; // content whose length comes with it

mod content; // what follows a head

mod inflow; // what was read

mod sending; // a message on its way out

pub use content::{Content, Piece};
pub use inflow::Inflow;
pub use sending::{Length, Sending, Stuck};

use http::Version;
use http::header::{CONNECTION, HeaderMap, HeaderName};

use crate::glance::Glance;

/// Whether a connection carries another message behind one with this head (RFC 9112 §9.3).
pub fn keeps(version: Version, headers: &HeaderMap, glance: Glance) -> bool {
    let usually = version == Version::HTTP_11;
    if !glance.has(Glance::CONNECTION) {
        return usually;
    }
    !lists(headers, &CONNECTION, "close") && (usually || lists(headers, &CONNECTION, "keep-alive"))
}

/// Whether a field of this name has this member, in any case (RFC 9110 §5.6.1).
pub fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let mut members = value.as_bytes().split(|octet| *octet == b',');
        members.any(|one| one.trim_ascii().eq_ignore_ascii_case(member.as_bytes()))
    })
}

/// The longest content that a head may state, in octets: a reader that counts with signs would take what is longer for something
/// else.
pub const LONGEST: u64 = i64::MAX as u64;

/// What is wrong with what a peer says.
pub type Unreadable = &'static str;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_on_as_their_version_has_it() {
        for (version, options, expected) in [
            (Version::HTTP_11, "", true),
            (Version::HTTP_11, "x, Close", false),
            (Version::HTTP_11, "keep-alive,close", false),
            (Version::HTTP_10, "", false),
            (Version::HTTP_10, "Keep-Alive", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, options.parse().unwrap());
            let glance = Glance::of(&headers);
            let found = keeps(version, &headers, glance);
            assert_eq!(found, expected, "{version:?} {options}");
            let bare = keeps(version, &HeaderMap::new(), Glance::default());
            assert_eq!(bare, version == Version::HTTP_11);
        }
    }
}
