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
use super::{DEFAULT, absent, entry, key, quoted, shown, spot_or_default, tlvs};
use crate::backend::config::{
    Backend, Balance, By, Check, Family, Hash, Place, Server, Terms, Tls,
};
use crate::backend::greeting::SendProxy;

/// Lines of a table of which it is known where its keys stand.
struct Lines<'a> {
    places: &'a Places,
    /// What is not set is told as well.
    all: bool,
    out: &'a mut String,
}

/// The value of a key, or what its absence means.
type Known = Result<String, &'static str>;

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

    /// The value of a key, or what its absence means.
    fn add_known(&mut self, path: &str, value: Known) {
        match value {
            Ok(value) => self.add(path, &value),
            Err(word) if self.all => {
                let key = path.rsplit('.').next().unwrap_or(path);
                let comment = spot_or_default(self.places.of(path));
                absent(key, word, &comment, self.out);
            }
            Err(_) => {}
        }
    }

    /// The head of the table at `path`.
    fn head(&mut self, path: &str, name: &str) {
        let comment = spot_or_default(self.places.of(path));
        self.out.push_str(&entry(&format!("[{name}]"), &comment));
    }

    /// A table on one line: `values` are its keys. Where the keys stand is said of those that stand elsewhere or nowhere.
    fn add_table(&mut self, path: &str, values: &[(&str, Known)]) {
        let whole = self.places.of(path);
        let (mut text, mut comment) = (Vec::new(), spot_or_default(whole));
        let (mut defaults, mut lacking) = (Vec::new(), Vec::new());
        for (at, (key, value)) in values.iter().enumerate() {
            let value = match value {
                Ok(value) => value,
                Err(word) => {
                    lacking.push(format!("{key} ({word})"));
                    continue;
                }
            };
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
        if self.all && !lacking.is_empty() {
            let _infallible = write!(comment, "; not set: {}", lacking.join(", "));
        }
        let key = key(path.strip_prefix("servers.").unwrap_or(path));
        let text = format!("{key} = {{ {} }}", text.join(", "));
        self.out.push_str(&entry(&text, &comment));
    }
}

/// All of a backend.
pub(super) fn backend(placed: &Placed, all: bool, out: &mut String) {
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
    let mut lines = Lines { places, all, out };
    add_balance(balance, &mut lines);
    lines.add("protocol", &quoted(&protocol.to_string()));
    add_terms(terms, &mut lines);
    match tls {
        Some(tls) => lines.add_table("tls", &secured(tls)),
        None => lines.add_known("tls", Err("none: clear text")),
    }
    let version = send_proxy.as_ref().map(|told| told.version);
    let shown = version.map(|version| quoted(&version.to_string()));
    lines.add_known("send_proxy", shown.ok_or("none"));
    let with_room = send_proxy
        .as_ref()
        .filter(|told| told.version == Version::V2);
    lines.add_known("proxy_tlvs", with_room.map(tlvs).ok_or("none"));
    match check {
        Some(check) => {
            lines.head("check", &format!("backends.{name}.check"));
            add_check(check, tls.as_ref(), send_proxy.as_ref(), &mut lines);
        }
        None => lines.add_known("check", Err("none")),
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
fn secured(tls: &Tls) -> [(&'static str, Known); 4] {
    let file = |file: &PathBuf| quoted(&file.display().to_string());
    let name = tls.server_name.as_deref().map(quoted);
    let certificate = tls.client_certificate.as_ref().map(file);
    [
        ("ca", tls.ca.as_ref().map(file).ok_or("the system's")),
        ("server_name", name.ok_or("each server's host")),
        ("client_certificate", certificate.ok_or("none")),
        ("verify", Ok((!tls.unverified).to_string())),
    ]
}

fn served(server: &Server) -> [(&'static str, Known); 7] {
    let most = server.max_connections.map_or(0, NonZeroUsize::get);
    let (mut address, mut srv) = (Err("none"), Err("none"));
    let (mut slots, mut family) = (Err("none: the system looks it up"), Err("any"));
    let mut found = |count: &NonZeroU16, of: &Family| {
        slots = Ok(count.to_string());
        family = Ok(quoted(&of.to_string()));
    };
    let mut declares = true;
    match &server.place {
        Place::Fixed(at) => address = Ok(quoted(&at.to_string())),
        Place::Addresses {
            name,
            family,
            slots,
        } => {
            address = Ok(quoted(&name.to_string()));
            found(slots, family);
        }
        Place::Services {
            service,
            family,
            slots,
        } => {
            srv = Ok(quoted(service));
            found(slots, family);
            declares = false;
        }
    }
    let of_records = "that of the SRV records";
    let declared = |value: String| if declares { Ok(value) } else { Err(of_records) };
    [
        ("address", address),
        ("srv", srv),
        ("slots", slots),
        ("family", family),
        ("weight", declared(server.weight.to_string())),
        ("backup", declared(server.backup.to_string())),
        ("max_connections", Ok(most.to_string())),
    ]
}

/// As a user would write it.
fn add_balance(balance: &Balance, lines: &mut Lines<'_>) {
    let Hash { by, most } = match balance {
        Balance::RoundRobin => return lines.add("balance", &quoted("round-robin")),
        Balance::Least => return lines.add("balance", &quoted("least")),
        Balance::Hash(hash) => hash,
    };
    let (hash, name) = match by {
        By::Source => ("source", Err("none")),
        By::Header(name) => ("header", Ok(quoted(name.as_str()))),
        By::Cookie(name) => ("cookie", Ok(quoted(name))),
    };
    let most = most.map(|most| most.to_string());
    let values = [
        ("hash", Ok(quoted(hash))),
        ("name", name),
        ("most", most.ok_or("any share")),
    ];
    lines.add_table("balance", &values);
}

/// `tls` and `told` are what requests have.
fn add_check(check: &Check, tls: Option<&Tls>, told: Option<&SendProxy>, lines: &mut Lines<'_>) {
    match &check.ask {
        Some(ask) => {
            // `check = "/health"` says the path, and nothing else.
            let whole = lines.places.of("check").map(ToString::to_string);
            let path = quoted(&ask.path.to_string());
            lines.add_or("check.path", &path, whole.as_deref().unwrap_or(DEFAULT));
            lines.add("check.method", &quoted(ask.method.as_str()));
            let host = ask.host.as_ref();
            let host = host.map(|host| quoted(&String::from_utf8_lossy(host.as_bytes())));
            lines.add_known("check.host", host.ok_or("the server's address"));
            lines.add("check.status", &quoted(&ask.statuses.to_string()));
        }
        None => {
            lines.add_known("check.path", Err("none: a connection is enough"));
            for key in ["check.method", "check.host", "check.status"] {
                lines.add_known(key, Err("none"));
            }
        }
    }
    let port = check.port.map(|port| port.to_string());
    lines.add_known("check.port", port.ok_or("each server's own"));
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
        None if all => DEFAULT.to_owned(),
        None => return,
    };
    let mut table = entry("[resolver]", &comment);
    let mut lines = Lines {
        places,
        all: true,
        out: &mut table,
    };
    let servers = resolver.servers.iter().map(|at| quoted(&at.to_string()));
    let servers: Vec<String> = servers.collect();
    let servers = (!servers.is_empty()).then(|| format!("[{}]", servers.join(", ")));
    lines.add_known("servers", servers.ok_or("those of /etc/resolv.conf"));
    for (key, time) in [
        ("timeout", resolver.timeout),
        ("hold", resolver.hold),
        ("least_ttl", resolver.least_ttl),
        ("most_ttl", resolver.most_ttl),
    ] {
        lines.add(key, &quoted(&shown(time)));
    }
    out.push('\n');
    for line in table.lines() {
        // Who says nothing of it and asks nobody would be told that nobody is asked.
        let in_vain = spot.is_none() && !asks(config) && !line.starts_with('#');
        let mark = if in_vain { "# " } else { "" };
        let _infallible = writeln!(out, "{mark}{line}");
    }
}
