//! A server that is spoken to otherwise than it expects, named by what it does then: a PROXY header too many or too few, TLS where
//! there is none, or none where there is. What was told and what came back in, a sentence out that says where to change what,
//! and a count. Called for requests by `exchange`, and in TCP mode by `tcp`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tidegate_shared::proxy_header::Version;

use super::greeting::SendProxy;
use crate::complaint::Complaint;

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// It does not take our PROXY header, or none of that version.
    HeaderUnwanted,
    /// It seems to wait for one.
    HeaderWanted,
    /// It speaks TLS, and was spoken to in clear text.
    TlsWanted,
    /// It speaks clear text, and was spoken to in TLS.
    TlsUnwanted,
}

/// How a server showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// A TLS alert (RFC 8446 §6).
    Alert,
    /// HTTP, or whatever else is no TLS, in clear text.
    Http,
    /// 400 to whatever was asked.
    BadRequest,
    /// A goodbye in HTTP/2 to how HTTP/2 begins.
    Bewildered,
    /// The connection's end, at once and without a word.
    Nothing,
    /// The same after a while in which nobody said anything.
    Silence,
}

/// How a connection in TCP mode ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// At once.
    pub soon: bool,
    /// At once, and the server was the first to end it.
    pub by_server: bool,
    /// Later than that, the server was the first to end it, and nobody had said anything.
    pub in_silence: bool,
}

impl End {
    /// Whether it bears out what the server seems to show by this. A visitor who is answered in what he does not speak, or with
    /// an alert, may be the first to go, and leaves no doubt; one who is told nothing, or 400, may have had his reasons.
    pub fn bears_out(self, mismatch: Mismatch, got: Got) -> bool {
        match (mismatch, got) {
            (Mismatch::TlsWanted | Mismatch::TlsUnwanted, _) | (_, Got::Alert) => {
                self.soon || self.by_server
            }
            (Mismatch::HeaderWanted | Mismatch::HeaderUnwanted, _) => self.by_server,
        }
    }
}

/// All of them, in the order of their counters.
pub const MISMATCHES: [Mismatch; 4] = [
    Mismatch::HeaderUnwanted,
    Mismatch::HeaderWanted,
    Mismatch::TlsWanted,
    Mismatch::TlsUnwanted,
];

/// Whoever ends a connection so soon did not like how it began.
pub const AT_ONCE: Duration = Duration::from_secs(2);

/// What a connection was told and whom it is about, for the sentence.
#[derive(Clone, Debug)]
pub struct Setting<'a> {
    /// The header that came first.
    pub header: Option<&'a SendProxy>,
    /// Where the operator says what servers are told: `backends.site (gateway.toml:28:1)`.
    pub place: &'a str,
    pub adding: Adding,
    pub spoken: Spoken,
    pub asked: Asked,
    /// The server, as `tidegated probe` takes it.
    pub address: String,
}

/// Where a key that is missing is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adding {
    /// Into that table.
    Into,
    /// The same, where servers are asked in HTTP/2.
    IntoHttp2,
    /// Beside that key.
    Beside,
}

impl Adding {
    fn send_proxy(self, place: &str) -> String {
        let key = "add send_proxy = \"v2\"";
        match self {
            Self::Into | Self::IntoHttp2 => format!("{key} to {place}"),
            Self::Beside => format!("{key} beside {place}"),
        }
    }
}

/// On whose behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    #[default]
    Visitors,
    /// The checks', which may do without what requests have: the header, and TLS.
    Check { header: bool, tls: bool },
}

impl Asked {
    /// What may be written as well, where only checks go to the wrong port.
    fn or_in_check(self, key: &str) -> String {
        match self {
            Self::Visitors => String::new(),
            Self::Check { .. } => format!(", or, for checks alone, {key} = false in its `check`"),
        }
    }
}

/// How servers are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// In HTTP, over TLS or not.
    Clear,
    Tls,
    /// As this visitor speaks, over TLS or not: in TCP mode.
    Untouched {
        tls: bool,
    },
}

impl Spoken {
    /// In TCP mode, by the visitor's first octets.
    pub fn untouched(asked: &[u8]) -> Self {
        Self::Untouched { tls: is_tls(asked) }
    }
}

/// The type of a handshake's record, and TLS's first octet of a version (RFC 8446 §5.1).
fn is_tls(asked: &[u8]) -> bool {
    asked.starts_with(b"\x16\x03")
}

/// What did not fit so far, counted and told of.
#[derive(Debug, Default)]
pub struct Mismatches {
    /// It has been understood once, as far as can be told.
    understood: AtomicBool,
    /// How often in a row it seemed not to fit.
    in_a_row: AtomicUsize,
    counts: [Counter; MISMATCHES.len()],
    complaints: Mutex<[Complaint; MISMATCHES.len()]>,
}

/// So often in a row, and one that has been understood before is doubted as well.
const DOUBTED_AFTER: usize = 3;

impl Mismatches {
    /// One more, of which somebody else tells.
    pub(crate) fn count(&self, mismatch: Mismatch) {
        self.counts[mismatch as usize].inc();
    }

    /// It has answered as it should.
    pub(crate) fn understood(&self) {
        if !self.understood.load(Relaxed) || self.in_a_row.load(Relaxed) != 0 {
            self.understood.store(true, Relaxed);
            self.in_a_row.store(0, Relaxed);
        }
    }

    pub(crate) fn has_understood(&self) -> bool {
        self.understood.load(Relaxed)
    }

    /// Something looks as if it did not fit. Whether that is to be believed: of one that has been understood before, once is chance.
    pub(crate) fn is_credible(&self) -> bool {
        let in_a_row = self.in_a_row.fetch_add(1, Relaxed) + 1;
        !self.has_understood() || in_a_row >= DOUBTED_AFTER
    }

    /// Its connection ended as it would where it waits for what nobody says: whether that is to be believed. Of one that has ever
    /// said anything it is not, and visitors who say nothing may have their reasons once or twice.
    pub(crate) fn is_credible_silence(&self) -> bool {
        !self.has_understood() && self.in_a_row.fetch_add(1, Relaxed) + 1 >= DOUBTED_AFTER
    }

    /// One more. How often it has come about since it was said, if it is to be said.
    pub(crate) fn came(&self, mismatch: Mismatch) -> Option<u64> {
        self.count(mismatch);
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complaints[mismatch as usize].due(Instant::now())
    }

    /// How often each has come about.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Mismatch, u64)> + '_ {
        MISMATCHES
            .into_iter()
            .map(|mismatch| (mismatch, self.counts[mismatch as usize].get()))
    }
}

impl Mismatch {
    /// One word, for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::HeaderUnwanted => "header-unwanted",
            Self::HeaderWanted => "header-wanted",
            Self::TlsWanted => "tls-wanted",
            Self::TlsUnwanted => "tls-unwanted",
        }
    }

    /// What it shows that a server has said this first on a connection of TCP mode, and no more before it ended it at once.
    /// `asked` are the visitor's first octets.
    pub fn of_first(told: bool, asked: &[u8], said: &[u8]) -> Option<(Self, Got)> {
        let over_tls = is_tls(asked);
        let got = Got::of(said)?;
        let mismatch = match got {
            Got::Alert | Got::Nothing | Got::BadRequest if told => Self::HeaderUnwanted,
            // Both are TLS, and do not agree on something in it.
            Got::Alert if over_tls => return None,
            Got::Alert => Self::TlsWanted,
            Got::Http | Got::BadRequest if over_tls => Self::TlsUnwanted,
            Got::Http | Got::BadRequest => return None,
            Got::Nothing if asked.is_empty() => return None,
            Got::Nothing => Self::HeaderWanted,
            // No first octets show either.
            Got::Bewildered | Got::Silence => return None,
        };
        Some((mismatch, got))
    }

    /// One sentence: what was expected and what came, and what to change where.
    pub fn sentence(self, got: Got, of: &Setting<'_>) -> String {
        let Setting { place, address, .. } = of;
        let probe = format!("`tidegated probe {address}` tells what it takes");
        match (self, of.header) {
            (Self::HeaderUnwanted, Some(header)) => {
                let (version, place) = (header.version, &header.place);
                let other = match version {
                    Version::V1 => "v2",
                    Version::V2 => "v1",
                };
                let check = of.asked.or_in_check("send_proxy");
                let tls = match of.spoken {
                    Spoken::Untouched { tls: true } if got == Got::BadRequest => {
                        ", or, if it takes the header and clear text behind it, end TLS here (a listener of mode = \"http\" with `certificates`)"
                            .to_owned()
                    }
                    Spoken::Tls | Spoken::Untouched { tls: true } => String::new(),
                    _ if matches!(of.asked, Asked::Check { tls: true, .. }) => {
                        let of = of.place;
                        format!(
                            ", or, if it waits for TLS behind the header, as requests have it, leave tls = false out of the `check` of {of}"
                        )
                    }
                    Spoken::Clear => {
                        ", or, if it waits for TLS behind the header, add tls = true".to_owned()
                    }
                    Spoken::Untouched { tls: false } => {
                        ", or, if it waits for TLS behind the header, have visitors speak TLS"
                            .to_owned()
                    }
                };
                format!(
                    "expected an answer behind our PROXY {version} header, got {got}: it may take none, or {other}; set {place} to what its port takes or leave it out, or give the port that takes a header{tls}{check}; {probe}"
                )
            }
            (Self::HeaderUnwanted, None) => format!("expected an answer, got {got}; {probe}"),
            (Self::HeaderWanted, _) if matches!(of.asked, Asked::Check { header: true, .. }) => {
                format!(
                    "expected an answer, got {got}: if it waits for a PROXY header, as requests have, leave send_proxy = false out of the `check` of {place}; {probe}"
                )
            }
            (Self::HeaderWanted, _) if got == Got::Silence => {
                let add = of.adding.send_proxy(place);
                format!(
                    "expected somebody's first word, got {got}: if it greets, and waits for a PROXY header before, {add}; {probe}"
                )
            }
            (Self::HeaderWanted, _) => {
                let tls = match (of.spoken, of.adding) {
                    (Spoken::Clear, Adding::IntoHttp2) => {
                        ", and if it speaks TLS, tls = true; if it speaks HTTP/1.1, leave out its `protocol`"
                    }
                    (Spoken::Clear, _) => ", and if it speaks TLS, tls = true",
                    (Spoken::Tls | Spoken::Untouched { .. }, _) => "",
                };
                let add = of.adding.send_proxy(place);
                format!(
                    "expected an answer, got {got}: if it waits for a PROXY header, {add}{tls}; {probe}"
                )
            }
            (Self::TlsWanted, _) => {
                let remedy = match of.spoken {
                    _ if matches!(of.asked, Asked::Check { tls: true, .. }) => {
                        format!("leave tls = false out of the `check` of {place}")
                    }
                    Spoken::Untouched { .. } => format!("have visitors of {place} speak TLS"),
                    Spoken::Clear | Spoken::Tls => format!("add tls = true to {place}"),
                };
                let sure = if got == Got::BadRequest {
                    "its port may be for TLS; if it is,"
                } else {
                    "its port is for TLS;"
                };
                format!(
                    "expected an answer in clear text, got {got}: {sure} {remedy}, or give its port for clear text; {probe}"
                )
            }
            (Self::TlsUnwanted, Some(header)) if of.spoken == Spoken::Tls => {
                let (version, told) = (header.version, &header.place);
                let check = of.asked.or_in_check("tls");
                format!(
                    "expected TLS behind our PROXY {version} header, got {got}: either its port takes no such header and answers to that, or it is for clear text; leave {told} out, or `tls` of {place}, or give the port that takes both{check}; {probe}"
                )
            }
            (Self::TlsUnwanted, _) => {
                let remedy = match of.spoken {
                    Spoken::Untouched { .. } => {
                        format!(
                            "end TLS here (a listener of mode = \"http\" with `certificates`, in place of what leads to {place})"
                        )
                    }
                    Spoken::Clear | Spoken::Tls => format!("leave `tls` of {place} out"),
                };
                let check = of.asked.or_in_check("tls");
                format!(
                    "expected TLS, got {got}: its port is for clear text; {remedy}, or give its port for TLS{check}; {probe}"
                )
            }
        }
    }
}

impl Got {
    /// What a server's first octets on a connection are, as far as they can mean that it is spoken to wrongly.
    pub fn of(said: &[u8]) -> Option<Self> {
        if said.is_empty() {
            return Some(Self::Nothing);
        }
        if said.starts_with(b"\x15\x03") {
            return is_bewildered(said).then_some(Self::Alert);
        }
        let status = said.strip_prefix(b"HTTP/1.")?;
        Some(match status.get(1..5) {
            Some(b" 400") => Self::BadRequest,
            _ => Self::Http,
        })
    }
}

/// Whether an alert is what TLS says to what is no TLS, and not to a name or a certificate that it does not like
/// (RFC 8446 §6.2): one of unexpected_message, bad_record_mac, record_overflow, illegal_parameter, decode_error,
/// protocol_version.
fn is_bewildered(alert: &[u8]) -> bool {
    matches!(alert.get(6), None | Some(10 | 20 | 22 | 47 | 50 | 70))
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alert => "a TLS alert",
            Self::Http => "clear text",
            Self::BadRequest => "400 to whatever is asked",
            Self::Bewildered => "a PROTOCOL_ERROR to how HTTP/2 begins",
            Self::Nothing => "a connection that is closed at once",
            Self::Silence => {
                "a connection that is closed after a while, on which nobody said anything, as all before"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01";
    const ALERT: &[u8] = b"\x15\x03\x01\x00\x02\x02\x0a";
    const GET: &[u8] = b"GET / HTTP/1.1\r\n";

    #[test]
    fn who_ends_a_connection_matters_only_where_the_answer_leaves_doubt() {
        let of_visitor = End {
            soon: true,
            by_server: false,
            in_silence: false,
        };
        let by = |got| MISMATCHES.map(|mismatch| of_visitor.bears_out(mismatch, got));
        assert_eq!(by(Got::Nothing), [false, false, true, true]);
        assert_eq!(by(Got::BadRequest), [false, false, true, true]);
        assert_eq!(by(Got::Alert), [true; 4]);
    }

    #[test]
    fn what_a_server_says_first_tells_what_does_not_fit() {
        use Mismatch::{HeaderUnwanted, HeaderWanted, TlsUnwanted, TlsWanted};
        let bad = b"HTTP/1.1 400 Bad";
        for (told, asked, said, meant) in [
            (true, HELLO, ALERT, Some(HeaderUnwanted)),
            (true, HELLO, b"", Some(HeaderUnwanted)),
            (true, GET, b"", Some(HeaderUnwanted)),
            (true, b"", b"", Some(HeaderUnwanted)),
            (true, GET, bad, Some(HeaderUnwanted)),
            (false, HELLO, ALERT, None),
            (false, GET, ALERT, Some(TlsWanted)),
            (false, HELLO, bad, Some(TlsUnwanted)),
            (true, HELLO, b"HTTP/1.1 200 OK\r", Some(TlsUnwanted)),
            (false, GET, b"", Some(HeaderWanted)),
            (false, HELLO, b"", Some(HeaderWanted)),
            // A check of whether the port is open, an app's own word, a name that TLS does not know.
            (false, b"", b"", None),
            (false, GET, bad, None),
            (true, GET, b"HTTP/1.1 200 OK\r", None),
            (true, HELLO, b"\x16\x03\x03", None),
            (true, HELLO, b"\x15\x03\x03\x00\x02\x02\x70", None),
            (true, b"", b"220 ready", None),
        ] {
            let found = Mismatch::of_first(told, asked, said).map(|(mismatch, _)| mismatch);
            assert_eq!(found, meant, "{told} {asked:?} {said:?}");
        }
    }

    #[test]
    fn a_sentence_names_the_line_and_the_remedy() {
        let header = SendProxy {
            version: Version::V2,
            tlvs: Vec::new(),
            chosen: false,
            place: "backends.site.send_proxy (gateway.toml:31)".to_owned(),
        };
        let setting = Setting {
            header: Some(&header),
            place: "backends.site (gateway.toml:28)",
            adding: Adding::Into,
            spoken: Spoken::Clear,
            asked: Asked::Visitors,
            address: "10.0.0.1:1443".to_owned(),
        };
        let said = Mismatch::HeaderUnwanted.sentence(Got::Nothing, &setting);
        for part in [
            "our PROXY v2 header",
            "closed at once",
            "backends.site.send_proxy (gateway.toml:31)",
            "if it waits for TLS behind the header, add tls = true",
            "tidegated probe 10.0.0.1:1443",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // What answers in clear text may be a server of TLS that was told what it does not take.
        let over_tls = Setting {
            spoken: Spoken::Tls,
            ..setting.clone()
        };
        let said = Mismatch::TlsUnwanted.sentence(Got::Http, &over_tls);
        for part in [
            "expected TLS behind our PROXY v2 header, got clear text",
            "leave backends.site.send_proxy (gateway.toml:31) out",
            "or `tls` of backends.site (gateway.toml:28)",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // Behind a header, what is closed may be waiting for TLS: of requests, of visitors, or of checks that go without.
        for (spoken, asked, words) in [
            (
                Spoken::Untouched { tls: false },
                Asked::Visitors,
                "if it waits for TLS behind the header, have visitors speak TLS",
            ),
            (
                Spoken::Clear,
                Asked::Check {
                    header: false,
                    tls: true,
                },
                "leave tls = false out of the `check` of backends.site",
            ),
        ] {
            let setting = Setting {
                spoken,
                asked,
                ..setting.clone()
            };
            let said = Mismatch::HeaderUnwanted.sentence(Got::Nothing, &setting);
            assert!(said.contains(words), "{words}: {said}");
        }
        let plain = Setting {
            header: None,
            ..setting
        };
        let said = Mismatch::HeaderWanted.sentence(Got::Nothing, &plain);
        assert!(said.contains("backends.site (gateway.toml:28)"), "{said}");
        assert!(said.contains("send_proxy = \"v2\""), "{said}");
        // Checks may be told to do without what requests have.
        let check = Setting {
            asked: Asked::Check {
                header: true,
                tls: true,
            },
            ..plain
        };
        for (mismatch, got, words) in [
            (
                Mismatch::HeaderWanted,
                Got::Nothing,
                "leave send_proxy = false out of the `check` of backends.site (gateway.toml:28)",
            ),
            (
                Mismatch::TlsWanted,
                Got::Alert,
                "leave tls = false out of the `check` of backends.site (gateway.toml:28)",
            ),
            (
                Mismatch::TlsUnwanted,
                Got::Http,
                "or, for checks alone, tls = false in its `check`",
            ),
        ] {
            let said = mismatch.sentence(got, &check);
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
