//! Whom a hop asks for whose word counts (`--trust`). Pure.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::range::Range;

/// The last address of X-Forwarded-For that is none of the trusted hops' own: whatever stands before it is what a stranger says.
/// `None` where there is no such field, or something in it that is no address comes first.
pub fn client(headers: &HeaderMap, trusted: &[Range]) -> Option<IpAddr> {
    let mut farthest = None;
    for field in headers.get_all("x-forwarded-for").iter().rev() {
        for hop in field.to_str().ok()?.rsplit(',') {
            let hop = address(hop.trim())?;
            farthest = Some(hop);
            if !trusted.iter().any(|range| range.contains(hop)) {
                return farthest;
            }
        }
    }
    farthest
}

/// With or without a port, and brackets around an IPv6 address.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || Some(text.parse::<SocketAddr>().ok()?.ip());
    text.parse()
        .ok()
        .or_else(with_port)
        .or_else(bare)
        .map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_last_who_is_not_trusted_is_it() {
        let trusted: Vec<Range> = ["10.0.0.0/8", "2001:db8::/32"]
            .map(|range| range.parse().unwrap())
            .into();
        for (fields, expected) in [
            (&["203.0.113.9"][..], Some("203.0.113.9")),
            (&["6.6.6.6, 203.0.113.9"], Some("203.0.113.9")),
            (&["6.6.6.6, 203.0.113.9, 10.1.2.3"], Some("203.0.113.9")),
            (
                &["6.6.6.6", "203.0.113.9:4711,10.1.2.3"],
                Some("203.0.113.9"),
            ),
            (
                &["nonsense, 203.0.113.9, [2001:db8::7]:443"],
                Some("203.0.113.9"),
            ),
            (&["[2001:db9::7]"], Some("2001:db9::7")),
            (&["::ffff:203.0.113.9"], Some("203.0.113.9")),
            (&["10.0.0.1, 10.0.0.2"], Some("10.0.0.1")),
            (&["203.0.113.9, unknown"], None),
            (&["203.0.113.9, "], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("x-forwarded-for", HeaderValue::from_str(field).unwrap());
            }
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(client(&headers, &trusted), expected, "{fields:?}");
        }
    }
}
