//! Whom a connection is from, found out before its first octet is read by anybody else: the peer itself, or whom the peer's
//! PROXY header names, where the listener takes one. Between the accept loops and the visitors or tunnels behind them.
//!
//! A header is believed from the sources that the operator lists and from nobody else, and a header in the wrong place, or
//! none where one is due, says so in one log line: who, what was expected, what came, and what to do.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tidegate_shared::proxy_header::io::{Begun, Refused, Terms, Why, accept, require};
use tidegate_shared::proxy_header::{Ends, Header, Malformed, Tlvs, Version};
use tidegate_shared::reversal::Seen;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::complaint::{Due, Roll};
use crate::config::listeners::Named;
use crate::per_listener::PerListener;
use crate::range::Range;
use crate::visitor::{Scene, Strays};

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    /// None does; one that comes is no HTTP and no TLS, and refused as such.
    #[default]
    Off,
    /// All do; whoever sends none is not served.
    Required,
    /// Those of the listed sources may, others do not. The specification advises against it (proxy-protocol.txt §2): whoever
    /// is listed and passes on what others send lets them choose their address.
    Optional,
}

impl std::str::FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            "optional" => Ok(Self::Optional),
            _ => Err(format!("`{text}` is none of off, required and optional")),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Required => "required",
            Self::Optional => "optional",
        })
    }
}

/// One listener's way of finding out.
#[derive(Debug)]
pub struct Door {
    /// The listener's name, as in metrics and the lines at the start.
    pub listener: Arc<str>,
    /// What says what is expected here.
    pub named: Named,
    pub expect: Expect,
    /// What says who may send a header, and who may.
    pub from_named: Named,
    pub from: Arc<[Range]>,
    pub terms: Terms,
    pub counters: Arc<Counters>,
    /// Whether TLS comes next, and what says so.
    pub tls: bool,
    pub tls_named: Named,
    /// What says where it listens.
    pub at: Named,
    pub complaints: Complaints,
    /// It has been told of that a header named nobody and a visitor came behind it.
    pub told_of_nobody: AtomicBool,
    /// What came here that is something else.
    pub strays: Strays,
}

/// A connection whose ends are known.
#[derive(Debug)]
pub struct Arrival {
    /// The visitor or the agent.
    pub from: SocketAddr,
    /// What it connected to, where a header says so; else the socket knows.
    pub to: Option<SocketAddr>,
    /// What its header says beside.
    pub tlvs: Tlvs,
    /// Octets that were read and belong to what follows.
    pub taken: Bytes,
    /// The header that it came with, if there was one.
    pub header: Option<Taken>,
}

/// A header that was taken off a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub version: Version,
    /// Whoever sent it.
    pub by: SocketAddr,
    pub names: Names,
    /// How long it took to come.
    pub took: Duration,
}

impl Taken {
    /// Whether it hides whose connection it is.
    pub fn is_nameless(&self) -> bool {
        self.names != Names::Visitor
    }
}

/// Whom a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Visitor,
    /// Nobody, for the connection is the sender's own (proxy-protocol.txt §2.2: LOCAL).
    Local,
    /// Nobody, for the sender does not know, or cannot say.
    Unknown,
}

impl Names {
    /// All of them, in the order of their counters.
    const ALL: [Self; 3] = [Self::Visitor, Self::Local, Self::Unknown];

    /// The word for it in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Visitor => "visitor",
            Self::Local => "local",
            Self::Unknown => "unknown",
        }
    }
}

impl From<&Ends> for Names {
    fn from(ends: &Ends) -> Self {
        match ends {
            Ends::Stream(_) | Ends::Datagram(_) => Self::Visitor,
            Ends::Local => Self::Local,
            Ends::Unknown | Ends::Unix { .. } => Self::Unknown,
        }
    }
}

impl Arrival {
    /// Where nothing but the socket says whose connection it is.
    pub fn of(peer: SocketAddr) -> Self {
        Self {
            from: peer,
            to: None,
            tlvs: Tlvs::default(),
            taken: Bytes::new(),
            header: None,
        }
    }
}

impl Door {
    /// Whether a connection's source can be known only after something was read.
    pub fn reads_headers(&self) -> bool {
        self.expect != Expect::Off
    }

    /// Finds out, as long as the header's time lasts. `None` where the connection cannot be used; why is logged and counted.
    pub async fn admit(&self, stream: &mut TcpStream, peer: SocketAddr) -> Option<Arrival> {
        let began = Instant::now();
        let listed = self.is_listed(peer);
        let begun = match self.expect {
            Expect::Required if !listed => return self.refuse(peer, &Mismatch::Source),
            Expect::Required => require(stream, &self.terms).await.map(Begun::Header),
            Expect::Optional if listed => accept(stream, &self.terms).await,
            Expect::Optional | Expect::Off => Ok(Begun::Without(Bytes::new())),
        };
        let arrival = match begun {
            Ok(Begun::Header(header)) => self.named(header, peer, began.elapsed()),
            Ok(Begun::Without(taken)) => Arrival {
                taken,
                ..Arrival::of(peer)
            },
            Err(refused) => return self.refuse(peer, &Mismatch::Header(refused)),
        };
        if self.tls && !arrival.taken.is_empty() {
            // It began like a header, which TLS does not.
            let seen = Seen::at_the_end(&arrival.taken);
            self.strays.clear_text(seen, &Scene::at(self, peer));
            return None;
        }
        Some(arrival)
    }

    /// Whether it may send a header.
    pub(crate) fn is_listed(&self, peer: SocketAddr) -> bool {
        self.from.iter().any(|range| range.contains(peer.ip()))
    }

    fn named(&self, header: Header, peer: SocketAddr, took: Duration) -> Arrival {
        let taken = Taken {
            version: header.version,
            by: peer,
            names: Names::from(&header.ends),
            took,
        };
        self.counters.taken(taken);
        let pair = header.ends.pair();
        Arrival {
            from: pair.map_or(peer, |pair| canonical(pair.source())),
            to: pair.map(|pair| canonical(pair.destination())),
            tlvs: header.tlvs,
            taken: Bytes::new(),
            header: Some(taken),
        }
    }

    /// Something that is no check has come behind a header that names nobody: said once.
    #[cold]
    pub(crate) fn came_for_nobody(&self, header: Taken, what: &str) {
        if self.told_of_nobody.swap(true, Relaxed) {
            return;
        }
        let Taken {
            version, by, names, ..
        } = header;
        let (local, for_what) = match names {
            Names::Visitor => return,
            Names::Local => (" LOCAL", "which is for its own checks"),
            Names::Unknown => ("", "which is for what it does not know"),
        };
        let (ip, named) = (by.ip(), &self.named);
        warn!(
            peer = %by, listener = %self.listener,
            "expected a PROXY header that names whose connection it is ({named}), got {what} behind a PROXY {version} header{local} that names nobody, {for_what}: whoever comes this way has the address of {ip} in the log, in limits and at the app; have {ip} name them (HAProxy: send-proxy-v2 on the server line that passes them on; nginx: proxy_protocol on); where it was a check that asks as visitors do, all is well; this is said once"
        );
    }

    /// Looks at what comes before TLS takes it, and says what it is where it is a header. The handshake then fails by itself.
    /// `header` is the one that came first, if one did. Returns what else it is, where it is neither TLS nor a header.
    pub async fn look_before_tls(
        &self,
        stream: &TcpStream,
        from: SocketAddr,
        header: Option<Taken>,
    ) -> Option<Seen> {
        let mut first = [0; 16];
        let there = stream.peek(&mut first).await.ok()?;
        // The type of a handshake's record (RFC 8446 §5.1).
        if first[..there].first() == Some(&0x16) {
            return None;
        }
        let seen = Seen::at_the_end(&first[..there]);
        // Whoever sent it is the peer, whatever a header before this one has said.
        let peer = stream.peer_addr().map_or(from, canonical);
        let scene = Scene {
            header,
            ..Scene::at(self, peer)
        };
        if self.strays.header_before_tls(&seen, &scene) {
            return None;
        }
        Some(seen)
    }

    fn refuse(&self, peer: SocketAddr, mismatch: &Mismatch) -> Option<Arrival> {
        self.complain(peer, mismatch);
        None
    }

    fn complain(&self, peer: SocketAddr, mismatch: &Mismatch) {
        let kind = mismatch.kind();
        self.counters.mismatch(kind);
        if kind == Kind::LeftAtOnce {
            // A check of whether the port is open.
            return debug!(%peer, listener = %self.listener, "{mismatch}");
        }
        if let Some(Due { times, also }) = self.complaints.due(mismatch, peer) {
            let remedy = self.remedy(peer, mismatch);
            warn!(said.what = kind.label(), %peer, listener = %self.listener, times, also, "a connection that came in is refused: {mismatch}; {remedy}");
        }
    }

    fn remedy(&self, peer: SocketAddr, mismatch: &Mismatch) -> String {
        let ip = peer.ip();
        let (off, named) = (self.named.advice("off"), &self.named);
        match mismatch.kind() {
            Kind::Source => format!(
                "if {ip} is a load balancer of yours, add it to {}; if visitors are to connect here directly, {off}",
                self.from_named
            ),
            Kind::Malformed if mismatch.is_too_long() => format!(
                "if {ip} is a load balancer of yours that writes such, let max_proxy_header (--max-proxy-header) be as long, or have it write less ({named} takes what it writes)"
            ),
            Kind::Malformed => format!(
                "what {ip} runs writes none as proxy-protocol.txt has it: have that mended, or send another version; {named} takes both"
            ),
            _ => format!(
                "have {ip} send one (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or {off}"
            ),
        }
    }
}

/// As an IPv4 peer of a listener on `[::]` is shown, and the address that it reached: as what it is.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What was wrong.
enum Mismatch {
    /// It may not send one.
    Source,
    Header(Refused),
}

/// The same, for counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Source,
    Missing,
    Malformed,
    Overdue,
    Left,
    LeftAtOnce,
    /// One where none is read.
    Unexpected,
    /// One behind another.
    Second,
    /// One behind the handshake of TLS.
    InsideTls,
    /// TLS where HTTP is due.
    Tls,
    /// Something else where TLS is due.
    ClearText,
    Ssh,
}

/// All of them, in the order of their counters.
pub const KINDS: [Kind; 12] = [
    Kind::Source,
    Kind::Missing,
    Kind::Malformed,
    Kind::Overdue,
    Kind::Left,
    Kind::LeftAtOnce,
    Kind::Unexpected,
    Kind::Second,
    Kind::InsideTls,
    Kind::Tls,
    Kind::ClearText,
    Kind::Ssh,
];

impl Kind {
    /// The word for it in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Overdue => "overdue",
            Self::Left => "left",
            Self::LeftAtOnce => "left-at-once",
            Self::Unexpected => "unexpected",
            Self::Second => "second",
            Self::InsideTls => "inside-tls",
            Self::Tls => "tls",
            Self::ClearText => "clear-text",
            Self::Ssh => "ssh",
        }
    }
}

impl Mismatch {
    /// A header that may be a good one, and is more than anybody here reads.
    fn is_too_long(&self) -> bool {
        matches!(self, Self::Header(refused) if matches!(refused.why, Why::Malformed(Malformed::TooLong { .. })))
    }

    /// What came in the place of a header.
    fn instead(&self) -> Option<&Seen> {
        match self {
            Self::Header(refused) if self.kind() == Kind::Missing => Some(&refused.seen),
            _ => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Source => Kind::Source,
            Self::Header(refused) => match &refused.why {
                Why::Malformed(Malformed::NoHeader) => Kind::Missing,
                Why::Malformed(_) => Kind::Malformed,
                Why::Overdue(_) => Kind::Overdue,
                Why::LeftAtOnce => Kind::LeftAtOnce,
                Why::Left | Why::Broken(_) => Kind::Left,
            },
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str(
                "its source may not send a PROXY header, and nobody is served here without",
            ),
            Self::Header(refused) => refused.fmt(f),
        }
    }
}

/// What was said of whom and when, per kind: a flood of one does not hide another.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<[Roll; KINDS.len() + INSTEAD]>);

/// What comes in the place of a header is of one kind for counters, and of more for lines: visitors who come directly, in TLS or
/// in clear text, are not who sends no header of all that are to.
const INSTEAD: usize = 2;

impl Complaints {
    fn due(&self, mismatch: &Mismatch, peer: SocketAddr) -> Option<Due> {
        let place = match mismatch.instead() {
            Some(Seen::TlsRecord) => KINDS.len(),
            Some(Seen::Http1Request) => KINDS.len() + 1,
            _ => KINDS.iter().position(|known| *known == mismatch.kind())?,
        };
        let mut rolls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rolls[place].due(peer.ip(), Instant::now())
    }
}

/// Headers taken and not taken at one listener.
#[derive(Debug, Default)]
pub struct Counters {
    v1: [Counter; Names::ALL.len()],
    v2: [Counter; Names::ALL.len()],
    mismatches: [Counter; KINDS.len()],
}

impl Counters {
    fn taken(&self, header: Taken) {
        let of = match header.version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        };
        of[header.names as usize].inc();
    }

    pub(crate) fn mismatch(&self, kind: Kind) {
        let index = KINDS.iter().position(|known| *known == kind);
        if let Some(counter) = index.and_then(|index| self.mismatches.get(index)) {
            counter.inc();
        }
    }
}

impl PerListener<Counters> {
    /// Headers taken: listener, version, whom they name, how many.
    pub fn all_taken(&self) -> impl Iterator<Item = (Arc<str>, Version, Names, u64)> {
        self.all().into_iter().flat_map(|(name, of)| {
            let of_version = |version, counters: &[Counter]| {
                let counts = counters.iter().map(Counter::get);
                let named = Names::ALL.into_iter().zip(counts);
                let each = |(names, count)| (Arc::clone(&name), version, names, count);
                named.map(each).collect::<Vec<_>>()
            };
            [
                of_version(Version::V1, &of.v1),
                of_version(Version::V2, &of.v2),
            ]
            .concat()
        })
    }

    /// Connections refused: listener, why, how many.
    pub fn all_mismatches(&self) -> impl Iterator<Item = (Arc<str>, Kind, u64)> {
        self.all().into_iter().flat_map(|(name, of)| {
            let counts = of.mismatches.iter().map(Counter::get).collect::<Vec<_>>();
            KINDS
                .into_iter()
                .zip(counts)
                .map(move |(kind, count)| (Arc::clone(&name), kind, count))
        })
    }
}
