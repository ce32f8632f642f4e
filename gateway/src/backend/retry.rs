//! Which failures of a server a request is sent again for, as an operator says it. Pure. Whether it may be sent once more at all,
//! whatever is said here, is its errand's to know.

use std::fmt;
use std::str::FromStr;

use http::StatusCode;

use super::server::What;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No connection came about.
    Unreachable,
    /// The server closed or reset the connection before an answer.
    Closed,
    /// No answer in time.
    Timeout,
    /// What it answered is not HTTP.
    Invalid,
    /// It answered with this status.
    Status(u16),
}

/// Statuses that another server, or a later moment, may not give.
const STATUSES: [u16; 7] = [408, 425, 429, 500, 502, 503, 504];

const WORDS: [(&str, Reason); 4] = [
    ("unreachable", Reason::Unreachable),
    ("closed", Reason::Closed),
    ("timeout", Reason::Timeout),
    ("invalid-response", Reason::Invalid),
];

/// All of those for which a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOn(u16);

impl Default for RetryOn {
    fn default() -> Self {
        [Reason::Unreachable, Reason::Closed].into_iter().collect()
    }
}

impl Reason {
    fn all() -> impl Iterator<Item = Self> {
        let words = WORDS.into_iter().map(|(_, reason)| reason);
        words.chain(STATUSES.into_iter().map(Self::Status))
    }
}

impl FromStr for Reason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::all().find(|reason| reason.to_string() == text);
        known.ok_or_else(|| {
            let all: Vec<String> = Self::all().map(|reason| reason.to_string()).collect();
            format!(
                "`{text}` is nothing that a request is sent again for; these are known: {}",
                all.join(", ")
            )
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Status(status) = self {
            return write!(f, "{status}");
        }
        let word = WORDS.into_iter().find(|(_, reason)| reason == self);
        f.write_str(word.map_or("", |(word, _)| word))
    }
}

impl FromIterator<Reason> for RetryOn {
    fn from_iter<I: IntoIterator<Item = Reason>>(reasons: I) -> Self {
        let bit = |reason| 1 << Reason::all().take_while(|one| *one != reason).count();
        Self(
            reasons
                .into_iter()
                .fold(0, |bits, reason| bits | bit(reason)),
        )
    }
}

impl RetryOn {
    /// One by one.
    pub fn reasons(self) -> impl Iterator<Item = Reason> {
        let all = Reason::all().enumerate();
        let set = all.filter(move |(place, _)| self.0 & 1 << place != 0);
        set.map(|(_, reason)| reason)
    }

    fn has(self, wanted: Reason) -> bool {
        self.reasons().any(|reason| reason == wanted)
    }

    pub(super) fn covers(self, what: What) -> bool {
        match what {
            What::Unreachable => self.has(Reason::Unreachable),
            What::Closed => self.has(Reason::Closed),
            What::Timeout => self.has(Reason::Timeout),
            What::Invalid => self.has(Reason::Invalid),
            // Of these the visitor has had a part.
            What::Cut | What::Stalled => false,
        }
    }

    /// Whether any answer with this status is asked for again.
    pub(super) fn covers_status(self, status: StatusCode) -> bool {
        (status.is_client_error() || status.is_server_error())
            && self.has(Reason::Status(status.as_u16()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_written_as_it_is_read() {
        for reason in Reason::all() {
            assert_eq!(reason.to_string().parse(), Ok(reason));
            let only: RetryOn = [reason].into_iter().collect();
            assert_eq!(only.reasons().collect::<Vec<_>>(), [reason]);
        }
        let told = "conn-failure".parse::<Reason>().unwrap_err();
        assert_eq!(
            told,
            "`conn-failure` is nothing that a request is sent again for; these are known: unreachable, closed, timeout, \
             invalid-response, 408, 425, 429, 500, 502, 503, 504"
        );
    }

    #[test]
    fn unless_said_it_is_what_an_answer_has_not_begun_for() {
        let usual = RetryOn::default();
        let covered = What::ALL.into_iter().filter(|what| usual.covers(*what));
        assert_eq!(
            covered.collect::<Vec<_>>(),
            [What::Unreachable, What::Closed]
        );
        assert!(!usual.covers_status(StatusCode::SERVICE_UNAVAILABLE));
        let busy: RetryOn = [Reason::Status(503)].into_iter().collect();
        assert!(busy.covers_status(StatusCode::SERVICE_UNAVAILABLE));
        assert!(!busy.covers_status(StatusCode::BAD_GATEWAY));
        assert!(!busy.covers(What::Unreachable));
    }
}
