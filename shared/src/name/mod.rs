//! Names: what a tunnel is filed under, and what a visitor asks for.
//!
//! Text from certificates, operators and visitors becomes a comparable name here, once, at the edge; past this
//! module names are compared as bytes. Pure: no IO, no clock. It does not look names up, and it does not decide
//! whether an agent may hold a wildcard (`certs::peer` does).

use std::borrow::Borrow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use thiserror::Error;

/// What a visitor's Host field or `:authority` names.
mod visitor;

pub use visitor::{BadHost, VisitorHost, visitor_host};

/// The longest name in octets, without the trailing dot (RFC 1035 §2.3.4 less the root and the first length octet).
pub const MAX_NAME: usize = 253;

/// The longest label in octets (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;

/// A DNS host name in its one comparable form: lower case, no trailing dot, internationalised labels as A-labels.
///
/// Labels are letters, digits and hyphens, at most [`MAX_LABEL`] octets each and [`MAX_NAME`] in all. One label is
/// enough (`blog`, `localhost`). IP addresses, and whatever a URL parser would take for one, are not names.
/// Cloning is a reference count. Maps keyed by it can be searched with `&str`, provided that the text is already
/// in the form above (as [`visitor_host`] gives it).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// Reads a name as a certificate states it. Case and one trailing dot are forgiven.
    ///
    /// # Errors
    /// Whatever is not a host name, with the reason. A U-label (`bücher.example`) is refused: in a certificate
    /// names are A-labels (RFC 5280 §7.2), and two spellings of one name are how names get stolen.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        canonical(text).map(Self)
    }

    /// Reads a name as a person types it: as [`AgentName::parse`], and U-labels become A-labels (UTS #46).
    ///
    /// # Errors
    /// Whatever is not a host name, or not an internationalised one, with the reason.
    pub fn from_operator(text: &str) -> Result<Self, BadName> {
        if text.is_ascii() {
            return Self::parse(text);
        }
        let ascii = Uts46::new()
            .to_ascii(
                text.as_bytes(),
                AsciiDenyList::STD3,
                Hyphens::Allow,
                DnsLength::Ignore,
            )
            .map_err(|_| BadName::BadInternational(shown(text)))?;
        Self::parse(&ascii)
    }

    /// The name as text, in its comparable form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for AgentName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for AgentName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = BadName;

    /// As [`AgentName::from_operator`]: text that a program parses by `FromStr` was typed by a person.
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::from_operator(text)
    }
}

/// One name, or every name one label below another.
///
/// A wildcard is `*.` before a name: exactly one label, never bare, and never directly below a public suffix
/// (`*.com`, `*.co.uk`, `*.github.io`: its holder would get the traffic of strangers). A suffix that the public
/// list does not know counts as public when it is a single label (`*.test`), as the list's default rule says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// The name itself.
    Exact(AgentName),
    /// Names of exactly one label more than this one.
    Wildcard(AgentName),
}

impl NamePattern {
    /// Reads a pattern as a certificate states it, see [`AgentName::parse`].
    ///
    /// # Errors
    /// As [`AgentName::parse`], and for wildcards that are bare, partial, deep or as wide as a public suffix.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        Self::read(text, AgentName::parse)
    }

    /// Reads a pattern as a person types it, see [`AgentName::from_operator`].
    ///
    /// # Errors
    /// As [`NamePattern::parse`], except that U-labels are converted.
    pub fn from_operator(text: &str) -> Result<Self, BadName> {
        Self::read(text, AgentName::from_operator)
    }

    fn read(
        text: &str,
        name: impl Fn(&str) -> Result<AgentName, BadName>,
    ) -> Result<Self, BadName> {
        let whole = |bad: BadName| bad.within(text);
        let Some(rest) = text.strip_prefix("*.") else {
            return match text {
                "*" => Err(BadName::BareWildcard),
                _ => name(text).map(Self::Exact).map_err(whole),
            };
        };
        if rest.is_empty() || rest == "." {
            return Err(BadName::BareWildcard);
        }
        let rest = name(rest).map_err(whole)?;
        if rest.as_str().len() + "*.".len() > MAX_NAME {
            return Err(BadName::TooLong(rest.as_str().len() + "*.".len()));
        }
        if psl::suffix_str(rest.as_str()) == Some(rest.as_str()) {
            return Err(BadName::PublicSuffix(rest));
        }
        Ok(Self::Wildcard(rest))
    }

    /// The name, unless this is a wildcard.
    #[must_use]
    pub const fn exact(&self) -> Option<&AgentName> {
        match self {
            Self::Exact(name) => Some(name),
            Self::Wildcard(_) => None,
        }
    }

    /// Whether this stands for more than one name.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        matches!(self, Self::Wildcard(_))
    }

    /// Whether whatever `other` stands for is meant.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == other
            || other
                .exact()
                .is_some_and(|name| self.matches(name.as_str()))
    }

    /// Whether `host`, in comparable form, is meant. A wildcard does not cover the name that it stands below.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.as_str() == host,
            Self::Wildcard(rest) => below(host) == Some(rest.as_str()),
        }
    }
}

impl From<AgentName> for NamePattern {
    fn from(name: AgentName) -> Self {
        Self::Exact(name)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name.as_str()),
            Self::Wildcard(rest) => write!(f, "*.{rest}"),
        }
    }
}

impl fmt::Debug for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl FromStr for NamePattern {
    type Err = BadName;

    /// As [`NamePattern::from_operator`].
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::from_operator(text)
    }
}

/// What a wildcard that covers `host` would be written over: `host` without its first label.
///
/// `None` for a single label, for an empty first label and for an IPv6 literal. This is the key for a second
/// look-up in a map of wildcards, after the exact one has missed.
#[must_use]
pub fn below(host: &str) -> Option<&str> {
    let (first, rest) = host.split_once('.')?;
    (!first.is_empty() && !rest.is_empty() && !first.starts_with('[')).then_some(rest)
}

/// Why a text is not a name. One sentence each, safe to log: what the text held is escaped and cut short.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadName {
    /// Nothing but, at most, a dot.
    #[error("the name is empty")]
    Empty,
    /// Over [`MAX_NAME`].
    #[error("the name is {0} octets long, {MAX_NAME} is the limit")]
    TooLong(usize),
    /// Two dots in a row, or one in front.
    #[error("the name {0} has an empty label (two dots in a row, or one in front)")]
    EmptyLabel(String),
    /// Over [`MAX_LABEL`].
    #[error("the label {0} is over {MAX_LABEL} octets long")]
    LabelTooLong(String),
    /// A label starts or ends with a hyphen.
    #[error("the label {0} starts or ends with a hyphen")]
    Hyphen(String),
    /// A NUL: the classic way to make two readers see two names.
    #[error("the name {0} contains a NUL")]
    Nul(String),
    /// A control character.
    #[error("the name {0} contains a control character")]
    Control(String),
    /// Anything else that is neither letter, digit, hyphen nor dot.
    #[error(
        "the name {name} contains {found:?}; only letters, digits, hyphens and dots may be in it"
    )]
    Character {
        /// The whole name.
        name: String,
        /// The first character that has no place in it.
        found: char,
    },
    /// A U-label where only A-labels count.
    #[error("the name {0} is not ASCII; write it in its xn-- form")]
    NotAscii(String),
    /// An `xn--` label that does not decode, or not back to itself.
    #[error("the name {0} has an xn-- label that is not valid (UTS #46)")]
    BadPunycode(String),
    /// A U-label that cannot be converted.
    #[error("the name {0} is not a valid internationalised name (UTS #46)")]
    BadInternational(String),
    /// An address, or what URL parsers take for one: the last label is a number.
    #[error("{0} is an IP address or ends in a number; a host name is needed")]
    Address(String),
    /// `*` alone.
    #[error("a bare wildcard would cover every name; write *.example.com")]
    BareWildcard,
    /// A star in what is to be one name.
    #[error("{0} has a star in it; one name is due, without a star")]
    Star(String),
    /// A star anywhere but as the whole first label.
    #[error(
        "in {0} a star stands elsewhere than in front; a wildcard is one `*.` before a name, such as *.example.com"
    )]
    OddWildcard(String),
    /// A wildcard as wide as a public suffix.
    #[error(
        "*.{0} would cover names of strangers: {0} is a public suffix; write the wildcard one label lower"
    )]
    PublicSuffix(AgentName),
}

impl BadName {
    /// The same, of what stands in `pattern`: there a star has its place, and this is about the whole of it.
    #[must_use]
    pub fn within(self, pattern: &str) -> Self {
        match self {
            Self::Star(_) => Self::OddWildcard(shown(pattern)),
            other => other,
        }
    }
}

/// `text` in comparable form.
fn canonical(text: &str) -> Result<Arc<str>, BadName> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err(BadName::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(BadName::TooLong(name.len()));
    }
    check_characters(name)?;
    let name = name.to_ascii_lowercase();
    for label in name.split('.') {
        check_label(&name, label)?;
    }
    if is_address(&name) {
        return Err(BadName::Address(shown(&name)));
    }
    if name.split('.').any(|label| label.starts_with("xn--")) {
        check_punycode(&name)?;
    }
    Ok(name.into())
}

fn check_characters(name: &str) -> Result<(), BadName> {
    // An IPv6 address is told as such, and not as "contains ':'".
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Err(BadName::Address(shown(name)));
    }
    match name
        .chars()
        .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.'))
    {
        None => Ok(()),
        Some('\0') => Err(BadName::Nul(shown(name))),
        Some(c) if c.is_control() => Err(BadName::Control(shown(name))),
        Some('*') => Err(BadName::Star(shown(name))),
        Some(c) if !c.is_ascii() => Err(BadName::NotAscii(shown(name))),
        Some(found) => Err(BadName::Character {
            name: shown(name),
            found,
        }),
    }
}

fn check_label(name: &str, label: &str) -> Result<(), BadName> {
    if label.is_empty() {
        return Err(BadName::EmptyLabel(shown(name)));
    }
    if label.len() > MAX_LABEL {
        return Err(BadName::LabelTooLong(shown(label)));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(BadName::Hyphen(shown(label)));
    }
    Ok(())
}

/// Whether the last label is a number, decimal or `0x…`: URL parsers then read the whole as an IPv4 address
/// (WHATWG URL §3.5 "ends in a number"), and `127.1` or `0x7f000001` must not become somebody's name.
fn is_address(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x");
    name.parse::<Ipv4Addr>().is_ok()
        || last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The `xn--` labels must decode, and encode to themselves again: otherwise one name would have two spellings.
fn check_punycode(name: &str) -> Result<(), BadName> {
    let uts46 = Uts46::new();
    let (unicode, valid) = uts46.to_unicode(name.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow);
    let again = uts46.to_ascii(
        unicode.as_bytes(),
        AsciiDenyList::STD3,
        Hyphens::Allow,
        DnsLength::Ignore,
    );
    match (valid, again) {
        (Ok(()), Ok(again)) if again == name => Ok(()),
        _ => Err(BadName::BadPunycode(shown(name))),
    }
}

/// `text` for a log line: quoted, escaped, at most 64 characters of it.
fn shown(text: &str) -> String {
    const MOST: usize = 64;
    let head: String = text.chars().take(MOST).collect();
    let cut = if head.len() < text.len() { "…" } else { "" };
    format!("{head:?}{cut}")
}

#[cfg(test)]
mod tests;
