//! What one source may do: the options of the command line, which are the keys of `[sources]`, and what a listener of a file says
//! otherwise in a table of its own. One declaration of each for both. Pure.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches as _};
use http::HeaderName;
use tidegate_shared::args::{some_time, whole};

use super::Config;
use super::listeners::Listener;
use super::settings::{Setting, key_of, setting};
use super::table::{Problem, Value};
use crate::rates::Rules;
use crate::rates::lists::Lists;
use crate::rates::rate::Rate;
use crate::rates::rules::{Action, StatusRange, Statuses};

/// How much one source may do.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sources")]
pub struct Rates {
    /// A file of addresses and ranges, one to a line, that none of these limits concerns; several are separated by commas.
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEGATE_ALLOW",
        value_delimiter = ','
    )]
    pub allow: Vec<PathBuf>,
    /// The same of visitors who are not served: their connections are closed before an octet of theirs is read.
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEGATE_DENY",
        value_delimiter = ','
    )]
    pub deny: Vec<PathBuf>,
    /// How much of an IPv4 address makes a source.
    #[arg(long, value_name = "BITS", env = "TIDEGATE_IPV4_PREFIX", default_value = "32", value_parser = bits_v4)]
    pub ipv4_prefix: u8,
    /// How much of an IPv6 address makes a source.
    #[arg(long, value_name = "BITS", env = "TIDEGATE_IPV6_PREFIX", default_value = "64", value_parser = bits_v6)]
    pub ipv6_prefix: u8,
    /// New connections of one source, such as 100/10s; any number unless set.
    #[arg(long, value_name = "RATE", env = "TIDEGATE_CONNECTION_RATE")]
    pub connection_rate: Option<Rate>,
    /// What happens to connections beyond --connection-rate or --max-visitors-per-source: refuse, 429, tarpit or mark.
    #[arg(
        long,
        value_name = "ACTION",
        env = "TIDEGATE_CONNECTION_ACTION",
        default_value = "429"
    )]
    pub connection_action: Action,
    /// Requests of one source, such as 100/10s; any number unless set.
    #[arg(long, value_name = "RATE", env = "TIDEGATE_REQUEST_RATE")]
    pub request_rate: Option<Rate>,
    /// What happens to requests beyond --request-rate or --max-requests-per-source: refuse, 429, tarpit or mark.
    #[arg(
        long,
        value_name = "ACTION",
        env = "TIDEGATE_REQUEST_ACTION",
        default_value = "429"
    )]
    pub request_action: Action,
    /// Errors that one source may cause, such as 20/60s; any number unless set.
    #[arg(long, value_name = "RATE", env = "TIDEGATE_ERROR_RATE")]
    pub error_rate: Option<Rate>,
    /// Which answers are errors: statuses such as 404 or 400-498; several are separated by commas. 499 stands for visitors
    /// who left.
    #[arg(
        long,
        value_name = "STATUS",
        env = "TIDEGATE_ERROR_STATUSES",
        value_delimiter = ',',
        default_value = "400-498"
    )]
    pub error_statuses: Vec<StatusRange>,
    /// What happens to requests of a source beyond --error-rate: refuse (its connections as well), 429, tarpit or mark.
    #[arg(
        long,
        value_name = "ACTION",
        env = "TIDEGATE_ERROR_ACTION",
        default_value = "429"
    )]
    pub error_action: Action,
    /// How long a tarpit holds a connection or a request before it is refused.
    #[arg(long, value_name = "TIME", env = "TIDEGATE_TARPIT_TIME", default_value = "10s", value_parser = tarpit)]
    pub tarpit_time: Duration,
    /// How many it holds at once, over all sources; the next ones are refused without it.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_TARPITTED", default_value = "1000", value_parser = tarpitted)]
    pub max_tarpitted: usize,
    /// The request field that `mark` writes the name of the limit into. What visitors send in it is dropped.
    #[arg(long, value_name = "FIELD", env = "TIDEGATE_MARK", value_parser = mark)]
    pub mark: Option<HeaderName>,
    /// Sources that are remembered; beyond that the quietest ones are forgotten.
    #[arg(long, value_name = "N", env = "TIDEGATE_MAX_SOURCES", default_value = "500000", value_parser = sources)]
    pub max_sources: usize,
}

/// What is one for all listeners.
const SHARED: [&str; 2] = ["max_tarpitted", "max_sources"];

/// Of `[limits]`, what a listener may say otherwise.
const OF_LIMITS: [&str; 2] = ["max_visitors_per_source", "max_requests_per_source"];

/// What concerns requests, of which a listener in TCP mode has none.
const OF_REQUESTS: [&str; 7] = [
    "max_requests_per_source",
    "request_rate",
    "request_action",
    "error_rate",
    "error_statuses",
    "error_action",
    "mark",
];

fn bits_v4(text: &str) -> Result<u8, String> {
    // At most 128, as `whole` has made sure.
    whole(text, 0..=32).map(|bits| u8::try_from(bits).unwrap_or(32))
}

fn bits_v6(text: &str) -> Result<u8, String> {
    whole(text, 0..=128).map(|bits| u8::try_from(bits).unwrap_or(128))
}

fn tarpit(text: &str) -> Result<Duration, String> {
    let time = some_time(text)?;
    if time > Duration::from_secs(600) {
        return Err(format!("`{text}` is too long; it must be from 50ms to 10m"));
    }
    Ok(time)
}

fn tarpitted(text: &str) -> Result<usize, String> {
    let most = whole(text, 0..=1_000_000)?;
    usize::try_from(most).map_err(|error| error.to_string())
}

fn sources(text: &str) -> Result<usize, String> {
    let most = whole(text, 1000..=100_000_000)?;
    usize::try_from(most).map_err(|error| error.to_string())
}

/// Fields that mean something else.
const TAKEN: [&str; 24] = [
    "accept",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "origin",
    "proxy-connection",
    "range",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
    "x-real-ip",
    "http2-settings",
];

fn mark(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_error| {
        format!("`{text}` is not a field's name; write one like x-source-limit")
    })?;
    let is = name.as_str();
    let ours = ["x-forwarded-", "tidegate-", "sec-"];
    if TAKEN.contains(&is) || is.contains('_') || ours.iter().any(|begin| is.starts_with(begin)) {
        return Err(format!(
            "`{text}` has a meaning of its own, or can be mistaken for another name; write one like x-source-limit"
        ));
    }
    Ok(name)
}

/// What a listener says otherwise, as its table has it.
pub(super) fn read(
    value: Value<'_>,
    run: &Command,
    folder: &std::path::Path,
    passes: bool,
) -> Vec<Setting> {
    let Some(mut table) = value.table() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for option in run.get_arguments().filter(|option| is_own(option)) {
        let id = option.get_id().as_str();
        let Some(value) = table.take(id.to_owned()) else {
            continue;
        };
        if passes && is_of_requests(id) {
            value.complain("a listener in TCP mode knows nothing of requests; leave it out");
            continue;
        }
        found.extend(setting(option, value, folder));
    }
    table.finish(|key| {
        SHARED
            .contains(&key)
            .then(|| "in [sources], for all listeners".to_owned())
    });
    found
}

/// Where a key would be right that stands in the table of a listener itself.
pub(super) fn home_in_listener(key: &str, run: &Command) -> Option<String> {
    let own = |option: &&Arg| is_own(option) && option.get_id() == key;
    run.get_arguments().find(own)?;
    Some("in `sources` of the listener: [listeners.NAME.sources]".to_owned())
}

/// Whether a listener may say it otherwise.
pub(super) fn is_own(option: &Arg) -> bool {
    let id = option.get_id().as_str();
    OF_LIMITS.contains(&id)
        || (!SHARED.contains(&id) && matches!(key_of(option), Some(("sources", _))))
}

/// Whether it concerns requests.
pub(super) fn is_of_requests(id: &str) -> bool {
    OF_REQUESTS.contains(&id)
}

/// What counts at one listener.
#[derive(Clone, Debug)]
pub struct Ruled {
    pub rates: Rates,
    /// Of one source, at once.
    pub visitors: usize,
    pub requests: usize,
    /// Whether any of it is the listener's own.
    pub own: bool,
}

impl Ruled {
    /// The same as it is gone by at the listener that stands at this place, with the lists that it names.
    pub(crate) fn rules(&self, at: usize, lists: &Lists) -> Rules {
        let rates = &self.rates;
        let number = |most: usize| u32::try_from(most).unwrap_or(u32::MAX);
        let all = |files: &[PathBuf]| files.iter().filter_map(|file| lists.of(file)).collect();
        let mut error_statuses = Statuses::default();
        for range in &rates.error_statuses {
            error_statuses.add(*range);
        }
        // Listeners are no more than ports.
        let own = u16::try_from(at + 1).unwrap_or(u16::MAX);
        Rules {
            id: if self.own { own } else { 0 },
            v4_prefix: rates.ipv4_prefix,
            v6_prefix: rates.ipv6_prefix,
            allow: all(&rates.allow),
            deny: all(&rates.deny),
            connections: number(self.visitors),
            connection_rate: rates.connection_rate,
            connection_action: rates.connection_action,
            requests: Some(number(self.requests)).filter(|most| *most > 0),
            request_rate: rates.request_rate,
            request_action: rates.request_action,
            error_rate: rates.error_rate,
            error_statuses,
            error_action: rates.error_action,
            mark: rates.mark.clone(),
            tarpit: rates.tarpit_time,
        }
    }
}

/// The rules of a listener: its own, and for the rest those of the options, of which the words are in `matches`.
pub(super) fn of_listener(
    config: &Config,
    listener: &Listener,
    run: &Command,
) -> Result<Ruled, Problem> {
    let ruled = |rates: Rates, visitors: Option<usize>, requests: Option<usize>, own| {
        let limits = &config.run.limits;
        Ruled {
            rates,
            visitors: visitors.unwrap_or_else(|| limits.visitors_per_source()),
            requests: requests.unwrap_or_else(|| limits.requests_per_source()),
            own,
        }
    };
    if listener.sources.is_empty() {
        return Ok(ruled(config.run.rates.clone(), None, None, false));
    }
    let told = told(config, listener, run).map_err(|error| Problem::plain(error.to_string()))?;
    let number = |id: &str| {
        let own = listener.sources.iter().any(|setting| setting.id == id);
        own.then(|| told.get_one::<usize>(id).copied()).flatten()
    };
    let rates =
        Rates::from_arg_matches(&told).map_err(|error| Problem::plain(error.to_string()))?;
    let (visitors, requests) = (number(OF_LIMITS[0]), number(OF_LIMITS[1]));
    Ok(ruled(rates, visitors, requests, true))
}

/// The same words as clap takes them apart. They have been checked one by one.
fn told(config: &Config, listener: &Listener, run: &Command) -> Result<ArgMatches, clap::Error> {
    let mut command = Command::new("listener").no_binary_name(true);
    let mut words = Vec::new();
    for option in run.get_arguments() {
        let id = option.get_id().as_str();
        if !OF_LIMITS.contains(&id) && !matches!(key_of(option), Some(("sources", _))) {
            continue;
        }
        // A file's name may have a comma in it.
        let alone = option
            .clone()
            .env(None::<&'static str>)
            .value_delimiter(None);
        command = command.arg(alone);
        let long = option.get_long().unwrap_or_default();
        let own = listener.sources.iter().find(|setting| setting.id == id);
        let values: Vec<String> = match own {
            Some(setting) => setting.values.clone(),
            None if OF_LIMITS.contains(&id) => Vec::new(),
            None => config
                .matches
                .get_raw(id)
                .into_iter()
                .flatten()
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
        };
        words.extend(values.into_iter().map(|value| format!("--{long}={value}")));
    }
    command.try_get_matches_from(words)
}

/// A file, and what names it.
pub(crate) struct Named {
    pub(crate) path: PathBuf,
    empty: Problem,
}

impl Named {
    /// Something wrong with it, where it is named.
    pub(crate) fn problem(&self, text: impl Into<String>) -> Problem {
        Problem {
            text: text.into(),
            ..self.empty.clone()
        }
    }
}

/// The lists of sources that any listener goes by, and any that is yet to be added would.
pub(super) fn lists(config: &Config) -> Vec<Named> {
    let mut all = Vec::new();
    for (listener, rates) in rules(config) {
        for (id, files) in [("allow", &rates.allow), ("deny", &rates.deny)] {
            let empty = problem(config, listener, id, "");
            all.extend(files.iter().map(|path| Named {
                path: path.clone(),
                empty: empty.clone(),
            }));
        }
    }
    all
}

/// What counts at each listener; where there is none, what would at one that has nothing of its own.
fn rules(config: &Config) -> Vec<(Option<&Listener>, &Rates)> {
    let listeners = config.listeners.iter().zip(&config.ruled);
    let ruled = listeners.map(|(listener, ruled)| (Some(listener), &ruled.rates));
    let general = (None, &config.run.rates);
    let none = config.listeners.is_empty();
    ruled.chain(none.then_some(general)).collect()
}

/// Something wrong with an option, at the listener that says it, or where it is said for all.
fn problem(
    config: &Config,
    listener: Option<&Listener>,
    id: &str,
    text: impl Into<String>,
) -> Problem {
    let mut own = listener.iter().flat_map(|listener| &listener.sources);
    match own.find(|setting| setting.id == id) {
        Some(setting) => setting.problem(text),
        None => config.sources.problem(id, text),
    }
}

/// What is wrong with all of it.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let mut all = Vec::new();
    for (listener, rates) in rules(config) {
        all.extend(unmarked(config, listener, rates));
    }
    // Listeners that share the mistake share its place.
    all.dedup();
    all
}

/// What is allowed and not advised.
pub(super) fn advice(config: &Config) -> Option<Problem> {
    let marks = |ruled: &Ruled| {
        let Rates {
            connection_action,
            request_action,
            error_action,
            ..
        } = ruled.rates;
        [connection_action, request_action, error_action].contains(&Action::Mark)
    };
    let idle = config.run.rates.mark.is_some() && !config.ruled.iter().any(marks);
    idle.then(|| {
        config.sources.problem(
            "mark",
            "nothing is marked unless what happens beyond a limit is `mark`, such as --request-action mark; what visitors send in the field is dropped all the same",
        )
    })
}

/// What is to be marked, and cannot be.
fn unmarked(config: &Config, listener: Option<&Listener>, rates: &Rates) -> Option<Problem> {
    let actions = [
        ("connection_action", rates.connection_action),
        ("request_action", rates.request_action),
        ("error_action", rates.error_action),
    ];
    let passing = listener.filter(|listener| listener.passing.is_some());
    let (id, _) = actions.into_iter().find(|(id, action)| {
        *action == Action::Mark && (passing.is_none() || *id == "connection_action")
    })?;
    let text = if let Some(listener) = passing {
        format!(
            "the listener {} is in TCP mode and has no fields to mark; write refuse or tarpit, for it alone in [listeners.{0}.sources]",
            listener.name
        )
    } else if rates.mark.is_none() {
        "this needs the field to write into: --mark x-source-limit (in a file: `mark`)".to_owned()
    } else {
        return None;
    };
    Some(problem(config, listener, id, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_no_meaning_of_its_own() {
        assert_eq!(mark("X-Source-Limit").unwrap().as_str(), "x-source-limit");
        for taken in [
            "",
            "a b",
            "host",
            "X-Forwarded-For",
            "tidegate-visitor",
            "x_mark",
            "sec-fetch-site",
            "Cookie",
        ] {
            assert!(mark(taken).is_err(), "{taken}");
        }
    }
}
