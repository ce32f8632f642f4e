//! What an operator says of a backend's checks. Plain and pure: `config::checks` fills these from a file, the checks go by them.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

/// How servers are asked whether they are fit. Times are HAProxy's `inter`, `fastinter`, `downinter` and `timeout check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked; `None` where a connection, with TLS where it is spoken, is enough.
    pub ask: Option<Ask>,
    /// Where, if elsewhere than requests go.
    pub port: Option<u16>,
    /// Whether over TLS; `None` for what requests do.
    pub tls: Option<bool>,
    /// Whether behind a PROXY header, which says that the gateway speaks for itself; `None` for what requests do.
    pub send_proxy: Option<bool>,
    /// From the beginning of one check to that of the next.
    pub interval: Duration,
    /// The same while the verdict is about to change, and before the first.
    pub fast: Duration,
    /// The same while the server is down.
    pub down: Duration,
    /// For all of one check: connection, TLS, the head of the answer.
    pub timeout: Duration,
    /// So many in a row must pass for a server that is down to be up; 1 or more.
    pub rise: u32,
    /// So many in a row must fail for a server that is up to be down; 1 or more.
    pub fall: u32,
}

/// A request, and what answers it well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub method: Method,
    pub path: PathAndQuery,
    /// `None` for the address that is asked.
    pub host: Option<HeaderValue>,
    pub statuses: Statuses,
}

impl Default for Check {
    fn default() -> Self {
        let interval = Duration::from_secs(2);
        Self {
            ask: None,
            port: None,
            tls: None,
            send_proxy: None,
            interval,
            fast: interval,
            down: interval,
            timeout: interval,
            rise: 2,
            fall: 3,
        }
    }
}

impl Ask {
    /// A GET for a path, with everything else as usual.
    pub fn of(path: PathAndQuery) -> Self {
        Self {
            method: Method::GET,
            path,
            host: None,
            statuses: Statuses::default(),
        }
    }
}

/// A path with its query, as an operator writes it.
///
/// # Errors
/// A sentence that says what to write.
pub fn path(text: &str) -> Result<PathAndQuery, String> {
    let wrong = || format!("`{text}` is no path to ask for; write one like /health");
    if !text.starts_with('/') || text.contains('#') {
        return Err(wrong());
    }
    text.parse().map_err(|_bad| wrong())
}

/// The statuses that an answer may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

/// Those of success and of redirection, as with HAProxy.
impl Default for Statuses {
    fn default() -> Self {
        Self(vec![200..=399])
    }
}

impl Statuses {
    /// All of them together.
    pub fn union(all: impl IntoIterator<Item = Self>) -> Self {
        Self(all.into_iter().flat_map(|one| one.0).collect())
    }

    pub fn contain(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }
}

/// `200`, `200-299`, `200-299, 401`.
impl FromStr for Statuses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no status that an answer can have; write one from 200 to 599, a range like 200-299, or several with commas"
            )
        };
        let number = |digits: &str| -> Result<u16, String> {
            let plain = digits.len() == 3 && digits.bytes().all(|octet| octet.is_ascii_digit());
            let number = digits.parse().map_err(|_bad| wrong())?;
            // An interim response (1xx) never ends an exchange.
            if plain && (200..=599).contains(&number) {
                Ok(number)
            } else {
                Err(wrong())
            }
        };
        let range = |part: &str| -> Result<RangeInclusive<u16>, String> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first.trim())?, number(last.trim())?);
            if first > last {
                return Err(wrong());
            }
            Ok(first..=last)
        };
        let ranges: Result<_, _> = text.split(',').map(|part| range(part.trim())).collect();
        ranges.map(Self)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, range) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_and_ranges() {
        let some: Statuses = "200-299,304 , 401".parse().unwrap();
        assert_eq!(some.to_string(), "200-299, 304, 401");
        for (status, fine) in [
            (200, true),
            (299, true),
            (300, false),
            (304, true),
            (500, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(some.contain(status), fine, "{status}");
        }
        assert_eq!(some.to_string().parse(), Ok(some));
        for text in [
            "",
            "20",
            "2xx",
            "0200",
            "600",
            "101",
            "299-200",
            "200-",
            "+20",
            "200,",
            "200-299-300",
        ] {
            assert!(text.parse::<Statuses>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_begins_with_a_slash() {
        assert_eq!(path("/health?deep=1").unwrap(), "/health?deep=1");
        for text in [
            "",
            "health",
            "http://a/health",
            "/a b",
            "/a#b",
            "/\u{7f}",
            "*",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
    }
}
