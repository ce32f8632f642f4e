//! What the gateway is to do, from three places: the command line, the environment and a file, in that order of weight.
//!
//! ```text
//!  words ─▶ options (clap) ─┬─────────────────────────────────────▶ Config ─▶ check ─▶ app
//!                           └ --config ─▶ file ─▶ table ─▶ settings ┘ ▲
//!                                          └▶ listeners, routes ──────┘
//! ```
//!
//! Behind `load` nothing can meet an impossible value. A mistake says where it stands, and all of them are told at once.

mod backends; // servers that are dialled

mod checks; // how they are checked

mod check; // what settings need of each other

mod broken; // where a text is no TOML

mod clean; // what a file holds, on its way to a terminal

mod effective; // every value, with where it comes from

mod file; // a file's text

mod foreign; // other programs' words

mod hasty; // times in which nothing can happen

mod limits; // how much, how long

mod loaded; // the file as it was read

pub mod listeners; // where visitors come in

mod options; // the command line

mod near; // names that are nearly others

pub mod passing; // what is passed on untouched

pub mod rates; // what one source may do

mod resolver; // where servers' addresses come from

mod routes; // what goes where

mod shadow; // routes that nobody meets

mod settings; // options that stand in a file

mod table; // a file's tables, key by key

mod unmeant; // what is allowed and seldom meant

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{ArgMatches, CommandFactory as _};
use tidegate_shared::args;
use tidegate_shared::name::NamePattern;

use crate::files;
use crate::range::Range;
pub use backends::Placed;
pub use limits::{Limits, Patience};
use listeners::{Listener, Named, Said};
pub use loaded::Loaded;
pub use options::{Cli, Command, Run, Shown, Tunnels};
pub use passing::Passed;
pub use rates::Ruled;
pub use resolver::Resolving;
pub use routes::{Goal, Routed};
pub use settings::{Source, Sources};
pub use table::{Problem, Spot};

/// Everything that the gateway is told, checked.
#[derive(Debug)]
pub struct Config {
    /// The options, with what a file says of them.
    pub run: Run,
    pub listeners: Vec<Listener>,
    /// The names that agents may bring; `None` for any.
    pub names: Option<Said<Arc<[NamePattern]>>>,
    /// Who may send PROXY headers to the tunnels' listeners.
    pub tunnels_proxy_from: Said<Vec<Range>>,
    pub backends: Vec<Placed>,
    pub resolving: Resolving,
    pub routes: Vec<Routed>,
    pub passed: Vec<Passed>,
    /// For each of the listeners, in their order.
    pub ruled: Vec<Ruled>,
    pub sources: Sources,
    /// The file that it is from, if any.
    pub loaded: Option<Loaded>,
    wants: file::Wants,
    matches: ArgMatches,
}

impl Config {
    /// Reads the file that `run` names, if any. `words` is the command line that `run` is from.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(run: &Run, words: &[OsString]) -> Result<Self, Vec<Problem>> {
        let (config, problems) = Self::read(run.config.as_deref(), words)?;
        told(problems).map(|()| config)
    }

    /// The control socket of a gateway that is run with this file, whatever else it is told there.
    ///
    /// # Errors
    /// Everything that is wrong, where that is why there is none.
    pub fn control_of(file: &Path) -> Result<Option<PathBuf>, Vec<Problem>> {
        let words = ["tidegated", "run", "--config"].map(OsString::from);
        let words: Vec<OsString> = words.into_iter().chain([file.into()]).collect();
        let command = Cli::command();
        let known = command.find_subcommand("run").unwrap_or(&command);
        let (read, problems) = file::load(file, known).map_err(listed)?;
        let (config, _missing) = Self::assemble(&words, read, |command| command, false)?;
        match config.run.control {
            None => told(problems).map(|()| None),
            control => Ok(control),
        }
    }

    /// The same, and reads whatever files are named.
    ///
    /// # Errors
    /// Everything that is wrong with any of it.
    pub fn examine(run: &Run, words: &[OsString]) -> Result<Self, Vec<Problem>> {
        let (config, mut problems) = Self::read(run.config.as_deref(), words)?;
        problems.extend(files::read(&config).err().unwrap_or_default());
        told(problems).map(|()| config)
    }

    /// From a command line alone: neither the environment nor a file counts.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn alone(words: &[OsString]) -> Result<Self, Vec<Problem>> {
        let without = |command: clap::Command| {
            command.mut_subcommands(|command| {
                command.mut_args(|option| option.env(None::<&'static str>))
            })
        };
        let (config, problems) = Self::assemble(words, file::File::default(), without, true)?;
        told(problems).map(|()| config)
    }

    /// All that could be understood, and everything that is wrong.
    fn read(path: Option<&Path>, words: &[OsString]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let command = Cli::command();
        let known = command.find_subcommand("run").unwrap_or(&command);
        let (file, mut problems) = match path {
            Some(path) => file::load(path, known).map_err(listed)?,
            None => Default::default(),
        };
        let whole = problems.is_empty();
        let (config, more) = Self::assemble(words, file, |command| command, whole)?;
        problems.extend(more);
        Ok((config, problems))
    }

    /// What the words say, above what the file says. `whole` is whether all of the file was understood.
    fn assemble(
        words: &[OsString],
        file: file::File,
        with: impl FnOnce(clap::Command) -> clap::Command,
        whole: bool,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (cli, matches) = args::again::<Cli>(words, |command| {
            settings::with_defaults(with(command), &file.settings)
        })
        .map_err(|error| vec![Problem::plain(error.to_string())])?;
        let run = match cli.command {
            Command::Run(run) | Command::Check(run) | Command::Config(Shown { run, .. }) => run,
            Command::Tunnels(_) | Command::Get(_) | Command::Set(_) | Command::Probe(_) => {
                return Err(vec![Problem::plain("these words run no gateway")]);
            }
        };
        let matches = matches
            .subcommand()
            .map_or_else(|| matches.clone(), |(_, matches)| matches.clone());
        let command = Cli::command();
        let known = command.find_subcommand("run").unwrap_or(&command);
        let sources = Sources::of(known, &matches, file.settings);
        let mut listeners = file.listeners;
        let mut problems = listeners::merge(&mut listeners, &run, &sources);
        let tunnels_proxy_from = file.tunnels_proxy_from.unwrap_or_else(|| Said {
            value: run.proxy.proxy_from.clone(),
            named: sources.named("proxy_from", "--proxy-from"),
            given: false,
        });
        let mut config = Self {
            run,
            listeners,
            names: file.names,
            tunnels_proxy_from,
            backends: file.backends,
            resolving: file.resolving,
            routes: file.routes,
            passed: file.passed,
            ruled: Vec::new(),
            sources,
            loaded: file.loaded,
            wants: file.wants,
            matches,
        };
        for listener in &config.listeners {
            match rates::of_listener(&config, listener, known) {
                Ok(ruled) => config.ruled.push(ruled),
                Err(problem) => problems.push(problem),
            }
        }
        problems.extend(check::problems(&config, whole));
        // Only for what is missing, and as much as there are routes.
        config.wants = file::Wants::default();
        Ok((config, problems))
    }

    /// How an option about tunnels is called, or would be by whoever says the others in a file.
    pub(crate) fn tunnels_named(&self, id: &str, key: &str, option: &'static str) -> Named {
        let of = |other: &str| self.sources.of_option(other);
        let in_file = match (of(id), of("tunnels"), of("tunnels_clear")) {
            (Source::Default, Source::File { spot, .. }, _)
            | (Source::Default, _, Source::File { spot, .. }) => Some(spot),
            _ => None,
        };
        match in_file {
            Some(spot) => Named::Key {
                key: format!("tunnels.{key}"),
                spot,
            },
            None => self.sources.named(id, option),
        }
    }

    /// The lists of sources that any listener goes by, and who names them.
    pub(crate) fn lists(&self) -> Vec<rates::Named> {
        rates::lists(self)
    }

    /// What is allowed, and not advised.
    pub fn advice(&self) -> Vec<Problem> {
        let mut all = check::advice(self);
        all.extend(files::advice(self));
        all.iter_mut().for_each(clean::clean);
        all
    }

    /// The whole as a file, each value with where it comes from; of the defaults only with `all`.
    pub fn to_text(&self, all: bool) -> String {
        effective::text(self, all)
    }
}

/// Everything that is wrong with a file's text by itself. Opens nothing.
pub fn problems_of(text: &str) -> Vec<Problem> {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap_or(&command);
    match file::parse("gateway.toml", text, Path::new(""), run) {
        Ok((_, problems)) | Err(problems) => problems,
    }
}

/// Mistakes that are told at once. No file that somebody wrote has more, and one that is something else fills no disk.
const TOLD: usize = 1000;

/// Nothing, or all that is wrong.
fn told(problems: Vec<Problem>) -> Result<(), Vec<Problem>> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(listed(problems))
}

/// In the order of the file; those that stand in none go first.
fn listed(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|problem| problem.spot.as_ref().map(|spot| (spot.line, spot.column)));
    if problems.len() > TOLD {
        let more = problems.len() - TOLD;
        problems.truncate(TOLD);
        problems.push(Problem::plain(format!("and {more} more like these")));
    }
    problems.iter_mut().for_each(clean::clean);
    problems
}
