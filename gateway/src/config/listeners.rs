//! Where visitors come in: the listeners of the file, and the two that the command line can name, which win over those of the
//! same names in the file. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Command;
use tidegate_shared::args::listen;

use super::options::Run;
use super::passing::{self, KEYS, Passing};
use super::rates;
use super::routes::Goals;
use super::settings::{Setting, Sources};
use super::table::{Problem, Spot, Table, Value};
use crate::door::Expect;
use crate::range::Range;

/// How a setting is called by whoever set it, or could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// `--visitors-proxy`
    Option(&'static str),
    /// `listeners.web.proxy`, and where the file has it, or its table.
    Key { key: String, spot: Spot },
}

impl Named {
    /// What to write to set it: `--visitors-proxy required`, or `listeners.web.proxy = "required"`.
    pub fn set_to(&self, value: &str) -> String {
        match self {
            Self::Option(option) => format!("{option} {value}"),
            Self::Key { key, spot } => format!("{key} = {value:?} ({spot})"),
        }
    }

    /// The same as what somebody is to do about it, who has the file or the command line before him.
    pub fn advice(&self, value: &str) -> String {
        let verb = match self {
            Self::Option(_) => "start with",
            Self::Key { .. } => "write",
        };
        format!("{verb} {}", self.set_to(value))
    }

    /// Something wrong with it, at its place.
    pub fn problem(&self, text: impl Into<String>) -> Problem {
        let text = text.into();
        match self {
            Self::Option(option) => Problem {
                spot: None,
                key: (*option).to_owned(),
                text,
            },
            Self::Key { key, spot } => Problem {
                spot: Some(spot.clone()),
                key: key.clone(),
                text,
            },
        }
    }
}

/// `--visitors-proxy`, or `listeners.web.proxy (gateway.toml:12)`.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(option) => f.write_str(option),
            Self::Key { key, spot } => write!(f, "{key} ({spot})"),
        }
    }
}

/// A value, how it is called, and whether anybody gave it or it is the default.
#[derive(Clone, Debug)]
pub struct Said<T> {
    pub value: T,
    pub named: Named,
    pub given: bool,
}

impl<T> Said<T> {
    /// Of the command line.
    fn by_option(value: T, option: &'static str, given: bool) -> Self {
        Self {
            value,
            named: Named::Option(option),
            given,
        }
    }
}

/// One place where visitors come in.
#[derive(Clone, Debug)]
pub struct Listener {
    /// As in metrics, in the log and in the lines at the start.
    pub name: Arc<str>,
    /// Where its mode stands, if it is given.
    pub(super) mode: Option<Spot>,
    pub address: Said<SocketAddr>,
    /// TLS where there are any; SNI chooses, the first is for everyone else.
    pub certificates: Said<Vec<PathBuf>>,
    pub proxy: Said<Expect>,
    pub proxy_from: Said<Vec<Range>>,
    /// In TCP mode; else it is for HTTP.
    pub passing: Option<Passing>,
    /// What one source may do here, where that is not what it may do everywhere.
    pub(super) sources: Vec<Setting>,
}

/// The longest name of anything.
const NAME_MOST: usize = 64;

/// Whether a name of the user's own can stand in metrics and logs.
pub(super) fn is_plain(name: &str) -> bool {
    (1..=NAME_MOST).contains(&name.len())
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'))
}

/// Reads `[listeners.NAME]`.
pub(super) fn read(
    name: &str,
    value: Value<'_>,
    folder: &Path,
    goals: Goals<'_>,
    run: &Command,
) -> Option<Listener> {
    // Until it is known to be for requests.
    let dialled = goals.seen.dials.replace(true);
    if !is_plain(name) {
        value.complain(format!(
            "a name is 1 to {NAME_MOST} letters, digits, `-`, `_` and `.`"
        ));
        return None;
    }
    let mut table = value.table()?;
    let mode = table.take("mode");
    let mode_at = mode.as_ref().map(Value::spot);
    let passing = match mode.as_ref().and_then(Value::text) {
        Some("tcp") => Some(passing::listener(&mut table, goals)),
        Some("http") => {
            goals.seen.dials.set(dialled);
            None
        }
        None => {
            goals.seen.dials.set(dialled || mode.is_some());
            None
        }
        Some(word) => {
            if let Some(mode) = mode {
                mode.complain(format!("`{word}` is no mode; write http or tcp"));
            }
            None
        }
    };
    let address = said(&mut table, "address", |value| value.parsed(listen));
    if !address.given {
        table.complain("it has no `address` to listen on, such as \"0.0.0.0:80\"");
    }
    let certificates = said(&mut table, "certificates", |value| {
        let files = value.some(
            "an empty list is no certificate, and this would be clear text; name PEM files with chain and key, or leave it out where clear text is meant",
        );
        Some(
            files
                .iter()
                .filter_map(|file| Some(folder.join(file.text()?)))
                .collect(),
        )
    });
    let proxy = said(&mut table, "proxy", |value| value.parsed(str::parse));
    let proxy_from = said(&mut table, "proxy_from", |value| Some(ranges(value)));
    let sources = table.take("sources");
    let sources = sources
        .map(|value| rates::read(value, run, folder, passing.is_some()))
        .unwrap_or_default();
    finish(table, passing.is_some(), run);
    let mut certificates: Said<Vec<PathBuf>> = certificates.or_default();
    if passing.is_some() {
        // Complained of, and not to be read.
        certificates.value.clear();
    }
    Some(Listener {
        name: name.into(),
        mode: mode_at,
        // Where it is wrong, nothing is ever opened.
        address: address.or(SocketAddr::from(([127, 0, 0, 1], 0))),
        certificates,
        proxy: proxy.or_default(),
        proxy_from: proxy_from.or_default(),
        passing,
        sources,
    })
}

/// A value of a table; one that cannot be read has been complained of.
pub(super) fn said<T>(
    table: &mut Table<'_>,
    key: &'static str,
    read: impl FnOnce(Value<'_>) -> Option<T>,
) -> Said<Option<T>> {
    let value = table.take(key);
    let named = Named::Key {
        key: table.key(key),
        spot: value.as_ref().map_or_else(|| table.spot(), Value::spot),
    };
    Said {
        given: value.is_some(),
        value: value.and_then(read),
        named,
    }
}

impl<T> Said<Option<T>> {
    pub(super) fn or(self, otherwise: T) -> Said<T> {
        Said {
            value: self.value.unwrap_or(otherwise),
            named: self.named,
            given: self.given,
        }
    }

    pub(super) fn or_default(self) -> Said<T>
    where
        T: Default,
    {
        self.or(T::default())
    }
}

fn finish(table: Table<'_>, passes: bool, run: &Command) {
    table.finish(|key| match key {
        "host" | "path" | "headers" | "sni" => Some("in [[routes]]".to_owned()),
        "tunnel" | "backend" if !passes => Some("in [[routes]], or to mode = \"tcp\"".to_owned()),
        _ if !passes && KEYS.contains(&key) => Some("to mode = \"tcp\"".to_owned()),
        _ => rates::home_in_listener(key, run),
    });
}

/// The ranges of an array, each complaint at its own place.
pub(super) fn ranges(value: Value<'_>) -> Vec<Range> {
    let ranges = value.list();
    ranges
        .iter()
        .filter_map(|range| range.parsed(str::parse))
        .collect()
}

/// Puts the command line's listeners in the place of those of their names.
pub(super) fn merge(listeners: &mut Vec<Listener>, run: &Run, sources: &Sources) -> Vec<Problem> {
    let mut problems = Vec::new();
    for plan in [
        Plan {
            name: "visitors",
            address: ("--visitors", run.visitors),
            certificates: None,
            proxy: ("--visitors-proxy", run.proxy.visitors_proxy),
            proxy_is_set: sources.is_set("visitors_proxy"),
        },
        Plan {
            name: "visitors-tls",
            address: ("--visitors-tls", run.visitors_tls),
            certificates: Some(&run.visitors_cert),
            proxy: ("--visitors-tls-proxy", run.proxy.visitors_tls_proxy),
            proxy_is_set: sources.is_set("visitors_tls_proxy"),
        },
    ] {
        problems.extend(plan.apply(listeners));
    }
    for listener in listeners {
        let of_line = matches!(listener.proxy_from.named, Named::Option(_));
        if listener.proxy_from.value.is_empty() && (of_line || !run.proxy.proxy_from.is_empty()) {
            listener.proxy_from = Said {
                value: run.proxy.proxy_from.clone(),
                named: sources.named("proxy_from", "--proxy-from"),
                given: sources.is_set("proxy_from"),
            };
        }
    }
    problems
}

/// One listener as the command line says it.
struct Plan<'a> {
    name: &'static str,
    address: (&'static str, Option<SocketAddr>),
    /// For TLS.
    certificates: Option<&'a [PathBuf]>,
    proxy: (&'static str, Expect),
    proxy_is_set: bool,
}

impl Plan<'_> {
    fn apply(self, listeners: &mut Vec<Listener>) -> Option<Problem> {
        let (option, address) = self.address;
        let known = listeners.iter().position(|known| *known.name == *self.name);
        let certificates = self.certificates.filter(|files| !files.is_empty());
        let index = match (known, address) {
            (Some(known), _) => known,
            (None, Some(value)) => {
                listeners.push(Listener {
                    name: self.name.into(),
                    mode: None,
                    address: Said::by_option(value, option, true),
                    certificates: Said::by_option(Vec::new(), "--visitors-cert", false),
                    proxy: Said::by_option(Expect::Off, self.proxy.0, false),
                    proxy_from: Said::by_option(Vec::new(), "--proxy-from", false),
                    passing: None,
                    sources: Vec::new(),
                });
                listeners.len() - 1
            }
            (None, None) if certificates.is_some() => {
                return Some(Problem::plain(
                    "--visitors-cert changes nothing without --visitors-tls, the address to serve TLS on",
                ));
            }
            (None, None) if self.proxy_is_set && self.proxy.1 != Expect::Off => {
                let (option, address) = (self.proxy.0, option);
                return Some(Problem::plain(format!(
                    "{option} changes nothing without {address}"
                )));
            }
            (None, None) => return None,
        };
        let listener = &mut listeners[index];
        if let Some(value) = address {
            listener.address = Said::by_option(value, option, true);
        }
        if let Some(files) = certificates {
            listener.certificates = Said::by_option(files.to_vec(), "--visitors-cert", true);
        }
        if self.proxy_is_set {
            listener.proxy = Said::by_option(self.proxy.1, self.proxy.0, true);
        }
        (self.certificates.is_some() && listener.certificates.value.is_empty()).then(|| {
            listener.address.named.problem(
                "TLS needs a certificate: --visitors-cert PEM, or `certificates` beside the listener's address",
            )
        })
    }
}
