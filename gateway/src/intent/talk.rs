//! What `tidegated set` and `get` say to a gateway, and what it answers: one line of JSON each way, then the connection is over.
//! Pure.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tidegate_shared::text;

use super::{Mode, Note};
use crate::backend::config::share;

/// Longest question that is read, in octets.
pub(super) const LONGEST_QUESTION: u64 = 16 * 1024;

/// Longest reason and longest name of somebody that are kept, in characters.
const LONGEST_WORDS: usize = 200;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Asked {
    /// What there is.
    Get(Which),
    /// Something else is to hold.
    Set(Order),
    /// Another gateway is to have the socket, and to keep the state file.
    GiveWay,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Servers(Vec<Row>),
    Done {
        /// What holds, as a sentence.
        said: String,
        /// It holds, and is not in the state file, for this.
        unsaved: Option<String>,
    },
    /// It was not done, for this.
    Refused(String),
}

/// The servers that somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// All of them unless given.
    pub backend: Option<String>,
    pub server: Option<String>,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (backend, server) = match text.split_once('/') {
            Some((backend, server)) => (backend, Some(server)),
            None => (text, None),
        };
        if backend.is_empty()
            || server.is_some_and(|server| server.is_empty() || server.contains('/'))
        {
            return Err(format!("`{text}` is neither BACKEND nor BACKEND/SERVER"));
        }
        Ok(Self {
            backend: Some(backend.to_owned()),
            server: server.map(str::to_owned),
        })
    }
}

/// One server, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub backend: String,
    pub server: String,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(Which {
                backend: Some(backend),
                server: Some(server),
            }) => Ok(Self { backend, server }),
            _ => Err(format!(
                "`{text}` is no server; write BACKEND/SERVER, as `tidegated get` lists them"
            )),
        }
    }
}

/// What is to hold for a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub place: Place,
    pub change: Change,
    /// For how long, in seconds; `None` until it is taken back.
    pub seconds: Option<u64>,
    pub why: Option<String>,
    /// Who says so. The gateway adds the user that the system knows.
    pub who: Option<String>,
}

/// What is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is used as it is declared.
    Ready,
    Mode(Mode),
    /// Its share; `None` for the one that is declared.
    Weight(#[serde(deserialize_with = "asked_share")] Option<u16>),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ready" => Ok(Self::Ready),
            "drain" => Ok(Self::Mode(Mode::Drain)),
            "maintenance" => Ok(Self::Mode(Mode::Maintenance)),
            "weight=declared" => Ok(Self::Weight(None)),
            _ => match text.strip_prefix("weight=") {
                Some(weight) => share(weight).map(|weight| Self::Weight(Some(weight))),
                None => Err(format!(
                    "`{text}` cannot be asked of a server; write ready, drain, maintenance, weight=N or weight=declared"
                )),
            },
        }
    }
}

/// A share where a machine says it.
pub(super) fn asked_share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let number = Option::<i64>::deserialize(from)?;
    let share = number.map(|number| share(&number.to_string()));
    share.transpose().map_err(D::Error::custom)
}

/// A server, as `tidegated get` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub backend: String,
    pub server: String,
    pub address: String,
    /// Whether it is used, and if not why: one word.
    pub state: String,
    pub backup: bool,
    pub weight: u32,
    /// The operator's, or that of its SRV record.
    pub declared_weight: u32,
    /// What it gets for the time being: nothing while it is drained, and less than its weight while it starts slowly.
    pub effective_weight: f64,
    /// Of its SRV record: the lower, the sooner it is used.
    pub priority: Option<u16>,
    pub in_flight: usize,
    pub connections: usize,
    pub requests: u64,
    /// Who asked for another state than the declared one, and why.
    pub mode: Option<Note>,
    /// The same of another weight.
    pub weighed: Option<Note>,
    /// Why it is down or left out.
    pub fault: Option<String>,
}

/// Somebody's words, fit for a log and a file: one line that steers no terminal, and not too long. Done twice it is as done once.
pub(super) fn tidied(words: &str) -> String {
    let spaced = words.replace(['\t', '\n', '\r'], " ");
    let text = text::quoted(spaced.trim().as_bytes());
    let most: String = text.chars().take(LONGEST_WORDS).collect();
    most.trim_end().to_owned()
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.backend, self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_orders_or_say_what_to_write() {
        for (text, change) in [
            ("ready", Change::Ready),
            ("drain", Change::Mode(Mode::Drain)),
            ("maintenance", Change::Mode(Mode::Maintenance)),
            ("weight=0", Change::Weight(Some(0))),
            ("weight=256", Change::Weight(Some(256))),
            ("weight=declared", Change::Weight(None)),
        ] {
            assert_eq!(text.parse(), Ok(change));
        }
        for text in [
            "",
            "Drain",
            "weight",
            "weight=",
            "weight=257",
            "weight=-1",
            "10.0.0.1:80",
        ] {
            assert!(text.parse::<Change>().is_err(), "{text}");
        }
        for text in ["alb", "alb/", "/one", "a/b/c", ""] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        assert_eq!("alb/one".parse::<Place>().unwrap().to_string(), "alb/one");
        assert_eq!("alb".parse::<Which>().unwrap().server, None);
    }

    #[test]
    fn a_weight_is_bounded_whoever_says_it() {
        let read = |weight: &str| {
            serde_json::from_str::<Change>(&format!("{{\"weight\":{weight}}}"))
                .map_err(|error| error.to_string())
        };
        assert_eq!(read("null").unwrap(), Change::Weight(None));
        assert_eq!(read("256").unwrap(), Change::Weight(Some(256)));
        for beyond in ["257", "65535", "65536", "-1"] {
            let why = read(beyond).unwrap_err();
            assert!(
                why.contains(&format!("`{beyond}` is not a whole number from 0 to 256")),
                "{why}"
            );
        }
    }

    #[test]
    fn words_are_one_line_and_not_too_long() {
        assert_eq!(tidied(" a\nb\u{1b}[31m "), "a b\\u{1b}[31m");
        let turned = tidied("für \u{202e}ksid\u{2028}\u{85}x");
        assert_eq!(turned, "für \\u{202e}ksid\\u{2028}\\u{85}x");
        assert_eq!(tidied(&turned), turned);
        let long = tidied(&"\u{202e}".repeat(1000));
        assert_eq!(long.chars().count(), LONGEST_WORDS);
        assert_eq!(tidied(&long), long);
        assert_eq!(tidied(&"x".repeat(1000)).len(), LONGEST_WORDS);
    }
}
