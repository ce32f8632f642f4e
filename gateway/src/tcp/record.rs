//! One line per connection in TCP mode, whatever became of it. A record writes itself when it is dropped, so there is no way to
//! end a connection without a line.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tidegate_shared::idle::Quiet;
use tidegate_shared::log::Format;
use tidegate_shared::{duplex, relay, when};

use super::hello::Heard;
use super::route::Refusal;
use super::{Counters, Tcp};
use crate::access::Access;
use crate::backend::carry::Progress;
use crate::cloud::Cloud;
use crate::failure::Failure;
use crate::lasting::TimedOut;
use crate::line;
use crate::tunnel::Tunnel;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides have said all that they had to say.
    Closed,
    /// The visitor broke it off.
    VisitorReset,
    /// The app or the server broke it off.
    ServerReset,
    /// Nothing moved for too long.
    Idle(Quiet),
    /// The gateway shut down.
    Draining,
    /// No server could be reached.
    NoServer,
    /// There was nowhere to go.
    Refused(Refusal),
    /// As a request would have failed.
    Failed(Failure),
}

/// The words of all of them that are counted by name.
pub(super) const ENDINGS: [&str; 31] = [
    "closed",
    "visitor-reset",
    "server-reset",
    "idle",
    "half-closed",
    "draining",
    "server-unreachable",
    "no-route",
    "bad-hello",
    "not-tls",
    "hello-timeout",
    "header-not-believed",
    "visitor-gone",
    "too-many-connections",
    "too-many-errors",
    "denied",
    "limit",
    "no-such-name",
    "agent-gone",
    "all-ejected",
    "tunnel-lost",
    "tunnel-silent",
    "bad-response",
    "response-timeout",
    "app-unreachable",
    "connect-unsupported",
    "backend-busy",
    "no-server",
    "no-address",
    "servers-down",
    "other",
];

impl Ended {
    /// The word for it in the line and in metrics.
    pub fn label(self) -> &'static str {
        let word = match self {
            Self::Closed => "closed",
            Self::VisitorReset => "visitor-reset",
            Self::ServerReset => "server-reset",
            Self::Idle(quiet) if quiet.half_closed => "half-closed",
            Self::Idle(_) => "idle",
            Self::Draining => "draining",
            Self::NoServer => "server-unreachable",
            Self::Refused(Refusal::NoRoute) => "no-route",
            Self::Refused(Refusal::BadHello(_)) => "bad-hello",
            Self::Refused(Refusal::NotTls) => "not-tls",
            Self::Refused(Refusal::Overdue) => "hello-timeout",
            Self::Refused(Refusal::Header) => "header-not-believed",
            Self::Refused(Refusal::Left) => "visitor-gone",
            Self::Failed(failure) => failure.reason(),
        };
        if ENDINGS.contains(&word) {
            word
        } else {
            "other"
        }
    }

    /// Whether whoever has not been told its end is to see it break off: what it has may not be all there was.
    pub(super) fn is_abrupt(self) -> bool {
        self != Self::Closed
    }
}

impl From<relay::Broken> for Ended {
    fn from(broken: relay::Broken) -> Self {
        match broken {
            relay::Broken::Near(_) => Self::VisitorReset,
            relay::Broken::Far(_) => Self::ServerReset,
            relay::Broken::Idle(quiet) => Self::Idle(quiet),
            relay::Broken::Unwanted => Self::Refused(Refusal::Header),
        }
    }
}

impl From<duplex::Broken> for Ended {
    fn from(broken: duplex::Broken) -> Self {
        match broken {
            duplex::Broken::Io(_) => Self::VisitorReset,
            duplex::Broken::Reset(_) => Self::ServerReset,
            duplex::Broken::Idle(quiet) => Self::Idle(quiet),
            duplex::Broken::Stalled(within) => Self::Idle(Quiet {
                within,
                half_closed: false,
            }),
            duplex::Broken::Unwanted => Self::Refused(Refusal::Header),
            duplex::Broken::Gone(_) => Self::Failed(Failure::TunnelLost),
        }
    }
}

/// One connection, from when it was accepted to its end.
#[derive(Debug)]
pub(super) struct Record {
    access: Arc<Access>,
    counters: Arc<Counters>,
    listener: Arc<str>,
    number: u64,
    visitor: SocketAddr,
    /// Where it came through one.
    pub(super) cloud: Option<Box<Cloud>>,
    /// Whom it asked for.
    sni: Option<Box<str>>,
    /// The name or the backend that it goes to.
    pub(super) to: Option<Arc<str>>,
    pub(super) tunnel: Option<Arc<Tunnel>>,
    pub(super) server: Option<SocketAddr>,
    /// On its way to a backend's.
    pub(super) carried: Progress,
    pub(super) attempts: u32,
    /// The line of a list because of which it is not served.
    list: Option<String>,
    received: u64,
    sent: u64,
    began: Instant,
    arrived: Instant,
    heard: Option<Instant>,
    pub(super) hold: Duration,
    opened: Option<Instant>,
    ended: Option<Ended>,
}

impl Record {
    pub(super) fn begin(
        access: &Arc<Access>,
        tcp: &Tcp,
        visitor: SocketAddr,
        began: Instant,
    ) -> Self {
        tcp.counters.opened();
        Self {
            access: Arc::clone(access),
            counters: Arc::clone(&tcp.counters),
            listener: Arc::clone(&tcp.listener),
            number: access.number(),
            visitor,
            cloud: None,
            sni: None,
            to: None,
            tunnel: None,
            server: None,
            carried: Progress::default(),
            attempts: 0,
            list: None,
            received: 0,
            sent: 0,
            began,
            arrived: Instant::now(),
            heard: None,
            hold: Duration::ZERO,
            opened: None,
            ended: None,
        }
    }

    /// The id under which the log has the connection: unique over all runs of the program.
    pub(super) fn id(&self) -> String {
        format!("{:08x}-{}", self.access.run(), self.number)
    }

    /// It is turned away, after all the time since it came, and for this line of a list if for any.
    pub(super) fn held_back(&mut self, list: Option<String>) {
        self.arrived = self.began;
        self.hold = self.began.elapsed();
        self.list = list;
    }

    /// What the visitor said first is known.
    pub(super) fn heard(&mut self, heard: &Heard) {
        self.heard = Some(Instant::now());
        if let Heard::Hello(hello) = heard {
            self.sni.clone_from(&hello.server_name);
        }
    }

    /// The other end is there.
    pub(super) fn opened(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// Octets from the visitor and to it.
    pub(super) fn moved(&mut self, received: u64, sent: u64) {
        (self.received, self.sent) = (received, sent);
    }

    /// It is over.
    pub(super) fn end(mut self, ended: Ended) {
        self.ended = Some(ended);
    }

    fn attempts(&self) -> u32 {
        self.attempts + self.carried.attempts
    }

    /// Its name, or its address where it has none.
    fn server(&self) -> Option<String> {
        match &self.carried.server {
            Some(server) => Some(server.name.clone()),
            None => self.server.map(|server| server.to_string()),
        }
    }

    fn times(&self, over: Instant) -> [(&'static str, Duration); 6] {
        let heard = self.heard.unwrap_or(self.arrived);
        let opened = self.opened.unwrap_or(over);
        let hold = self.hold + self.carried.hold;
        [
            ("accept", self.arrived.saturating_duration_since(self.began)),
            ("hello", heard.saturating_duration_since(self.arrived)),
            ("hold", hold),
            ("connect", opened.saturating_duration_since(heard + hold)),
            ("open", over.saturating_duration_since(opened)),
            ("total", over.saturating_duration_since(self.began)),
        ]
    }

    fn ended(&self) -> Ended {
        // Dropped with its task, which only the end of the gateway's time does.
        self.ended.unwrap_or(Ended::Draining)
    }

    /// Which time was over, if one was.
    fn timed_out(&self) -> Option<TimedOut> {
        let Ended::Idle(quiet) = self.ended() else {
            return None;
        };
        let key = if quiet.half_closed {
            "half_closed_timeout"
        } else {
            "idle_timeout"
        };
        let key = format!("listeners.{}.{key}", self.listener);
        Some(TimedOut::new(key, quiet.within))
    }

    fn human(&self, over: Instant, out: &mut Vec<u8>) {
        when::stamp(SystemTime::now(), out);
        out.extend_from_slice(b" access ");
        out.extend_from_slice(self.id().as_bytes());
        out.extend_from_slice(format!(" {} tcp listener=", self.visitor).as_bytes());
        line::plain(&self.listener, out);
        out.extend_from_slice(b" sni=");
        line::plain(self.sni.as_deref().unwrap_or("-"), out);
        out.extend_from_slice(b" to=");
        line::plain(self.to.as_deref().unwrap_or("-"), out);
        if let Some(server) = &self.carried.server {
            out.push(b' ');
            out.extend_from_slice(server.label().as_bytes());
            if let Some(at) = self.carried.at {
                out.extend_from_slice(format!(" at={at}").as_bytes());
            }
        } else if let Some(server) = self.server {
            out.extend_from_slice(format!(" server={server}").as_bytes());
        } else if let Some(tunnel) = &self.tunnel {
            out.push(b' ');
            out.extend_from_slice(tunnel.label().as_bytes());
        }
        out.extend_from_slice(b" ended=");
        out.extend_from_slice(self.ended().label().as_bytes());
        if let Some(timed_out) = self.timed_out() {
            out.extend_from_slice(format!(" timeout={timed_out}").as_bytes());
        }
        if let Some(list) = &self.list {
            out.extend_from_slice(b" list=");
            line::plain(list, out);
        }
        if let Some(cloud) = &self.cloud {
            cloud.write(out);
        }
        for (name, value) in [(&b" in="[..], self.received), (b" out=", self.sent)] {
            out.extend_from_slice(name);
            line::number(value, out);
        }
        if self.attempts() > 1 {
            out.extend_from_slice(b" attempts=");
            line::number(u64::from(self.attempts()), out);
        }
        for (name, time) in self.times(over) {
            out.push(b' ');
            out.extend_from_slice(name.as_bytes());
            out.push(b'=');
            line::milliseconds(time, out);
        }
        out.extend_from_slice(b"ms");
    }

    fn json(&self, over: Instant, out: &mut Vec<u8>) {
        let mut time = Vec::with_capacity(24);
        when::stamp(SystemTime::now(), &mut time);
        let [accept, hello, hold, connect, open, total] = self
            .times(over)
            .map(|(_, time)| time.as_micros() as f64 / 1000.0);
        let cloud = self.cloud.as_deref();
        let timed_out = self.timed_out();
        let view = View {
            time: &String::from_utf8_lossy(&time),
            level: "info",
            kind: "access",
            message: "connection",
            protocol: "tcp",
            id: &self.id(),
            visitor: self.visitor,
            aws_vpce: cloud.and_then(|cloud| cloud.aws_vpce.as_deref()),
            gcp_psc: cloud.and_then(|cloud| cloud.gcp_psc.as_deref()),
            azure_link: cloud.and_then(|cloud| cloud.azure_link),
            listener: &self.listener,
            sni: self.sni.as_deref(),
            to: self.to.as_deref(),
            backend: self.carried.server.as_ref().map(|server| server.backend()),
            server: self.server(),
            at: self.carried.at,
            name: self
                .tunnel
                .as_ref()
                .map(|tunnel| tunnel.agent.primary.to_string()),
            agent: self.tunnel.as_ref().map(|tunnel| tunnel.agent.address),
            tunnel: self.tunnel.as_ref().map(|tunnel| tunnel.id),
            attempts: self.attempts(),
            ended: self.ended().label(),
            timeout: timed_out.as_ref().map(|over| over.key.as_str()),
            timeout_ms: timed_out.as_ref().map(|over| over.within.as_millis()),
            list: self.list.as_deref(),
            bytes_in: self.received,
            bytes_out: self.sent,
            accept_ms: accept,
            hello_ms: hello,
            hold_ms: hold,
            connect_ms: connect,
            open_ms: open,
            total_ms: total,
        };
        // Text and numbers always go into a vector.
        let _always = serde_json::to_writer(out, &view);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.counters.ended(self.ended(), self.received, self.sent);
        let over = Instant::now();
        self.access.write(|format, out| match format {
            Format::Human => self.human(over, out),
            Format::Json => self.json(over, out),
        });
    }
}

/// What a line says, in its order.
#[derive(Serialize)]
struct View<'a> {
    time: &'a str,
    level: &'static str,
    kind: &'static str,
    message: &'static str,
    protocol: &'static str,
    id: &'a str,
    visitor: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    aws_vpce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gcp_psc: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    azure_link: Option<u32>,
    listener: &'a str,
    sni: Option<&'a str>,
    to: Option<&'a str>,
    backend: Option<&'a str>,
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<SocketAddr>,
    name: Option<String>,
    agent: Option<SocketAddr>,
    tunnel: Option<u64>,
    attempts: u32,
    ended: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    accept_ms: f64,
    hello_ms: f64,
    hold_ms: f64,
    connect_ms: f64,
    open_ms: f64,
    total_ms: f64,
}
