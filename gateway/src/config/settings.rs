//! The keys of a file that are options of the command line as well. Their names, checks and defaults have one declaration, that
//! of the option: a key is the option's name with `_` for `-`, in the table of its heading, and what the file says becomes the
//! option's default, so that the command line and the environment win. Pure.

use std::collections::HashMap;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::listeners::Named;
use super::table::{Due, Problem, Spot, Table, Value};

/// The option that takes what a file has under a key of another name.
const OTHER_NAMES: [(&str, &str); 7] = [
    ("tunnels", "address"),
    ("identity", "identity"),
    ("ca", "ca"),
    ("allow_wildcards", "allow_wildcards"),
    ("tunnels_clear", "clear"),
    ("tunnels_clear_name", "clear_names"),
    ("tunnels_proxy", "proxy"),
];

/// Options that a file says otherwise, because it may have many listeners.
const NOT_IN_FILES: [&str; 8] = [
    "config",
    "effective",
    "help",
    "visitors",
    "visitors_tls",
    "visitors_cert",
    "visitors_proxy",
    "visitors_tls_proxy",
];

/// Options whose values are files: a file names them from where it is itself.
const FILES: [&str; 6] = ["identity", "ca", "control", "state_file", "allow", "deny"];

/// What a file says of an option.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) id: String,
    pub(super) values: Vec<String>,
    pub(super) key: String,
    pub(super) spot: Spot,
}

impl Setting {
    /// Something wrong with it, at its place.
    pub(super) fn problem(&self, text: impl Into<String>) -> Problem {
        Problem {
            spot: Some(self.spot.clone()),
            key: self.key.clone(),
            text: text.into(),
        }
    }
}

/// The table and the key of an option, if it has any; the table is empty for the top of the file.
pub(super) fn key_of(option: &Arg) -> Option<(&'static str, &str)> {
    let id = option.get_id().as_str();
    if NOT_IN_FILES.contains(&id) {
        return None;
    }
    if let Some((_, key)) = OTHER_NAMES.iter().find(|(other, _)| *other == id) {
        return Some(("tunnels", key));
    }
    let table = match option.get_help_heading() {
        Some("Forwarding") => "forwarding",
        Some("PROXY protocol") => "proxy_protocol",
        Some("Limits") => "limits",
        Some("Sources") => "sources",
        Some("Times") => "times",
        _ => "",
    };
    Some((table, id))
}

/// The table in which a key that stands elsewhere would be right, in words.
pub(super) fn home_of(key: &str, run: &Command) -> Option<String> {
    let home = run
        .get_arguments()
        .filter_map(key_of)
        .find(|(_, known)| *known == key)?;
    Some(match home.0 {
        "" => "at the top of the file, before the first table".to_owned(),
        table => format!("in [{table}]"),
    })
}

/// Takes from the file what it says of options; and the ids of those of which it says what cannot be read.
pub(super) fn read(
    root: &mut Table<'_>,
    tunnels: Option<&mut Table<'_>>,
    run: &Command,
    folder: &Path,
) -> (Vec<Setting>, Vec<String>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let mut tables: Vec<(&str, Option<Table<'_>>)> =
        ["forwarding", "proxy_protocol", "limits", "sources", "times"]
            .map(|name| (name, root.table(name)))
            .into();
    let mut tunnels = tunnels;
    for option in run.get_arguments() {
        let Some((table, key)) = key_of(option) else {
            continue;
        };
        let key = key.to_owned();
        let value = match table {
            "" => root.take(key),
            "tunnels" => tunnels.as_mut().and_then(|table| table.take(key)),
            named => tables
                .iter_mut()
                .find(|(name, _)| *name == named)
                .and_then(|(_, table)| table.as_mut()?.take(key)),
        };
        let Some(value) = value else { continue };
        match setting(option, value, folder) {
            Some(setting) => found.push(setting),
            None => unread.push(option.get_id().to_string()),
        }
    }
    for table in tables.into_iter().filter_map(|(_, table)| table) {
        table.finish(|key| home_of(key, run));
    }
    (found, unread)
}

pub(super) fn setting(option: &Arg, value: Value<'_>, folder: &Path) -> Option<Setting> {
    let id = option.get_id().as_str();
    let (key, spot) = (value.key.clone(), value.spot());
    let values = if is_flag(option) {
        vec![value.boolean()?.to_string()]
    } else if is_list(option) {
        let all = value.list();
        let read: Vec<String> = all
            .iter()
            .filter_map(|value| checked(option, value))
            .collect();
        (read.len() == all.len()).then_some(read)?
    } else {
        vec![checked(option, &value)?]
    };
    let values = if FILES.contains(&id) {
        values
            .iter()
            .map(|file| folder.join(file).display().to_string())
            .collect()
    } else {
        values
    };
    Some(Setting {
        id: id.to_owned(),
        values,
        key,
        spot,
    })
}

/// A value's text, if the option takes it.
fn checked(option: &Arg, value: &Value<'_>) -> Option<String> {
    let long = option.get_long()?;
    // Of all the option says, only how a value is read counts here.
    let alone = option.clone().env(None::<&'static str>).required(false);
    let command = Command::new("file").no_binary_name(true).arg(alone);
    let is_file = FILES.contains(&option.get_id().as_str());
    value.read(due(option), |word| {
        if is_file && word.contains('\0') {
            return Err(format!(
                "`{word}` is no path: the system has none with a NUL in it"
            ));
        }
        let asked = command
            .clone()
            .try_get_matches_from([format!("--{long}={word}")]);
        let Err(error) = asked else {
            return Ok(word.to_owned());
        };
        Err(std::error::Error::source(&error).map_or_else(
            || format!("`{word}` is no value for it"),
            ToString::to_string,
        ))
    })
}

/// What a file has as the value of an option, by what `--help` calls it.
pub(super) fn due(option: &Arg) -> Due {
    let names = option.get_value_names().unwrap_or_default();
    match names.first().map(|name| name.as_str()) {
        Some("N" | "BITS") => Due::Number,
        Some("ADDR" | "SIZE" | "TIME" | "RATE" | "STATUS" | "ACTION") => Due::Either,
        _ => Due::Text,
    }
}

pub(super) fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

pub(super) fn is_list(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

/// The command with what a file says as the options' defaults.
pub(super) fn with_defaults(command: Command, settings: &[Setting]) -> Command {
    command.mut_subcommands(|mut subcommand| {
        for setting in settings {
            if !subcommand
                .get_arguments()
                .any(|arg| arg.get_id() == setting.id.as_str())
            {
                continue;
            }
            subcommand = subcommand.mut_arg(&setting.id, |option| {
                let variable = option.get_env().and_then(std::env::var_os);
                // A flag's variable that says no is taken for none, and would let the file win.
                let said = variable.is_some_and(|value| !value.is_empty());
                if is_flag(&option) && said {
                    option
                } else {
                    option.default_values(setting.values.clone())
                }
            });
        }
        subcommand
    })
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Line { option: String },
    Variable { name: String },
    File { key: String, spot: Spot },
    Default,
}

/// Where each option's value comes from, by the option's id.
#[derive(Clone, Debug, Default)]
pub struct Sources(HashMap<String, Source>);

impl Sources {
    pub(super) fn of(run: &Command, matches: &ArgMatches, settings: Vec<Setting>) -> Self {
        let mut all: HashMap<String, Source> = settings
            .into_iter()
            .map(|Setting { id, key, spot, .. }| (id, Source::File { key, spot }))
            .collect();
        for option in run.get_arguments() {
            let id = option.get_id().as_str();
            let known = match matches
                .try_contains_id(id)
                .ok()
                .and_then(|_| matches.value_source(id))
            {
                Some(ValueSource::CommandLine) => Source::Line {
                    option: long(option),
                },
                Some(ValueSource::EnvVariable) => Source::Variable {
                    name: variable(option).unwrap_or_default(),
                },
                // A flag's variable that says no leaves the option as it is without it.
                _ if is_flag(option) && variable(option).is_some() => Source::Variable {
                    name: variable(option).unwrap_or_default(),
                },
                _ => continue,
            };
            all.insert(id.to_owned(), known);
        }
        Self(all)
    }

    /// Where the value of this option comes from.
    pub fn of_option(&self, id: &str) -> Source {
        self.0.get(id).cloned().unwrap_or(Source::Default)
    }

    /// Whether anybody set it.
    pub fn is_set(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// How an option is called by whoever set it.
    pub fn named(&self, id: &str, option: &'static str) -> Named {
        match self.of_option(id) {
            Source::File { key, spot } => Named::Key { key, spot },
            _ => Named::Option(option),
        }
    }

    /// Something wrong with the value of an option, at the place where it was set.
    pub fn problem(&self, id: &str, text: impl Into<String>) -> Problem {
        let option = id.replace('_', "-");
        match self.of_option(id) {
            Source::File { key, spot } => Problem {
                spot: Some(spot),
                key,
                text: text.into(),
            },
            _ => Problem {
                spot: None,
                key: format!("--{option}"),
                text: text.into(),
            },
        }
    }

    /// Which options have their values from the file: `--option` and where.
    pub fn from_file(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter_map(|(id, source)| match source {
            Source::File { key, spot } => Some((
                format!("--{}", id.replace('_', "-")),
                format!("{key} in {spot}"),
            )),
            _ => None,
        })
    }
}

/// The variable of an option, if it is set.
fn variable(option: &Arg) -> Option<String> {
    let name = option.get_env()?;
    let value = std::env::var_os(name)?;
    (!value.is_empty()).then(|| name.to_string_lossy().into_owned())
}

pub(super) fn long(option: &Arg) -> String {
    format!("--{}", option.get_long().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::options::Cli;
    use super::*;

    /// An option whose value is called something else is taken for one of text.
    #[test]
    fn what_an_options_value_is_called_says_what_a_file_has() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for option in run.get_arguments().filter(|option| !is_flag(option)) {
            let is_text = ["FILE", "PEM", "PATH", "NAME", "FORMAT", "LEVEL", "RANGE"];
            let is_text = [&is_text[..], &["EXPECT", "FIELD"]].concat();
            let names = option.get_value_names().unwrap_or_default();
            let named = names.first().map(|name| name.as_str()).unwrap_or_default();
            assert_eq!(
                due(option) == Due::Text,
                is_text.contains(&named),
                "{option}: {named}"
            );
        }
    }

    #[test]
    fn every_option_of_run_has_a_key_of_its_own() {
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        let mut seen = std::collections::HashSet::new();
        let mut options = 0;
        for option in run.get_arguments() {
            options += 1;
            if let Some(key) = key_of(option) {
                assert!(seen.insert(key), "{key:?} twice");
            }
        }
        assert!(
            options - seen.len() <= NOT_IN_FILES.len(),
            "{options} {}",
            seen.len()
        );
    }
}
