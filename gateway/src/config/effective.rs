//! The configuration as it counts, written as a file that means the same: every value, and where it comes from. Pure.

mod dialled; // backends, and who is asked where they are

use std::fmt::{self, Write as _};
use std::time::Duration;

use clap::{Arg, CommandFactory as _};
use tidegate_shared::proxy_header::Version;

use super::listeners::{Listener, Named};
use super::passing::{Onward, Passed, Passing};
use super::routes::{Goal, Routed};
use super::settings::{Source, due, is_flag, is_list, key_of, long};
use super::table::{Due, Marks, Spot};
use super::{Cli, Config};
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
            names(config, &mut lines);
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
        describe(listener, all, &mut out);
    }
    for placed in &config.backends {
        dialled::backend(placed, &mut out);
    }
    dialled::resolver(config, all, &mut out);
    for routed in &config.routes {
        route(routed, &mut out);
    }
    for passed in &config.passed {
        passing_route(passed, &mut out);
    }
    out
}

fn line_of(config: &Config, option: &Arg, key: &str, all: bool) -> String {
    let id = option.get_id().as_str();
    let source = config.sources.of_option(id);
    if source == Source::Default && !all {
        return String::new();
    }
    let raw: Vec<String> = config
        .matches
        .get_raw(id)
        .into_iter()
        .flatten()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let value = if is_flag(option) {
        Some(config.matches.get_flag(id).to_string())
    } else if is_list(option) {
        let quoted: Vec<String> = raw.iter().map(|value| quoted(value)).collect();
        Some(format!("[{}]", quoted.join(", ")))
    } else {
        raw.first()
            .map(|value| written(option, value))
            .or_else(|| follows(config, id))
    };
    match value {
        Some(value) => entry(&format!("{key} = {value}"), &whence(&source)),
        None => entry(&format!("# {key} ="), &format!("not set; {}", long(option))),
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

fn names(config: &Config, lines: &mut String) {
    if let Some(names) = &config.names {
        lines.push_str(&listed("names", names.value.iter(), &names.named));
    }
    let from = &config.tunnels_proxy_from;
    if from.given {
        lines.push_str(&listed("proxy_from", from.value.iter(), &from.named));
    }
}

fn describe(listener: &Listener, all: bool, out: &mut String) {
    let _infallible = write!(out, "\n[listeners.{}]\n", key(&listener.name));
    let Listener {
        mode,
        address,
        certificates,
        proxy,
        proxy_from,
        ..
    } = listener;
    if mode.is_some() || all {
        let passes = listener.passing.is_some();
        let text = format!("mode = {}", quoted(if passes { "tcp" } else { "http" }));
        out.push_str(&entry(&text, &spot_or_default(mode.as_ref())));
    }
    let text = format!("address = {}", quoted(&address.value.to_string()));
    out.push_str(&entry(&text, &place(&address.named)));
    if !certificates.value.is_empty() {
        let files = certificates.value.iter().map(|file| file.display());
        out.push_str(&listed("certificates", files, &certificates.named));
    }
    if proxy.given || all {
        let text = format!("proxy = {}", quoted(&proxy.value.to_string()));
        let comment = if proxy.given {
            place(&proxy.named)
        } else {
            DEFAULT.to_owned()
        };
        out.push_str(&entry(&text, &comment));
    }
    if proxy.value != Expect::Off {
        out.push_str(&listed(
            "proxy_from",
            proxy_from.value.iter(),
            &proxy_from.named,
        ));
    }
    if let Some(told) = &listener.passing {
        passing(told, all, out);
    }
    if !listener.sources.is_empty() {
        let _infallible = writeln!(out, "[listeners.{}.sources]", key(&listener.name));
    }
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap_or(&command);
    for setting in &listener.sources {
        let mut options = run.get_arguments();
        let Some(option) = options.find(|option| option.get_id() == setting.id.as_str()) else {
            continue;
        };
        let value = if is_list(option) {
            let quoted: Vec<String> = setting.values.iter().map(|value| quoted(value)).collect();
            format!("[{}]", quoted.join(", "))
        } else {
            let value = setting.values.first();
            value.map_or_else(String::new, |value| written(option, value))
        };
        out.push_str(&entry(
            &format!("{} = {value}", setting.id),
            &setting.spot.to_string(),
        ));
    }
}

/// What a listener in TCP mode does beside.
fn passing(passing: &Passing, all: bool, out: &mut String) {
    if let Some(goal) = &passing.goal.value {
        onward(goal, &passing.marks, out);
    }
    for (key, time) in [
        ("hello_timeout", &passing.hello),
        ("connect_timeout", &passing.connect),
        ("idle_timeout", &passing.idle),
        ("half_closed_timeout", &passing.half_closed),
    ] {
        if time.given || all {
            let text = format!("{key} = {}", quoted(&shown(time.value)));
            let comment = if time.given {
                place(&time.named)
            } else {
                DEFAULT.to_owned()
            };
            out.push_str(&entry(&text, &comment));
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
fn onward(goal: &Onward, marks: &Marks, out: &mut String) {
    match goal {
        Onward::Tunnel(name) => marked("tunnel", &quoted(name.as_str()), marks, out),
        Onward::Backend(name) => marked("backend", &quoted(name), marks, out),
        Onward::Servers {
            all,
            send_proxy: proxy,
            ..
        } => {
            if let Some(proxy) = proxy {
                let version = quoted(&proxy.version.to_string());
                marked("send_proxy", &version, marks, out);
                if proxy.version == Version::V2 {
                    marked("proxy_tlvs", &tlvs(proxy), marks, out);
                }
            }
            marked("servers", &list(all.iter()), marks, out);
        }
    }
}

fn tlvs(proxy: &SendProxy) -> String {
    list(proxy.tlvs.iter())
}

fn passing_route(passed: &Passed, out: &mut String) {
    let marks = &passed.marks;
    out.push('\n');
    out.push_str(&entry("[[routes]]", &passed.spot.to_string()));
    marked("sni", &quoted(&passed.sni.to_string()), marks, out);
    if !passed.listeners.is_empty() {
        marked("listeners", &list(passed.listeners.iter()), marks, out);
    }
    onward(&passed.goal, marks, out);
}

/// The value of a key that stands where `marks` say.
fn marked(key: &str, value: &str, marks: &Marks, out: &mut String) {
    let spot = marks.of(key);
    let comment = spot_or_default(spot.as_ref());
    out.push_str(&entry(&format!("{key} = {value}"), &comment));
}

fn spot_or_default(spot: Option<&Spot>) -> String {
    spot.map_or_else(|| DEFAULT.to_owned(), ToString::to_string)
}

fn listed(key: &str, values: impl Iterator<Item: fmt::Display>, named: &Named) -> String {
    entry(&format!("{key} = {}", list(values)), &place(named))
}

fn list(values: impl Iterator<Item: fmt::Display>) -> String {
    let values: Vec<String> = values.map(|value| quoted(&value.to_string())).collect();
    format!("[{}]", values.join(", "))
}

fn place(named: &Named) -> String {
    match named {
        Named::Option(option) => (*option).to_owned(),
        Named::Key { spot, .. } => spot.to_string(),
    }
}

fn route(routed: &Routed, out: &mut String) {
    let (route, marks) = (&routed.route, &routed.marks);
    out.push('\n');
    out.push_str(&entry("[[routes]]", &routed.spot.to_string()));
    if let Some(host) = &route.host {
        marked("host", &quoted(&host.to_string()), marks, out);
    }
    if !route.path.is_empty() {
        marked("path", &quoted(&route.path), marks, out);
    }
    if !route.fields.is_empty() {
        let fields = route.fields.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            format!("{} = {}", key(name.as_str()), quoted(&value))
        });
        let fields = fields.collect::<Vec<_>>().join(", ");
        marked("headers", &format!("{{ {fields} }}"), marks, out);
    }
    if !routed.listeners.is_empty() {
        marked("listeners", &list(routed.listeners.iter()), marks, out);
    }
    let (key, name) = match &route.target {
        Goal::Tunnel(name) => ("tunnel", name.as_str()),
        Goal::Backend(name) => ("backend", name.as_str()),
    };
    marked(key, &quoted(name), marks, out);
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
