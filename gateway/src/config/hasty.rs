//! Times that are so short that what they are for can hardly happen in them: mostly a slip of the hand (`10ms` for `10s`), and
//! allowed, since a test may want it. Pure. Called by `check` for its advice. 0, where it stands for something else, is none.

use std::time::Duration;

use super::Config;
use super::backends::Placed;
use super::listeners::Listener;
use super::table::Problem;

/// To a machine near by and back, with something done there.
const NEAR: Duration = Duration::from_millis(100);

/// To somebody anywhere on the internet and back, more than once, or with a packet that is lost.
const FAR: Duration = Duration::from_secs(1);

/// A balancer's PROXY header (proxy-protocol.txt §2): so long a packet that is lost may take to come again.
const HEADER: Duration = Duration::from_secs(3);

/// A question to whoever is there: more often it is a burden.
const OFTEN: Duration = Duration::from_millis(500);

/// What becomes of a key that is too short.
struct Hasty {
    key: &'static str,
    time: Duration,
    least: Duration,
    what: &'static str,
}

impl Hasty {
    fn new(key: &'static str, time: Duration, least: Duration, what: &'static str) -> Self {
        Self {
            key,
            time,
            least,
            what,
        }
    }

    /// The sentence, where there is something to be said.
    fn text(&self) -> Option<String> {
        let Self {
            time, least, what, ..
        } = self;
        let is_short = !time.is_zero() && time < least;
        is_short
            .then(|| format!("{time:?} is short: {what}; {least:?} is the least that is advised"))
    }
}

/// All of it.
pub(super) fn advice(config: &Config) -> Vec<Problem> {
    let mut all = of_options(config);
    all.extend(config.listeners.iter().flat_map(of_listener));
    all.extend(config.backends.iter().flat_map(of_backend));
    let resolver = Hasty::new(
        "timeout",
        config.resolving.resolver.timeout,
        NEAR,
        "a server for DNS that asks others first takes longer, and nothing is found",
    );
    all.extend(
        resolver
            .text()
            .map(|text| config.resolving.problem_at(resolver.key, text)),
    );
    all
}

fn of_options(config: &Config) -> Vec<Problem> {
    let times = &config.run.patience;
    let half_closed = times.half_closed_timeout.unwrap_or_default();
    let hasty = [
        Hasty::new(
            "hold",
            times.hold,
            NEAR,
            "no agent is back so soon, and whoever waits for one gets 503 all the same (0: nobody waits)",
        ),
        Hasty::new(
            "tls_timeout",
            times.tls_timeout,
            FAR,
            "a handshake takes two ways there and back, and visitors who are far away or lose a packet are cut off in it",
        ),
        Hasty::new(
            "head_timeout",
            times.head_timeout,
            FAR,
            "visitors who are far away or lose a packet get 408",
        ),
        Hasty::new(
            "idle_timeout",
            times.idle_timeout,
            FAR,
            "a visitor's next request meets a connection that is being closed",
        ),
        Hasty::new(
            "stall_timeout",
            times.stall_timeout,
            FAR,
            "a packet that is lost cuts an upload or a download",
        ),
        Hasty::new(
            "response_timeout",
            times.response_timeout,
            NEAR,
            "most answers take longer, and become 504 (0: no such time)",
        ),
        Hasty::new(
            "upgraded_timeout",
            times.upgraded_timeout,
            FAR,
            "a WebSocket on which nobody speaks for so long is closed (0: never)",
        ),
        Hasty::new(
            "half_closed_timeout",
            half_closed,
            NEAR,
            "who has ended its side is not answered any more (0: no such time)",
        ),
        Hasty::new(
            "settle_timeout",
            times.settle_timeout,
            FAR,
            "agents that are far away or lose a packet bring up no tunnel",
        ),
        Hasty::new(
            "ping_interval",
            times.ping_interval,
            OFTEN,
            "every tunnel is asked so often, whether or not anything moves on it",
        ),
        Hasty::new(
            "ping_timeout",
            times.ping_timeout,
            FAR,
            "a packet that is lost ends a tunnel, and what is in flight on it",
        ),
        Hasty::new(
            "probe_timeout",
            times.probe_timeout,
            FAR,
            "a packet that is lost ends a tunnel, and what is in flight on it",
        ),
        Hasty::new(
            "drain",
            times.drain,
            FAR,
            "what is in flight when the gateway is stopped is cut",
        ),
        Hasty::new(
            "proxy_timeout",
            config.run.proxy.proxy_timeout,
            HEADER,
            "a packet of the header that is lost comes again only then (proxy-protocol.txt §2), and the connection is closed",
        ),
    ];
    let told = hasty
        .iter()
        .filter_map(|hasty| Some(config.sources.problem(hasty.key, hasty.text()?)));
    told.collect()
}

/// Its times in TCP mode.
fn of_listener(listener: &Listener) -> Vec<Problem> {
    let Some(own) = &listener.passing else {
        return Vec::new();
    };
    let hasty = [
        (
            &own.hello,
            OFTEN,
            "the ClientHello of who is far away comes later, and is asked for no name",
        ),
        (
            &own.connect,
            NEAR,
            "the other end is seldom there so soon, and connections are closed",
        ),
        (
            &own.idle,
            FAR,
            "a connection on which nobody speaks for so long is closed (0: never)",
        ),
        (
            &own.half_closed,
            NEAR,
            "who has ended its side gets no more than is on its way (0: as long as `idle_timeout`)",
        ),
    ];
    let told = hasty.into_iter().filter_map(|(said, least, what)| {
        let text = Hasty::new("", said.value, least, what).text()?;
        Some(said.named.problem(text))
    });
    told.collect()
}

fn of_backend(placed: &Placed) -> Vec<Problem> {
    let terms = &placed.backend.terms;
    let mut hasty = vec![
        Hasty::new(
            "connect_timeout",
            terms.connect,
            NEAR,
            "a server behind a network, or behind TLS, is seldom there so soon, and is taken for one that cannot be reached",
        ),
        Hasty::new(
            "response_timeout",
            terms.response.unwrap_or_default(),
            NEAR,
            "most answers take longer, and become 504, and the server is left out (0: as long as that of [times])",
        ),
        Hasty::new(
            "inactivity_timeout",
            terms.inactivity.unwrap_or_default(),
            NEAR,
            "an answer that pauses is cut (0: it may)",
        ),
        Hasty::new(
            "upgraded_timeout",
            terms.upgraded.unwrap_or_default(),
            FAR,
            "a WebSocket on which nobody speaks for so long is closed (0: as long as that of [times])",
        ),
    ];
    if let Some(check) = &placed.backend.check {
        hasty.push(Hasty::new(
            "check.timeout",
            check.timeout,
            NEAR,
            "a server that is busy answers later, and is taken for one that is down",
        ));
        let pauses = [
            ("check.interval", check.interval),
            ("check.fast_interval", check.fast),
            ("check.down_interval", check.down),
        ];
        // Where one stands for the others it is told of once.
        let given = |key: &str| placed.places.of(key).is_some();
        hasty.extend(
            pauses
                .into_iter()
                .filter(|(key, _)| given(key))
                .map(|(key, time)| {
                    Hasty::new(
                        key,
                        time,
                        OFTEN,
                        "each server is asked so often, by every gateway",
                    )
                }),
        );
    }
    let told = hasty
        .iter()
        .filter_map(|hasty| Some(placed.problem_at(hasty.key, hasty.text()?)));
    told.collect()
}
