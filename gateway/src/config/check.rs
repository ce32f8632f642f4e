//! What settings need of each other, whoever said them: the command line, the environment or a file. Pure. Every mistake is
//! told, not the first alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tidegate_shared::name::NamePattern;

use super::Config;
use super::backends::Placed;
use super::hasty;
use super::near::hint;
use super::passing::{Onward, SOMEWHERE};
use super::rates;
use super::routes::Goal;
use super::settings::Source;
use super::shadow;
use super::table::Problem;
use super::unmeant;
use crate::backend::config::Place;
use crate::door::Expect;

/// Everything that is wrong. Routes for listeners that are not known hide nothing where the `whole` of the file was not understood.
pub(super) fn problems(config: &Config, whole: bool) -> Vec<Problem> {
    let mut all = missing(config);
    all.extend(config.backends.iter().flat_map(Placed::problems));
    all.extend(config.resolving.problems());
    all.extend(clear_names(config));
    all.extend(addresses(config));
    all.extend(proxies(config));
    all.extend(leading_nowhere(config));
    all.extend(shadow::problems(config, whole));
    all.extend(rates::problems(config));
    for (id, text) in config.run.limits.check() {
        all.push(config.sources.problem(id, text));
    }
    all
}

/// What is allowed and not advised.
pub(super) fn advice(config: &Config) -> Vec<Problem> {
    let optional = "`optional` guesses, which the specification advises against (proxy-protocol.txt §2): a balancer of proxy_from \
                    that passes on what it is sent lets visitors choose their address; prefer `required` on a port of its own";
    let listeners = config
        .listeners
        .iter()
        .filter(|listener| listener.proxy.value == Expect::Optional)
        .map(|listener| {
            let waits = match listener.passing {
                Some(_) => format!(
                    "; where the server speaks first (SSH, SMTP, MySQL), who sends no header waits for `proxy_timeout` ({:?})",
                    config.run.proxy.proxy_timeout
                ),
                None => String::new(),
            };
            listener.proxy.named.problem(format!("{optional}{waits}"))
        });
    let tunnels = (config.run.proxy.tunnels_proxy == Expect::Optional)
        .then(|| config.sources.problem("tunnels_proxy", optional));
    let idle = config.backends.iter().filter(|placed| {
        let goal = Goal::Backend(placed.backend.name.clone());
        let mut requests = config.routes.iter();
        let onward = Onward::Backend(placed.backend.name.clone());
        !requests.any(|routed| routed.route.target == goal)
            && !onwards(config).any(|goal| *goal == onward)
    });
    let idle = idle.map(|placed| placed.problem("no route goes to it"));
    let trusting = config.backends.iter().filter(|placed| {
        let tls = placed.backend.tls.as_ref();
        tls.is_some_and(|tls| tls.unverified)
    });
    let trusting = trusting.map(|placed| {
        placed.problem_at("tls.verify", "verify = false: whoever can answer at its servers' addresses can read and change everything")
    });
    let resolving = &config.resolving;
    let unasked = resolving.spot.is_some() && !asks(config);
    let unasked =
        unasked.then(|| resolving.problem("nobody is asked: no server of a backend has `slots`"));
    listeners
        .chain(tunnels)
        .chain(idle)
        .chain(trusting)
        .chain(rates::advice(config))
        .chain(listening_in_vain(config))
        .chain(starred(config))
        .chain(unmeant::advice(config))
        .chain(hasty::advice(config))
        .chain(unasked)
        .collect()
}

/// Paths with a `*`, which elsewhere stands for anything.
fn starred(config: &Config) -> impl Iterator<Item = Problem> {
    let starred = config
        .routes
        .iter()
        .filter(|routed| routed.route.path.contains('*'));
    starred.map(|routed| {
        let plain = routed.route.path.trim_end_matches(['*', '/']);
        let advice = match plain {
            "" => "; for every path leave `path` out".to_owned(),
            plain if plain.contains('*') => String::new(),
            plain => format!("; write path = \"{plain}\" for that and all below it"),
        };
        Problem {
            spot: Some(routed.marks.of("path").unwrap_or_else(|| routed.spot.clone())),
            key: "routes.path".to_owned(),
            text: format!("a `*` in a path stands for itself, and a path is for everything below it as it is{advice}"),
        }
    })
}

/// Whether a server's addresses come from DNS.
pub(super) fn asks(config: &Config) -> bool {
    let servers = config
        .backends
        .iter()
        .flat_map(|placed| &placed.backend.servers);
    servers
        .map(|server| &server.place)
        .any(|place| !matches!(place, Place::Fixed(_)))
}

/// What is not there, neither understood nor otherwise.
fn missing(config: &Config) -> Vec<Problem> {
    let (run, sources, wants) = (&config.run, &config.sources, &config.wants);
    let mut all = Vec::new();
    if config.listeners.is_empty() && !wants.listeners_unread {
        all.push(Problem::plain(
            "nothing listens for visitors; give --visitors ADDR, --visitors-tls ADDR with --visitors-cert PEM, or [listeners.NAME] in a file (--config)",
        ));
    }
    let is_said = |id: &str| sources.is_set(id) || wants.is_unread(id);
    if !is_said("tunnels") && !is_said("tunnels_clear") {
        all.extend(tunnels(config));
    }
    if run.tunnels.is_some() && !(is_said("identity") && is_said("ca")) {
        let text = "TLS with agents needs --identity PEM, the gateway's certificate and key, and --ca PEM, the authority of agents (in a file: `identity` and `ca`)";
        all.push(sources.problem("tunnels", text));
    }
    let names = &run.tunnels_clear_name;
    if run.tunnels_clear.is_some() && names.is_empty() && !wants.is_unread("tunnels_clear_name") {
        all.push(sources.problem(
            "tunnels_clear",
            "tunnels in clear text have no certificate that names them; give --tunnels-clear-name NAME (in a file: `clear_names`)",
        ));
    }
    all
}

/// Whatever wants tunnels where there are none. Who dials everything needs none.
fn tunnels(config: &Config) -> Vec<Problem> {
    let (sources, wants) = (&config.sources, &config.wants);
    let nowhere = "agents have nowhere to dial; give --tunnels ADDR with --identity PEM and --ca PEM, or [tunnels] with `address`, `identity` and `ca`";
    let to_tunnels = wants.tunnels.iter();
    let to_tunnels =
        to_tunnels.map(|named| named.problem(format!("this goes to a tunnel, and {nowhere}")));
    let mut all: Vec<Problem> = to_tunnels.collect();
    let about = format!("this is about tunnels, and {nowhere}");
    let names = config.names.as_ref().map(|names| &names.named);
    let from = &config.tunnels_proxy_from;
    let from = from.given.then_some(&from.named);
    all.extend(
        names
            .into_iter()
            .chain(from)
            .map(|named| named.problem(about.as_str())),
    );
    for id in ["identity", "ca"] {
        if matches!(sources.of_option(id), Source::File { .. }) {
            all.push(sources.problem(id, about.as_str()));
        }
    }
    if all.is_empty() && !wants.dials {
        all.push(Problem::plain(
            "agents have nowhere to dial; give --tunnels ADDR with --identity PEM and --ca PEM, or [tunnels] or [backends.NAME] in a file (--config)",
        ));
    }
    all
}

/// Where connections of listeners in TCP mode go.
pub(super) fn onwards(config: &Config) -> impl Iterator<Item = &Onward> {
    let own = config
        .listeners
        .iter()
        .filter_map(|listener| listener.passing.as_ref());
    let own = own.filter_map(|passing| passing.goal.value.as_ref());
    own.chain(config.passed.iter().map(|passed| &passed.goal))
}

/// Listeners in TCP mode whose connections have nowhere to go.
fn leading_nowhere(config: &Config) -> impl Iterator<Item = Problem> {
    let nowhere = config.listeners.iter().filter(|listener| {
        let own = listener.passing.as_ref().map(|passing| &passing.goal);
        own.is_some_and(|own| !own.given)
            && !config
                .passed
                .iter()
                .any(|passed| passed.is_for(&listener.name))
    });
    nowhere.map(|listener| {
        listener.address.named.problem(format!(
            "its connections go nowhere; add {SOMEWHERE}, beside it or in [[routes]] with `sni`"
        ))
    })
}

/// Routes by server name that are for every listener in TCP mode, where some of these may be for what has none: each of them waits
/// for a ClientHello then. One that a route names is meant to, and so is one without a target of its own, or without company.
fn listening_in_vain(config: &Config) -> impl Iterator<Item = Problem> {
    let passing: Vec<_> = config
        .listeners
        .iter()
        .filter_map(|listener| Some((&listener.name, listener.passing.as_ref()?)))
        .collect();
    let named = |name: &Arc<str>| {
        let mut routes = config.passed.iter();
        routes.any(|passed| passed.listeners.contains(name))
    };
    let alone = passing.len() < 2;
    let waiting: Vec<String> = passing
        .into_iter()
        .filter(|(name, own)| !alone && own.goal.value.is_some() && !named(name))
        .map(|(name, own)| format!("`{name}` ({:?})", own.hello.value))
        .collect();
    let for_all = config
        .passed
        .iter()
        .filter(|passed| passed.listeners.is_empty());
    // One says it of all.
    let first = for_all.take(usize::from(!waiting.is_empty()));
    first.map(move |passed| Problem {
        spot: Some(passed.spot.clone()),
        key: "routes".to_owned(),
        text: format!(
            "it is for every listener in tcp mode, and each of them waits for a ClientHello because of it: where none comes, as where the server speaks first (SSH, SMTP, MySQL), visitors of {} come to its own target only when `hello_timeout` is over; name those that TLS comes to, listeners = [\"NAME\"]",
            waiting.join(" and ")
        ),
    })
}

fn clear_names(config: &Config) -> Vec<Problem> {
    let (run, sources) = (&config.run, &config.sources);
    let mut all = Vec::new();
    let unread = config.wants.is_unread("tunnels_clear");
    if run.tunnels_clear.is_none() && !unread && !run.tunnels_clear_name.is_empty() {
        all.push(sources.problem(
            "tunnels_clear_name",
            "this changes nothing without --tunnels-clear ADDR (in a file: `clear`)",
        ));
    }
    if let Some(names) = &config.names {
        let served = |name: &&NamePattern| names.value.iter().any(|pattern| pattern.covers(name));
        let strangers = run.tunnels_clear_name.iter().filter(|name| !served(name));
        all.extend(strangers.map(|name| {
            let name = name.to_string();
            let known: Vec<String> = names.value.iter().map(ToString::to_string).collect();
            let hint = hint(&name, known.iter().map(String::as_str));
            sources.problem(
                "tunnels_clear_name",
                format!("{name} is not among tunnels.names{hint}"),
            )
        }));
    }
    all
}

/// One address for two of the gateway's own listeners, which the system would report as somebody else's.
fn addresses(config: &Config) -> Vec<Problem> {
    let (run, sources) = (&config.run, &config.sources);
    let of_listeners = config.listeners.iter().map(|listener| {
        let named = &listener.address.named;
        (named.to_string(), listener.address.value, named.problem(""))
    });
    let of_options = [
        ("tunnels", run.tunnels),
        ("tunnels_clear", run.tunnels_clear),
        ("admin", run.admin),
    ]
    .into_iter()
    .filter_map(|(id, address)| {
        let problem = sources.problem(id, "");
        let named = match &problem.spot {
            Some(spot) => format!("{} ({spot})", problem.key),
            None => problem.key.clone(),
        };
        Some((named, address?, problem))
    });
    let all: Vec<_> = of_listeners
        .chain(of_options)
        .filter(|(_, address, _)| address.port() != 0)
        .collect();
    let mut problems = Vec::new();
    for (at, (named, address, problem)) in all.iter().enumerate() {
        let taken = |other: &SocketAddr| {
            // Every address of this machine is another one as well.
            let (one, two) = (address.ip(), other.ip());
            // That of IPv6 is IPv4's too.
            let all =
                |of: IpAddr, with: IpAddr| of.is_unspecified() && (of.is_ipv6() || with.is_ipv4());
            address.port() == other.port() && (one == two || all(one, two) || all(two, one))
        };
        if let Some((other, ..)) = all[..at].iter().find(|(_, other, _)| taken(other)) {
            problems.push(Problem {
                text: format!(
                    "{other} and {named} are both to listen on {address}; give one of them another port"
                ),
                ..problem.clone()
            });
        }
    }
    problems
}

fn proxies(config: &Config) -> Vec<Problem> {
    let (run, sources) = (&config.run, &config.sources);
    let whose =
        "whose connections it may name: the addresses of the load balancers, such as 10.0.0.0/8";
    let mut all = Vec::new();
    let mut anybody = false;
    for listener in &config.listeners {
        let from = &listener.proxy_from;
        let of_its_own = from.named != sources.named("proxy_from", "--proxy-from");
        match (listener.proxy.value, from.value.is_empty()) {
            (Expect::Off, false) if of_its_own => all.push(from.named.problem(
                "this changes nothing where no PROXY header is expected; add proxy = \"required\"",
            )),
            (Expect::Off, _) => {}
            (_, true) => all.push(listener.proxy.named.problem(format!(
                "this needs --proxy-from (in a file: `proxy_from`), {whose}"
            ))),
            (_, false) => anybody |= !of_its_own,
        }
    }
    let expects = run.proxy.tunnels_proxy != Expect::Off;
    if expects && config.tunnels_proxy_from.value.is_empty() {
        let text = format!("this needs --proxy-from (in a file: `proxy_from`), {whose}");
        all.push(sources.problem("tunnels_proxy", text));
    }
    if !run.proxy.proxy_from.is_empty() && !anybody && (!expects || config.tunnels_proxy_from.given)
    {
        let text = "this changes nothing without --visitors-proxy, --visitors-tls-proxy or --tunnels-proxy (in a file: `proxy`)";
        all.push(sources.problem("proxy_from", text));
    }
    all
}
