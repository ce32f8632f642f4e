//! The command line and the environment: what the user may say, and what the program believes. `Cli` is clap's mirror;
//! `Config` is checked, and nothing behind it can meet an impossible value.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidegate_shared::args::{duration, listen, listen_loopback, size, some_time, whole, window};
use tidegate_shared::liveness;
use tidegate_shared::log::Format;
use tidegate_shared::name::NamePattern;
use tidegate_shared::proxy_header::io::Terms;

use crate::door::{Complaints, Door, Expect};
use crate::forward::Range;
use crate::metrics::Metrics;

/// Tidegate's gateway: visitors in front, agents that dialled in behind.
#[derive(Debug, Parser)]
#[command(name = "tidegated", version, about, long_about = None, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Command {
    /// Accept visitors and tunnels until told to stop.
    Run(Run),
    /// List the tunnels of a running gateway.
    Tunnels(Tunnels),
}

/// Which gateway to ask, and in which form.
#[derive(Debug, Args)]
pub struct Tunnels {
    /// Where the gateway's admin page listens (its --admin).
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN", value_parser = listen_loopback, default_value = "127.0.0.1:9900")]
    pub admin: SocketAddr,
    /// Print JSON, one object per tunnel in a list.
    #[arg(long)]
    pub json: bool,
}

/// Everything that `run` takes. Durations are written like 250ms, 5s, 2m; sizes like 64k, 16MiB.
#[derive(Debug, Args)]
pub struct Run {
    /// Accept visitors here in clear text: HTTP/1.0, HTTP/1.1, and HTTP/2 by prior knowledge.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_VISITORS", value_parser = listen, required_unless_present = "visitors_tls")]
    pub visitors: Option<SocketAddr>,
    /// Accept visitors here over TLS: HTTP/1.1 and HTTP/2 by ALPN.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_VISITORS_TLS", value_parser = listen, requires = "visitors_cert")]
    pub visitors_tls: Option<SocketAddr>,
    /// A certificate for visitors: a PEM file with chain and key. May be given several times, or several separated by
    /// commas; SNI chooses, the first is for everyone else.
    #[arg(long, value_name = "PEM", env = "TIDEGATE_VISITORS_CERT", value_delimiter = ',', num_args = 1.., requires = "visitors_tls")]
    pub visitors_cert: Vec<PathBuf>,
    /// Accept agents here, over mutually authenticated TLS. To tidegate the same variable is a number of tunnels.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_TUNNELS", value_parser = listen, required_unless_present = "tunnels_clear")]
    pub tunnels: Option<SocketAddr>,
    /// The gateway's own certificate and key towards agents, one PEM file.
    #[arg(
        long,
        value_name = "PEM",
        env = "TIDEGATE_IDENTITY",
        required_unless_present = "tunnels_clear"
    )]
    pub identity: Option<PathBuf>,
    /// The authority that agents' certificates must come from.
    #[arg(
        long,
        value_name = "PEM",
        env = "TIDEGATE_CA",
        required_unless_present = "tunnels_clear"
    )]
    pub ca: Option<PathBuf>,
    /// Let agents hold wildcards such as *.example.com.
    #[arg(long, env = "TIDEGATE_ALLOW_WILDCARDS")]
    pub allow_wildcards: bool,
    /// Accept agents here in CLEAR TEXT, from anyone who can connect: for tests and networks that are trusted.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_TUNNELS_CLEAR", value_parser = listen, requires = "tunnels_clear_name")]
    pub tunnels_clear: Option<SocketAddr>,
    /// The names under which tunnels on clear text are filed, since they have no certificate; several are separated by commas.
    #[arg(long, value_name = "NAME", env = "TIDEGATE_TUNNELS_CLEAR_NAME", value_delimiter = ',', value_parser = pattern, requires = "tunnels_clear")]
    pub tunnels_clear_name: Vec<NamePattern>,
    /// Serve /metrics, /live, /ready and /tunnels here; a port alone means loopback.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN", value_parser = listen_loopback)]
    pub admin: Option<SocketAddr>,

    /// Do not add X-Forwarded-For, -Proto and -Host. What visitors send of these is dropped all the same.
    #[arg(long, env = "TIDEGATE_NO_X_FORWARDED", help_heading = "Forwarding")]
    pub no_x_forwarded: bool,
    /// Do not add Forwarded (RFC 7239).
    #[arg(long, env = "TIDEGATE_NO_FORWARDED", help_heading = "Forwarding")]
    pub no_forwarded: bool,
    /// Do not add Via.
    #[arg(long, env = "TIDEGATE_NO_VIA", help_heading = "Forwarding")]
    pub no_via: bool,
    /// Believe what visitors from this range say in forwarding fields, such as 10.0.0.0/8; several are separated by commas.
    #[arg(
        long,
        value_name = "RANGE",
        env = "TIDEGATE_TRUST",
        value_delimiter = ',',
        help_heading = "Forwarding"
    )]
    pub trust: Vec<Range>,

    #[command(flatten)]
    pub proxy: Proxy,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub patience: Patience,

    /// Worker threads; one per core unless set.
    #[arg(long, value_name = "N", env = "TIDEGATE_WORKERS", value_parser = workers)]
    pub workers: Option<u16>,
    /// How log lines look: human or json.
    #[arg(long, value_name = "FORMAT", env = "TIDEGATE_LOG", default_value = "human", value_parser = format)]
    pub log: Format,
    /// What is logged: off, error, warn, info, debug or trace, also by target as in `info,h2=debug`. Requests are logged
    /// all the same, unless --no-access-log is given.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TIDEGATE_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,
    /// Do not log requests. They are counted all the same.
    #[arg(long, env = "TIDEGATE_NO_ACCESS_LOG")]
    pub no_access_log: bool,
}

impl Run {
    /// Refuses one address for two of the gateway's own listeners, which the system would report as somebody else's.
    ///
    /// # Errors
    /// A sentence that names both options.
    pub fn check_addresses(&self) -> Result<(), String> {
        let mut all = vec![
            ("--visitors", self.visitors),
            ("--visitors-tls", self.visitors_tls),
            ("--tunnels", self.tunnels),
            ("--tunnels-clear", self.tunnels_clear),
            ("--admin", self.admin),
        ];
        all.retain(|(_, address)| address.is_some_and(|address| address.port() != 0));
        for (at, (option, address)) in all.iter().enumerate() {
            if let Some((other, _)) = all[..at].iter().find(|(_, other)| other == address) {
                return Err(format!(
                    "{other} and {option} are both to listen on {}; give one of them another port",
                    address
                        .map(|address| address.to_string())
                        .unwrap_or_default()
                ));
            }
        }
        Ok(())
    }
}

/// Connections that begin with a PROXY header, v1 or v2, because a load balancer passes them on.
#[derive(Debug, Args)]
#[command(next_help_heading = "PROXY protocol")]
pub struct Proxy {
    /// Whether connections to --visitors begin with a PROXY header: off, required, or optional for those of --proxy-from.
    #[arg(
        long,
        value_name = "EXPECT",
        env = "TIDEGATE_VISITORS_PROXY",
        default_value = "off"
    )]
    pub visitors_proxy: Expect,
    /// The same for --visitors-tls.
    #[arg(
        long,
        value_name = "EXPECT",
        env = "TIDEGATE_VISITORS_TLS_PROXY",
        default_value = "off"
    )]
    pub visitors_tls_proxy: Expect,
    /// The same for --tunnels and --tunnels-clear.
    #[arg(
        long,
        value_name = "EXPECT",
        env = "TIDEGATE_TUNNELS_PROXY",
        default_value = "off"
    )]
    pub tunnels_proxy: Expect,
    /// Who may send a PROXY header, such as 10.0.0.0/8; several are separated by commas. Nobody else is believed.
    #[arg(
        long,
        value_name = "RANGE",
        env = "TIDEGATE_PROXY_FROM",
        value_delimiter = ','
    )]
    pub proxy_from: Vec<Range>,
    /// All of a PROXY header must be there within this; the protocol wants 3s at least.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PROXY_TIMEOUT", default_value = "5s", value_parser = some_time)]
    pub proxy_timeout: Duration,
    /// Octets of the longest PROXY v2 header that is read.
    #[arg(long, value_name = "SIZE", env = "TIDEGATE_MAX_PROXY_HEADER", default_value = "4KiB", value_parser = proxy_header)]
    pub max_proxy_header: usize,
}

impl Proxy {
    /// Refuses options that need each other.
    ///
    /// # Errors
    /// A sentence that names them.
    pub fn check(&self) -> Result<(), String> {
        let expecting = [
            ("--visitors-proxy", self.visitors_proxy),
            ("--visitors-tls-proxy", self.visitors_tls_proxy),
            ("--tunnels-proxy", self.tunnels_proxy),
        ]
        .into_iter()
        .find(|(_, expect)| *expect != Expect::Off);
        match (expecting, self.proxy_from.is_empty()) {
            (Some((option, _)), true) => Err(format!(
                "{option} needs --proxy-from: the addresses of the load balancers that may say whose connection it is, such as 10.0.0.0/8"
            )),
            (None, false) => Err(
                "--proxy-from changes nothing without --visitors-proxy, --visitors-tls-proxy or --tunnels-proxy".into(),
            ),
            _ => Ok(()),
        }
    }

    /// What stands in front of the listener of this name.
    pub(crate) fn door(&self, listener: &'static str, tls: bool, metrics: &Arc<Metrics>) -> Door {
        let (option, expect) = match listener {
            "visitors" => ("--visitors-proxy", self.visitors_proxy),
            "visitors-tls" => ("--visitors-tls-proxy", self.visitors_tls_proxy),
            _ => ("--tunnels-proxy", self.tunnels_proxy),
        };
        Door {
            listener,
            option,
            expect,
            from: self.proxy_from.clone().into(),
            terms: Terms {
                most: self.max_proxy_header,
                within: self.proxy_timeout,
            },
            metrics: Arc::clone(metrics),
            tls,
            complaints: Complaints::default(),
        }
    }
}

/// How much is taken.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Visitors' connections in all; also never more than three quarters of the process's descriptors.
    #[arg(
        long,
        value_name = "N",
        env = "TIDEGATE_MAX_VISITORS",
        default_value = "10000",
        value_parser = count
    )]
    pub max_visitors: usize,
    /// Visitors' connections from one address (IPv6: one /64); 4096 or --max-visitors unless set, whichever is less.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_VISITORS_PER_SOURCE", value_parser = count)]
    pub max_visitors_per_source: Option<usize>,
    /// Requests at once on one visitor's HTTP/2 connection.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_STREAMS", default_value = "100", value_parser = streams)]
    pub max_streams: u32,
    /// Requests at once on one tunnel, where the agent allows as many.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_TUNNEL_STREAMS", default_value = "256", value_parser = streams)]
    pub max_tunnel_streams: u32,
    /// Tunnels in all.
    #[arg(
        long,
        value_name = "N",
        env = "TIDEGATE_MAX_TUNNELS",
        default_value = "20000",
        value_parser = count
    )]
    pub max_tunnels: usize,
    /// Tunnels of one name; 10240 or --max-tunnels unless set, whichever is less.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_TUNNELS_PER_NAME", value_parser = count)]
    pub max_tunnels_per_name: Option<usize>,
    /// Tunnels from one address; 10240 or --max-tunnels unless set, whichever is less.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_TUNNELS_PER_SOURCE", value_parser = count)]
    pub max_tunnels_per_source: Option<usize>,
    /// Connections from one address that are not tunnels yet.
    #[arg(
        long,
        value_name = "N",
        env = "TIDEGATE_MAX_HANDSHAKES_PER_SOURCE",
        default_value = "256",
        value_parser = count
    )]
    pub max_handshakes_per_source: usize,
    /// Octets of a request's head.
    #[arg(long, value_name = "SIZE", env = "TIDEGATE_MAX_HEAD", default_value = "64KiB", value_parser = head)]
    pub max_head: usize,
    /// Fields of a request's head.
    #[arg(
        long,
        value_name = "N",
        env = "TIDEGATE_MAX_FIELDS",
        default_value = "100",
        value_parser = fields
    )]
    pub max_fields: usize,
    /// Octets of a request's body, where it declares them; any number unless set, and with 0.
    #[arg(long, value_name = "SIZE", env = "TIDEGATE_MAX_BODY", value_parser = size)]
    pub max_body: Option<u64>,
    /// Requests that wait for a name that left moments ago, in all. 0: none waits.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_HELD", default_value = "1024", value_parser = count_or_none)]
    pub max_held: usize,
    /// The same for one name; 256 or --max-held unless set, whichever is less. 0: none waits.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_HELD_PER_NAME", value_parser = count_or_none)]
    pub max_held_per_name: Option<usize>,
    /// Octets of the heads of requests that wait. 0: none waits.
    #[arg(long, value_name = "SIZE", env = "TIDEGATE_MAX_HELD_OCTETS", default_value = "16MiB", value_parser = size)]
    pub max_held_octets: u64,
    /// What an agent may send ahead on one stream, at most; near agents get less.
    #[arg(long, value_name = "SIZE", env = "TIDEGATE_WINDOW_MAX", default_value = "16MiB", value_parser = window)]
    pub window_max: u32,
}

impl Limits {
    /// Refuses a limit for a part that is above the one for the whole, where the user set it: it could never be reached,
    /// and somebody counts on it.
    ///
    /// # Errors
    /// A sentence that names both options.
    pub fn check(&self) -> Result<(), String> {
        let parts = [
            (
                ("--max-visitors-per-source", self.max_visitors_per_source),
                ("--max-visitors", self.max_visitors),
            ),
            (
                ("--max-tunnels-per-name", self.max_tunnels_per_name),
                ("--max-tunnels", self.max_tunnels),
            ),
            (
                ("--max-tunnels-per-source", self.max_tunnels_per_source),
                ("--max-tunnels", self.max_tunnels),
            ),
            (
                ("--max-held-per-name", self.max_held_per_name),
                ("--max-held", self.max_held),
            ),
        ];
        for ((part, of_part), (whole, of_whole)) in parts {
            if let Some(most) = of_part
                && most > of_whole
            {
                return Err(format!(
                    "{part} {most} could never be reached, because {whole} is {of_whole}; lower the one or raise the other"
                ));
            }
        }
        Ok(())
    }

    /// Visitors' connections from one address.
    pub fn visitors_per_source(&self) -> usize {
        part(self.max_visitors_per_source, 4096, self.max_visitors)
    }

    /// Tunnels of one name.
    pub fn tunnels_per_name(&self) -> usize {
        part(self.max_tunnels_per_name, 10_240, self.max_tunnels)
    }

    /// Tunnels from one address.
    pub fn tunnels_per_source(&self) -> usize {
        part(self.max_tunnels_per_source, 10_240, self.max_tunnels)
    }

    /// Requests of one name that wait.
    pub fn held_per_name(&self) -> usize {
        part(self.max_held_per_name, 256, self.max_held)
    }

    /// Whether requests wait at all.
    pub fn holds(&self) -> bool {
        self.max_held > 0 && self.held_per_name() > 0 && self.max_held_octets > 0
    }

    /// Octets of a request's body.
    pub fn body(&self) -> Option<u64> {
        self.max_body.filter(|most| *most > 0)
    }
}

/// The limit for a part: what was set, or what is usual within the limit for the whole.
fn part(set: Option<usize>, usual: usize, whole: usize) -> usize {
    set.unwrap_or(usual).min(whole)
}

/// How long things may take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Times")]
pub struct Patience {
    /// How long a request waits for a name that left moments ago; 0 not at all.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_HOLD", default_value = "3s", value_parser = duration)]
    pub hold: Duration,
    /// A visitor's TLS handshake, and an agent's.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_TLS_TIMEOUT", default_value = "10s", value_parser = some_time)]
    pub tls_timeout: Duration,
    /// A request's head.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_HEAD_TIMEOUT", default_value = "10s", value_parser = some_time)]
    pub head_timeout: Duration,
    /// A visitor's connection between requests.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_IDLE_TIMEOUT", default_value = "60s", value_parser = some_time)]
    pub idle_timeout: Duration,
    /// A visitor that sends nothing of a body that is due, or takes nothing of a response.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_STALL_TIMEOUT", default_value = "30s", value_parser = some_time)]
    pub stall_timeout: Duration,
    /// Octets per second that a request's body must bring, averaged over 30 s or over --stall-timeout if that is less, until its response begins; 0 for any.
    #[arg(
        long,
        value_name = "N",
        env = "TIDEGATE_BODY_RATE",
        default_value = "500",
        value_parser = rate
    )]
    pub body_rate: u64,
    /// From a request to the head of its response; 0 for ever.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_RESPONSE_TIMEOUT", default_value = "300s", value_parser = duration)]
    pub response_timeout: Duration,
    /// From the end of an agent's TLS handshake to its HTTP/2 SETTINGS.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_SETTLE_TIMEOUT", default_value = "5s", value_parser = some_time)]
    pub settle_timeout: Duration,
    /// Between PINGs on a tunnel.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PING_INTERVAL", default_value = "5s", value_parser = some_time)]
    pub ping_interval: Duration,
    /// A PING must be answered within this.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PING_TIMEOUT", default_value = "5s", value_parser = some_time)]
    pub ping_timeout: Duration,
    /// A request that has waited so long on a silent tunnel has it probed with a PING at once.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PROBE_AFTER", default_value = "300ms", value_parser = some_time)]
    pub probe_after: Duration,
    /// A probe unanswered for so long ends the tunnel.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PROBE_TIMEOUT", default_value = "2s", value_parser = some_time)]
    pub probe_timeout: Duration,
    /// What is in flight may take so long when the gateway stops; with 0 it is cut at once.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_DRAIN", default_value = "30s", value_parser = duration)]
    pub drain: Duration,
}

impl Patience {
    /// What a tunnel's driver is told.
    pub fn liveness(&self) -> liveness::Patience {
        liveness::Patience {
            interval: self.ping_interval,
            answer: self.ping_timeout,
            probe_after: self.probe_after,
            doubt_after: liveness::Patience::default()
                .doubt_after
                .min(self.probe_timeout),
            probe_answer: self.probe_timeout,
        }
    }
}

fn pattern(text: &str) -> Result<NamePattern, String> {
    NamePattern::from_operator(text).map_err(|bad| bad.to_string())
}

fn format(text: &str) -> Result<Format, String> {
    text.parse()
}

/// More of anything than one machine can hold.
const MANY: u64 = 1_000_000_000;

fn count(text: &str) -> Result<usize, String> {
    number(text, 1..=MANY)
}

fn count_or_none(text: &str) -> Result<usize, String> {
    number(text, 0..=MANY)
}

fn streams(text: &str) -> Result<u32, String> {
    // Stream numbers have 31 bits, and every other one is a visitor's or the gateway's (RFC 9113 §5.1.1).
    number(text, 1..=1 << 30)
}

fn workers(text: &str) -> Result<u16, String> {
    number(text, 1..=1024)
}

fn fields(text: &str) -> Result<usize, String> {
    number(text, 1..=4096)
}

fn rate(text: &str) -> Result<u64, String> {
    whole(text, 0..=MANY)
}

fn number<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = whole(text, range)?;
    T::try_from(number).map_err(|_| format!("`{text}` is more than this machine can count"))
}

fn proxy_header(text: &str) -> Result<usize, String> {
    let octets = size(text)?;
    // Two addresses of UNIX sockets, and no more than its length field can say.
    if !(232..=65_551).contains(&octets) {
        return Err(format!(
            "`{text}` is not a size for PROXY headers; it must be from 232 to 65551"
        ));
    }
    usize::try_from(octets).map_err(|error| error.to_string())
}

fn head(text: &str) -> Result<usize, String> {
    let octets = size(text)?;
    if !(8192..=1 << 20).contains(&octets) {
        return Err(format!(
            "`{text}` is not a size for heads; it must be from 8KiB to 1MiB"
        ));
    }
    usize::try_from(octets).map_err(|error| error.to_string())
}
