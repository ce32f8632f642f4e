//! Which target a request goes to: by host, path and fields, over a table that is made once and never changes. Pure. A lookup
//! costs as much with ten routes as with a hundred thousand.
//!
//! The most specific route wins: one for the very host before a wildcard, a wildcard before one for any host; then the longer
//! path, then more fields, then the one that stands first. What no route wants is for the tunnel of the host's name.

use std::collections::HashMap;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tidegate_shared::name::{AgentName, NamePattern};

/// What a request must be like, and where it goes then: to a `T`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<T> {
    /// `None` for any.
    pub host: Option<NamePattern>,
    /// Whole segments from the path's beginning, as the visitor writes them; empty for any.
    pub path: String,
    /// Fields, each with a value that one of its lines must have.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    pub target: T,
}

impl<T> Route<T> {
    /// The same, to what `target` makes of its target; `None` where that is nothing.
    pub fn to<U>(&self, target: impl Fn(&T) -> Option<U>) -> Option<Route<U>> {
        Some(Route {
            host: self.host.clone(),
            path: self.path.clone(),
            fields: self.fields.clone(),
            target: target(&self.target)?,
        })
    }
}

/// All routes of one listener.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    exact: HashMap<AgentName, Paths<T>>,
    /// By what stands behind `*.`.
    below: HashMap<AgentName, Paths<T>>,
    any: Paths<T>,
}

/// The routes of one host, by path.
#[derive(Clone, Debug)]
struct Paths<T> {
    /// The lengths that occur, longest first.
    lengths: Vec<usize>,
    /// In each list those with more fields stand first.
    of: HashMap<Vec<u8>, Vec<Choice<T>>>,
}

#[derive(Clone, Debug)]
struct Choice<T> {
    fields: Vec<(HeaderName, HeaderValue)>,
    target: T,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            below: HashMap::new(),
            any: Paths::default(),
        }
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
            of: HashMap::new(),
        }
    }
}

impl<T> Routes<T> {
    /// From routes in the order of their file.
    pub fn new(routes: impl IntoIterator<Item = Route<T>>) -> Self {
        let mut all = Self::default();
        for route in routes {
            let paths = match route.host {
                Some(NamePattern::Exact(name)) => all.exact.entry(name).or_default(),
                Some(NamePattern::Wildcard(rest)) => all.below.entry(rest).or_default(),
                None => &mut all.any,
            };
            let choice = Choice {
                fields: route.fields,
                target: route.target,
            };
            paths.add(route.path.into_bytes(), choice);
        }
        all
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.below.is_empty() && self.any.of.is_empty()
    }

    /// Where a request goes. `host` in comparable form, `path` without its query.
    pub fn target(&self, host: &str, path: &str, fields: &HeaderMap) -> Option<&T> {
        let below = host.split_once('.').map(|(_, rest)| rest);
        let hosts = [
            self.exact.get(host),
            below.and_then(|rest| self.below.get(rest)),
            Some(&self.any),
        ];
        hosts
            .into_iter()
            .flatten()
            .find_map(|paths| paths.target(path.as_bytes(), fields))
    }
}

impl<T> Paths<T> {
    fn add(&mut self, path: Vec<u8>, choice: Choice<T>) {
        if let Err(at) = self.lengths.binary_search_by(|known| path.len().cmp(known)) {
            self.lengths.insert(at, path.len());
        }
        let choices = self.of.entry(path).or_default();
        let at = choices.partition_point(|known| known.fields.len() >= choice.fields.len());
        choices.insert(at, choice);
    }

    fn target(&self, path: &[u8], fields: &HeaderMap) -> Option<&T> {
        let whole = |length: usize| {
            length == 0 || length == path.len() || path[length] == b'/' || path[length - 1] == b'/'
        };
        self.lengths
            .iter()
            .filter(|length| **length <= path.len() && whole(**length))
            .filter_map(|length| self.of.get(&path[..*length]))
            .flatten()
            .find(|choice| choice.wants(fields))
            .map(|choice| &choice.target)
    }
}

impl<T> Choice<T> {
    fn wants(&self, fields: &HeaderMap) -> bool {
        self.fields
            .iter()
            .all(|(name, value)| fields.get_all(name).iter().any(|line| line == value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(name: &str) -> String {
        name.to_owned()
    }

    fn route(host: &str, path: &str, target: &str) -> Route<String> {
        let host = match host.strip_prefix("*.") {
            Some(rest) => Some(NamePattern::Wildcard(AgentName::parse(rest).unwrap())),
            None if host == "*" => None,
            None => Some(NamePattern::Exact(AgentName::parse(host).unwrap())),
        };
        Route {
            host,
            path: path.to_owned(),
            fields: Vec::new(),
            target: to(target),
        }
    }

    fn with(mut route: Route<String>, name: &'static str, value: &'static str) -> Route<String> {
        let field = (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
        route.fields.push(field);
        route
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = Routes::new([
            route("*", "", "any"),
            route("*.b.test", "", "below"),
            route("a.b.test", "/api", "api"),
            route("a.b.test", "/api/v2", "two"),
            with(route("a.b.test", "/api", "canary"), "x-canary", "1"),
            route("a.b.test", "/files/", "files"),
        ]);
        let none = HeaderMap::new();
        let mut canary = HeaderMap::new();
        canary.append("x-canary", HeaderValue::from_static("0"));
        canary.append("x-canary", HeaderValue::from_static("1"));
        for (host, path, fields, target) in [
            ("a.b.test", "/api", &none, "api"),
            ("a.b.test", "/api/", &none, "api"),
            ("a.b.test", "/api/v1", &canary, "canary"),
            ("a.b.test", "/api/v2/x", &canary, "two"),
            // Not a whole segment; then the wildcard's, which stands for this host as well.
            ("a.b.test", "/apiary", &none, "below"),
            ("a.b.test", "/API", &none, "below"),
            ("a.b.test", "/files/x", &none, "files"),
            ("a.b.test", "/files", &none, "below"),
            ("c.b.test", "/api", &none, "below"),
            ("b.test", "/", &none, "any"),
            ("d.c.b.test", "/", &none, "any"),
            ("127.0.0.1", "*", &none, "any"),
        ] {
            assert_eq!(
                routes.target(host, path, fields),
                Some(&to(target)),
                "{host}{path}"
            );
        }
        assert_eq!(Routes::<String>::default().target("a", "/", &none), None);
        let first = Routes::new([route("a.test", "", "one"), route("a.test", "", "two")]);
        assert_eq!(first.target("a.test", "/", &none), Some(&to("one")));
    }

    proptest! {
        /// The table finds what going through all routes one by one would find.
        #[test]
        fn as_one_by_one(
            routes in prop::collection::vec(("[ab*]", "(/[ab]{0,2}){0,3}/?"), 0..12),
            host in "[ab]", path in "(/[ab]{0,2}){1,4}/?",
        ) {
            let table = Routes::new(routes.iter().enumerate().map(|(n, (host, path))| {
                route(host, path, &format!("n{n}"))
            }));
            let fits = |prefix: &str| path == prefix || prefix.is_empty()
                || path.starts_with(&format!("{}/", prefix.strip_suffix('/').unwrap_or(prefix)));
            let best = routes
                .iter()
                .enumerate()
                .filter(|(_, (of, prefix))| (*of == host || of == "*") && fits(prefix))
                .max_by_key(|(n, (of, prefix))| (of != "*", prefix.len(), usize::MAX - n))
                .map(|(n, _)| to(&format!("n{n}")));
            let found = table.target(&host, &path, &HeaderMap::new());
            prop_assert_eq!(found, best.as_ref());
        }
    }
}
