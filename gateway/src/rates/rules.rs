//! What one source may do at a listener, and what happens to the one who does more. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::lists::Listed;
use super::rate::Rate;
use super::table::Key;
use crate::failure::Failure;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Being on a list of those who are not served.
    Deny,
    /// Connections at once.
    Connections,
    ConnectionRate,
    /// Requests at once.
    Requests,
    RequestRate,
    ErrorRate,
}

impl Limit {
    /// In the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::Deny,
        Self::Connections,
        Self::ConnectionRate,
        Self::Requests,
        Self::RequestRate,
        Self::ErrorRate,
    ];

    /// The word for it in the log, in metrics and in the field that marks.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Connections => "connections",
            Self::ConnectionRate => "connection-rate",
            Self::Requests => "requests",
            Self::RequestRate => "request-rate",
            Self::ErrorRate => "error-rate",
        }
    }

    /// How a connection or a request fails for it.
    pub const fn failure(self) -> Failure {
        match self {
            Self::Deny => Failure::Denied,
            Self::Connections | Self::ConnectionRate => Failure::TooManyConnections,
            Self::Requests | Self::RequestRate => Failure::TooManyRequests,
            Self::ErrorRate => Failure::TooManyErrors,
        }
    }
}

/// What happens beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// The connection is closed without a word.
    Refuse,
    /// 429 with the time after which there is room; of a connection in TCP mode, as `Refuse`.
    #[default]
    Tell,
    /// As `Tell`, after a while.
    Tarpit,
    /// Nothing but a field in the request.
    Mark,
}

impl Action {
    /// In the order of their counters.
    pub const ALL: [Self; 4] = [Self::Refuse, Self::Tell, Self::Tarpit, Self::Mark];

    /// The word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Tell => "429",
            Self::Tarpit => "tarpit",
            Self::Mark => "mark",
        }
    }
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|action| action.label() == text);
        known.ok_or_else(|| format!("`{text}` is none of refuse, 429, tarpit and mark"))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Which statuses are errors: 400 to 599, each or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses([u64; 4]);

const FIRST: u16 = 400;
const LAST: u16 = 599;

impl Statuses {
    /// With one more range of them; both ends belong to it.
    pub fn add(&mut self, range: StatusRange) {
        for status in range.first..=range.last {
            let at = usize::from(status - FIRST);
            self.0[at / 64] |= 1 << (at % 64);
        }
    }

    pub fn contains(self, status: u16) -> bool {
        let at = usize::from(status.wrapping_sub(FIRST));
        self.0
            .get(at / 64)
            .is_some_and(|word| word & 1 << (at % 64) != 0)
    }
}

/// `404`, or `400-499`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|octet| octet.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if FIRST <= first && first <= last && last <= LAST => {
                Ok(Self { first, last })
            }
            _ => Err(format!(
                "`{text}` is no status of an error; write it like 404 or 400-499, from {FIRST} to {LAST}"
            )),
        }
    }
}

/// A set of them; listeners without one of their own share the first.
#[derive(Debug)]
pub struct Rules {
    /// Sources are counted apart by it.
    pub id: u16,
    pub v4_prefix: u8,
    pub v6_prefix: u8,
    pub allow: Vec<Arc<Listed>>,
    pub deny: Vec<Arc<Listed>>,
    pub connections: u32,
    pub connection_rate: Option<Rate>,
    pub connection_action: Action,
    pub requests: Option<u32>,
    pub request_rate: Option<Rate>,
    pub request_action: Action,
    pub error_rate: Option<Rate>,
    pub error_statuses: Statuses,
    pub error_action: Action,
    /// The field that says of a request that its source is beyond a limit.
    pub mark: Option<HeaderName>,
    /// How long one who is beyond a limit is held, where that is what happens.
    pub tarpit: Duration,
}

impl Rules {
    pub fn key(&self, address: IpAddr) -> Key {
        Key::of(address, self.v4_prefix, self.v6_prefix, self.id)
    }

    /// The list of those who are not served that an address is on, and its line there.
    pub fn denies(&self, address: IpAddr) -> Option<(&Arc<Listed>, u32)> {
        let mut lists = self.deny.iter();
        lists.find_map(|list| Some((list, list.line_of(address)?)))
    }

    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|list| list.contains(address))
    }

    /// Whether anything of a request counts.
    pub fn watch_requests(&self) -> bool {
        self.requests.is_some()
            || self.request_rate.is_some()
            || self.error_rate.is_some()
            || !self.deny.is_empty()
    }

    /// What happens beyond a limit.
    pub fn action(&self, limit: Limit) -> Action {
        match limit {
            Limit::Deny => Action::Refuse,
            Limit::Connections | Limit::ConnectionRate => self.connection_action,
            Limit::Requests | Limit::RequestRate => self.request_action,
            Limit::ErrorRate => self.error_action,
        }
    }

    /// The limit as it was set: `100/10s`.
    pub fn describe(&self, limit: Limit) -> String {
        let rate = |rate: Option<Rate>| rate.map(|rate| rate.to_string()).unwrap_or_default();
        match limit {
            Limit::Deny => String::new(),
            Limit::Connections => self.connections.to_string(),
            Limit::ConnectionRate => rate(self.connection_rate),
            Limit::Requests => self.requests.unwrap_or_default().to_string(),
            Limit::RequestRate => rate(self.request_rate),
            Limit::ErrorRate => rate(self.error_rate),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let mut all = Statuses::default();
        for text in ["404", "410-418", "599"] {
            all.add(text.parse().unwrap());
        }
        for (status, is) in [
            (404, true),
            (409, false),
            (410, true),
            (418, true),
            (419, false),
            (599, true),
            (400, false),
        ] {
            assert_eq!(all.contains(status), is, "{status}");
        }
        for status in [0, 99, 200, 399, 600, 999, u16::MAX] {
            assert!(!all.contains(status), "{status}");
        }
        for wrong in [
            "", "4xx", "399", "600", "450-440", "400-", "-500", "+404", "0404",
        ] {
            assert!(wrong.parse::<StatusRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_word_is_one_of_its_own() {
        let words: std::collections::HashSet<_> = Limit::ALL.map(Limit::label).into();
        assert_eq!(words.len(), Limit::ALL.len());
        for (at, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, at);
        }
        for (at, action) in Action::ALL.into_iter().enumerate() {
            assert_eq!(action as usize, at);
            assert_eq!(action.label().parse(), Ok(action));
        }
    }
}
