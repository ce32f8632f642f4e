//! What the gateway dials, and whom it asks where that is: `[backends.NAME]` and `[resolver]`, each value with where it comes from.
//! Pure.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_shared::proxy_header::Version;

use super::super::Config;
use super::super::backends::Placed;
use super::super::check::asks;
use super::super::resolver::Resolving;
use super::super::table::Places;
use super::{entry, key, quoted, shown, tlvs};
use crate::backend::config::{Backend, Balance, By, Check, Hash, Place, Server, Terms, Tls};
use crate::backend::greeting::SendProxy;

/// What counts where a key is not given.
const DEFAULT: &str = "default";

/// Lines of a table of which it is known where its keys stand.
struct Lines<'a> {
    places: &'a Places,
    out: &'a mut String,
}

impl Lines<'_> {
    /// The value of a key, named with the tables that it is in.
    fn add(&mut self, path: &str, value: &str) {
        self.add_or(path, value, DEFAULT);
    }

    /// The same, where something else than the default counts if it is not given.
    fn add_or(&mut self, path: &str, value: &str, otherwise: &str) {
        let key = path.rsplit('.').next().unwrap_or(path);
        self.add_as(path, key, value, otherwise);
    }

    fn add_as(&mut self, path: &str, key: &str, value: &str, otherwise: &str) {
        let spot = self.places.of(path).map(ToString::to_string);
        let comment = spot.as_deref().unwrap_or(otherwise);
        self.out
            .push_str(&entry(&format!("{key} = {value}"), comment));
    }

    fn head(&mut self, name: &str) {
        // Into a string.
        let _infallible = writeln!(self.out, "[{name}]");
    }
}

/// All of a backend.
pub(super) fn backend(placed: &Placed, out: &mut String) {
    let Backend {
        name,
        balance,
        tls,
        send_proxy,
        protocol,
        terms,
        check,
        servers,
        place: _,
    } = &placed.backend;
    let name = key(name);
    out.push('\n');
    out.push_str(&entry(
        &format!("[backends.{name}]"),
        &placed.spot.to_string(),
    ));
    let places = &placed.places;
    let mut lines = Lines { places, out };
    lines.add("balance", &balanced(balance));
    lines.add("protocol", &quoted(&protocol.to_string()));
    add_terms(terms, &mut lines);
    if let Some(tls) = tls {
        lines.add("tls", &secured(tls));
    }
    if let Some(told) = send_proxy {
        lines.add("send_proxy", &quoted(&told.version.to_string()));
        if told.version == Version::V2 {
            lines.add("proxy_tlvs", &tlvs(told));
        }
    }
    if let Some(check) = check {
        lines.head(&format!("backends.{name}.check"));
        add_check(check, tls.as_ref(), send_proxy.as_ref(), &mut lines);
    }
    lines.head(&format!("backends.{name}.servers"));
    for server in servers {
        let path = format!("servers.{}", server.name);
        lines.add_as(&path, &key(&server.name), &served(server), DEFAULT);
    }
}

fn add_terms(terms: &Terms, lines: &mut Lines<'_>) {
    for (key, number) in [
        ("retries", terms.retries as usize),
        ("max_queued", terms.queued),
        ("eject_after", terms.eject_after as usize),
    ] {
        lines.add(key, &number.to_string());
    }
    let for_ever = |time: Option<Duration>| time.unwrap_or_default();
    for (key, time) in [
        ("connect_timeout", terms.connect),
        ("queue_timeout", terms.queue),
        ("response_timeout", for_ever(terms.response)),
        ("inactivity_timeout", for_ever(terms.inactivity)),
        ("keep_alive", terms.keep_alive),
        ("eject_time", terms.eject),
        ("eject_time_most", terms.eject_most),
        ("slow_start", terms.slow_start),
    ] {
        lines.add(key, &milliseconds(time));
    }
}

fn milliseconds(time: Duration) -> String {
    format!("\"{}ms\"", time.as_millis())
}

fn secured(tls: &Tls) -> String {
    let file = |file: &PathBuf| quoted(&file.display().to_string());
    let all = [
        ("ca", tls.ca.as_ref().map(file)),
        ("server_name", tls.server_name.as_deref().map(quoted)),
        (
            "client_certificate",
            tls.client_certificate.as_ref().map(file),
        ),
        ("verify", Some((!tls.unverified).to_string())),
    ];
    let all = all
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}", value?)));
    format!("{{ {} }}", all.collect::<Vec<_>>().join(", "))
}

fn served(server: &Server) -> String {
    let most = server.max_connections.map_or(0, NonZeroUsize::get);
    let place = match &server.place {
        Place::Fixed(address) => format!("address = {}", quoted(&address.to_string())),
        Place::Addresses {
            name,
            family,
            slots,
        } => {
            let name = quoted(&name.to_string());
            format!("address = {name}, slots = {slots}, family = \"{family}\"")
        }
        Place::Services {
            service,
            family,
            slots,
        } => {
            let service = quoted(service);
            format!("srv = {service}, slots = {slots}, family = \"{family}\"")
        }
    };
    let share = match &server.place {
        Place::Services { .. } => String::new(),
        _ => format!(", weight = {}, backup = {}", server.weight, server.backup),
    };
    format!("{{ {place}{share}, max_connections = {most} }}")
}

/// As a user would write it.
fn balanced(balance: &Balance) -> String {
    let Hash { by, most } = match balance {
        Balance::RoundRobin => return quoted("round-robin"),
        Balance::Least => return quoted("least"),
        Balance::Hash(hash) => hash,
    };
    let by = match by {
        By::Source => "hash = \"source\"".to_owned(),
        By::Header(name) => format!("hash = \"header\", name = {}", quoted(name.as_str())),
        By::Cookie(name) => format!("hash = \"cookie\", name = {}", quoted(name)),
    };
    let most = most.map(|most| format!(", most = {most}"));
    format!("{{ {by}{} }}", most.unwrap_or_default())
}

/// `tls` and `told` are what requests have.
fn add_check(check: &Check, tls: Option<&Tls>, told: Option<&SendProxy>, lines: &mut Lines<'_>) {
    if let Some(ask) = &check.ask {
        // `check = "/health"` says the path, and nothing else.
        let whole = lines.places.of("check").map(ToString::to_string);
        let path = quoted(&ask.path.to_string());
        lines.add_or("check.path", &path, whole.as_deref().unwrap_or(DEFAULT));
        lines.add("check.method", &quoted(ask.method.as_str()));
        if let Some(host) = &ask.host {
            let host = String::from_utf8_lossy(host.as_bytes());
            lines.add("check.host", &quoted(&host));
        }
        lines.add("check.status", &quoted(&ask.statuses.to_string()));
    }
    if let Some(port) = check.port {
        lines.add("check.port", &port.to_string());
    }
    let as_requests = "default, as requests have it";
    for (key, own, usual) in [
        ("check.tls", check.tls, tls.is_some()),
        ("check.send_proxy", check.send_proxy, told.is_some()),
    ] {
        lines.add_or(key, &own.unwrap_or(usual).to_string(), as_requests);
    }
    lines.add("check.interval", &milliseconds(check.interval));
    for (key, time) in [
        ("check.fast_interval", check.fast),
        ("check.down_interval", check.down),
    ] {
        lines.add_or(key, &milliseconds(time), "default, as `interval`");
    }
    lines.add("check.timeout", &milliseconds(check.timeout));
    lines.add("check.rise", &check.rise.to_string());
    lines.add("check.fall", &check.fall.to_string());
}

/// Who is asked for servers' addresses, where anybody is.
pub(super) fn resolver(config: &Config, all: bool, out: &mut String) {
    let Resolving {
        resolver,
        spot,
        places,
    } = &config.resolving;
    let comment = match spot {
        Some(spot) => spot.to_string(),
        None if all && asks(config) => DEFAULT.to_owned(),
        None => return,
    };
    out.push('\n');
    out.push_str(&entry("[resolver]", &comment));
    let mut lines = Lines { places, out };
    if resolver.servers.is_empty() {
        let text = entry("# servers =", "not set; those of /etc/resolv.conf");
        lines.out.push_str(&text);
    } else {
        let servers = resolver.servers.iter().map(|at| quoted(&at.to_string()));
        let servers: Vec<String> = servers.collect();
        lines.add("servers", &format!("[{}]", servers.join(", ")));
    }
    for (key, time) in [
        ("timeout", resolver.timeout),
        ("hold", resolver.hold),
        ("least_ttl", resolver.least_ttl),
        ("most_ttl", resolver.most_ttl),
    ] {
        lines.add(key, &quoted(&shown(time)));
    }
}
