//! The configuration as it counts, written as a file that means the same: every value, and where it comes from. A key that is not
//! set stands in a comment, with what its absence means. Pure.

mod dialled; // backends, and who is asked where they are

#[cfg(test)]
mod tests;

use std::fmt::{self, Write as _};
use std::time::Duration;

use clap::{Arg, CommandFactory as _};
use tidegate_shared::proxy_header::Version;

use super::listeners::{Listener, Named};
use super::passing::{ONWARD, Onward, Passed, Passing};
use super::routes::{Goal, Routed};
use super::settings::{Source, due, is_flag, is_list, key_of, long};
use super::table::{Due, Marks, Spot};
use super::{Cli, Config, rates};
use crate::backend::greeting::SendProxy;
use crate::door::Expect;

/// Where comments begin, if what stands before is not longer.
const COMMENTS_AT: usize = 40;

/// What counts where a key is not given.
const DEFAULT: &str = "default";

/// See [`Config::to_text`].
pub(super) fn text(config: &Config, all: bool) -> String {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap_or(&command);
    let mut out = format!("# tidegated {}\n", env!("CARGO_PKG_VERSION"));
    for table in [
        "",
        "forwarding",
        "proxy_protocol",
        "limits",
        "sources",
        "times",
        "tunnels",
    ] {
        let mut lines = String::new();
        for option in run.get_arguments() {
            if let Some((of, key)) = key_of(option)
                && of == table
            {
                lines.push_str(&line_of(config, option, key, all));
            }
        }
        if table == "tunnels" {
            names(config, all, &mut lines);
        }
        if lines.is_empty() {
            continue;
        }
        if !table.is_empty() {
            let _infallible = write!(out, "\n[{table}]\n");
        }
        out.push_str(&lines);
    }
    for listener in &config.listeners {
        describe(config, listener, all, &mut out);
    }
    for placed in &config.backends {
        dialled::backend(placed, all, &mut out);
    }
    if config.backends.is_empty() && all {
        let _infallible = write!(out, "\n{}", entry("# [backends]", "none; default"));
    }
    dialled::resolver(config, all, &mut out);
    for routed in &config.routes {
        route(routed, all, &mut out);
    }
    for passed in &config.passed {
        passing_route(passed, all, &mut out);
    }
    if config.routes.is_empty() && config.passed.is_empty() && all {
        let _infallible = write!(out, "\n{}", entry("# [[routes]]", "none; default"));
    }
    out
}

fn line_of(config: &Config, option: &Arg, key: &str, all: bool) -> String {
    let id = option.get_id().as_str();
    let source = config.sources.of_option(id);
    if source == Source::Default && !all {
        return String::new();
    }
    match value_of(config, option) {
        Some(value) => entry(&format!("{key} = {value}"), &whence(&source)),
        None => {
            let comment = format!("{}; {} would set it", whence(&source), long(option));
            entry(&format!("# {key} = {}", lacking(id)), &comment)
        }
    }
}

/// The value of an option as a file has it, if it has one.
fn value_of(config: &Config, option: &Arg) -> Option<String> {
    let id = option.get_id().as_str();
    let raw: Vec<String> = config
        .matches
        .get_raw(id)
        .into_iter()
        .flatten()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    if is_flag(option) {
        Some(config.matches.get_flag(id).to_string())
    } else if is_list(option) {
        let quoted: Vec<String> = raw.iter().map(|value| quoted(value)).collect();
        Some(format!("[{}]", quoted.join(", ")))
    } else {
        raw.first()
            .map(|value| written(option, value))
            .or_else(|| follows(config, id))
    }
}

/// What it means that an option has no value.
fn lacking(id: &str) -> &'static str {
    match id {
        "connection_rate" | "request_rate" | "error_rate" => "any number",
        "half_closed_timeout" => "10s, and 60s for what is upgraded",
        _ => "none",
    }
}

/// What counts where nothing was set and another value decides.
fn follows(config: &Config, id: &str) -> Option<String> {
    let limits = &config.run.limits;
    let value = match id {
        "max_visitors_per_source" => limits.visitors_per_source(),
        "max_requests_per_source" => limits.requests_per_source(),
        "max_tunnels_per_name" => limits.tunnels_per_name(),
        "max_tunnels_per_source" => limits.tunnels_per_source(),
        "max_held_per_name" => limits.held_per_name(),
        "max_body" => 0,
        "workers" => crate::app::workers(&config.run),
        _ => return None,
    };
    Some(value.to_string())
}

fn names(config: &Config, all: bool, lines: &mut String) {
    match &config.names {
        Some(names) => lines.push_str(&listed(config, "names", names.value.iter(), &names.named)),
        None if all => absent("names", "any name", DEFAULT, lines),
        None => {}
    }
    let from = &config.tunnels_proxy_from;
    if from.given {
        lines.push_str(&listed(
            config,
            "proxy_from",
            from.value.iter(),
            &from.named,
        ));
    } else if all && from.value.is_empty() {
        absent("proxy_from", "nobody", DEFAULT, lines);
    } else if all {
        let whence = inherited(config, "proxy_protocol.proxy_from", "proxy_from");
        absent("proxy_from", &list(from.value.iter()), &whence, lines);
    }
}

fn describe(config: &Config, listener: &Listener, all: bool, out: &mut String) {
    let _infallible = write!(out, "\n[listeners.{}]\n", key(&listener.name));
    let Listener {
        mode,
        address,
        certificates,
        proxy,
        ..
    } = listener;
    let passes = listener.passing.is_some();
    if mode.is_some() || all {
        let text = format!("mode = {}", quoted(if passes { "tcp" } else { "http" }));
        out.push_str(&entry(&text, &spot_or_default(mode.as_ref())));
    }
    let text = format!("address = {}", quoted(&address.value.to_string()));
    out.push_str(&entry(&text, &place(config, &address.named)));
    if !certificates.value.is_empty() {
        let files = certificates.value.iter().map(|file| file.display());
        out.push_str(&listed(config, "certificates", files, &certificates.named));
    } else if all {
        let word = if passes { "none" } else { "none: clear text" };
        absent("certificates", word, DEFAULT, out);
    }
    if proxy.given || all {
        let text = format!("proxy = {}", quoted(&proxy.value.to_string()));
        out.push_str(&entry(&text, &place_if(config, proxy.given, &proxy.named)));
    }
    believed(config, listener, all, out);
    if let Some(told) = &listener.passing {
        passing(config, told, all, out);
    }
    sources(config, listener, all, out);
}

/// Whose PROXY headers count.
fn believed(config: &Config, listener: &Listener, all: bool, out: &mut String) {
    let from = &listener.proxy_from;
    if from.value.is_empty() {
        if all {
            absent("proxy_from", "nobody", DEFAULT, out);
        }
        return;
    }
    let whence = if from.named == config.sources.named("proxy_from", "--proxy-from") {
        inherited(config, "proxy_protocol.proxy_from", "proxy_from")
    } else {
        place(config, &from.named)
    };
    let value = list(from.value.iter());
    if listener.proxy.value != Expect::Off {
        out.push_str(&entry(&format!("proxy_from = {value}"), &whence));
    } else if all {
        absent("proxy_from", &value, &whence, out);
    }
}

/// What one source may do at a listener: what the listener says itself, and in comments what counts there as everywhere.
fn sources(config: &Config, listener: &Listener, all: bool, out: &mut String) {
    if listener.sources.is_empty() && !all {
        return;
    }
    let _infallible = writeln!(out, "[listeners.{}.sources]", key(&listener.name));
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap_or(&command);
    for option in run.get_arguments().filter(|option| rates::is_own(option)) {
        let id = option.get_id().as_str();
        let own = listener.sources.iter().find(|setting| setting.id == id);
        if let Some(setting) = own {
            let value = if is_list(option) {
                list(setting.values.iter())
            } else {
                let value = setting.values.first();
                value.map_or_else(String::new, |value| written(option, value))
            };
            out.push_str(&entry(
                &format!("{id} = {value}"),
                &setting.spot.to_string(),
            ));
        } else if all && listener.passing.is_some() && rates::is_of_requests(id) {
            absent(id, "none", "no requests in TCP mode", out);
        } else if all {
            let value = value_of(config, option).unwrap_or_else(|| lacking(id).to_owned());
            let (table, key) = key_of(option).unwrap_or(("sources", id));
            let whence = inherited(config, &format!("{table}.{key}"), id);
            absent(id, &value, &whence, out);
        }
    }
}

/// What a listener in TCP mode does beside.
fn passing(config: &Config, passing: &Passing, all: bool, out: &mut String) {
    onward(passing.goal.value.as_ref(), &passing.marks, all, out);
    for (key, time) in [
        ("hello_timeout", &passing.hello),
        ("connect_timeout", &passing.connect),
        ("idle_timeout", &passing.idle),
        ("half_closed_timeout", &passing.half_closed),
    ] {
        if time.given || all {
            let text = format!("{key} = {}", quoted(&shown(time.value)));
            out.push_str(&entry(&text, &place_if(config, time.given, &time.named)));
        }
    }
}

/// As a user would write it.
fn shown(time: Duration) -> String {
    if time.subsec_nanos() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{}ms", time.as_millis())
    }
}

/// Where connections go, each key with its place.
fn onward(goal: Option<&Onward>, marks: &Marks, all: bool, out: &mut String) {
    let mut values = [None, None, None, None, None];
    match goal {
        None => {}
        Some(Onward::Tunnel(name)) => values[0] = Some(quoted(name.as_str())),
        Some(Onward::Backend(name)) => values[1] = Some(quoted(name)),
        Some(Onward::Servers {
            all, send_proxy, ..
        }) => {
            values[2] = Some(list(all.iter()));
            if let Some(proxy) = send_proxy {
                values[3] = Some(quoted(&proxy.version.to_string()));
                values[4] = (proxy.version == Version::V2).then(|| tlvs(proxy));
            }
        }
    }
    for (key, value) in ONWARD.into_iter().zip(values) {
        marked_or(key, value, "none", marks, all, out);
    }
}

fn tlvs(proxy: &SendProxy) -> String {
    list(proxy.tlvs.iter())
}

fn passing_route(passed: &Passed, all: bool, out: &mut String) {
    let marks = &passed.marks;
    out.push('\n');
    out.push_str(&entry("[[routes]]", &passed.spot.to_string()));
    let sni = quoted(&passed.sni.to_string());
    marked_or("sni", Some(sni), "none", marks, all, out);
    let named = (!passed.listeners.is_empty()).then(|| list(passed.listeners.iter()));
    let every = "every listener in TCP mode";
    marked_or("listeners", named, every, marks, all, out);
    onward(Some(&passed.goal), marks, all, out);
}

/// The value of a key that stands where `marks` say; or what its absence means, where that is to be said.
fn marked_or(
    key: &str,
    value: Option<String>,
    otherwise: &str,
    marks: &Marks,
    all: bool,
    out: &mut String,
) {
    match value {
        Some(value) => {
            let spot = marks.of(key);
            let comment = spot_or_default(spot.as_ref());
            out.push_str(&entry(&format!("{key} = {value}"), &comment));
        }
        None if all => absent(key, otherwise, DEFAULT, out),
        None => {}
    }
}

/// A key that is not set, in a comment: what counts in its place, and where that comes from.
fn absent(key: &str, word: &str, whence: &str, out: &mut String) {
    out.push_str(&entry(&format!("# {key} = {word}"), whence));
}

/// Where the value of an option comes from for a table that says nothing itself.
fn inherited(config: &Config, key: &str, id: &str) -> String {
    let source = whence(&config.sources.of_option(id));
    format!("inherited from {key} ({source})")
}

fn spot_or_default(spot: Option<&Spot>) -> String {
    spot.map_or_else(|| DEFAULT.to_owned(), ToString::to_string)
}

fn listed(
    config: &Config,
    key: &str,
    values: impl Iterator<Item: fmt::Display>,
    named: &Named,
) -> String {
    entry(&format!("{key} = {}", list(values)), &place(config, named))
}

fn list(values: impl Iterator<Item: fmt::Display>) -> String {
    let values: Vec<String> = values.map(|value| quoted(&value.to_string())).collect();
    format!("[{}]", values.join(", "))
}

fn place(config: &Config, named: &Named) -> String {
    match named {
        Named::Option(option) => {
            let id = option.trim_start_matches('-').replace('-', "_");
            match config.sources.of_option(&id) {
                Source::Default => (*option).to_owned(),
                source => whence(&source),
            }
        }
        Named::Key { spot, .. } => spot.to_string(),
    }
}

fn place_if(config: &Config, given: bool, named: &Named) -> String {
    if given {
        place(config, named)
    } else {
        DEFAULT.to_owned()
    }
}

fn route(routed: &Routed, all: bool, out: &mut String) {
    let (route, marks) = (&routed.route, &routed.marks);
    out.push('\n');
    out.push_str(&entry("[[routes]]", &routed.spot.to_string()));
    let host = route.host.as_ref().map(|host| quoted(&host.to_string()));
    let path = (!route.path.is_empty()).then(|| quoted(&route.path));
    let fields = (!route.fields.is_empty()).then(|| {
        let fields = route.fields.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            format!("{} = {}", key(name.as_str()), quoted(&value))
        });
        format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
    });
    let named = (!routed.listeners.is_empty()).then(|| list(routed.listeners.iter()));
    let (tunnel, backend) = match &route.target {
        Goal::Tunnel(name) => (Some(quoted(name.as_str())), None),
        Goal::Backend(name) => (None, Some(quoted(name))),
    };
    for (key, value, otherwise) in [
        ("host", host, "any host"),
        ("path", path, "any path"),
        ("headers", fields, "any fields"),
        ("sni", None, "none: for requests"),
        ("listeners", named, "every listener in HTTP mode"),
        ("tunnel", tunnel, "none"),
        ("backend", backend, "none"),
    ] {
        marked_or(key, value, otherwise, marks, all, out);
    }
}

fn entry(text: &str, comment: &str) -> String {
    format!("{text:<COMMENTS_AT$} # {comment}\n")
}

fn whence(source: &Source) -> String {
    match source {
        Source::Line { option } => option.clone(),
        Source::Variable { name } => format!("the variable {name}"),
        Source::File { key: _, spot } => spot.to_string(),
        Source::Default => DEFAULT.to_owned(),
    }
}

/// A whole number as it is where one may stand, anything else as a string.
fn written(option: &Arg, value: &str) -> String {
    match value.parse::<i64>() {
        Ok(number) if due(option) != Due::Text => number.to_string(),
        _ => quoted(value),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A name as a key: quoted where it has dots.
fn key(name: &str) -> String {
    if name.contains('.')
        || name
            .bytes()
            .any(|octet| !octet.is_ascii_alphanumeric() && !b"-_".contains(&octet))
    {
        quoted(name)
    } else {
        name.to_owned()
    }
}
