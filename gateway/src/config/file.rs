//! A configuration file, from its octets to what stands in it. A file is read to its end before anything of it counts, and tells
//! all of its mistakes at once.

use std::path::Path;
use std::sync::Arc;

use clap::Command;
use tidegate_shared::name::NamePattern;
use toml::de::DeTable;

use super::backends::{self, Placed};
use super::broken::{around, deep};
use super::listeners::{self, Listener, Named, Said, ranges, said};
use super::loaded::{Loaded, MOST, octets};
use super::passing::Passed;
use super::resolver::{self, Resolving};
use super::routes::{self, Goals, Known, Routed, Seen};
use super::settings::{self, Setting};
use super::table::{Document, Problem, Table, Value};
use crate::range::Range;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Vec<Setting>,
    pub(super) listeners: Vec<Listener>,
    pub(super) names: Option<Said<Arc<[NamePattern]>>>,
    pub(super) tunnels_proxy_from: Option<Said<Vec<Range>>>,
    pub(super) backends: Vec<Placed>,
    pub(super) resolving: Resolving,
    pub(super) routes: Vec<Routed>,
    pub(super) passed: Vec<Passed>,
    pub(super) wants: Wants,
    /// `None` of a text that stands in no file.
    pub(super) loaded: Option<Loaded>,
}

/// What it names, whether or not that could be read: nothing of it is missing.
#[derive(Debug, Default)]
pub(super) struct Wants {
    /// The keys that want a tunnel.
    pub(super) tunnels: Vec<Named>,
    /// Something is, or may be, for servers that the gateway dials.
    pub(super) dials: bool,
    /// Options whose values could not be read.
    unread: Vec<String>,
    /// There are listeners, and none of them could be read.
    pub(super) listeners_unread: bool,
}

impl Wants {
    /// Whether the value of this option could not be read.
    pub(super) fn is_unread(&self, id: &str) -> bool {
        self.unread.iter().any(|known| known == id)
    }
}

/// Reads a file; `run` has the options that may stand in it.
///
/// # Errors
/// What makes it no configuration file at all.
pub(super) fn load(path: &Path, run: &Command) -> Result<(File, Vec<Problem>), Vec<Problem>> {
    let name = path.display().to_string();
    let wrong = |why: &dyn std::fmt::Display| {
        vec![Problem::plain(format!(
            "the configuration file {name} (--config) cannot be read: {why}"
        ))]
    };
    let octets = octets(path).map_err(|error| wrong(&error))?;
    if octets.len() as u64 > MOST {
        return Err(wrong(&format_args!("it has more than {} MiB", MOST >> 20)));
    }
    let text = match std::str::from_utf8(&octets) {
        Ok(text) => text,
        Err(error) => {
            let line = octets[..error.valid_up_to()]
                .split(|octet| *octet == b'\n')
                .count();
            return Err(wrong(&format_args!("line {line} is not UTF-8")));
        }
    };
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let (mut file, problems) = parse(&name, text, folder, run)?;
    file.loaded = Some(Loaded::of(path, &octets));
    Ok((file, problems))
}

/// Reads a file's text: what it says, as far as it can be understood, and what is wrong with it. What it names of files is
/// relative to `folder`.
///
/// # Errors
/// A text that is no TOML: what was understood of it would be guessed at.
pub(super) fn parse(
    name: &str,
    text: &str,
    folder: &Path,
    run: &Command,
) -> Result<(File, Vec<Problem>), Vec<Problem>> {
    let document = Document::new(name, text);
    let (parsed, errors) = DeTable::parse_recoverable(text);
    let mut budget = LOOKED_THROUGH;
    for error in &errors {
        let found = error.span().map(|span| span.start);
        let at = found.or_else(|| deep(text, DEEPEST)).unwrap_or(0);
        budget = budget.saturating_sub(at + 1);
        let key = match budget {
            0 => String::new(),
            _ => around(text, at).key,
        };
        document.complain(at, &key, no_toml(error, text));
    }
    // Of what stands twice the first is there, and with a table's head twice the keys of both.
    if let Some(broken) = errors.iter().find(|error| error.message() != TWICE) {
        let at = broken.span().map_or(0, |span| span.start);
        let whole = &text[..around(text, at).table_at];
        return Err(with_whole_tables(
            document.into_problems(),
            name,
            whole,
            folder,
            run,
        ));
    }
    let root = Table::root(&document, parsed.get_ref());
    let file = read(root, folder, run);
    Ok((file, document.into_problems()))
}

/// The parts of a key, and the tables and arrays in each other, at which TOML's reader gives up.
const DEEPEST: usize = 80;

/// Octets that are looked through for the keys around mistakes: each is looked for from the beginning, and of what is no
/// configuration at all, and large, there may be a million.
const LOOKED_THROUGH: usize = 64 << 20;

/// What TOML's reader says where there is another of the same name.
const TWICE: &str = "duplicate key";

/// Why it is no TOML.
fn no_toml(error: &toml::de::Error, text: &str) -> String {
    let named = error.span().and_then(|span| text.get(span));
    match (error.message(), named) {
        // Of a table it is the last part of its name.
        (TWICE, Some(key)) => {
            format!("{TWICE}: there is a `{key}` already; leave one of the two out")
        }
        (message, _) if message.contains("recurs") => {
            format!(
                "this goes deeper than {DEEPEST} tables or arrays in each other; nothing that can stand here goes deeper than five"
            )
        }
        (message, _) => message.to_owned(),
    }
}

/// The `broken` of a file, and what is wrong in the tables before it whatever stands behind it.
fn with_whole_tables(
    mut broken: Vec<Problem>,
    name: &str,
    whole: &str,
    folder: &Path,
    run: &Command,
) -> Vec<Problem> {
    let document = Document::new(name, whole);
    let (parsed, errors) = DeTable::parse_recoverable(whole);
    let last = broken.last().and_then(|problem| problem.spot.clone());
    broken.push(Problem {
        spot: last,
        key: String::new(),
        text: "as the file is no TOML, nothing of this table and behind it was looked at, and of the tables before it each key by itself".to_owned(),
    });
    if errors.is_empty() {
        read(Table::root(&document, parsed.get_ref()), folder, run);
        broken.extend(document.sure_problems_before(whole.len()));
    }
    broken
}

fn read(mut root: Table<'_>, folder: &Path, run: &Command) -> File {
    let mut tunnels = root.table("tunnels");
    let (settings, unread) = settings::read(&mut root, tunnels.as_mut(), run, folder);
    let mut names = None;
    let mut tunnels_proxy_from = None;
    if let Some(mut tunnels) = tunnels {
        let of = &mut tunnels;
        names = Some(said(of, "names", |value| {
            let patterns = value.some(
                "no agent could bring any; name those that agents may bring, or leave it out for any",
            );
            let read = |value: &Value<'_>| value.text_parsed(NamePattern::from_operator);
            Some(patterns.iter().filter_map(read).collect::<Arc<[_]>>())
        }));
        tunnels_proxy_from = Some(said(of, "proxy_from", |value| Some(ranges(value))));
        tunnels.finish(|key| settings::home_of(key, run));
    }
    // Where none of them could be read, nothing is known of who is served.
    let names: Option<Said<Option<Arc<[NamePattern]>>>> = names.filter(|names| {
        let read = names.value.as_ref();
        names.given && read.is_some_and(|patterns| !patterns.is_empty())
    });
    let served = names.as_ref().and_then(|names| names.value.as_deref());
    let seen = Seen::default();
    let backends = root.take("backends");
    seen.dials.set(backends.is_some());
    let backends = backends::read(backends.and_then(Value::table), folder);
    let goals = Goals {
        backends: &backends,
        served,
        seen: &seen,
    };
    let before = root.complaints();
    let listeners: Vec<Listener> = root
        .table("listeners")
        .map(Table::entries)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, value)| listeners::read(&name, value, folder, goals, run))
        .collect();
    let listeners_unread = listeners.is_empty() && root.complaints() > before;
    let routes = root.take("routes");
    let resolving = resolver::read(root.table("resolver"));
    let known = Known {
        listeners: &listeners,
        goals,
    };
    let (routes, passed) = routes::read(routes, known);
    root.finish(|key| settings::home_of(key, run));
    File {
        settings,
        listeners,
        names: names.map(|names| names.or(Arc::new([]))),
        tunnels_proxy_from: tunnels_proxy_from
            .filter(|from| from.given)
            .map(Said::or_default),
        routes,
        backends,
        resolving,
        passed,
        wants: Wants {
            tunnels: seen.tunnels.into_inner(),
            dials: seen.dials.get(),
            unread,
            listeners_unread,
        },
        loaded: None,
    }
}

/// The keys that the reader of a file knows, by the tables that it met.
#[cfg(test)]
pub(super) fn keys_known(text: &str, run: &Command) -> Vec<(String, Vec<String>)> {
    let document = Document::new("a.toml", text);
    let (parsed, errors) = DeTable::parse_recoverable(text);
    assert!(errors.is_empty(), "{errors:?}");
    read(Table::root(&document, parsed.get_ref()), Path::new(""), run);
    document.known.take()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use proptest::prelude::*;

    use super::super::options::Cli;
    use super::super::problems_of;
    use super::*;

    const WHOLE: &str = "workers = 2\n[listeners.a]\naddress = 80\ncertificates = ['x']\nproxy_from = '::1'\n\
        [tunnels]\naddress = 0x10\nnames = ['*.a.test']\n[[routes]]\nhost = 'é.test'\nheaders = { a = 'b' }\n\
        listeners = ['a']\ntunnel = 'x.a.test'\n[limits]\nmax_head = '64KiB'\n";

    #[test]
    fn a_whole_file_is_read() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let (file, problems) = parse("a.toml", WHOLE, Path::new("dir"), run).unwrap();
        assert_eq!(problems, []);
        assert_eq!(
            (file.settings.len(), file.listeners.len(), file.routes.len()),
            (3, 1, 1)
        );
        let certificates = &file.listeners[0].certificates.value;
        assert_eq!(certificates, &[Path::new("dir/x")]);
    }

    proptest! {
        /// Whatever stands in a file, each complaint has a place within it.
        #[test]
        fn any_text_is_read_or_complained_of(
            at in 0..WHOLE.len(), cut in 0..20_usize, put in "[\\[\\]=\"'\n a-e0-9.\\\\é{}#]{0,6}",
        ) {
            let mut text = WHOLE.as_bytes().to_vec();
            text.splice(at..(at + cut).min(WHOLE.len()), put.bytes());
            if let Ok(text) = String::from_utf8(text) {
                let lines = text.lines().count() + 1;
                for problem in problems_of(&text) {
                    let spot = problem.spot.expect("what is wrong in a file has a place");
                    prop_assert!((1..=lines).contains(&spot.line) && spot.column >= 1, "{:?}", spot);
                    prop_assert!(!problem.text.is_empty() && !problem.text.contains('\n'), "{}", problem.text);
                }
            }
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,200}") {
            let _read = problems_of(&text);
        }
    }
}
