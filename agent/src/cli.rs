//! The command line: a plain mirror of what a user may write, read by `main`. Checks no more than one value alone can say;
//! `config` turns it into what the program believes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use http::HeaderName;
use tidegate_shared::proxy_header::Version;
use tidegate_shared::{args, log};

use crate::target::{Target, TcpTarget};

/// The agent: dials a gateway and serves an app's visitors through the tunnels it dialled.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring an HTTP app to the gateway's visitors.
    Http(Box<Http>),
    /// Bring whatever speaks TCP to the gateway's visitors, its octets untouched.
    Tcp(Box<Tcp>),
}

/// What becomes of a request's Host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostHeader {
    /// The visitor's, unchanged.
    Keep,
    /// TARGET's own host and port.
    Target,
}

/// Options of `tidegate http`.
#[derive(Debug, clap::Args)]
pub struct Http {
    /// Where the app is: 3000, host:3000, http://host:3000, https://host or unix:/path.
    #[arg(value_name = "TARGET", env = "TIDEGATE_TARGET")]
    pub target: Target,

    #[command(flatten)]
    pub tunnelling: Tunnelling,

    /// Speak HTTP/2 to the app, without an upgrade or by ALPN: for gRPC.
    #[arg(long, env = "TIDEGATE_H2")]
    pub h2: bool,

    /// Certificate authorities that an https TARGET's certificate may come from, in place of the system's; or that certificate
    /// itself, if it is self-signed.
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEGATE_TARGET_CA",
        conflicts_with = "target_insecure"
    )]
    pub target_ca: Option<PathBuf>,

    /// Take any certificate from an https TARGET. Whoever can answer at its address can then read and change everything.
    #[arg(long, env = "TIDEGATE_TARGET_INSECURE")]
    pub target_insecure: bool,

    /// Whose Host the app sees.
    #[arg(long, value_name = "WHOSE", env = "TIDEGATE_HOST_HEADER", value_enum, default_value_t = HostHeader::Keep)]
    pub host_header: HostHeader,

    /// Begin each connection to the app with a PROXY header of this version, which names the visitor. The app must expect it.
    #[arg(long, value_name = "v1|v2", env = "TIDEGATE_PROXY_PROTOCOL", value_parser = proxy_version)]
    pub proxy_protocol: Option<Version>,

    /// Where the gateway is no tidegated, as HAProxy: the field to whose end it appends the visitor's address, as
    /// x-forwarded-for. The last element counts; what visitors write before it does not.
    #[arg(
        long,
        value_name = "FIELD",
        env = "TIDEGATE_VISITOR_FROM",
        requires = "proxy_protocol",
        value_parser = field_name
    )]
    pub visitor_from: Option<HeaderName>,

    /// How long the app may take to begin its answer; then the visitor gets 504. 0 leaves that to the gateway.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_APP_TIMEOUT", default_value = "0", value_parser = args::duration)]
    pub app_timeout: Duration,
}

/// Options of `tidegate tcp`.
#[derive(Debug, clap::Args)]
pub struct Tcp {
    /// Where the app is: 5432, host:5432 or unix:/path. Connections go there and nowhere else, whatever is asked for.
    #[arg(value_name = "TARGET", env = "TIDEGATE_TARGET")]
    pub target: TcpTarget,

    #[command(flatten)]
    pub tunnelling: Tunnelling,

    /// Begin each connection to the app with a PROXY header of this version, which names the visitor; the gateway must be a
    /// tidegated. The app must expect it.
    #[arg(long, value_name = "v1|v2", env = "TIDEGATE_PROXY_PROTOCOL", value_parser = proxy_version)]
    pub proxy_protocol: Option<Version>,
}

/// Options of every command that keeps tunnels up.
#[derive(Debug, clap::Args)]
pub struct Tunnelling {
    /// Where the gateway listens for tunnels. May be given several times, or several separated by commas; every address that
    /// the name resolves to is used.
    #[arg(
        long,
        value_name = "HOST:PORT",
        env = "TIDEGATE_GATEWAY",
        required = true,
        value_delimiter = ','
    )]
    pub gateway: Vec<String>,

    /// The agent's certificate and key in one PEM file; visitors reach the app under the certificate's names.
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEGATE_IDENTITY",
        required_unless_present = "clear"
    )]
    pub identity: Option<PathBuf>,

    /// The certificate authority that the gateway's certificate must come from.
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEGATE_CA",
        required_unless_present = "clear"
    )]
    pub ca: Option<PathBuf>,

    /// The name that the gateway's certificate must carry, where it is not the host of --gateway.
    #[arg(long, value_name = "NAME", env = "TIDEGATE_SERVER_NAME")]
    pub server_name: Option<String>,

    /// How many tunnels to keep to each address of each gateway. To tidegated the same variable is an address.
    #[arg(long, value_name = "N", env = "TIDEGATE_TUNNELS", default_value_t = 4,
          value_parser = tunnels)]
    pub tunnels: u16,

    /// Dial the gateway in clear text, without any identity. For tests and networks that you trust wholly.
    #[arg(long, env = "TIDEGATE_CLEAR", conflicts_with_all = ["identity", "ca", "server_name"])]
    pub clear: bool,

    /// How long to wait for TCP to the gateway.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_CONNECT_TIMEOUT", default_value = "2s", value_parser = args::some_time)]
    pub connect_timeout: Duration,

    /// How long to wait for a connection to the app, TLS included; then the visitor gets 502.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_APP_CONNECT_TIMEOUT", default_value = "3s", value_parser = args::some_time)]
    pub app_connect_timeout: Duration,

    /// How often to ask the gateway whether it is still there.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PING_INTERVAL", default_value = "5s", value_parser = args::some_time)]
    pub ping_interval: Duration,

    /// How long the gateway may take to answer before its tunnel is given up.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PING_TIMEOUT", default_value = "5s", value_parser = args::some_time)]
    pub ping_timeout: Duration,

    /// How long something that is due may be missing on a silent tunnel before it is asked at once.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_PROBE_AFTER", default_value = "300ms", value_parser = args::some_time)]
    pub probe_after: Duration,

    /// How long requests in flight may take to finish after SIGTERM; with 0 they are cut at once.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_DRAIN", default_value = "30s", value_parser = args::duration)]
    pub drain: Duration,

    /// The most that a visitor may be read ahead of the app, on one stream.
    #[arg(long, value_name = "SIZE", env = "TIDEGATE_WINDOW_MAX", default_value = "16MiB", value_parser = args::window)]
    pub window_max: u32,

    /// Threads to serve on; as many as there are cores, unless given.
    #[arg(long, value_name = "N", env = "TIDEGATE_WORKERS", value_parser = workers)]
    pub workers: Option<u16>,

    /// How log lines look, on standard error.
    #[arg(
        long,
        value_name = "human|json",
        env = "TIDEGATE_LOG",
        default_value = "human"
    )]
    pub log: log::Format,

    /// What is logged: off, error, warn, info, debug or trace, also by target as in `info,h2=debug`.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TIDEGATE_LOG_LEVEL",
        default_value = "info"
    )]
    pub log_level: String,
}

impl Tunnelling {
    /// The log's filter: a bare level is about what this program does, and not about every frame of its libraries.
    pub fn filter(&self) -> String {
        match self.log_level.as_str() {
            level @ ("debug" | "trace") => {
                format!("info,tidegate_agent={level},tidegate_shared={level}")
            }
            other => other.to_owned(),
        }
    }
}

fn proxy_version(text: &str) -> Result<Version, String> {
    match text {
        "v1" => Ok(Version::V1),
        "v2" => Ok(Version::V2),
        _ => Err(format!("`{text}` is neither v1 nor v2")),
    }
}

fn field_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_none| {
        format!("`{text}` is no field's name; write it like x-forwarded-for, without a colon")
    })
}

fn tunnels(text: &str) -> Result<u16, String> {
    count(text, 16_384)
}

fn workers(text: &str) -> Result<u16, String> {
    count(text, 1024)
}

/// From one to `most`.
fn count(text: &str, most: u16) -> Result<u16, String> {
    let number = args::whole(text, 1..=u64::from(most))?;
    u16::try_from(number).map_err(|error| error.to_string())
}
