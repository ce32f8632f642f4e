//! `[[routes]]`: what a request must be like, and where it goes then. Pure; the table that is asked is `route`'s.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use tidegate_shared::name::{AgentName, NamePattern};

use super::backends::Placed;
use super::listeners::{Listener, Named};
use super::near::hint;
use super::passing::{self, Passed};
use super::table::{Marks, Spot, Table, Value};
use crate::route::Route;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To the tunnels of this name.
    Tunnel(AgentName),
    /// To the servers of this backend.
    Backend(String),
}

/// What can be named as a place to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goals<'a> {
    pub(super) backends: &'a [Placed],
    /// The names that agents may bring; `None` for any.
    pub(super) served: Option<&'a [NamePattern]>,
    pub(super) seen: &'a Seen,
}

/// What a file wants, whether or not it could be read.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The keys that want a tunnel.
    pub(super) tunnels: RefCell<Vec<Named>>,
    /// Something is, or may be, for servers that the gateway dials.
    pub(super) dials: Cell<bool>,
}

/// What a route can name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) listeners: &'a [Listener],
    pub(super) goals: Goals<'a>,
}

/// A route, and the listeners for whose visitors it is; all where there are none.
#[derive(Clone, Debug)]
pub struct Routed {
    pub route: Route<Goal>,
    /// Where it stands.
    pub spot: Spot,
    pub listeners: Vec<Arc<str>>,
    /// Where its keys stand.
    pub(super) marks: Marks,
}

impl Routed {
    /// Whether it is for the visitors of this listener.
    pub fn is_for(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *listener)
    }
}

/// Reads all of `[[routes]]`.
pub(super) fn read(routes: Option<Value<'_>>, known: Known<'_>) -> (Vec<Routed>, Vec<Passed>) {
    let tables = routes.map(Value::tables).unwrap_or_default();
    let mut found = Vec::with_capacity(tables.len());
    let mut passed: Vec<Passed> = Vec::new();
    for mut table in tables {
        match table.take("sni") {
            Some(sni) => passed.extend(passing::route(table, &sni, known)),
            None => found.extend(one(table, known)),
        }
    }
    (found, passed)
}

fn one(mut table: Table<'_>, known: Known<'_>) -> Option<Routed> {
    let spot = table.spot();
    let marks = table.marks(&["host", "path", "headers", "listeners", "tunnel", "backend"]);
    let host = table
        .take("host")
        .map(|host| host.text_parsed(host_pattern));
    let path = table.take("path").map(|value| {
        let path = value.text()?;
        if path.starts_with('/') && !path.contains(['?', '#', ' ']) && path.is_ascii() {
            return Some(path.to_owned());
        }
        value.complain(format!(
            "`{path}` is no path: it begins with `/`, and is written as in a request (`%C3%A9` for `é`), without a query"
        ));
        None
    });
    let mut fields: Vec<_> = table
        .table("headers")
        .map(Table::entries)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, value)| field(&name, &value))
        .collect();
    // `X-Team` and `x-team` with one value are one field, and make a route no more specific than that.
    let all = std::mem::take(&mut fields);
    for field in all {
        if field.is_none() || !fields.contains(&field) {
            fields.push(field);
        }
    }
    let named = listeners_of(&mut table, known.listeners);
    for (name, value) in &named {
        let passes = |listener: &Listener| {
            listener.passing.is_some() && name.as_ref().is_some_and(|name| listener.name == *name)
        };
        if known.listeners.iter().any(passes) {
            value.complain("it is in tcp mode, where routes go by `sni`");
        }
    }
    let target = match (table.take("tunnel"), table.take("backend")) {
        (Some(value), None) => tunnel(&value, known.goals),
        (None, Some(value)) => backend_named(&value, known.goals.backends).map(Goal::Backend),
        (Some(_), Some(value)) => {
            value.complain("it goes to a tunnel already; leave one of the two out");
            None
        }
        (None, None) => {
            table.complain(
                "it goes nowhere; add tunnel = \"NAME\", which an agent brings, or backend = \"NAME\"",
            );
            None
        }
    };
    table.finish(|_| None);
    Some(Routed {
        route: Route {
            host: host.map_or(Some(None), |host| host.map(Some))?,
            path: path.map_or(Some(String::new()), |path| path)?,
            fields: fields.into_iter().collect::<Option<_>>()?,
            target: target?,
        },
        spot,
        listeners: named
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Option<_>>()?,
        marks,
    })
}

/// The listeners that a route is for, each with where it is named; `None` for one that there is not.
pub(super) fn listeners_of<'d>(
    table: &mut Table<'d>,
    listeners: &[Listener],
) -> Vec<(Option<Arc<str>>, Value<'d>)> {
    let none = "nobody's requests would come here; name listeners, or leave it out for all of them";
    let values = table.take("listeners").map(|value| value.some(none));
    let named = values.unwrap_or_default().into_iter();
    named
        .map(|value| (listener(&value, listeners), value))
        .collect()
}

/// An exact host, or `*.` before one. Unlike in a certificate, a wildcard may be as wide as a public suffix: it is the
/// operator's own traffic that it divides.
pub(super) fn host_pattern(text: &str) -> Result<NamePattern, String> {
    let name = |part: &str| {
        let name = AgentName::from_operator(part);
        name.map_err(|bad| bad.within(text).to_string())
    };
    match text.strip_prefix("*.") {
        Some(rest) => name(rest).map(NamePattern::Wildcard),
        None if text == "*" => Err("for every host, leave `host` out".to_owned()),
        None => name(text).map(NamePattern::Exact),
    }
    .map_err(|bad| match host_of(text) {
        Some(host) => format!(
            "`{text}` is more than a host: scheme, port and path are left out, as in \"{host}\""
        ),
        None => bad,
    })
}

/// The host in an address or a URL.
fn host_of(text: &str) -> Option<&str> {
    let rest = text.split_once("://").map_or(text, |(_scheme, rest)| rest);
    let rest = rest.split('/').next()?;
    let host = match rest.split_once(':') {
        Some((host, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => host,
        Some(_) => return None,
        None => rest,
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    (host != text && AgentName::from_operator(name).is_ok()).then_some(host)
}

fn field(name: &str, value: &Value<'_>) -> Option<(HeaderName, HeaderValue)> {
    let text = value.text()?;
    let read = HeaderName::from_bytes(name.as_bytes());
    match (read, HeaderValue::from_str(text)) {
        (Ok(name), Ok(value)) => Some((name, value)),
        (Err(_), _) => {
            value.complain(format!("`{name}` is no name of a header field"));
            None
        }
        (_, Err(_)) => {
            value.complain("a field's value has no control characters");
            None
        }
    }
}

fn listener(value: &Value<'_>, listeners: &[Listener]) -> Option<Arc<str>> {
    let name = value.text()?;
    let known = listeners.iter().find(|known| *known.name == *name);
    if known.is_none() {
        let hint = hint(name, listeners.iter().map(|known| &*known.name));
        value.complain(format!("there is no listener `{name}`{hint}"));
    }
    known.map(|known| Arc::clone(&known.name))
}

/// The name of a backend, where there is one of it.
pub(super) fn backend_named(value: &Value<'_>, backends: &[Placed]) -> Option<String> {
    let name = value.text()?;
    let names = backends.iter().map(|known| known.backend.name.as_str());
    if names.clone().any(|known| known == name) {
        return Some(name.to_owned());
    }
    let hint = hint(name, names);
    value.complain(format!("there is no backend `{name}`{hint}"));
    None
}

fn tunnel(value: &Value<'_>, goals: Goals<'_>) -> Option<Goal> {
    tunnel_named(value, goals).map(Goal::Tunnel)
}

/// The name of a tunnel, where agents may bring it.
pub(super) fn tunnel_named(value: &Value<'_>, goals: Goals<'_>) -> Option<AgentName> {
    goals.seen.tunnels.borrow_mut().push(value.named());
    let name = value.text_parsed(AgentName::from_operator)?;
    let served = goals.served.unwrap_or_default();
    let brought = |pattern: &NamePattern| pattern.matches(name.as_str());
    if goals.served.is_some() && !served.iter().any(brought) {
        let names: Vec<String> = served.iter().map(ToString::to_string).collect();
        let hint = hint(name.as_str(), names.iter().map(String::as_str));
        value.complain(format!(
            "no agent may bring `{name}`: it is not among tunnels.names{hint}"
        ));
    }
    Some(name)
}
