//! What is allowed and seldom meant: visitors who never come to the tunnels of their host, addresses that anyone can choose,
//! connections that go round in circles, and checks that overlap. Pure. Called by `check` for its advice.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use tidegate_shared::name::{AgentName, NamePattern};

use super::Config;
use super::backends::Placed;
use super::check::onwards;
use super::listeners::{Listener, Said};
use super::passing::Onward;
use super::routes::{Goal, Routed};
use super::table::Problem;
use crate::backend::config::{Address, Balance, By, Hash, Place};
use crate::backend::retry::Reason;
use crate::door::Expect;
use crate::range::Range;

/// All of it.
pub(super) fn advice(config: &Config) -> Vec<Problem> {
    let mut all = taken(config);
    all.extend(everyone(config));
    all.extend(circles(config));
    all.extend(config.backends.iter().filter_map(overlapping));
    all.extend(of_requests(config));
    // Several listeners may go by one key.
    let mut told = Vec::with_capacity(all.len());
    for problem in all {
        if !told.contains(&problem) {
            told.push(problem);
        }
    }
    told
}

/// Routes that leave nothing for the tunnels of names that agents may bring, at any listener.
fn taken(config: &Config) -> Vec<Problem> {
    let run = &config.run;
    if run.tunnels.is_none() && run.tunnels_clear.is_none() {
        return Vec::new();
    }
    let by_file = config.names.as_ref().map(|names| &names.value[..]);
    // Tunnels in clear text have no names but these.
    let clear = run.tunnels.is_none().then_some(&run.tunnels_clear_name[..]);
    let Some(names) = by_file.or(clear) else {
        return unnamed(config).into_iter().collect();
    };
    let mut found: Vec<(&Routed, Vec<String>)> = Vec::new();
    for name in names.iter().filter(|name| !is_sent_to(config, name)) {
        let Some(routed) = taker(config, Some(name)) else {
            continue;
        };
        let name = name.to_string();
        match found
            .iter_mut()
            .find(|(other, _)| other.spot == routed.spot)
        {
            Some((_, names)) => names.push(name),
            None => found.push((routed, vec![name])),
        }
    }
    let told = found.into_iter().map(|(routed, names)| {
        let names = listed(&names);
        unwanted(routed, format!(
            "requests for {names} come here and not to the tunnels of agents; give these a route of their own with `tunnel`, or this one another `host`"
        ))
    });
    told.collect()
}

/// The same where agents may bring any name. Who names a tunnel in a route has thought of it.
fn unnamed(config: &Config) -> Option<Problem> {
    if tunnels(config).next().is_some() {
        return None;
    }
    let routed = taker(config, None)?;
    Some(unwanted(routed, "every request that no other route wants comes here, and none to the tunnels of agents, whatever their names; give names of agents a route of their own with `tunnel`, or this one a `host`".to_owned()))
}

fn unwanted(routed: &Routed, text: String) -> Problem {
    Problem {
        spot: Some(routed.spot.clone()),
        key: "routes".to_owned(),
        text,
    }
}

/// Whether anything leads to the tunnels of a name.
fn is_sent_to(config: &Config, name: &NamePattern) -> bool {
    tunnels(config).any(|own| name.matches(own.as_str()))
}

/// The tunnels that routes and listeners name, for requests and in TCP mode.
fn tunnels(config: &Config) -> impl Iterator<Item = &AgentName> {
    let of_requests = config
        .routes
        .iter()
        .filter_map(|routed| match &routed.route.target {
            Goal::Tunnel(name) => Some(name),
            Goal::Backend(_) => None,
        });
    let of_connections = onwards(config).filter_map(|onward| match onward {
        Onward::Tunnel(name) => Some(name),
        Onward::Servers { .. } | Onward::Backend(_) => None,
    });
    of_requests.chain(of_connections)
}

/// The route that takes all requests for a name, where each listener has one; for any name without.
fn taker<'a>(config: &'a Config, name: Option<&NamePattern>) -> Option<&'a Routed> {
    let covers = |routed: &&Routed| {
        let route = &routed.route;
        let whole = matches!(route.path.as_str(), "" | "/") && route.fields.is_empty();
        whole
            && match (&route.host, name) {
                (None, _) => true,
                (Some(host), Some(name)) => host.covers(name),
                (Some(_), None) => false,
            }
    };
    let listeners = config.listeners.iter();
    let mut takers = listeners
        .filter(|listener| listener.passing.is_none())
        .map(|listener| {
            let here = config.routes.iter().filter(covers);
            here.filter(|routed| routed.is_for(&listener.name))
                .min_by_key(|routed| match routed.route.host {
                    Some(NamePattern::Exact(_)) => 0,
                    Some(NamePattern::Wildcard(_)) => 1,
                    None => 2,
                })
        });
    let first = takers.next()??;
    takers.all(|taker| taker.is_some()).then_some(first)
}

/// A few of many.
fn listed(names: &[String]) -> String {
    const MOST: usize = 3;
    let first = names[..names.len().min(MOST)].join(", ");
    match names.len().saturating_sub(MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Ranges of whom to believe in which everybody is.
fn everyone(config: &Config) -> Vec<Problem> {
    let all = |ranges: &[Range]| {
        let mut ranges = ranges.iter();
        ranges.find(|range| is_everyone(range)).copied()
    };
    let headers = |from: &Said<Vec<Range>>| {
        let range = all(&from.value)?;
        Some(from.named.problem(format!(
            "{range} is everyone: whoever connects can choose the address that he has in limits, in the log and at the app; name the load balancers alone"
        )))
    };
    let expecting = |listener: &&Listener| listener.proxy.value != Expect::Off;
    let listeners = config.listeners.iter().filter(expecting);
    let mut found: Vec<Problem> = listeners
        .filter_map(|listener| headers(&listener.proxy_from))
        .collect();
    if config.run.proxy.tunnels_proxy != Expect::Off {
        found.extend(headers(&config.tunnels_proxy_from));
    }
    found.extend(all(&config.run.trust).map(|range| {
        config.sources.problem("trust", format!(
            "{range} is everyone: what any visitor says in X-Forwarded-For and the like is passed on as if it were so; name the proxies in front alone"
        ))
    }));
    found
}

fn is_everyone(range: &Range) -> bool {
    match range.bounds() {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            first.is_unspecified() && last.to_bits() == u32::MAX
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            first.is_unspecified() && last.to_bits() == u128::MAX
        }
        _ => false,
    }
}

/// One place to which a listener's connections are passed on.
struct Onto<'a> {
    address: &'a Address,
    /// What to say it of.
    problem: Problem,
}

/// Servers that are the gateway itself, at a listener from which it comes to them again. One listener of its own behind another,
/// as where TLS is divided by server name first, is none.
fn circles(config: &Config) -> Vec<Problem> {
    let onto: Vec<Vec<Onto<'_>>> = config
        .listeners
        .iter()
        .map(|listener| led(config, listener))
        .collect();
    let listens = |address: &Address| {
        let mut all = config.listeners.iter();
        all.position(|listener| is_at(listener, address))
    };
    let mut found = Vec::new();
    for (from, all) in onto.iter().enumerate() {
        for onto_one in all {
            let Some(to) = listens(onto_one.address) else {
                continue;
            };
            let (mut seen, mut ahead) = (HashSet::from([to]), vec![to]);
            while let Some(at) = ahead.pop() {
                let next = onto[at].iter().filter_map(|next| listens(next.address));
                ahead.extend(next.filter(|next| seen.insert(*next)));
            }
            if seen.contains(&from) {
                let named = &config.listeners[to].address.named;
                found.push(Problem {
                    text: format!(
                        "{} is where {named} listens, whose visitors come here again: they would go round in circles; write the app's own address",
                        onto_one.address
                    ),
                    ..onto_one.problem.clone()
                });
            }
        }
    }
    found
}

/// Where a listener's visitors are led, of what the gateway dials.
fn led<'a>(config: &'a Config, listener: &'a Listener) -> Vec<Onto<'a>> {
    let mut all = Vec::new();
    let mut onward = |onward: &'a Onward, problem: Problem| match onward {
        Onward::Tunnel(_) => {}
        Onward::Backend(name) => all.extend(servers(config, name)),
        Onward::Servers { all: servers, .. } => all.extend(servers.iter().map(|address| Onto {
            address,
            problem: problem.clone(),
        })),
    };
    let Some(passing) = &listener.passing else {
        let routes = config.routes.iter();
        let here = routes.filter(|routed| routed.is_for(&listener.name));
        let named: BTreeSet<&str> = here
            .filter_map(|routed| match &routed.route.target {
                Goal::Backend(name) => Some(name.as_str()),
                Goal::Tunnel(_) => None,
            })
            .collect();
        return named
            .into_iter()
            .flat_map(|name| servers(config, name))
            .collect();
    };
    if let Some(goal) = &passing.goal.value {
        onward(goal, passing.goal.named.problem(""));
    }
    for passed in config
        .passed
        .iter()
        .filter(|passed| passed.is_for(&listener.name))
    {
        let problem = Problem {
            spot: Some(
                passed
                    .marks
                    .of("servers")
                    .unwrap_or_else(|| passed.spot.clone()),
            ),
            key: "routes.servers".to_owned(),
            text: String::new(),
        };
        onward(&passed.goal, problem);
    }
    all
}

/// The servers of a backend whose addresses stand in the file.
fn servers<'a>(config: &'a Config, name: &str) -> Vec<Onto<'a>> {
    let mut backends = config.backends.iter();
    let placed = backends.find(|placed| placed.backend.name == name);
    let all = placed.into_iter().flat_map(|placed| {
        placed.backend.servers.iter().filter_map(move |server| {
            let Place::Fixed(address) = &server.place else {
                return None;
            };
            let problem = placed.problem_at(&format!("servers.{}", server.name), "");
            Some(Onto { address, problem })
        })
    });
    all.collect()
}

/// Whether it is this listener that answers at an address.
fn is_at(listener: &Listener, address: &Address) -> bool {
    let own = listener.address.value;
    let ip = match address.host.as_str() {
        "localhost" if own.ip().is_ipv4() => IpAddr::from([127, 0, 0, 1]),
        "localhost" => std::net::Ipv6Addr::LOCALHOST.into(),
        host => match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical(),
            Err(_) => return false,
        },
    };
    let here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    own.port() == address.port
        && (own.ip() == ip
            || own.ip().is_unspecified() && here(ip)
            || ip.is_unspecified() && here(own.ip()))
}

/// Keys about requests of backends that only connections in TCP mode come to. What a name of several is meant for may be there for
/// one that the file does not use, so none of it is refused.
fn of_requests(config: &Config) -> Vec<Problem> {
    let only_passed_on = config.backends.iter().filter(|placed| {
        let goal = Goal::Backend(placed.backend.name.clone());
        let mut requests = config.routes.iter();
        let onward = Onward::Backend(placed.backend.name.clone());
        onwards(config).any(|known| *known == onward)
            && !requests.any(|routed| routed.route.target == goal)
    });
    only_passed_on.flat_map(of_requests_in).collect()
}

/// Those of one backend that are given.
fn of_requests_in(placed: &Placed) -> Vec<Problem> {
    let backend = &placed.backend;
    let in_vain = "only connections in TCP mode come to this backend, and this is about requests: it changes nothing; leave it out";
    let mut all = Vec::new();
    for key in [
        "response_timeout",
        "inactivity_timeout",
        "upgraded_timeout",
        "keep_alive",
    ] {
        let given = placed.places.of(key);
        all.extend(given.map(|_| placed.problem_at(key, in_vain)));
    }
    // Checks that send a request speak as requests do.
    let asks = backend
        .check
        .as_ref()
        .is_some_and(|check| check.ask.is_some());
    if !asks && placed.places.of("protocol").is_some() {
        all.push(placed.problem_at("protocol", in_vain));
    }
    let reasons: Vec<String> = backend
        .terms
        .retry_on
        .reasons()
        .filter(|reason| *reason != Reason::Unreachable)
        .map(|reason| format!("`{reason}`"))
        .collect();
    if placed.places.of("retry_on").is_some() && !reasons.is_empty() {
        all.push(placed.problem_at("retry_on", format!(
            "only connections in TCP mode come to this backend, of which another server is tried only where one is `unreachable`: {} changes nothing; leave it out",
            reasons.join(", ")
        )));
    }
    if let Balance::Hash(Hash {
        by: By::Header(_) | By::Cookie(_),
        ..
    }) = &backend.balance
    {
        all.push(placed.problem_at("balance", "only connections in TCP mode come to this backend, which have neither fields nor cookies: their server is chosen without it; write balance = \"hash-source\", or \"least\""));
    }
    all
}

/// Checks that are given up only after the next one is due.
fn overlapping(placed: &Placed) -> Option<Problem> {
    let check = placed.backend.check.as_ref()?;
    let (timeout, interval) = (check.timeout, check.interval);
    placed.places.of("check.timeout")?;
    (timeout > interval).then(|| {
        placed.problem_at("check.timeout", format!(
            "it is longer than `interval` ({interval:?}), and the next check waits for the end of this one: a server that says nothing is asked only every {timeout:?}"
        ))
    })
}
