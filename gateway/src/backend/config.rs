//! What an operator says of a backend. Plain and pure: whoever reads it from a file fills these, asks [`Backend::problems`], and
//! makes a running [`super::Backend`] of what has none.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tidegate_shared::args::whole;

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

/// A host, by name or by number, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is no address; write HOST:PORT, 192.0.2.7:8080 or [2001:db8::7]:8080")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(wrong)?;
                inner
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_bad| wrong())?;
                inner
            }
            None => host,
        };
        let named = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
        if !named && host.parse::<std::net::Ipv6Addr>().is_err()
            || host.contains(':') != text.starts_with('[')
            || !port.bytes().all(|octet| octet.is_ascii_digit())
        {
            return Err(wrong());
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(format!(
                "`{port}` is not a port; write a number from 1 to 65535"
            )),
            Ok(port) => Ok(Self {
                host: host.to_ascii_lowercase(),
                port,
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
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

/// Something wrong with a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which of its keys is to blame: `tls.ca`.
    pub key: Cow<'static, str>,
    /// What it is, and what to write.
    pub text: String,
}

fn wrong(key: impl Into<Cow<'static, str>>, text: String) -> Wrong {
    Wrong {
        key: key.into(),
        text,
    }
}

/// Retries beyond this help nobody who waits.
const MOST_RETRIES: u32 = 10;

impl Backend {
    /// Everything that is wrong with it, each as a sentence that says what to write.
    pub fn problems(&self) -> Vec<Wrong> {
        let mut found = Vec::new();
        let name = &self.name;
        if self.servers.is_empty() {
            found.push(wrong("servers", format!(
                "backend `{name}` has no server; add [backends.{name}.servers] with a line like one = \"10.0.0.1:8080\""
            )));
        } else if self.servers.iter().all(|server| server.weight == 0) {
            found.push(wrong("servers", format!(
                "every server of backend `{name}` has weight 0, so that none would be used; give one a weight of 1 or more"
            )));
        }
        let mut names = HashSet::new();
        for called in self.servers.iter().flat_map(Server::places) {
            if names.contains(&called) {
                found.push(wrong(
                    format!("servers.{called}"),
                    format!("backend `{name}` has two servers called `{called}`; rename one"),
                ));
            }
            names.insert(called);
        }
        if let Some(tls) = &self.tls {
            found.extend(tls.problems(name, &self.servers));
        } else if self.protocol == Protocol::Either {
            found.push(wrong("protocol", format!(
                "backend `{name}`: without TLS there is no ALPN to choose by; write protocol = \"h2\" or \"http/1.1\", or tls = true"
            )));
        }
        if self.send_proxy.is_some() && self.protocol != Protocol::Http1 {
            found.push(wrong("send_proxy", format!(
                "backend `{name}`: a connection that begins with a PROXY header is one visitor's, and those of protocol = \"{}\" are shared; leave one of the two out",
                self.protocol
            )));
        }
        found.extend(self.terms.problems(name));
        let checks_tls = self.check.as_ref().and_then(|check| check.tls);
        if self.tls.is_none() && checks_tls == Some(true) {
            found.push(wrong("check.tls", format!(
                "backend `{name}`: check.tls = true needs to know whom to believe; give the backend `tls`, or leave it out here"
            )));
        }
        let checks_tell = self.check.as_ref().and_then(|check| check.send_proxy);
        if self.send_proxy.is_none() && checks_tell == Some(true) {
            found.push(wrong("check.send_proxy", format!(
                "backend `{name}`: check.send_proxy = true has no header to send; give the backend send_proxy = \"v2\", or leave it out here"
            )));
        }
        found
    }
}

impl Tls {
    fn problems(&self, backend: &str, servers: &[Server]) -> Vec<Wrong> {
        let mut found = Vec::new();
        if self.unverified && self.ca.is_some() {
            found.push(wrong("tls.ca", format!(
                "backend `{backend}`: verify = false takes any certificate, and `ca` would have no effect; leave one of the two out"
            )));
        }
        let services = |server: &&Server| matches!(server.place, Place::Services { .. });
        if self.server_name.is_none() && servers.iter().any(|server| services(&server)) {
            found.push(wrong("tls", format!(
                "backend `{backend}`: whoever answers for DNS would choose whose certificate is believed of servers found by `srv`; write the name that their certificate has as tls.server_name"
            )));
        }
        let hosts = servers.iter().filter(|server| !services(server));
        let hosts = hosts.map(Server::host);
        let hosts = hosts.filter(|_| self.server_name.is_none());
        for host in self.server_name.as_deref().into_iter().chain(hosts) {
            if ServerName::try_from(host).is_err() {
                found.push(wrong("tls.server_name", format!(
                    "backend `{backend}`: `{host}` cannot be a certificate's name; write the name that its certificate has as tls.server_name"
                )));
            }
        }
        found
    }
}

impl Terms {
    fn problems(&self, backend: &str) -> Vec<Wrong> {
        let mut found = Vec::new();
        if self.retries > MOST_RETRIES {
            found.push(wrong("retries", format!(
                "backend `{backend}`: {} retries are more than anybody waits for; write {MOST_RETRIES} or fewer",
                self.retries
            )));
        }
        let whole = [
            ("connect_timeout", "connect timeout", Some(self.connect)),
            ("response_timeout", "response timeout", self.response),
            ("inactivity_timeout", "inactivity timeout", self.inactivity),
        ];
        for (key, what, time) in whole {
            if time.is_some_and(|time| time.is_zero()) {
                found.push(wrong(key, format!(
                    "backend `{backend}`: with a {what} of 0 nothing would ever come about; write a time like 3s"
                )));
            }
        }
        if self.eject.is_zero() || self.eject_most < self.eject {
            // That which is not as usual, where one of them is.
            let usual = self.eject == Self::default().eject;
            let key = if usual {
                "eject_time_most"
            } else {
                "eject_time"
            };
            found.push(wrong(key, format!(
                "backend `{backend}`: a server is left out for eject_time = {:?} at first and eject_time_most = {:?} at most; the first must be above 0 and not above the second",
                self.eject, self.eject_most
            )));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("App.internal:8080", "app.internal:8080"),
            ("my_app:1", "my_app:1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "app",
            ":80",
            "app:",
            "app:0",
            "app:65536",
            "app:+80",
            "::1:80",
            "[::1]",
            "[a]:80",
            "a b:80",
            "a/b:80",
            "http://a:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let server = |name: &str| Server::new(name, "10.0.0.1:80".parse().unwrap());
        let good = Backend {
            name: "alb".to_owned(),
            balance: Balance::default(),
            tls: None,
            send_proxy: None,
            protocol: Protocol::default(),
            terms: Terms::default(),
            check: None,
            servers: vec![server("one")],
            place: String::new(),
        };
        assert_eq!(good.problems(), []);
        let empty = Backend {
            servers: Vec::new(),
            ..good.clone()
        };
        assert!(empty.problems()[0].text.contains("has no server"));
        let guessing = Backend {
            protocol: Protocol::Either,
            ..good.clone()
        };
        assert!(guessing.problems()[0].text.contains("no ALPN"));
        let bad = Backend {
            tls: Some(Tls {
                ca: Some("ca.pem".into()),
                server_name: Some("a b".to_owned()),
                unverified: true,
                ..Tls::default()
            }),
            terms: Terms {
                retries: 11,
                connect: Duration::ZERO,
                eject_most: Duration::from_secs(1),
                ..Terms::default()
            },
            servers: [server("one"), server("one")]
                .map(|server| Server {
                    weight: 0,
                    ..server
                })
                .to_vec(),
            ..good
        };
        let problems = bad.problems();
        for (key, part) in [
            ("servers", "weight 0"),
            ("servers.one", "two servers called `one`"),
            ("tls.ca", "no effect"),
            ("tls.server_name", "`a b` cannot be a certificate's name"),
            ("retries", "11 retries"),
            ("connect_timeout", "connect timeout of 0"),
            ("eject_time_most", "left out for eject_time = 5s"),
        ] {
            let told = |problem: &Wrong| problem.key == key && problem.text.contains(part);
            assert!(problems.iter().any(told), "{part}: {problems:?}");
        }
        assert_eq!(problems.len(), 7, "{problems:?}");
    }
}
