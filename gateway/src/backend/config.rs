//! What an operator says of a backend. Plain and pure: whoever reads it from a file fills these, asks [`Backend::problems`], and
//! makes a running [`super::Backend`] of what has none.

mod address; // where a server is

mod problems; // what is wrong with it all

use std::fmt;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tidegate_shared::args::whole;

pub use self::address::Address;
pub use self::problems::Wrong;
pub use super::check::terms::Check;
use super::greeting::SendProxy;
pub use super::hash::By;
pub use super::retry::RetryOn;

/// Servers that do the same, and how they share what comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What routes, the log and the metrics call it.
    pub name: String,
    pub balance: Balance,
    /// Where its servers speak TLS.
    pub tls: Option<Tls>,
    /// Where its servers are told whose connection it is.
    pub send_proxy: Option<SendProxy>,
    pub protocol: Protocol,
    pub terms: Terms,
    /// Where its servers are checked.
    pub check: Option<Check>,
    pub servers: Vec<Server>,
    /// Where the operator says all that, for whoever has to be told what to change: `gateway.toml:28:1`.
    pub place: String,
}

/// One place where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Unique within its backend.
    pub name: String,
    pub place: Place,
    /// Its share of what comes, against the others'; 0 for none at all.
    pub weight: u16,
    /// Used only while none of the others is fit.
    pub backup: bool,
    /// Connections to it, resting ones included; `None` for any number.
    pub max_connections: Option<NonZeroUsize>,
}

/// A server's share, whoever says it.
///
/// # Errors
/// A sentence that says which there are.
pub fn share(text: &str) -> Result<u16, String> {
    let share = whole(text, 0..=256)?;
    u16::try_from(share).map_err(|error| error.to_string())
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// There. A host by name is looked up by the system, each time that a connection is opened.
    Fixed(Address),
    /// At the addresses that a name has in DNS (A and AAAA records), so many of them at once.
    Addresses {
        name: Address,
        family: Family,
        slots: NonZeroU16,
    },
    /// At the hosts and ports that a service has in DNS (SRV records, RFC 2782).
    Services {
        service: String,
        family: Family,
        slots: NonZeroU16,
    },
}

/// As people read it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(address) | Self::Addresses { name: address, .. } => address.fmt(f),
            Self::Services { service, .. } => f.write_str(service),
        }
    }
}

/// Which addresses of a host are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    #[default]
    Both,
    Ipv4,
    Ipv6,
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "both" => Ok(Self::Both),
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            _ => Err(format!(
                "`{text}` is no family of addresses; write both, ipv4 or ipv6"
            )),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

impl Server {
    /// With everything but its place as usual.
    pub fn new(name: &str, address: Address) -> Self {
        Self::at(name, Place::Fixed(address))
    }

    /// The same, wherever that is.
    pub fn at(name: &str, place: Place) -> Self {
        Self {
            name: name.to_owned(),
            place,
            weight: 1,
            backup: false,
            max_connections: None,
        }
    }

    /// What the log and the metrics call it: `one`, or with `slots` `one-1`, `one-2` and so on.
    pub fn places(&self) -> Vec<String> {
        match &self.place {
            Place::Fixed(_) => vec![self.name.clone()],
            Place::Addresses { slots, .. } | Place::Services { slots, .. } => (1..=slots.get())
                .map(|slot| format!("{}-{slot}", self.name))
                .collect(),
        }
    }

    /// The name that its certificate has, unless the operator says another.
    pub fn host(&self) -> &str {
        match &self.place {
            Place::Fixed(address) | Place::Addresses { name: address, .. } => &address.host,
            Place::Services { service, .. } => service,
        }
    }
}

/// Who takes the next request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after another, by weight.
    #[default]
    RoundRobin,
    /// The one with the fewest requests in flight, by weight.
    Least,
    /// The same for the same visitor; one after another for requests that have not what he is known by.
    Hash(Hash),
}

/// How visitors are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    pub by: By,
    /// How many requests in flight a server may have, in hundredths of its share of them all; beyond that the next one takes
    /// them. `None` for any number. HAProxy's `hash-balance-factor`.
    pub most: Option<u32>,
}

impl FromStr for Balance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "round-robin" => Ok(Self::RoundRobin),
            "least" => Ok(Self::Least),
            "hash-source" => Ok(Self::Hash(Hash {
                by: By::Source,
                most: None,
            })),
            _ => Err(format!(
                "`{text}` is no way to balance; write round-robin, least, hash-source, or a table like {{ hash = \"header\", name = \"x-user\" }}"
            )),
        }
    }
}

/// What is spoken to a backend's servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2: agreed by ALPN over TLS, and without it by prior knowledge (RFC 9113 §3.3).
    Http2,
    /// Whichever of the two a server prefers, by ALPN.
    Either,
}

impl Protocol {
    /// What is offered in TLS (RFC 7301).
    pub(super) const fn alpn(self) -> &'static [&'static [u8]] {
        match self {
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Either => &[b"h2", b"http/1.1"],
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http/1.1" => Ok(Self::Http1),
            "h2" => Ok(Self::Http2),
            "auto" => Ok(Self::Either),
            _ => Err(format!(
                "`{text}` is no protocol of servers; write http/1.1, h2 or auto"
            )),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
            Self::Either => "auto",
        })
    }
}

/// TLS towards a backend's servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that are believed, as a PEM file; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// The name that is asked for and that the certificate must have; `None` for each server's host.
    pub server_name: Option<String>,
    /// What is shown to a server that asks for a certificate: a PEM file with its chain and its key.
    pub client_certificate: Option<PathBuf>,
    /// Anybody's certificate is taken: whoever can answer at the address is then the server.
    pub unverified: bool,
}

/// How a backend's servers are used. Times are for one attempt each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How often a request is tried again, where that is safe.
    pub retries: u32,
    /// And for what.
    pub retry_on: RetryOn,
    /// For TCP and TLS together.
    pub connect: Duration,
    /// How long a request waits while every fit server has as many connections as it may.
    pub queue: Duration,
    /// How many may wait so.
    pub queued: usize,
    /// From the last octet of a request that a server took to the head of its response; `None` for as long as the gateway's
    /// `--response-timeout`.
    pub response: Option<Duration>,
    /// Without an octet of a response that has begun; `None` for ever, as some responses are.
    pub inactivity: Option<Duration>,
    /// Without an octet in either direction of what a request was upgraded to; `None` for as long as the gateway's
    /// `--upgraded-timeout`.
    pub upgraded: Option<Duration>,
    /// How long a connection may rest between two requests.
    pub keep_alive: Duration,
    /// Failures in a row after which a server is left out; 0 for never.
    pub eject_after: u32,
    /// For how long, the first time; each further time twice as long.
    pub eject: Duration,
    /// And at most so long.
    pub eject_most: Duration,
    /// Until a server that has come back has its whole share again; 0 for at once.
    pub slow_start: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            retries: 2,
            retry_on: RetryOn::default(),
            connect: Duration::from_secs(3),
            queue: Duration::from_secs(5),
            queued: 1000,
            response: None,
            inactivity: None,
            upgraded: None,
            keep_alive: Duration::from_secs(30),
            eject_after: 3,
            eject: Duration::from_secs(5),
            eject_most: Duration::from_secs(60),
            slow_start: Duration::ZERO,
        }
    }
}
