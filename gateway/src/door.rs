//! Whom a connection is from, found out before its first octet is read by anybody else: the peer itself, or whom the peer's
//! PROXY header names, where the listener takes one. Between the accept loops and the visitors or tunnels behind them.
//!
//! A header is believed from the sources that the operator lists and from nobody else, and a header in the wrong place, or
//! none where one is due, says so in one log line: who, what was expected, what came, and what to do.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tidegate_shared::proxy_header::io::{Begun, Refused, Terms, Why, accept, require};
use tidegate_shared::proxy_header::{Header, Malformed, Tlvs, Version};
use tidegate_shared::reversal::Seen;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::complaint::Complaint;
use crate::config::listeners::Named;
use crate::forward::Range;
use crate::visitor::Strays;

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
    /// Whether TLS comes next.
    pub tls: bool,
    pub complaints: Complaints,
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
}

impl Arrival {
    /// Where nothing but the socket says whose connection it is.
    pub fn of(peer: SocketAddr) -> Self {
        Self {
            from: peer,
            to: None,
            tlvs: Tlvs::default(),
            taken: Bytes::new(),
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
        let listed = self.is_listed(peer);
        let begun = match self.expect {
            Expect::Required if !listed => return self.refuse(peer, &Mismatch::Source),
            Expect::Required => require(stream, &self.terms).await.map(Begun::Header),
            Expect::Optional if listed => accept(stream, &self.terms).await,
            Expect::Optional | Expect::Off => Ok(Begun::Without(Bytes::new())),
        };
        let arrival = match begun {
            Ok(Begun::Header(header)) => self.named(header, peer),
            Ok(Begun::Without(taken)) => Arrival {
                taken,
                ..Arrival::of(peer)
            },
            Err(refused) => return self.refuse(peer, &Mismatch::Header(refused)),
        };
        if self.tls && !arrival.taken.is_empty() {
            // It began like a header, which TLS does not.
            return self.refuse(
                peer,
                &Mismatch::Unexpected(Seen::at_the_end(&arrival.taken)),
            );
        }
        Some(arrival)
    }

    /// Whether it may send a header.
    fn is_listed(&self, peer: SocketAddr) -> bool {
        self.from.iter().any(|range| range.contains(peer.ip()))
    }

    fn named(&self, header: Header, peer: SocketAddr) -> Arrival {
        self.counters.taken(header.version);
        let pair = header.ends.pair();
        Arrival {
            from: pair.map_or(peer, |pair| canonical(pair.source())),
            to: pair.map(|pair| canonical(pair.destination())),
            tlvs: header.tlvs,
            taken: Bytes::new(),
        }
    }

    /// Looks at what comes before TLS takes it, and says what it is where it is a header. The handshake then fails by itself.
    /// Returns whether it was one.
    pub async fn look_before_tls(&self, stream: &TcpStream, from: SocketAddr) -> bool {
        let mut first = [0; 16];
        let Ok(there) = stream.peek(&mut first).await else {
            return false;
        };
        // The type of a handshake's record (RFC 8446 §5.1).
        if first[..there].first() == Some(&0x16) {
            return false;
        }
        let seen = Seen::at_the_end(&first[..there]);
        let header = matches!(seen, Seen::ProxyV1 | Seen::ProxyV2);
        if header {
            // Whoever sent it is the peer, whatever a header before this one has said.
            let peer = stream.peer_addr().map_or(from, canonical);
            self.complain(peer, &Mismatch::Unexpected(seen));
        }
        header
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
        if let Some(times) = self.complaints.due(kind) {
            let remedy = self.remedy(peer, mismatch);
            warn!(%peer, listener = %self.listener, times, "a connection is refused: {mismatch}; {remedy}");
        }
    }

    fn remedy(&self, peer: SocketAddr, mismatch: &Mismatch) -> String {
        let ip = peer.ip();
        let off = self.named.set_to("off");
        match mismatch.kind() {
            Kind::Source => format!(
                "if {ip} is a load balancer of yours, add it to {}; if visitors are to connect here directly, {off}",
                self.from_named
            ),
            Kind::Missing | Kind::Overdue | Kind::Left | Kind::LeftAtOnce => format!(
                "have {ip} send one (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or start with {off}"
            ),
            Kind::Malformed if mismatch.is_too_long() => format!(
                "if {ip} is a load balancer of yours that writes such, let max_proxy_header (--max-proxy-header) be as long, or have it write less"
            ),
            Kind::Malformed => {
                format!("what {ip} runs writes no PROXY header as proxy-protocol.txt has it")
            }
            Kind::Unexpected if self.expect == Expect::Off => {
                let required = self.named.set_to("required");
                format!(
                    "start with {required}, and {ip} in {}, or have {ip} send none",
                    self.from_named
                )
            }
            Kind::Unexpected if !self.is_listed(peer) => format!(
                "none is believed from there: if {ip} is a load balancer of yours, add it to {}; else have it send none",
                self.from_named
            ),
            Kind::Unexpected => {
                format!("does more than one hop before this one add a header, or {ip} inside TLS?")
            }
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
    /// One where none was due.
    Unexpected(Seen),
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
    Unexpected,
}

/// All of them, in the order of their counters.
pub const KINDS: [Kind; 7] = [
    Kind::Source,
    Kind::Missing,
    Kind::Malformed,
    Kind::Overdue,
    Kind::Left,
    Kind::LeftAtOnce,
    Kind::Unexpected,
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
        }
    }
}

impl Mismatch {
    /// A header that may be a good one, and is more than anybody here reads.
    fn is_too_long(&self) -> bool {
        matches!(self, Self::Header(refused) if matches!(refused.why, Why::Malformed(Malformed::TooLong { .. })))
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Source => Kind::Source,
            Self::Unexpected(_) => Kind::Unexpected,
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
            Self::Unexpected(seen) => write!(f, "expected TLS, got {seen}"),
        }
    }
}

/// What was said when, per kind: a flood of one does not hide another.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<[Complaint; KINDS.len()]>);

impl Complaints {
    fn due(&self, kind: Kind) -> Option<u64> {
        let index = KINDS.iter().position(|known| *known == kind)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[index].due(Instant::now())
    }
}

/// Headers taken and not taken at one listener.
#[derive(Debug, Default)]
pub struct Counters {
    v1: Counter,
    v2: Counter,
    mismatches: [Counter; KINDS.len()],
}

impl Counters {
    fn taken(&self, version: Version) {
        match version {
            Version::V1 => self.v1.inc(),
            Version::V2 => self.v2.inc(),
        };
    }

    /// A header came where HTTP was due.
    pub(crate) fn unexpected(&self) {
        self.mismatch(Kind::Unexpected);
    }

    fn mismatch(&self, kind: Kind) {
        let index = KINDS.iter().position(|known| *known == kind);
        if let Some(counter) = index.and_then(|index| self.mismatches.get(index)) {
            counter.inc();
        }
    }
}

/// The counters of all listeners, by name.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<Vec<(Arc<str>, Arc<Counters>)>>);

impl Listeners {
    /// The counters of a listener.
    pub fn of(&self, listener: &Arc<str>) -> Arc<Counters> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counters)) = all.iter().find(|(name, _)| name == listener) {
            return Arc::clone(counters);
        }
        let counters = Arc::<Counters>::default();
        all.push((Arc::clone(listener), Arc::clone(&counters)));
        counters
    }

    fn all(&self) -> Vec<(Arc<str>, Arc<Counters>)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Headers taken: listener, version, how many.
    pub fn all_taken(&self) -> impl Iterator<Item = (Arc<str>, Version, u64)> {
        self.all().into_iter().flat_map(|(name, of)| {
            [
                (Arc::clone(&name), Version::V1, of.v1.get()),
                (name, Version::V2, of.v2.get()),
            ]
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
