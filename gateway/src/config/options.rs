//! The command line and the environment, as clap mirrors them. What options need of each other is `check`'s to say, because a file
//! may say the other half; how long and how much is `limits`'s.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidegate_shared::args::{listen, listen_loopback, size, some_time, whole};
use tidegate_shared::log::{Format, check_level};
use tidegate_shared::name::NamePattern;

use super::limits::{Limits, Patience};
use super::rates::Rates;
use crate::door::Expect;
use crate::intent::ask::{Get, Set};
use crate::probe::Probe;
use crate::range::Range;

/// Tidegate's gateway: visitors in front; agents that dialled in behind.
#[derive(Debug, Parser)]
#[command(name = "tidegated", version, about, long_about = None, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accept visitors and tunnels until told to stop.
    Run(Run),
    /// Read the configuration file and whatever it names, say everything that is wrong with it, and do nothing else.
    Check(Run),
    /// Print the configuration as a file: what was set, or with --effective every value, each with where it comes from.
    Config(Shown),
    /// List the tunnels of a running gateway.
    Tunnels(Tunnels),
    /// Show the servers of a running gateway's backends: state, weight, load, and who asked for what.
    Get(Get),
    /// Ask something of a server of a running gateway: drain, maintenance, another weight. Kept over restarts in its --state-file.
    Set(Set),
    /// Find out whether a port takes plain HTTP, TLS or PROXY headers, and what to configure for it.
    Probe(Probe),
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

/// What of the configuration to print.
#[derive(Debug, Args)]
pub struct Shown {
    /// Print every value, the defaults as well.
    #[arg(long)]
    pub effective: bool,
    #[command(flatten)]
    pub run: Run,
}

/// Everything that `run` takes. Durations are written like 250ms, 5s, 2m; sizes like 64k, 16MiB.
#[derive(Debug, Args)]
pub struct Run {
    /// Read this TOML file, in which every option has a key; an option that is given here as well wins.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Accept visitors here in clear text: HTTP/1.0, HTTP/1.1, and HTTP/2 by prior knowledge.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_VISITORS", value_parser = listen)]
    pub visitors: Option<SocketAddr>,
    /// Accept visitors here over TLS: HTTP/1.1 and HTTP/2 by ALPN.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_VISITORS_TLS", value_parser = listen)]
    pub visitors_tls: Option<SocketAddr>,
    /// A certificate for visitors: a PEM file with chain and key. May be given several times, or several separated by
    /// commas; SNI chooses, the first is for everyone else.
    #[arg(long, value_name = "PEM", env = "TIDEGATE_VISITORS_CERT", value_delimiter = ',', num_args = 1..)]
    pub visitors_cert: Vec<PathBuf>,
    /// Accept agents here, over mutually authenticated TLS. To tidegate the same variable is a number of tunnels.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_TUNNELS", value_parser = listen)]
    pub tunnels: Option<SocketAddr>,
    /// The gateway's own certificate and key towards agents, one PEM file.
    #[arg(long, value_name = "PEM", env = "TIDEGATE_IDENTITY")]
    pub identity: Option<PathBuf>,
    /// The authority that agents' certificates must come from.
    #[arg(long, value_name = "PEM", env = "TIDEGATE_CA")]
    pub ca: Option<PathBuf>,
    /// Let agents hold wildcards such as *.example.com.
    #[arg(long, env = "TIDEGATE_ALLOW_WILDCARDS")]
    pub allow_wildcards: bool,
    /// Accept agents here in CLEAR TEXT, from anyone who can connect: for tests and networks that are trusted.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_TUNNELS_CLEAR", value_parser = listen)]
    pub tunnels_clear: Option<SocketAddr>,
    /// The names under which tunnels on clear text are filed, since they have no certificate; several are separated by commas.
    #[arg(long, value_name = "NAME", env = "TIDEGATE_TUNNELS_CLEAR_NAME", value_delimiter = ',', value_parser = pattern)]
    pub tunnels_clear_name: Vec<NamePattern>,
    /// Serve /metrics, /live, /ready and /tunnels here; a port alone means loopback.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_ADMIN", value_parser = listen_loopback)]
    pub admin: Option<SocketAddr>,
    /// Answer `tidegated set` and `tidegated get` through a unix socket here, of mode 0600.
    #[arg(long, value_name = "PATH", env = "TIDEGATE_CONTROL")]
    pub control: Option<PathBuf>,
    /// Keep what `tidegated set` asks in this file over restarts.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_STATE_FILE")]
    pub state_file: Option<PathBuf>,
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
        default_value = "info",
        value_parser = level
    )]
    pub log_level: String,
    /// Do not log requests. They are counted all the same.
    #[arg(long, env = "TIDEGATE_NO_ACCESS_LOG")]
    pub no_access_log: bool,

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
    pub rates: Rates,
    #[command(flatten)]
    pub patience: Patience,
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

fn pattern(text: &str) -> Result<NamePattern, String> {
    NamePattern::from_operator(text).map_err(|bad| bad.to_string())
}

fn format(text: &str) -> Result<Format, String> {
    text.parse()
}

fn level(text: &str) -> Result<String, String> {
    check_level(text).map(|()| text.to_owned())
}

fn workers(text: &str) -> Result<u16, String> {
    let most = whole(text, 1..=1024)?;
    u16::try_from(most).map_err(|error| error.to_string())
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
