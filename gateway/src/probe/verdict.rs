//! What came of each try, and what it all means, in words. Pure.

use tidegate_shared::proxy_header::Version;

/// A way in which a port can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    pub header: Option<Version>,
    pub inner: Inner,
}

/// What is spoken behind the header, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// HTTP/1.1 in clear text.
    Http,
    /// HTTP/2 in clear text, with prior knowledge.
    Http2,
    Tls,
}

/// All of them, in the order of [`WAYS`].
const INNERS: [Inner; 3] = [Inner::Http, Inner::Http2, Inner::Tls];

/// In the order in which they are tried: what a header is compared with comes first.
pub const WAYS: [Way; 9] = [
    Way::new(None, Inner::Http),
    Way::new(Some(Version::V1), Inner::Http),
    Way::new(Some(Version::V2), Inner::Http),
    Way::new(None, Inner::Http2),
    Way::new(Some(Version::V1), Inner::Http2),
    Way::new(Some(Version::V2), Inner::Http2),
    Way::new(None, Inner::Tls),
    Way::new(Some(Version::V1), Inner::Tls),
    Way::new(Some(Version::V2), Inner::Tls),
];

impl Way {
    const fn new(header: Option<Version>, inner: Inner) -> Self {
        Self { header, inner }
    }

    /// As a person calls it.
    pub fn name(self) -> String {
        let inner = match self.inner {
            Inner::Http => "plain HTTP",
            Inner::Http2 => "plain HTTP/2",
            Inner::Tls => "TLS",
        };
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
    /// A TLS handshake, whole: what was agreed on, what came behind it, and whether that was HTTP.
    Tls {
        agreed: String,
        then: String,
        http: bool,
    },
    /// Of TLS, what only who has understood our first message can answer: why it goes no further.
    TlsRefused(String),
    /// TLS with who has a certificate of his own to show: what came of showing none.
    CertificateDemanded(String),
    /// TLS that has nothing in common with ours, such as a version: why.
    TlsUnlike(String),
    /// A TLS handshake that failed.
    NoTls(String),
    /// Neither HTTP/1 nor TLS: what it is.
    Other(String),
    /// The beginning of an HTTP/1 answer, short of its status; behind it the connection was closed, or no more came in time.
    Unfinished { said: String, closed: bool },
    /// HTTP/2 that has understood what was said.
    Http2,
    /// HTTP/2 that has not: its server speaks it without being asked.
    Http2Only,
    /// The connection was closed, or reset, before an answer.
    Closed,
    /// Nothing came in the time that there was.
    Silent,
    /// The connection itself failed.
    Broken(String),
}

impl Found {
    /// Whether it is somebody's word, good or bad, to what was said.
    fn is_answer(&self) -> bool {
        match self {
            Self::Http(_) | Self::Tls { .. } | Self::TlsRefused(_) | Self::TlsUnlike(_) => true,
            Self::CertificateDemanded(_) | Self::Other(_) | Self::Unfinished { .. } => true,
            Self::Http2 | Self::Http2Only => true,
            Self::NoTls(_) | Self::Closed | Self::Silent | Self::Broken(_) => false,
        }
    }

    /// As it stands behind the way's name.
    pub fn words(&self) -> String {
        match self {
            Self::Http(status) => format!("answered {status}"),
            Self::Tls { agreed, then, .. } => format!("{agreed}; then {then}"),
            Self::TlsRefused(why) => format!("speaks TLS, and refused: {why}"),
            Self::TlsUnlike(why) => format!("speaks TLS, and none of ours: {why}"),
            Self::CertificateDemanded(what) | Self::NoTls(what) => what.clone(),
            Self::Other(what) => format!("answered with {what}"),
            Self::Unfinished { said, closed: true } => {
                format!("closed in the middle of an answer, behind {said}")
            }
            Self::Unfinished { said, .. } => {
                format!("began its answer with {said}, and did not go on in time")
            }
            Self::Http2 => "answered in HTTP/2".to_owned(),
            Self::Http2Only => "speaks HTTP/2, and did not take this".to_owned(),
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
/// port of TLS says to who does not speak it, and one that wants a header to who sends none.
pub fn taken(found: &[Found; WAYS.len()]) -> [bool; WAYS.len()] {
    let tls = |at: usize| {
        let found = &found[at];
        matches!(
            found,
            Found::Tls { .. } | Found::TlsRefused(_) | Found::CertificateDemanded(_)
        )
    };
    let http2 = |at: usize| found[at] == Found::Http2;
    let any_tls = (6..WAYS.len()).any(tls);
    // The line of version 1 may be a request with an unknown method to it; version 2 cannot be any.
    let wanted = match (&found[1], &found[2]) {
        (_, Found::Http(status)) if *status != 400 => true,
        (Found::Http(status), _) => !matches!(status, 400 | 405 | 501),
        _ => false,
    };
    let plain = match found[0] {
        Found::Http(400) => !any_tls && !wanted,
        Found::Http(_) => true,
        _ => false,
    };
    let behind = |at: usize| match found[at] {
        Found::Http(400) => false,
        Found::Http(_) => !plain || found[at] == found[0],
        _ => false,
    };
    [
        plain,
        behind(1),
        behind(2),
        http2(3),
        http2(4),
        http2(5),
        tls(6),
        tls(7),
        tls(8),
    ]
}

/// What to configure for the port at `address`.
pub fn advice(address: &str, found: &[Found; WAYS.len()]) -> String {
    let taken = taken(found);
    let mut said = Vec::new();
    for (inner, from) in INNERS.into_iter().zip([0, 3, 6]) {
        let [bare, v1, v2] = [taken[from], taken[from + 1], taken[from + 2]];
        let demanded = |found: &Found| matches!(found, Found::CertificateDemanded(_));
        if found[from..from + 3].iter().any(demanded) {
            said.push(demand([bare, v1, v2]));
        } else if bare || v1 || v2 {
            let odd = silent_inside(address, &found[from..from + 3]);
            said.push(remedy(address, inner, [bare, v1, v2]) + &odd);
        }
    }
    if said.is_empty() {
        nothing(address, found)
    } else {
        format!("{address} takes {}", said.join("; and "))
    }
}

/// What to add where TLS is taken and nothing in it was HTTP.
fn silent_inside(address: &str, found: &[Found]) -> String {
    let inside = || {
        found.iter().filter_map(|found| match found {
            Found::Tls { then, http, .. } => Some((then, http)),
            _ => None,
        })
    };
    if inside().any(|(_, http)| *http) {
        return String::new();
    }
    inside().next().map_or_else(String::new, |(then, _)| {
        format!(
            "; but asked in HTTP inside TLS it {then}: where it speaks something else, have its TLS passed on untouched, by \
             `tidegate tcp {address}` or a listener in TCP mode"
        )
    })
}

/// What to write where it takes this without a header, behind one of version 1, and behind one of version 2.
fn remedy(address: &str, inner: Inner, [bare, v1, v2]: [bool; 3]) -> String {
    let what = match inner {
        Inner::Http => "plain HTTP",
        Inner::Http2 => "plain HTTP/2 (with prior knowledge)",
        Inner::Tls => "TLS",
    };
    let versions = match (v1, v2) {
        (true, true) => "v1 or v2",
        (true, false) => "v1",
        (false, _) => "v2",
    };
    let best = if v2 { "v2" } else { "v1" };
    match (bare, v1 || v2) {
        (true, false) => {
            let how = how(address, inner, None);
            format!("{what} without a PROXY header: send none, as {how}")
        }
        (false, _) => {
            let how = how(address, inner, Some(best));
            format!("{what} behind a PROXY header and not without: send {versions}, as {how}")
        }
        (true, true) => {
            let how = how(address, inner, Some(best));
            format!(
                "{what} both with a PROXY header ({versions}) and without: whoever can reach it can choose its own address, unless \
                 headers are believed from listed sources only; send {best}, as {how}"
            )
        }
    }
}

/// What to write where it takes TLS, from who shows a certificate.
fn demand([bare, v1, v2]: [bool; 3]) -> String {
    let (behind, keys) = match (bare, v1, v2) {
        (_, false, false) => ("without a PROXY header", ""),
        (false, _, true) => (
            "behind a PROXY header and not without",
            " and `send_proxy = \"v2\"`",
        ),
        (false, ..) => (
            "behind a PROXY header and not without",
            " and `send_proxy = \"v1\"`",
        ),
        (true, ..) => ("both with a PROXY header and without", ""),
    };
    format!(
        "TLS {behind}, and demands a certificate: give a backend `tls.client_certificate`, a file with one that it takes and its \
         key{keys} (`tidegate http` has none to show; a gateway's port for agents demands one, too, and is not for visitors)"
    )
}

/// The agent's command, and the keys of a gateway's backend, that speak to the port so.
fn how(address: &str, inner: Inner, header: Option<&str>) -> String {
    let (scheme, option, key) = match inner {
        Inner::Http => ("http", "", None),
        Inner::Http2 => ("http", " --h2", Some("protocol = \"h2\"")),
        Inner::Tls => ("https", "", Some("tls = true")),
    };
    let told = header.map_or_else(String::new, |version| {
        format!(" --proxy-protocol {version}")
    });
    let command = format!("`tidegate http {scheme}://{address}{option}{told}`");
    let keys: Vec<String> = key
        .map(str::to_owned)
        .into_iter()
        .chain(header.map(|version| format!("send_proxy = \"{version}\"")))
        .map(|key| format!("`{key}`"))
        .collect();
    if keys.is_empty() {
        format!("{command} does, or a backend without `tls` and `send_proxy`")
    } else {
        format!("{command} does, or a backend with {}", keys.join(" and "))
    }
}

/// Where something answers behind a header alone, and in none of the protocols that are tried: what is passed on in TCP mode.
fn behind_header_only(address: &str, found: &[Found; WAYS.len()]) -> Option<String> {
    let all = |header| {
        let tries = WAYS.iter().zip(found);
        let those = tries.filter(move |(way, _)| way.header == header);
        those.map(|(_, found)| found)
    };
    if all(None).any(Found::is_answer) {
        return None;
    }
    let behind = |version| all(Some(version)).find(|found| matches!(found, Found::Other(_)));
    let (v1, v2) = (behind(Version::V1), behind(Version::V2));
    let said = v2.or(v1)?.words();
    let (versions, best) = match (v1, v2) {
        (Some(_), Some(_)) => ("v1 or v2", "v2"),
        (Some(_), None) => ("v1", "v1"),
        _ => ("v2", "v2"),
    };
    Some(format!(
        "{address} wants a PROXY header, and closes what has none: behind one it {said}, which is neither HTTP nor TLS; send {versions}, as \
         `tidegate tcp {address} --proxy-protocol {best}` does, or in TCP mode `send_proxy = \"{best}\"`"
    ))
}

/// Where TLS is spoken and none of it is ours.
fn other_tls(address: &str, found: &[Found; WAYS.len()]) -> Option<String> {
    let tries = || WAYS.iter().zip(found);
    let (way, why) = tries().find_map(|(way, found)| match found {
        Found::TlsUnlike(why) => Some((way, why)),
        _ => None,
    })?;
    let (behind, option) = match way.header {
        None => ("", ""),
        Some(_) => (" behind a PROXY header", " with `--proxy-protocol`"),
    };
    Some(format!(
        "{address} speaks TLS{behind}, and none that is spoken here, which is 1.2 and 1.3: {why}; have it offer one of these, or its TLS \
         passed on untouched to whoever speaks it, by `tidegate tcp {address}`{option} or a listener in TCP mode"
    ))
}

fn nothing(address: &str, found: &[Found; WAYS.len()]) -> String {
    if let Some(said) = behind_header_only(address, found) {
        return said;
    }
    if let Some(said) = other_tls(address, found) {
        return said;
    }
    if let Some(seen) = found.iter().find_map(|found| match found {
        Found::Other(seen) => Some(seen),
        _ => None,
    }) {
        return format!(
            "{address} takes none of these; it answers with {seen}, which is neither HTTP/1 nor TLS: is it the port that you mean?"
        );
    }
    if let Some(said) = found.iter().find_map(|found| match found {
        Found::Unfinished { .. } => Some(found.words()),
        _ => None,
    }) {
        return format!(
            "{address} {said}: is the program behind it stuck, or slow? `--within` gives it more time"
        );
    }
    if found.contains(&Found::Http2Only) {
        return format!(
            "{address} begins HTTP/2 by itself, and acknowledges nothing that is said to it: is the program behind it stuck?"
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
mod tests;
