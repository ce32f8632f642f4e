//! What came of each try, and what it all means, in words. Pure.

use tidegate_shared::proxy_header::Version;
use tidegate_shared::reversal::Seen;

/// A way in which a port can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub header: Option<Version>,
    pub tls: bool,
}

/// In the order in which they are tried: what a header is compared with comes first.
pub const WAYS: [Way; 6] = [
    Way::new(None, false),
    Way::new(Some(Version::V1), false),
    Way::new(Some(Version::V2), false),
    Way::new(None, true),
    Way::new(Some(Version::V1), true),
    Way::new(Some(Version::V2), true),
];

impl Way {
    const fn new(header: Option<Version>, tls: bool) -> Self {
        Self { header, tls }
    }

    /// As a person calls it.
    pub fn name(self) -> String {
        let inner = if self.tls { "TLS" } else { "plain HTTP" };
        match self.header {
            None => inner.to_owned(),
            Some(version) => format!("PROXY {version}, then {inner}"),
        }
    }
}

/// What was seen on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// An HTTP/1 answer with this status.
    Http(u16),
    /// A TLS handshake, whole: what was agreed on, and what came behind it.
    Tls { agreed: String, then: String },
    /// Of TLS, what only who has understood our first message can answer: why it goes no further.
    TlsRefused(String),
    /// A TLS handshake that failed.
    NoTls(String),
    /// Neither HTTP/1 nor TLS.
    Other(Seen),
    /// It speaks HTTP/2 without being asked.
    Http2,
    /// The connection was closed, or reset, before an answer.
    Closed,
    /// Nothing came in the time that there was.
    Silent,
    /// The connection itself failed.
    Broken(String),
}

impl Found {
    /// As it stands behind the way's name.
    pub fn words(&self) -> String {
        match self {
            Self::Http(status) => format!("answered {status}"),
            Self::Tls { agreed, then } => format!("{agreed}; then {then}"),
            Self::TlsRefused(why) => format!("speaks TLS, and refused: {why}"),
            Self::NoTls(why) => why.clone(),
            Self::Other(seen) => format!("answered with {seen}"),
            Self::Http2 => "answered in HTTP/2".to_owned(),
            Self::Closed => "closed without an answer".to_owned(),
            Self::Silent => "said nothing in time".to_owned(),
            Self::Broken(why) => format!("the connection failed: {why}"),
        }
    }
}

/// Which ways the port takes, in the order of [`WAYS`].
///
/// A server that expects no header takes one for a request, and says 400 or whatever it says to such: what it says behind a
/// header has to be what it says without one, or, where it takes nothing without, no 400. A 400 in clear text is also what a
/// port of TLS says to who does not speak it.
pub fn taken(found: &[Found; WAYS.len()]) -> [bool; WAYS.len()] {
    let tls = |at: usize| matches!(found[at], Found::Tls { .. } | Found::TlsRefused(_));
    let any_tls = (3..WAYS.len()).any(tls);
    let plain = match found[0] {
        Found::Http(400) => !any_tls,
        Found::Http(_) | Found::Http2 => true,
        _ => false,
    };
    let behind = |at: usize| match (&found[at], &found[0]) {
        (Found::Http(_) | Found::Http2, before) if plain => {
            found[at] == *before && *before != Found::Http(400)
        }
        (Found::Http(status), _) => *status != 400,
        (Found::Http2, _) => true,
        _ => false,
    };
    [plain, behind(1), behind(2), tls(3), tls(4), tls(5)]
}

/// What to configure for the port at `address`.
pub fn advice(address: &str, found: &[Found; WAYS.len()]) -> String {
    let taken = taken(found);
    let mut said = Vec::new();
    for (tls, from) in [(false, 0), (true, 3)] {
        let [bare, v1, v2] = [taken[from], taken[from + 1], taken[from + 2]];
        if !(bare || v1 || v2) {
            continue;
        }
        let (what, scheme) = if tls {
            ("TLS", "https")
        } else {
            ("plain HTTP", "http")
        };
        let command = format!("tidegate http {scheme}://{address}");
        let versions = match (v1, v2) {
            (true, true) => "v1 or v2",
            (true, false) => "v1",
            (false, _) => "v2",
        };
        let best = if v2 { "v2" } else { "v1" };
        said.push(match (bare, v1 || v2) {
            (true, false) => {
                format!("{what} without a PROXY header: send none, as `{command}` does")
            }
            (false, _) => format!(
                "{what} behind a PROXY header and not without: send {versions}, as `{command} --proxy-protocol {best}` does"
            ),
            (true, true) => format!(
                "{what} both with a PROXY header ({versions}) and without: whoever can reach it can choose its own address, unless \
                 headers are believed from listed sources only; send {best}, as `{command} --proxy-protocol {best}` does"
            ),
        });
    }
    if said.is_empty() {
        nothing(address, found)
    } else {
        format!("{address} takes {}", said.join("; and "))
    }
}

fn nothing(address: &str, found: &[Found; WAYS.len()]) -> String {
    if let Some(seen) = found.iter().find_map(|found| match found {
        Found::Other(seen) => Some(seen),
        _ => None,
    }) {
        return format!(
            "{address} takes none of these; it answers with {seen}: is it the port that you mean?"
        );
    }
    if found.iter().all(|found| *found == Found::Silent) {
        return format!(
            "{address} accepts connections and says nothing: is the program behind it stuck, or does it speak neither HTTP nor TLS?"
        );
    }
    if found.contains(&Found::Http(400)) {
        return format!(
            "{address} answers 400 to everything: it speaks HTTP, and takes neither this request nor a PROXY header"
        );
    }
    format!(
        "{address} closes every connection: does it speak neither HTTP nor TLS, or take connections from listed sources only?"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> Found {
        Found::Tls {
            agreed: "TLSv1.3".to_owned(),
            then: "answered 200".to_owned(),
        }
    }

    fn no_tls() -> Found {
        Found::NoTls("closed".to_owned())
    }

    #[test]
    fn what_is_taken_is_told_from_what_is_answered() {
        use Found::{Closed, Http, Http2, Silent};
        for (found, expected, said) in [
            (
                [
                    Http(200),
                    Http(400),
                    Http(400),
                    no_tls(),
                    no_tls(),
                    no_tls(),
                ],
                [true, false, false, false, false, false],
                "plain HTTP without a PROXY header: send none",
            ),
            (
                // One that answers what is no request of its own with its own word.
                [Http(200), Http(405), Closed, no_tls(), no_tls(), no_tls()],
                [true, false, false, false, false, false],
                "send none",
            ),
            (
                [Closed, Http(503), Http(503), no_tls(), no_tls(), no_tls()],
                [false, true, true, false, false, false],
                "plain HTTP behind a PROXY header and not without: send v1 or v2",
            ),
            (
                [Closed, Http(200), Closed, no_tls(), no_tls(), no_tls()],
                [false, true, false, false, false, false],
                "--proxy-protocol v1`",
            ),
            (
                [
                    Http(404),
                    Http(404),
                    Http(404),
                    no_tls(),
                    no_tls(),
                    no_tls(),
                ],
                [true, true, true, false, false, false],
                "unless headers are believed from listed sources only",
            ),
            (
                // nginx says so in clear text at a port of TLS.
                [Http(400), Http(400), Http(400), tls(), no_tls(), no_tls()],
                [false, false, false, true, false, false],
                "TLS without a PROXY header",
            ),
            (
                [Closed, Closed, Closed, Closed, tls(), tls()],
                [false, false, false, false, true, true],
                "TLS behind a PROXY header",
            ),
            (
                [Http(400), Http(400), Http(400), Closed, Closed, Closed],
                [true, false, false, false, false, false],
                "send none",
            ),
            (
                [Http2, Closed, Http2, Closed, Closed, Closed],
                [true, false, true, false, false, false],
                "(v2)",
            ),
            (
                [Closed, Http(400), Http(400), Closed, Closed, Closed],
                [false; 6],
                "answers 400 to everything",
            ),
            (
                [Silent, Silent, Silent, Silent, Silent, Silent],
                [false; 6],
                "says nothing",
            ),
            (
                [Closed, Closed, Closed, Closed, Closed, Silent],
                [false; 6],
                "closes every connection",
            ),
            (
                [
                    Found::Other(Seen::Ssh),
                    Closed,
                    Closed,
                    no_tls(),
                    no_tls(),
                    no_tls(),
                ],
                [false; 6],
                "an SSH greeting",
            ),
        ] {
            assert_eq!(taken(&found), expected, "{found:?}");
            let advice = advice("app:1", &found);
            assert!(advice.contains(said), "{said}: {advice}");
        }
    }
}
