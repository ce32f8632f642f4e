//! The command line and the environment variables beside it, read by all programs alike: an empty variable is none, a flag's
//! takes the usual words, and where a mistake stands in a variable, the variable is named.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};

use super::USAGE;

/// Which options have their values from variables: pairs of `--option` and `VARIABLE`.
#[derive(Debug, Default)]
pub struct Variables(Vec<(String, String)>);

impl Variables {
    /// `mistake`, and the variables from which the options that it names have their values.
    #[must_use]
    pub fn name_in(&self, mistake: &str) -> String {
        self.name_all_in(mistake, std::iter::empty())
    }

    /// The same where options have their values from `elsewhere` too: pairs of `--option` and what that is.
    #[must_use]
    pub fn name_all_in(
        &self,
        mistake: &str,
        elsewhere: impl Iterator<Item = (String, String)>,
    ) -> String {
        let variables = self
            .0
            .iter()
            .map(|(option, variable)| (option.clone(), format!("the variable {variable}")));
        let named: Vec<String> = variables
            .chain(elsewhere)
            .filter(|(option, _)| names(mistake, option))
            .map(|(option, place)| format!("{option} comes from {place}"))
            .collect();
        if named.is_empty() {
            mistake.to_owned()
        } else {
            format!("{mistake} ({})", named.join(", "))
        }
    }
}

/// Whether `text` names this option, and no longer one that begins alike.
fn names(text: &str, option: &str) -> bool {
    text.match_indices(option).any(|(at, _)| {
        !text[at + option.len()..].starts_with(|c: char| c == '-' || c.is_ascii_alphanumeric())
    })
}

/// Reads the command line `words`, the program's own name included, and the environment. Where there is nothing to run,
/// because of a mistake or because help was asked for, it has been said, and the exit status is returned.
///
/// # Errors
/// The exit status.
pub fn read<C: Parser>(
    program: &str,
    words: impl IntoIterator<Item = OsString>,
) -> Result<(C, Variables), ExitCode> {
    let words: Vec<OsString> = words.into_iter().collect();
    let asked = |error: clap::Error| {
        // Help names every variable, those that are empty as well.
        let error = match error.kind() {
            ErrorKind::DisplayHelp => C::command().try_get_matches_from(&words).err(),
            _ => None,
        }
        .unwrap_or(error);
        told(program, &error, &set(&C::command(), &words, &error))
    };
    let matches = prepared(C::command())
        .try_get_matches_from(&words)
        .map_err(asked)?;
    let variables = used(&C::command(), &matches);
    let cli = C::from_arg_matches(&matches).map_err(asked)?;
    Ok((cli, variables))
}

/// Reads the same line and the environment once more, with what `with` has changed of the command: defaults, mostly.
///
/// # Errors
/// As clap has it.
pub fn again<C: Parser>(
    words: &[OsString],
    with: impl FnOnce(Command) -> Command,
) -> Result<(C, ArgMatches), clap::Error> {
    let matches = prepared(with(C::command())).try_get_matches_from(words)?;
    let cli = C::from_arg_matches(&matches)?;
    Ok((cli, matches))
}

/// Says what clap has to say where it gave no arguments, and returns the exit status. Help and the version were asked for
/// and go to standard output; a mistake is one line on standard error, but where a command is missing the help says more.
pub fn answer(program: &str, asked: &clap::Error) -> ExitCode {
    told(program, asked, &Variables::default())
}

fn told(program: &str, asked: &clap::Error, variables: &Variables) -> ExitCode {
    let one_line_will_do = asked.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    // Where not even that can be written, the exit status says what there is to say; a reader who has seen enough of the
    // help (`--help | head`) is no fault.
    let _unwritable = if asked.use_stderr() && one_line_will_do {
        let line = variables.name_in(&one_line(&asked.render().to_string()));
        writeln!(io::stderr(), "{program}: {line}; --help tells more")
    } else {
        asked.print()
    };
    ExitCode::from(if asked.use_stderr() { USAGE } else { 0 })
}

/// What clap renders about a mistake, without its usage block and on one line, for a person or a log that reads the first.
fn one_line(rendered: &str) -> String {
    let lines: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.starts_with("Usage:"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let mut text = String::new();
    for line in lines {
        match line.strip_prefix("tip: ") {
            // That is clap's advice for values that begin with a dash, of which none of ours is one.
            Some(tip) if tip.starts_with("to pass '") => {}
            Some(tip) => text.extend(["; ", tip]),
            None if text.is_empty() => text.push_str(line),
            None => text.extend([" ", line]),
        }
    }
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

/// The command with the variables that count. An empty one is none, as `NAME=` in a compose file means it; so is a flag's
/// that says no, because clap takes any value for the flag's presence where options require or exclude each other.
fn prepared(command: Command) -> Command {
    command.mut_args(variable).mut_subcommands(prepared)
}

fn variable(arg: Arg) -> Arg {
    let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = if is_flag { arg.value_parser(flag) } else { arg };
    let value = arg.get_env().and_then(env::var_os);
    let says_no = |value: &OsStr| is_flag && value.to_str().map(flag) == Some(Ok(false));
    match value {
        Some(value) if value.is_empty() || says_no(&value) => arg.env(None::<&'static str>),
        _ => arg,
    }
}

fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(format!(
            "`{text}` is neither yes nor no; write 1, true, yes or on, or 0, false, no or off"
        )),
    }
}

/// The variables that have values which the command line does not give: what clap has complained of stands in one of them,
/// if it is named.
fn set(command: &Command, words: &[OsString], asked: &clap::Error) -> Variables {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let wrong = match asked.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => Some(value.as_str()),
        _ => None,
    };
    let chosen = command
        .get_subcommands()
        .filter(|command| words.contains(&command.get_name()));
    let counts = |(option, variable): &(String, String)| {
        let value = env::var(variable).unwrap_or_default();
        let written = if option.starts_with('-') {
            words
                .iter()
                .any(|word| word.split('=').next() == Some(option))
        } else {
            wrong.is_none_or(|wrong| words.contains(&wrong))
        };
        !value.is_empty() && !written
    };
    Variables(
        std::iter::once(command)
            .chain(chosen)
            .flat_map(Command::get_arguments)
            .filter_map(known)
            .filter(counts)
            .collect(),
    )
}

/// The variables that were used.
fn used(command: &Command, matches: &ArgMatches) -> Variables {
    let mut found = Vec::new();
    let mut level = Some((command, matches));
    while let Some((command, matches)) = level {
        for arg in command.get_arguments() {
            let id = arg.get_id().as_str();
            if matches.try_contains_id(id).is_ok()
                && matches.value_source(id) == Some(ValueSource::EnvVariable)
            {
                found.extend(known(arg));
            }
        }
        level = matches
            .subcommand()
            .and_then(|(name, matches)| Some((command.find_subcommand(name)?, matches)));
    }
    Variables(found)
}

/// How a mistake names an option or an argument, and the variable that it can have its value from.
fn known(arg: &Arg) -> Option<(String, String)> {
    let name = match (arg.get_long(), arg.get_value_names()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some([value, ..])) => format!("<{value}>"),
        (None, _) => return None,
    };
    Some((name, arg.get_env()?.to_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_one_line() {
        let rendered = "error: the following required arguments were not provided:\n  --tunnels <ADDR>\n  --ca <PEM>\n\n\
                        Usage: tidegated run --tunnels <ADDR>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            one_line(rendered),
            "the following required arguments were not provided: --tunnels <ADDR> --ca <PEM>"
        );
        let misspelt = "error: unexpected argument '--tunels' found\n\n  tip: a similar argument exists: '--tunnels'\n";
        assert_eq!(
            one_line(misspelt),
            "unexpected argument '--tunels' found; a similar argument exists: '--tunnels'"
        );
        let negative = "error: unexpected argument '-1' found\n\n  tip: to pass '-1' as a value, use '-- -1'\n";
        assert_eq!(one_line(negative), "unexpected argument '-1' found");
    }

    #[test]
    fn a_mistake_names_the_variables_of_the_options_that_it_names() {
        let pair = |option: &str, variable: &str| (option.to_owned(), variable.to_owned());
        let variables = Variables(vec![pair("--ca", "CA"), pair("--identity", "ID")]);
        for (mistake, told) in [
            (
                "--ca: no such file",
                "--ca: no such file (--ca comes from the variable CA)",
            ),
            ("--ca-file: none", "--ca-file: none"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(variables.name_in(mistake), told);
        }
    }

    #[test]
    fn a_flag_says_yes_or_no_in_the_usual_words() {
        for (text, meant) in [
            ("1", true),
            ("Yes", true),
            ("on", true),
            ("0", false),
            ("FALSE", false),
        ] {
            assert_eq!(flag(text), Ok(meant), "{text}");
        }
        assert!(flag("perhaps").unwrap_err().contains("write 1, true, yes"));
    }
}
