//! TCP mode: what a listener of the file does with connections that it passes on untouched, and the routes that divide them by
//! server name. Pure; the table that is asked is `tcp::route`'s.

use std::sync::Arc;
use std::time::Duration;

use tidegate_shared::args::{duration, some_time};
use tidegate_shared::name::{AgentName, NamePattern};

use super::backends::{Placed, send_proxy};
use super::listeners::{Said, said};
use super::routes::{Goals, Known, backend_named, host_pattern, listeners_of, tunnel_named};
use super::table::{Marks, Spot, Table, Value};
use crate::backend::config::Address;
use crate::backend::greeting::SendProxy;

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Onward {
    /// Over a tunnel of this name.
    Tunnel(AgentName),
    /// To one of these, the gateway dials them; with a header first.
    Servers {
        all: Vec<Address>,
        send_proxy: Option<SendProxy>,
        /// What names them, and where.
        place: String,
    },
    /// To one of the servers of this backend.
    Backend(String),
}

/// What a listener in TCP mode does.
#[derive(Clone, Debug)]
pub struct Passing {
    /// For whatever no route by server name wants.
    pub goal: Said<Option<Onward>>,
    pub hello: Said<Duration>,
    pub connect: Said<Duration>,
    /// 0 is for ever.
    pub idle: Said<Duration>,
    /// Where its keys stand.
    pub(super) marks: Marks,
    /// Of silence, once one side has ended; 0 is for as long as `idle`.
    pub half_closed: Said<Duration>,
}

/// A route by server name, and the listeners for whose visitors it is; all in TCP mode where there are none.
#[derive(Clone, Debug)]
pub struct Passed {
    pub sni: NamePattern,
    pub goal: Onward,
    /// Where it stands.
    pub spot: Spot,
    pub listeners: Vec<Arc<str>>,
    /// Where its keys stand.
    pub(super) marks: Marks,
}

/// For a ClientHello: what HAProxy's manual has for its inspection of one.
pub const HELLO: Duration = Duration::from_secs(5);

/// For the other end: a name's hold, and an agent's connection to its app.
pub const CONNECT: Duration = Duration::from_secs(10);

/// What HAProxy's users write as `timeout tunnel`. Who vanishes without a word is found out within two minutes by keep-alive.
pub const IDLE: Duration = Duration::from_secs(3600);

/// Its `timeout client-fin`, but for silence alone: who sends goes on for as long as he likes.
pub const HALF_CLOSED: Duration = Duration::from_secs(60);

/// The keys of a listener that are TCP mode's alone.
pub(super) const KEYS: [&str; 9] = [
    "tunnel",
    "backend",
    "servers",
    "send_proxy",
    "proxy_tlvs",
    "hello_timeout",
    "connect_timeout",
    "idle_timeout",
    "half_closed_timeout",
];

/// Those of them that say where connections go.
pub(super) const ONWARD: [&str; 5] = ["tunnel", "backend", "servers", "send_proxy", "proxy_tlvs"];

impl Passed {
    /// Whether it is for the visitors of this listener.
    pub fn is_for(&self, listener: &str) -> bool {
        self.listeners.is_empty() || self.listeners.iter().any(|name| **name == *listener)
    }
}

/// Reads what a listener's table says of TCP mode.
pub(super) fn listener(table: &mut Table<'_>, goals: Goals<'_>) -> Passing {
    goals.seen.dials.set(true);
    if let Some(files) = table.take("certificates") {
        files.complain(
            "in tcp mode TLS is passed on and not ended; leave `certificates` out, or write mode = \"http\"",
        );
    }
    Passing {
        marks: table.marks(&ONWARD),
        goal: goal(table, goals),
        hello: said(table, "hello_timeout", |value| value.parsed(some_time)).or(HELLO),
        connect: said(table, "connect_timeout", |value| value.parsed(some_time)).or(CONNECT),
        idle: said(table, "idle_timeout", |value| value.parsed(duration)).or(IDLE),
        half_closed: said(table, "half_closed_timeout", |value| value.parsed(duration))
            .or(HALF_CLOSED),
    }
}

/// Reads a table of `[[routes]]` that has `sni`.
pub(super) fn route(
    mut table: Table<'_>,
    sni: &Value<'_>,
    Known { listeners, goals }: Known<'_>,
) -> Option<Passed> {
    goals.seen.dials.set(true);
    let spot = table.spot();
    let marks = table.marks(&[&["sni", "listeners"], &ONWARD[..]].concat());
    let sni = sni.text_parsed(host_pattern);
    let named = listeners_of(&mut table, listeners);
    if !listeners.iter().any(|listener| listener.passing.is_some()) {
        table.complain(
            "no listener is in tcp mode, and only those look at a server name; for requests write `host`",
        );
    }
    for (name, value) in &named {
        let known = name
            .as_ref()
            .and_then(|name| listeners.iter().find(|listener| *listener.name == **name));
        if known.is_some_and(|listener| listener.passing.is_none()) {
            value.complain("it is in http mode, where routes go by `host`");
        }
    }
    let goal = goal(&mut table, goals);
    if !goal.given {
        table.complain(format!("it goes nowhere; add {SOMEWHERE}"));
    }
    let goal = goal.value;
    table.finish(|key| {
        matches!(key, "host" | "path" | "headers").then(|| {
            "in a route for requests; with `sni` a connection is passed on before there is one"
                .to_owned()
        })
    });
    Some(Passed {
        sni: sni?,
        goal: goal?,
        spot,
        listeners: named
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Option<_>>()?,
        marks,
    })
}

/// What leads on.
pub(super) const SOMEWHERE: &str = "tunnel = \"NAME\", the name that an agent brings, or servers = [\"HOST:PORT\"] or backend = \"NAME\", which the gateway dials";

/// Where a listener or a route leads, by whichever key.
fn goal(table: &mut Table<'_>, goals: Goals<'_>) -> Said<Option<Onward>> {
    let own = said(table, "tunnel", |value| {
        tunnel_named(&value, goals).map(Onward::Tunnel)
    });
    let named = said(table, "backend", |value| backend(&value, goals.backends));
    let dialled = said(table, "servers", servers);
    let proxy = send_proxy(table);
    let keys = [
        ("tunnel", own.given),
        ("backend", named.given),
        ("servers", dialled.given),
    ];
    let mut given = keys.into_iter().filter(|(_, given)| *given);
    if let (Some((one, _)), Some((other, _))) = (given.next(), given.next()) {
        let text = format!("`{one}` and `{other}` are two places to go; leave one of them out");
        table.complain_of(other, text);
    }
    if proxy.given && !dialled.given {
        let text = if named.given {
            "this is what `servers` are told; those of a backend are told by its own (backends.NAME.send_proxy)"
        } else {
            "this is what `servers` are told, and there are none; over a tunnel it is the agent that writes one (tidegate tcp --proxy-protocol)"
        };
        table.complain_of("send_proxy", text);
    }
    if named.given {
        return named;
    }
    if !dialled.given {
        return own;
    }
    Said {
        value: dialled.value.map(|all| Onward::Servers {
            all,
            send_proxy: proxy.value,
            place: dialled.named.to_string(),
        }),
        named: dialled.named,
        given: true,
    }
}

fn backend(value: &Value<'_>, backends: &[Placed]) -> Option<Onward> {
    let name = backend_named(value, backends)?;
    let of_name = |placed: &&Placed| placed.backend.name == name;
    if backends
        .iter()
        .find(of_name)
        .is_some_and(|placed| placed.backend.tls.is_some())
    {
        value.complain(format!(
            "the servers of `{name}` are spoken to over `tls`, which the gateway would begin; in tcp mode octets pass untouched, so give these connections a backend without it"
        ));
    }
    Some(Onward::Backend(name))
}

fn servers(value: Value<'_>) -> Option<Vec<Address>> {
    let at =
        value.some("an empty list is nowhere to go; write HOST:PORT, such as \"10.0.0.1:5432\"");
    if at.is_empty() {
        return None;
    }
    // All of them are read, so that each that is wrong is told.
    let read: Vec<Option<Address>> = at.iter().map(|value| value.parsed(str::parse)).collect();
    read.into_iter().collect()
}
