//! The reversal, decided: bytes in, decision out, no socket and no clock. `io` beside it does the reading and the asking.
//!
//! ```text
//!  agent (dials)                                   gateway (accepts)
//!    │── preface, SETTINGS ───────────────────────────▶│  nothing is sent before 24 octets stand
//!    │◀─────────────────────────────────── SETTINGS ───│  without a preface
//!    │── SETTINGS ACK ──────────▶ ◀── SETTINGS ACK ────│  each side turns round as it acknowledges
//!    │◀───────────────────────── HEADERS, stream 1 ────│  the gateway is the HTTP client from here
//! ```
//!
//! That is what HAProxy announced in 2.9 (`rhttp`); an ordinary HTTP/2 connection (RFC 9113 §3.4) but for the side that
//! opens streams. Nothing on the wire tells such an agent from an ordinary HTTP/2 client, so the listener decides.

pub mod frames;
pub mod io;

mod marks;
mod seen;

pub(crate) use marks::Marking;
pub use marks::Marks;
pub use seen::Seen;

use std::fmt;

/// The client connection preface (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest first SETTINGS frame that is read: the largest frame a peer may send unasked (RFC 9113 §6.5.2).
pub const LONGEST_SETTINGS: usize = 16_384;

/// Which end of the tunnel is asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Accepted the connection; waits for a preface and SETTINGS.
    Gateway,
    /// Dialled; has sent its preface and SETTINGS, and waits for SETTINGS alone.
    Agent,
}

/// What the octets received so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A good beginning. At least this many octets in all are needed before it is worth asking again.
    More(usize),
    /// The peer's SETTINGS arrived whole: the connection is reversed. `replay` is where its frame starts in what was
    /// seen; from there on everything belongs to HTTP/2.
    Settled {
        settings: PeerSettings,
        replay: usize,
    },
    /// This is not the dialect. The connection is to be ended.
    Refuse(Fault),
}

/// The peer's first SETTINGS (RFC 9113 §6.5.2, RFC 8441 §3); what it left out is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSettings {
    pub header_table_size: Option<u32>,
    pub enable_push: Option<u32>,
    pub max_concurrent_streams: Option<u32>,
    pub initial_window_size: Option<u32>,
    pub max_frame_size: Option<u32>,
    pub max_header_list_size: Option<u32>,
    pub enable_connect_protocol: Option<u32>,
    /// What only a Tidegate says.
    pub marks: Marks,
}

/// Why an opening was refused; says what was seen where a SETTINGS frame was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not HTTP/2 at all, or not from the side that was expected to begin.
    Instead(Seen),
    /// HTTP/2, but its first frame is another one (RFC 9113 §3.4 wants SETTINGS).
    FirstFrame { kind: u8, flags: u8, stream: u32 },
    /// SETTINGS whose length is no multiple of six (RFC 9113 §6.5).
    Uneven { length: usize },
    /// SETTINGS longer than [`LONGEST_SETTINGS`].
    TooLong { length: usize },
    /// A value that RFC 9113 §6.5.2 or RFC 8441 §3 forbids.
    Value { id: u16, value: u32 },
}

/// Looks at everything received so far. Asking again with more of the same octets never takes a decision back.
pub fn opening(end: End, seen: &[u8]) -> Step {
    let frame_at = match end {
        End::Agent => 0,
        End::Gateway => {
            let common = seen.len().min(PREFACE.len());
            if seen[..common] != PREFACE[..common] {
                return Seen::instead_of_preface(seen);
            }
            if seen.len() < PREFACE.len() {
                return Step::More(PREFACE.len() + HEAD);
            }
            PREFACE.len()
        }
    };
    first_frame(end, seen, frame_at)
}

/// Octets of a frame's head (RFC 9113 §4.1).
pub(crate) const HEAD: usize = 9;

const SETTINGS: u8 = 4;

fn first_frame(end: End, seen: &[u8], at: usize) -> Step {
    let frame = &seen[at..];
    if end == End::Agent
        && let Some(step) = Seen::instead_of_settings(frame)
    {
        return step;
    }
    let Some(head) = frame.first_chunk::<HEAD>() else {
        return Step::More(at + HEAD);
    };
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (kind, flags) = (head[3], head[4]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
    if kind != SETTINGS || flags & 1 != 0 || stream != 0 {
        return Step::Refuse(Fault::FirstFrame {
            kind,
            flags,
            stream,
        });
    }
    if length > LONGEST_SETTINGS {
        return Step::Refuse(Fault::TooLong { length });
    }
    if length % 6 != 0 {
        return Step::Refuse(Fault::Uneven { length });
    }
    let Some(payload) = frame.get(HEAD..HEAD + length) else {
        return Step::More(at + HEAD + length);
    };
    match PeerSettings::read(payload) {
        Ok(settings) => Step::Settled {
            settings,
            replay: at,
        },
        Err(fault) => Step::Refuse(fault),
    }
}

impl PeerSettings {
    fn read(payload: &[u8]) -> Result<Self, Fault> {
        let mut settings = Self::default();
        for entry in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([entry[0], entry[1]]);
            let value = u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]);
            let sane = match id {
                2 | 8 => value <= 1,
                4 => value <= 0x7fff_ffff,
                5 => (16_384..=16_777_215).contains(&value),
                _ => true,
            };
            if !sane {
                return Err(Fault::Value { id, value });
            }
            // A later entry of the same id replaces an earlier one; unknown ids are ignored (RFC 9113 §6.5.2).
            match id {
                1 => settings.header_table_size = Some(value),
                2 => settings.enable_push = Some(value),
                3 => settings.max_concurrent_streams = Some(value),
                4 => settings.initial_window_size = Some(value),
                5 => settings.max_frame_size = Some(value),
                6 => settings.max_header_list_size = Some(value),
                8 => settings.enable_connect_protocol = Some(value),
                marks::PARAMETER => settings.marks = Marks::read(value),
                _ => {}
            }
        }
        Ok(settings)
    }

    /// Whether these are an HTTP/2 server's, and not those of a gateway that takes the client's role. Only servers have
    /// anything to say of heads and leave the choice about PUSH_PROMISE out: a Tidegate gateway makes it, and HAProxy, which
    /// does not, says nothing of heads either. A server that says nothing of heads is not told apart.
    pub fn are_a_servers(&self) -> bool {
        self.enable_push.is_none() && self.max_header_list_size.is_some()
    }

    /// Whether the peer takes extended CONNECT, which a WebSocket needs (RFC 8441 §3).
    pub fn extended_connect(&self) -> bool {
        self.enable_connect_protocol == Some(1)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instead(seen) => write!(f, "{seen}"),
            Self::FirstFrame {
                kind: SETTINGS,
                flags,
                stream: 0,
            } if flags & 1 != 0 => {
                write!(
                    f,
                    "a SETTINGS acknowledgement where the peer's own SETTINGS were due"
                )
            }
            Self::FirstFrame {
                kind,
                flags,
                stream,
            } => write!(
                f,
                "a first frame of type {kind} ({}), flags {flags:#04x}, stream {stream}",
                frames::kind_name(*kind)
            ),
            Self::Uneven { length } => write!(
                f,
                "SETTINGS of {length} octets, which is no multiple of six"
            ),
            Self::TooLong { length } => write!(
                f,
                "SETTINGS of {length} octets; at most {LONGEST_SETTINGS} are read"
            ),
            Self::Value { id, value } => write!(
                f,
                "SETTINGS with the forbidden value {value} for parameter {id}"
            ),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The octets of a HAProxy 3.x agent, as captured.
    pub(crate) fn haproxy_agent() -> Vec<u8> {
        let mut wire = PREFACE.to_vec();
        wire.extend([0, 0, 24, 4, 0, 0, 0, 0, 0]);
        for (id, value) in [(2u16, 0u32), (8, 1), (4, 16_384), (3, 100)] {
            wire.extend(id.to_be_bytes());
            wire.extend(value.to_be_bytes());
        }
        wire
    }

    #[test]
    fn a_server_is_told_from_a_gateway() {
        let of = |entries: &[(u16, u32)]| match opening(End::Agent, &settings_frame(entries)) {
            Step::Settled { settings, .. } => settings.are_a_servers(),
            other => panic!("{other:?}"),
        };
        assert!(
            of(&[(8, 1), (4, 1 << 20), (3, 100), (6, 1 << 17)]),
            "visitors' port"
        );
        assert!(
            !of(&[(2, 0), (4, 1 << 18), (3, 256), (6, 1 << 16)]),
            "tunnels"
        );
        assert!(!of(&[(8, 1), (4, 16_384), (3, 100)]), "HAProxy's");
        assert!(!of(&[]));
    }

    #[test]
    fn a_tidegate_is_told_from_others() {
        let of = |entries: &[(u16, u32)]| match opening(End::Agent, &settings_frame(entries)) {
            Step::Settled { settings, .. } => settings.marks,
            other => panic!("{other:?}"),
        };
        let mut marked = settings_frame(&[(8, 1), (3, 100)]);
        Marks::VISITOR.put(&mut marked);
        let Step::Settled { settings, .. } = opening(End::Agent, &marked) else {
            panic!("not settled")
        };
        assert!(settings.marks.contains(Marks::VISITOR));
        assert_eq!(settings.max_concurrent_streams, Some(100));
        assert_eq!(of(&[(8, 1), (3, 100)]), Marks::NONE, "HAProxy's");
        assert_eq!(of(&[(0xf744, 1)]), Marks::NONE, "somebody's experiment");
        assert_eq!(of(&[(0xf744, 0xffff_ffff)]), Marks::NONE);
        assert_eq!(of(&[(0x0a0a, 0x5447_0001)]), Marks::NONE, "grease");
    }

    fn settings_frame(entries: &[(u16, u32)]) -> Vec<u8> {
        let length = u32::try_from(entries.len() * 6).unwrap().to_be_bytes();
        let mut wire = vec![length[1], length[2], length[3], 4, 0, 0, 0, 0, 0];
        for (id, value) in entries {
            wire.extend(id.to_be_bytes());
            wire.extend(value.to_be_bytes());
        }
        wire
    }

    #[test]
    fn every_prefix_of_a_real_agent_asks_for_more() {
        let wire = haproxy_agent();
        for cut in 0..wire.len() {
            assert!(
                matches!(opening(End::Gateway, &wire[..cut]), Step::More(n) if n > cut),
                "cut at {cut}"
            );
        }
        let Step::Settled { settings, replay } = opening(End::Gateway, &wire) else {
            panic!("not settled")
        };
        assert_eq!(replay, 24);
        assert_eq!(settings.max_concurrent_streams, Some(100));
        assert_eq!(settings.initial_window_size, Some(16_384));
        assert!(settings.extended_connect());
    }

    #[test]
    fn an_agent_wants_settings_without_a_preface() {
        let wire = settings_frame(&[(8, 1), (3, 100)]);
        for cut in 0..wire.len() {
            assert!(
                matches!(opening(End::Agent, &wire[..cut]), Step::More(n) if n > cut),
                "cut at {cut}"
            );
        }
        assert!(matches!(
            opening(End::Agent, &wire),
            Step::Settled { replay: 0, .. }
        ));
        assert_eq!(
            opening(End::Agent, &haproxy_agent()),
            Step::Refuse(Fault::Instead(Seen::Preface)),
            "a gateway that sends a preface speaks another dialect"
        );
    }

    #[test]
    fn what_comes_first_is_named() {
        let cases: [(&[u8], &str); 10] = [
            (b"\x15\x03\x03\0\x02\x02\x46", "a TLS alert"),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "an HTTP/1.1 request"),
            (b"POST /x HTTP/1.0\r\n", "an HTTP/1.1 request"),
            (b"PROPFIND /x HTTP/1.1\r\n", "an HTTP/1.1 request"),
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                "the beginning of a TLS handshake",
            ),
            (
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
                "a PROXY v1 header",
            ),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "a PROXY v2 header"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH greeting"),
            (
                b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
                "a damaged HTTP/2 preface",
            ),
            (
                b"\0\0\0\x04\x01\0\0\0\0",
                "octets that no known protocol begins with (00 00 00 04 01 00 00 00 …)",
            ),
        ];
        for (wire, said) in cases {
            match opening(End::Gateway, wire) {
                Step::Refuse(fault) => assert_eq!(fault.to_string(), said),
                other => panic!("{said}: {other:?}"),
            }
        }
    }

    #[test]
    fn first_frames_that_are_not_settings_are_refused() {
        let with = |head: [u8; 9]| [PREFACE.as_slice(), &head].concat();
        for (head, said) in [
            ([0, 0, 8, 6, 0, 0, 0, 0, 0], "type 6 (PING)"),
            ([0, 0, 0, 4, 1, 0, 0, 0, 0], "acknowledgement"),
            ([0, 0, 0, 4, 0, 0, 0, 0, 3], "stream 3"),
            ([0, 0, 5, 4, 0, 0, 0, 0, 0], "no multiple of six"),
            ([0, 0x40, 2, 4, 0, 0, 0, 0, 0], "at most 16384"),
        ] {
            match opening(End::Gateway, &with(head)) {
                Step::Refuse(fault) => assert!(fault.to_string().contains(said), "{fault}"),
                other => panic!("{said}: {other:?}"),
            }
        }
        for (id, value) in [(2, 2), (8, 2), (4, 0x8000_0000), (5, 100), (5, 1 << 24)] {
            let wire = [PREFACE.as_slice(), &settings_frame(&[(id, value)])].concat();
            assert_eq!(
                opening(End::Gateway, &wire),
                Step::Refuse(Fault::Value { id, value })
            );
        }
    }

    proptest! {
        /// Whatever arrives, a decision once taken stands however much follows, and `More` always asks for more.
        #[test]
        fn decisions_are_final(noise in prop::collection::vec(any::<u8>(), 0..200), good in 0usize..64, agent: bool) {
            let end = if agent { End::Agent } else { End::Gateway };
            let mut wire = if agent { haproxy_agent()[24..].to_vec() } else { haproxy_agent() };
            wire.truncate(good);
            wire.extend(noise);
            let mut decided: Option<Step> = None;
            for cut in 0..=wire.len() {
                let step = opening(end, &wire[..cut]);
                match (&decided, &step) {
                    (None, Step::More(n)) => prop_assert!(*n > cut),
                    (None, _) => decided = Some(step),
                    (Some(Step::Refuse(Fault::Instead(_))), Step::Refuse(Fault::Instead(_))) => {}
                    (Some(before), now) => prop_assert_eq!(before, now),
                }
            }
        }
    }
}
