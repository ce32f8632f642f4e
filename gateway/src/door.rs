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
use tidegate_shared::proxy_header::{Header, Malformed, Version};
use tidegate_shared::reversal::Seen;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::complaint::Complaint;
use crate::forward::Range;
use crate::metrics::Metrics;

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

/// One listener's way of finding out.
#[derive(Debug)]
pub struct Door {
    /// The listener's name, as in metrics and the lines at the start.
    pub listener: &'static str,
    /// The option that says what is expected here.
    pub option: &'static str,
    pub expect: Expect,
    /// Who may send a header.
    pub from: Arc<[Range]>,
    pub terms: Terms,
    pub metrics: Arc<Metrics>,
    /// Whether TLS comes next.
    pub tls: bool,
    pub complaints: Complaints,
}

/// A connection whose ends are known.
#[derive(Debug)]
pub struct Arrival {
    /// The visitor or the agent.
    pub from: SocketAddr,
    /// What it connected to, where a header says so; else the socket knows.
    pub to: Option<SocketAddr>,
    /// Octets that were read and belong to what follows.
    pub taken: Bytes,
}

impl Arrival {
    /// Where nothing but the socket says whose connection it is.
    pub fn of(peer: SocketAddr) -> Self {
        Self {
            from: peer,
            to: None,
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
        let listed = self.from.iter().any(|range| range.contains(peer.ip()));
        let begun = match self.expect {
            Expect::Required if !listed => return self.refuse(peer, &Mismatch::Source),
            Expect::Required => require(stream, &self.terms).await.map(Begun::Header),
            Expect::Optional if listed => accept(stream, &self.terms).await,
            Expect::Optional | Expect::Off => Ok(Begun::Without(Bytes::new())),
        };
        let arrival = match begun {
            Ok(Begun::Header(header)) => self.named(&header, peer),
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

    fn named(&self, header: &Header, peer: SocketAddr) -> Arrival {
        self.metrics
            .proxy_headers
            .taken(self.listener, header.version);
        let pair = header.ends.pair();
        Arrival {
            from: pair.map_or(peer, |pair| canonical(pair.source())),
            to: pair.map(|pair| canonical(pair.destination())),
            taken: Bytes::new(),
        }
    }

    /// Looks at what comes before TLS takes it, and says what it is where it is a header. The handshake then fails by itself.
    /// Returns whether it was one.
    pub async fn look_before_tls(&self, stream: &TcpStream, peer: SocketAddr) -> bool {
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
        self.metrics.proxy_headers.mismatch(self.listener, kind);
        if kind == Kind::LeftAtOnce {
            // A check of whether the port is open.
            return debug!(%peer, listener = self.listener, "{mismatch}");
        }
        if let Some(times) = self.complaints.due(kind) {
            let remedy = self.remedy(peer, kind);
            warn!(%peer, listener = self.listener, times, "a connection is refused: {mismatch}; {remedy}");
        }
    }

    fn remedy(&self, peer: SocketAddr, kind: Kind) -> String {
        let (option, ip) = (self.option, peer.ip());
        match kind {
            Kind::Source => format!(
                "if {ip} is a load balancer of yours, add it to --proxy-from; if visitors are to connect here directly, {option} off"
            ),
            Kind::Missing | Kind::Overdue | Kind::Left | Kind::LeftAtOnce => format!(
                "have {ip} send one (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or start with {option} off"
            ),
            Kind::Malformed => {
                format!("what {ip} runs writes no PROXY header as proxy-protocol.txt has it")
            }
            Kind::Unexpected if self.expect == Expect::Off => {
                format!("start with {option} required --proxy-from {ip}, or have {ip} send none")
            }
            Kind::Unexpected => {
                format!("does more than one hop before this one add a header, or {ip} inside TLS?")
            }
        }
    }
}

/// As an IPv4 peer of a listener on `[::]` is shown: as what it is.
fn canonical(address: SocketAddr) -> SocketAddr {
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

/// Headers taken and not taken, by listener.
#[derive(Debug, Default)]
pub struct Counters {
    listeners: [Listener; LISTENERS.len()],
}

#[derive(Debug, Default)]
struct Listener {
    v1: Counter,
    v2: Counter,
    mismatches: [Counter; KINDS.len()],
}

/// Where headers can come.
pub const LISTENERS: [&str; 4] = ["visitors", "visitors-tls", "tunnels", "tunnels-clear"];

impl Counters {
    fn of(&self, listener: &str) -> Option<&Listener> {
        let index = LISTENERS.iter().position(|known| *known == listener)?;
        self.listeners.get(index)
    }

    fn taken(&self, listener: &str, version: Version) {
        if let Some(listener) = self.of(listener) {
            match version {
                Version::V1 => listener.v1.inc(),
                Version::V2 => listener.v2.inc(),
            };
        }
    }

    /// A header came where HTTP was due.
    pub(crate) fn unexpected(&self, listener: &str) {
        self.mismatch(listener, Kind::Unexpected);
    }

    fn mismatch(&self, listener: &str, kind: Kind) {
        let index = KINDS.iter().position(|known| *known == kind);
        if let (Some(listener), Some(index)) = (self.of(listener), index) {
            listener.mismatches[index].inc();
        }
    }

    /// Headers taken: listener, version, how many.
    pub fn all_taken(&self) -> impl Iterator<Item = (&'static str, Version, u64)> {
        LISTENERS
            .iter()
            .zip(&self.listeners)
            .flat_map(|(name, of)| {
                [
                    (*name, Version::V1, of.v1.get()),
                    (*name, Version::V2, of.v2.get()),
                ]
            })
    }

    /// Connections refused: listener, why, how many.
    pub fn all_mismatches(&self) -> impl Iterator<Item = (&'static str, Kind, u64)> {
        LISTENERS
            .iter()
            .zip(&self.listeners)
            .flat_map(|(name, of)| {
                KINDS
                    .iter()
                    .zip(&of.mismatches)
                    .map(|(kind, counter)| (*name, *kind, counter.get()))
            })
    }
}
