//! What the gateway dials, and whom it asks where that is: `[backends.NAME]` and `[resolver]`, each value with where it comes from.
//! Pure.

use std::fmt::Write as _;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use tidegate_shared::proxy_header::Version;

use super::super::Config;
use super::super::backends::Placed;
use super::super::check::asks;
use super::super::resolver::Resolving;
use super::super::table::Places;
use super::{DEFAULT, entry, key, quoted, shown, spot_or_default, tlvs};
use crate::backend::config::{
    Backend, Balance, By, Check, Family, Hash, Place, Server, Terms, Tls,
};
use crate::backend::greeting::SendProxy;

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
        let spot = self.places.of(path).map(ToString::to_string);
        let comment = spot.as_deref().unwrap_or(otherwise);
        self.out
            .push_str(&entry(&format!("{key} = {value}"), comment));
    }

    /// The head of the table at `path`.
    fn head(&mut self, path: &str, name: &str) {
        let comment = spot_or_default(self.places.of(path));
        self.out.push_str(&entry(&format!("[{name}]"), &comment));
    }

    /// A table on one line: `values` are its keys, those of which nothing is said left out. Where the keys stand is said of those
    /// that stand elsewhere or nowhere.
    fn add_table(&mut self, path: &str, values: &[(&str, Option<String>)]) {
        let whole = self.places.of(path);
        let (mut text, mut comment) = (Vec::new(), spot_or_default(whole));
        let mut defaults = Vec::new();
        for (at, (key, value)) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            text.push(format!("{key} = {value}"));
            match (self.places.of(&format!("{path}.{key}")), whole) {
                (Some(own), Some(whole)) if own.line != whole.line => {
                    let _infallible = write!(comment, ", {key} {own}");
                }
                (Some(_), _) => {}
                // What stands in the place of the table.
                (None, _) if at == 0 => {}
                (None, _) => defaults.push(*key),
            }
        }
        if !defaults.is_empty() {
            let _infallible = write!(comment, "; {DEFAULT}: {}", defaults.join(", "));
        }
        let key = key(path.strip_prefix("servers.").unwrap_or(path));
        let text = format!("{key} = {{ {} }}", text.join(", "));
        self.out.push_str(&entry(&text, &comment));
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
        lines.add_table("tls", &secured(tls));
    }
    if let Some(told) = send_proxy {
        lines.add("send_proxy", &quoted(&told.version.to_string()));
        if told.version == Version::V2 {
            lines.add("proxy_tlvs", &tlvs(told));
        }
    }
    if let Some(check) = check {
        lines.head("check", &format!("backends.{name}.check"));
        add_check(check, tls.as_ref(), send_proxy.as_ref(), &mut lines);
    }
    lines.head("servers", &format!("backends.{name}.servers"));
    for server in servers {
        lines.add_table(&format!("servers.{}", server.name), &served(server));
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
    let reasons = terms.retry_on.reasons();
    let reasons: Vec<String> = reasons.map(|reason| quoted(&reason.to_string())).collect();
    lines.add("retry_on", &format!("[{}]", reasons.join(", ")));
    let for_ever = |time: Option<Duration>| time.unwrap_or_default();
    for (key, time) in [
        ("connect_timeout", terms.connect),
        ("queue_timeout", terms.queue),
        ("response_timeout", for_ever(terms.response)),
        ("inactivity_timeout", for_ever(terms.inactivity)),
        ("upgraded_timeout", for_ever(terms.upgraded)),
        ("keep_alive", terms.keep_alive),
        ("eject_time", terms.eject),
        ("eject_time_most", terms.eject_most),
        ("slow_start", terms.slow_start),
    ] {
        lines.add(key, &timed(time));
    }
}

fn timed(time: Duration) -> String {
    quoted(&shown(time))
}

/// What it has in any case comes last: the first key of a table is one that was given, if any was.
fn secured(tls: &Tls) -> [(&'static str, Option<String>); 4] {
    let file = |file: &PathBuf| quoted(&file.display().to_string());
    let certificate = tls.client_certificate.as_ref().map(file);
    [
        ("ca", tls.ca.as_ref().map(file)),
        ("server_name", tls.server_name.as_deref().map(quoted)),
        ("client_certificate", certificate),
        ("verify", Some((!tls.unverified).to_string())),
    ]
}

fn served(server: &Server) -> [(&'static str, Option<String>); 6] {
    let most = server.max_connections.map_or(0, NonZeroUsize::get);
    let found = |slots: &NonZeroU16, family: &Family| {
        let family = quoted(&family.to_string());
        (Some(slots.to_string()), Some(family))
    };
    let (place, (slots, family), declares) = match &server.place {
        Place::Fixed(address) => (("address", address.to_string()), (None, None), true),
        Place::Addresses {
            name,
            family,
            slots,
        } => (("address", name.to_string()), found(slots, family), true),
        Place::Services {
            service,
            family,
            slots,
        } => (("srv", service.clone()), found(slots, family), false),
    };
    [
        (place.0, Some(quoted(&place.1))),
        ("slots", slots),
        ("family", family),
        ("weight", declares.then(|| server.weight.to_string())),
        ("backup", declares.then(|| server.backup.to_string())),
        ("max_connections", Some(most.to_string())),
    ]
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
    lines.add("check.interval", &timed(check.interval));
    for (key, time) in [
        ("check.fast_interval", check.fast),
        ("check.down_interval", check.down),
    ] {
        lines.add_or(key, &timed(time), "default, as `interval`");
    }
    lines.add("check.timeout", &timed(check.timeout));
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
