//! What came to a port and does not fit it, named for the operator, who can mostly mend it with one option: who, what was expected,
//! what came, where that is set and what to do. The visitor gets its 400 and its access line either way; the lines here are one a
//! minute for each kind and listener, and one for each of the first who send it, because anybody can cause them, and each is counted.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tidegate_shared::proxy_header::SIGNATURE;
use tidegate_shared::reversal::Seen;
use tracing::warn;

use crate::complaint::{Due, Roll};
use crate::config::listeners::Named;
use crate::door::{Door, Expect, Kind, Taken};
use crate::exchange::Visit;

/// What an operator may have set up wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stray {
    Tls,
    ProxyV1,
    ProxyV2,
    Ssh,
    /// At a port for TLS: something else.
    Clear,
}

/// Where something came, and behind what.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    pub door: &'a Door,
    /// Whose octets they are: of two ends of a connection the one that sent them, whatever a header says.
    pub peer: SocketAddr,
    /// What the connection began with.
    pub header: Option<Taken>,
    /// What was expected there.
    pub due: Expected,
}

/// What is expected of a connection, at the point to which it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Tls,
    Http,
    HttpInsideTls,
    /// Whatever it is, passed on: in TCP mode.
    Anything,
}

impl<'a> Scene<'a> {
    /// At the beginning of a connection.
    pub fn at(door: &'a Door, peer: SocketAddr) -> Self {
        Self {
            door,
            peer,
            header: None,
            due: if door.tls {
                Expected::Tls
            } else {
                Expected::Http
            },
        }
    }

    /// In the place of a request.
    fn of(visit: &'a Visit) -> Self {
        let header = visit.introduction.header();
        Self {
            door: &visit.front.door,
            peer: header.map_or(visit.visitor, |header| header.by),
            header,
            due: match visit.tls {
                Some(_) => Expected::HttpInsideTls,
                None => Expected::Http,
            },
        }
    }

    /// Whether a header that comes here is refused rather than passed on: somebody who may send none would be believed by whoever
    /// is behind, where only those who are listed are to be.
    pub(crate) fn refuses_headers(&self) -> bool {
        self.due == Expected::Anything
            && self.door.expect == Expect::Optional
            && self.header.is_none()
    }

    /// The same, for whoever passes octets on: what they may not begin with.
    pub(crate) fn unwanted(&self) -> Option<fn(&[u8]) -> bool> {
        self.refuses_headers().then_some(is_header)
    }

    fn due(&self) -> &'static str {
        match self.due {
            Expected::Tls => "TLS",
            Expected::Http => "HTTP in clear text",
            Expected::HttpInsideTls => "HTTP inside TLS",
            Expected::Anything => "no PROXY header",
        }
    }
}

impl Stray {
    /// What these first octets of a connection are, if they are one of these.
    pub(super) fn of(seen: &[u8]) -> Option<Self> {
        match Seen::at_the_end(seen) {
            Seen::TlsRecord => Some(Self::Tls),
            Seen::Ssh => Some(Self::Ssh),
            seen => Self::of_header(&seen),
        }
    }

    fn of_header(seen: &Seen) -> Option<Self> {
        match seen {
            Seen::ProxyV1 => Some(Self::ProxyV1),
            Seen::ProxyV2 => Some(Self::ProxyV2),
            _ => None,
        }
    }

    /// Says that this came in the place of a request.
    pub(super) fn came(self, visit: &Visit) {
        let scene = Scene::of(visit);
        let seen = match self {
            Self::Tls => Seen::TlsRecord,
            Self::ProxyV1 => Seen::ProxyV1,
            Self::ProxyV2 => Seen::ProxyV2,
            Self::Ssh | Self::Clear => Seen::Ssh,
        };
        scene.door.strays.tell(self, &seen, &scene);
    }

    fn kind(self, scene: &Scene<'_>) -> Kind {
        match self {
            Self::ProxyV1 | Self::ProxyV2 => match (scene.due, scene.header) {
                (Expected::HttpInsideTls, _) => Kind::InsideTls,
                (_, Some(_)) => Kind::Second,
                (_, None) => Kind::Unexpected,
            },
            Self::Tls => Kind::Tls,
            Self::Clear => Kind::ClearText,
            Self::Ssh => Kind::Ssh,
        }
    }

    /// What was expected and what was seen, and what to change where.
    fn sentence(self, seen: &Seen, scene: &Scene<'_>) -> String {
        let (door, due, ip) = (scene.door, scene.due(), scene.peer.ip());
        let remedy = match self.kind(scene) {
            Kind::InsideTls => inside_tls(scene),
            Kind::Second => return second(seen, scene),
            Kind::Tls if scene.due == Expected::HttpInsideTls => format!(
                "something in front wraps it in TLS once more; have that left out, or serve clear text here (without {})",
                door.tls_named
            ),
            Kind::Tls => format!(
                "TLS is served {}; or have {ip} speak clear text",
                tls_served(&door.tls_named)
            ),
            Kind::ClearText => format!(
                "have {ip} speak TLS, or connect where clear text is served (by --visitors, or by a listener without certificates); what makes this port one for TLS is {}",
                door.tls_named
            ),
            Kind::Ssh => format!("HTTP is served here ({}), and no SSH", door.at),
            _ => unread(self, scene),
        };
        format!("expected {due}, got {seen}: {remedy}")
    }
}

fn tls_served(named: &Named) -> String {
    match named {
        Named::Option("--visitors-cert") => "by --visitors-tls and --visitors-cert".to_owned(),
        Named::Option(_) => "at another port".to_owned(),
        Named::Key { .. } => format!("where a listener has certificates: give it {named}"),
    }
}

/// A header where none is read: from nobody, or not from there.
fn unread(header: Stray, scene: &Scene<'_>) -> String {
    let (door, ip) = (scene.door, scene.peer.ip());
    let from = &door.from_named;
    if door.expect == Expect::Optional && door.is_listed(scene.peer) {
        return format!(
            "one of {ip} is read where it comes within {:?} ({}), and nothing had come by then; have it sent at once",
            door.terms.within, door.named
        );
    }
    if door.expect == Expect::Optional {
        return format!(
            "none is believed from there ({}): if {ip} is a load balancer of yours, add it to {from}; else have it send none",
            door.named
        );
    }
    let option = match header {
        Stray::ProxyV1 => "send-proxy",
        _ => "send-proxy-v2",
    };
    format!(
        "none is read here: {}, and {ip} in {from}, or have {ip} send none (HAProxy: without {option}; nginx: proxy_protocol off)",
        door.named.advice("required")
    )
}

/// One where TLS has been taken off already.
fn inside_tls(scene: &Scene<'_>) -> String {
    let (door, ip) = (scene.door, scene.peer.ip());
    let hops = "it came behind the handshake, and belongs in front of TLS, where HAProxy (send-proxy-v2, beside ssl) and nginx (proxy_protocol on, beside proxy_ssl) put theirs; so one hop in front of here sends it, and another one wraps it in TLS";
    let named = &door.named;
    if scene.header.is_some() {
        return format!(
            "{hops}: have {ip} read the one that it is sent (HAProxy: accept-proxy), or that left out, for one came in front of TLS already ({named})"
        );
    }
    let read = "have that one read it (HAProxy: accept-proxy; nginx: listen … proxy_protocol) and send its own in front of TLS";
    let believed = if door.expect == Expect::Optional {
        format!("add {ip} to {} ({named})", door.from_named)
    } else {
        format!(
            "for that {}, and {ip} in {}",
            door.named.advice("required"),
            door.from_named
        )
    };
    format!("{hops}: {read}, and {believed}; or have the first send none")
}

/// One behind another.
fn second(seen: &Seen, scene: &Scene<'_>) -> String {
    let (due, ip, named) = (scene.due(), scene.peer.ip(), &scene.door.named);
    let seen = seen.to_string();
    let seen = seen.strip_prefix("a ").unwrap_or(&seen);
    format!(
        "expected {due} behind the PROXY header of {ip}, got a second {seen}: one is taken ({named}), and more than one hop in front adds one; have {ip} read the one that it is sent (HAProxy: accept-proxy; nginx: listen … proxy_protocol), or leave one of them out (HAProxy: without send-proxy and send-proxy-v2)"
    )
}

/// Whether these first octets may become a header, and nothing else that is read here.
pub(super) fn may_become_header(seen: &[u8]) -> bool {
    [&SIGNATURE[..], b"PROXY "]
        .iter()
        .any(|whole| seen.len() < whole.len() && whole.starts_with(seen))
}

/// Whether these octets begin with a header's first word: enough of it that somebody may believe what follows.
fn is_header(seen: &[u8]) -> bool {
    Stray::of_header(&Seen::at_the_end(seen)).is_some()
}

/// What is told of apart from each other: what comes, and what is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Matter {
    stray: Stray,
    wrong: Wrong,
}

/// What is wrong with it, as far as its remedy is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// It is not what this listener is for.
    Here,
    /// It came too late from who may send it.
    Late,
    /// It came behind another one.
    Second,
    /// It came behind the handshake of TLS.
    Inside,
    /// It came behind another one and the handshake.
    SecondInside,
}

const WRONGS: usize = Wrong::SecondInside as usize + 1;

impl Matter {
    /// How many there are.
    const ALL: usize = (Stray::Clear as usize + 1) * WRONGS;

    fn of(stray: Stray, scene: &Scene<'_>) -> Self {
        let inside = scene.due == Expected::HttpInsideTls;
        let (door, is_header) = (scene.door, matches!(stray, Stray::ProxyV1 | Stray::ProxyV2));
        let wrong = match (inside, is_header && scene.header.is_some()) {
            (true, true) => Wrong::SecondInside,
            (true, false) => Wrong::Inside,
            (false, true) => Wrong::Second,
            (false, false)
                if is_header && door.expect == Expect::Optional && door.is_listed(scene.peer) =>
            {
                Wrong::Late
            }
            (false, false) => Wrong::Here,
        };
        Self { stray, wrong }
    }

    fn place(self) -> usize {
        self.stray as usize * WRONGS + self.wrong as usize
    }
}

/// Says what came to one listener, once a minute for each matter and once for each of the first who send it.
#[derive(Debug)]
pub struct Strays([Mutex<Roll>; Matter::ALL]);

impl Default for Strays {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Strays {
    /// A connection in TCP mode whose visitor has said this first, which goes on as it came: a header that nobody has read is
    /// told of. Whether it was one.
    pub(crate) fn look(&self, said: &[u8], scene: &Scene<'_>) -> bool {
        let seen = Seen::at_the_end(said);
        let header = Stray::of_header(&seen);
        if let Some(stray) = header {
            self.tell(stray, &seen, scene);
        }
        header.is_some()
    }

    /// The same, while what the visitor says first may still be coming. Whether enough of it is here to know.
    pub(crate) fn look_as_it_comes(&self, said: &[u8], scene: &Scene<'_>) -> bool {
        if said.is_empty() || may_become_header(said) {
            return false;
        }
        self.look(said, scene);
        true
    }

    /// In the place of an agent's HTTP/2, this came: a header is told of, and what else it may be has its line already.
    pub(crate) fn instead_of_tunnel(&self, seen: &Seen, scene: &Scene<'_>) {
        if let Some(header) = Stray::of_header(seen) {
            self.tell(header, seen, scene);
        } else if matches!(seen, Seen::TlsRecord) {
            scene.door.counters.mismatch(Kind::Tls);
        }
    }

    /// Where TLS was due, this came. Whether it was a header, and is told of.
    pub(crate) fn header_before_tls(&self, seen: &Seen, scene: &Scene<'_>) -> bool {
        let header = Stray::of_header(seen);
        if let Some(header) = header {
            self.tell(header, seen, scene);
        }
        header.is_some()
    }

    /// Where TLS was due, this came, which is none.
    pub(crate) fn clear_text(&self, seen: Seen, scene: &Scene<'_>) {
        self.tell(Stray::Clear, &seen, scene);
    }

    fn tell(&self, stray: Stray, seen: &Seen, scene: &Scene<'_>) {
        let kind = stray.kind(scene);
        scene.door.counters.mismatch(kind);
        let due = self.0[Matter::of(stray, scene).place()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(scene.peer.ip(), Instant::now());
        if let Some(Due { times, also }) = due {
            let on = if scene.refuses_headers() {
                "; the connection is closed"
            } else if scene.due == Expected::Anything {
                "; it is not taken off what goes on"
            } else {
                ""
            };
            let sentence = stray.sentence(seen, scene);
            warn!(
                said.what = kind.label(), peer = %scene.peer, listener = %scene.door.listener, times, also,
                "a connection that came in does not fit its listener: {sentence}{on}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_http_is_no_stray() {
        for seen in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"G",
            b"\r\n\r\nGET /",
            b"PROPFIND / H",
            b"",
        ] {
            assert_eq!(Stray::of(seen), None, "{seen:?}");
        }
        for (seen, stray) in [
            (&b"\x16\x03\x01\x02\x00\x01"[..], Stray::Tls),
            (b"PROXY TCP4 192.0.2.1", Stray::ProxyV1),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", Stray::ProxyV2),
            (b"SSH-2.0-OpenSSH_9", Stray::Ssh),
        ] {
            assert_eq!(Stray::of(seen), Some(stray), "{seen:?}");
        }
    }

    #[test]
    fn a_part_of_a_header_is_waited_for_and_nothing_else() {
        for part in [&b"PRO"[..], b"PROXY", b"\r\n", b"\r\n\r\n\0\r\nQUIT"] {
            assert!(may_become_header(part), "{part:?}");
        }
        for rest in [
            &b"PROXY "[..],
            SIGNATURE,
            b"PROP",
            b"\r\nGET",
            b"GET",
            b"\x16",
        ] {
            assert!(!may_become_header(rest), "{rest:?}");
        }
    }
}
