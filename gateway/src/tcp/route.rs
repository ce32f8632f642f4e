//! Where a connection goes, by what its visitor said first. Pure.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use tidegate_shared::client_hello::NoHello;
use tidegate_shared::name::{AgentName, NamePattern, below};

use super::Servers;
use super::hello::Heard;
use crate::backend::Backend;
use crate::backend::greeting::SendProxy;

/// Where a connection goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Over a tunnel of this name.
    Tunnel(AgentName),
    /// To one of these.
    Servers(Arc<Servers>),
    /// To one of this backend's.
    Backend(Arc<Backend>),
}

impl Target {
    /// Whether a server there is to be told what only a ClientHello says.
    fn wants_hello(&self) -> bool {
        match self {
            Self::Tunnel(_) => false,
            Self::Servers(servers) => servers.proxy.as_ref().is_some_and(SendProxy::wants_hello),
            Self::Backend(backend) => backend.send_proxy().is_some_and(|told| told.wants_hello()),
        }
    }
}

/// A listener's routes.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    exact: HashMap<AgentName, Target>,
    /// By what stands behind `*.`.
    below: HashMap<AgentName, Target>,
    /// Where none fits, also for what is no TLS.
    otherwise: Option<Target>,
}

/// Why a connection goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No route is for the name that it asks for, or for none.
    NoRoute,
    /// Its hello is wrong.
    BadHello(NoHello),
    /// It is not TLS, and without a name no route fits.
    NotTls,
    /// Its hello did not come in time.
    Overdue,
    /// It begins with a PROXY header, where only others are believed.
    Header,
    /// It left before it had said whom it asks for.
    Left,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("no route is for its server name"),
            Self::BadHello(no) => no.fmt(f),
            Self::NotTls => f.write_str("it is not TLS, and only routes by server name lead on"),
            Self::Overdue => f.write_str("its ClientHello did not come in time"),
            Self::Header => {
                f.write_str("it begins with a PROXY header, and none is believed from there")
            }
            Self::Left => f.write_str("it left before the end of its ClientHello"),
        }
    }
}

impl Routes {
    /// From routes in the order of their file: of two that want the same, the first counts.
    pub fn new(
        by_name: impl IntoIterator<Item = (NamePattern, Target)>,
        otherwise: Option<Target>,
    ) -> Self {
        let mut all = Self {
            otherwise,
            ..Self::default()
        };
        for (pattern, target) in by_name {
            let (map, name) = match pattern {
                NamePattern::Exact(name) => (&mut all.exact, name),
                NamePattern::Wildcard(rest) => (&mut all.below, rest),
            };
            map.entry(name).or_insert(target);
        }
        all
    }

    /// Whether a visitor's first octets make a difference: to where it goes, or to what a server there is told.
    pub fn want_hello(&self) -> bool {
        self.go_by_name() || self.otherwise.as_ref().is_some_and(Target::wants_hello)
    }

    fn go_by_name(&self) -> bool {
        !self.exact.is_empty() || !self.below.is_empty()
    }

    /// The target for a visitor who said this.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn choose(&self, heard: &Heard) -> Result<&Target, Refusal> {
        let otherwise = |refusal| self.otherwise.as_ref().ok_or(refusal);
        match heard {
            Heard::Hello(hello) => {
                let fits = hello.server_name.as_deref().and_then(|name| {
                    let rest = below(name).and_then(|rest| self.below.get(rest));
                    self.exact.get(name).or(rest)
                });
                fits.map_or_else(|| otherwise(Refusal::NoRoute), Ok)
            }
            Heard::Unasked => otherwise(Refusal::NoRoute),
            // It goes there whatever it says; nobody but its server is to judge it.
            Heard::Not(_) | Heard::Part | Heard::Left if !self.go_by_name() => {
                otherwise(Refusal::NoRoute)
            }
            Heard::Not(no) if no.is_tls() => Err(Refusal::BadHello(*no)),
            Heard::Not(_) => otherwise(Refusal::NotTls),
            Heard::Silence => otherwise(Refusal::Overdue),
            // Half a hello in all that time: whoever is behind would wait for the rest as well.
            Heard::Part => Err(Refusal::Overdue),
            Heard::Left => Err(Refusal::Left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_shared::client_hello::ClientHello;

    fn tunnel(name: &str) -> Target {
        Target::Tunnel(AgentName::parse(name).unwrap())
    }

    fn asks_for(name: Option<&str>) -> Heard {
        Heard::Hello(ClientHello {
            server_name: name.map(Into::into),
            alpn: Vec::new(),
        })
    }

    fn chosen(routes: &Routes, heard: &Heard) -> Result<String, Refusal> {
        routes.choose(heard).map(|target| match target {
            Target::Tunnel(name) => name.to_string(),
            Target::Servers(servers) => servers.name.to_string(),
            Target::Backend(backend) => backend.name.to_string(),
        })
    }

    #[test]
    fn the_most_specific_route_and_else_the_listeners_own() {
        let pattern = |text: &str| NamePattern::from_operator(text).unwrap();
        let by_name = [
            (pattern("*.example.com"), tunnel("two.test")),
            (pattern("db.example.com"), tunnel("one.test")),
            (pattern("db.example.com"), tunnel("never.test")),
        ];
        let mut routes = Routes::new(by_name, Some(tunnel("rest.test")));
        let not = |no| Heard::Not(no);
        for (heard, target) in [
            (asks_for(Some("db.example.com")), "one.test"),
            (asks_for(Some("web.example.com")), "two.test"),
            (asks_for(Some("a.b.example.com")), "rest.test"),
            (asks_for(Some("example.com")), "rest.test"),
            (asks_for(None), "rest.test"),
            (not(NoHello::NotTls), "rest.test"),
            (not(NoHello::Ssl2), "rest.test"),
            (Heard::Silence, "rest.test"),
            (Heard::Unasked, "rest.test"),
        ] {
            assert_eq!(chosen(&routes, &heard).as_deref(), Ok(target), "{heard:?}");
        }
        let bad = NoHello::Malformed("is wrong");
        assert_eq!(chosen(&routes, &not(bad)), Err(Refusal::BadHello(bad)));
        assert_eq!(chosen(&routes, &Heard::Part), Err(Refusal::Overdue));
        assert_eq!(chosen(&routes, &Heard::Left), Err(Refusal::Left));
        routes.otherwise = None;
        for (heard, refusal) in [
            (asks_for(Some("other.test")), Refusal::NoRoute),
            (asks_for(None), Refusal::NoRoute),
            (not(NoHello::NotTls), Refusal::NotTls),
            (Heard::Silence, Refusal::Overdue),
        ] {
            assert_eq!(chosen(&routes, &heard), Err(refusal), "{heard:?}");
        }
        assert!(routes.want_hello());
        assert!(!Routes::default().want_hello());
    }
}
