//! How much `tidegated` takes and how long it waits: the options of the command line, each with a default that is safe.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use tidegate_shared::args::{duration, size, some_time, whole, window};
use tidegate_shared::idle::Silence;
use tidegate_shared::liveness;

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
    /// Requests at once from one address, over all of its connections; 4096 unless set. 0: any number.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_REQUESTS_PER_SOURCE", value_parser = count_or_none)]
    pub max_requests_per_source: Option<usize>,
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
    /// Octets of a request's body, whether it declares more or brings more; any number unless set, and with 0.
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
    /// Limits for a part that are above the one for the whole, where the user set them: they could never be reached, and
    /// somebody counts on them. The option's id, and a sentence about its value.
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let visitors = ("--max-visitors", self.max_visitors);
        let tunnels = ("--max-tunnels", self.max_tunnels);
        let held = ("--max-held", self.max_held);
        let parts = [
            (
                "max_visitors_per_source",
                self.max_visitors_per_source,
                visitors,
            ),
            ("max_tunnels_per_name", self.max_tunnels_per_name, tunnels),
            (
                "max_tunnels_per_source",
                self.max_tunnels_per_source,
                tunnels,
            ),
            ("max_held_per_name", self.max_held_per_name, held),
        ];
        let above = |(part, most, (whole, of_whole)): (_, Option<usize>, (&str, usize))| {
            let most = most.filter(|most| *most > of_whole)?;
            let text = format!(
                "{most} could never be reached, because {whole} is {of_whole}; lower the one or raise the other"
            );
            Some((part, text))
        };
        parts.into_iter().filter_map(above).collect()
    }

    /// Visitors' connections from one address.
    pub fn visitors_per_source(&self) -> usize {
        part(self.max_visitors_per_source, 4096, self.max_visitors)
    }

    /// Requests at once from one address; 0 for any number. As many as connections, so that HTTP/2 does not multiply what one
    /// address may have in hand, and whoever shares an address with many is not turned away.
    pub fn requests_per_source(&self) -> usize {
        self.max_requests_per_source.unwrap_or(4096)
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
    /// Nothing moves on an upgraded connection (WebSocket) in either direction; 0 for ever. A backend may have a time of its own.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_UPGRADED_TIMEOUT", default_value = "3600s", value_parser = duration)]
    pub upgraded_timeout: Duration,
    /// A visitor that has closed its half waits so long for its response to begin, 10s unless set; and an upgraded connection
    /// of which one side has ended may be silent for so long, 60s unless set. 0: as long as others.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_HALF_CLOSED_TIMEOUT", value_parser = duration)]
    pub half_closed_timeout: Option<Duration>,
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
    /// How long what is upgraded may be silent.
    pub fn silence(&self) -> Silence {
        Silence {
            most: some(self.upgraded_timeout),
            half_closed: some(self.half_closed_timeout.unwrap_or(HALF_CLOSED_UPGRADED)),
        }
    }

    /// How long a visitor that has closed its half is waited for until its response begins.
    pub fn half_closed(&self) -> Option<Duration> {
        some(self.half_closed_timeout.unwrap_or(HALF_CLOSED))
    }

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

/// A visitor that has closed its half may have left.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// Of what is upgraded one side may end first and still listen.
const HALF_CLOSED_UPGRADED: Duration = Duration::from_secs(60);

/// With 0 there is no such time.
fn some(time: Duration) -> Option<Duration> {
    Some(time).filter(|time| !time.is_zero())
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

fn head(text: &str) -> Result<usize, String> {
    let octets = size(text)?;
    if !(8192..=1 << 20).contains(&octets) {
        return Err(format!(
            "`{text}` is not a size for heads; it must be from 8KiB to 1MiB"
        ));
    }
    usize::try_from(octets).map_err(|error| error.to_string())
}
