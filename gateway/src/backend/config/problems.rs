//! What is wrong with what an operator says of a backend, each with what to write.

use std::borrow::Cow;
use std::collections::HashSet;

use rustls::pki_types::ServerName;

use super::{Backend, Place, Protocol, Server, Terms, Tls};

/// Something wrong with a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which of its keys is to blame: `tls.ca`.
    pub key: Cow<'static, str>,
    /// What it is, and what to write.
    pub text: String,
}

fn wrong(key: impl Into<Cow<'static, str>>, text: String) -> Wrong {
    Wrong {
        key: key.into(),
        text,
    }
}

/// Retries beyond this help nobody who waits.
const MOST_RETRIES: u32 = 10;

impl Backend {
    /// Everything that is wrong with it, each as a sentence that says what to write.
    pub fn problems(&self) -> Vec<Wrong> {
        let mut found = Vec::new();
        let name = &self.name;
        if self.servers.is_empty() {
            found.push(wrong("servers", format!(
                "backend `{name}` has no server; add [backends.{name}.servers] with a line like one = \"10.0.0.1:8080\""
            )));
        } else if self.servers.iter().all(|server| server.weight == 0) {
            found.push(wrong("servers", format!(
                "every server of backend `{name}` has weight 0, so that none would be used; give one a weight of 1 or more"
            )));
        }
        let mut names = HashSet::new();
        for called in self.servers.iter().flat_map(Server::places) {
            if names.contains(&called) {
                found.push(wrong(
                    format!("servers.{called}"),
                    format!("backend `{name}` has two servers called `{called}`; rename one"),
                ));
            }
            names.insert(called);
        }
        if let Some(tls) = &self.tls {
            found.extend(tls.problems(name, &self.servers));
        } else if self.protocol == Protocol::Either {
            found.push(wrong("protocol", format!(
                "backend `{name}`: without TLS there is no ALPN to choose by; write protocol = \"h2\" or \"http/1.1\", or tls = true"
            )));
        }
        found.extend(self.terms.problems(name));
        let checks_tls = self.check.as_ref().and_then(|check| check.tls);
        if self.tls.is_none() && checks_tls == Some(true) {
            found.push(wrong("check.tls", format!(
                "backend `{name}`: check.tls = true needs to know whom to believe; give the backend `tls`, or leave it out here"
            )));
        }
        let checks_tell = self.check.as_ref().and_then(|check| check.send_proxy);
        if self.send_proxy.is_none() && checks_tell == Some(true) {
            found.push(wrong("check.send_proxy", format!(
                "backend `{name}`: check.send_proxy = true has no header to send; give the backend send_proxy = \"v2\", or leave it out here"
            )));
        }
        found
    }
}

impl Tls {
    fn problems(&self, backend: &str, servers: &[Server]) -> Vec<Wrong> {
        let mut found = Vec::new();
        if self.unverified && self.ca.is_some() {
            found.push(wrong("tls.ca", format!(
                "backend `{backend}`: verify = false takes any certificate, and `ca` would have no effect; leave one of the two out"
            )));
        }
        let services = |server: &&Server| matches!(server.place, Place::Services { .. });
        if self.server_name.is_none() && servers.iter().any(|server| services(&server)) {
            found.push(wrong("tls", format!(
                "backend `{backend}`: whoever answers for DNS would choose whose certificate is believed of servers found by `srv`; write the name that their certificate has as tls.server_name"
            )));
        }
        let hosts = servers.iter().filter(|server| !services(server));
        let hosts = hosts.map(Server::host);
        let hosts = hosts.filter(|_| self.server_name.is_none());
        for host in self.server_name.as_deref().into_iter().chain(hosts) {
            if ServerName::try_from(host).is_err() {
                found.push(wrong("tls.server_name", format!(
                    "backend `{backend}`: `{host}` cannot be a certificate's name; write the name that its certificate has as tls.server_name"
                )));
            }
        }
        found
    }
}

impl Terms {
    fn problems(&self, backend: &str) -> Vec<Wrong> {
        let mut found = Vec::new();
        if self.retries > MOST_RETRIES {
            found.push(wrong("retries", format!(
                "backend `{backend}`: {} retries are more than anybody waits for; write {MOST_RETRIES} or fewer",
                self.retries
            )));
        }
        let whole = [
            ("connect_timeout", "connect timeout", Some(self.connect)),
            ("response_timeout", "response timeout", self.response),
            ("inactivity_timeout", "inactivity timeout", self.inactivity),
        ];
        for (key, what, time) in whole {
            if time.is_some_and(|time| time.is_zero()) {
                found.push(wrong(key, format!(
                    "backend `{backend}`: with a {what} of 0 nothing would ever come about; write a time like 3s"
                )));
            }
        }
        if self.eject.is_zero() || self.eject_most < self.eject {
            // That which is not as usual, where one of them is.
            let usual = self.eject == Self::default().eject;
            let key = if usual {
                "eject_time_most"
            } else {
                "eject_time"
            };
            found.push(wrong(key, format!(
                "backend `{backend}`: a server is left out for eject_time = {:?} at first and eject_time_most = {:?} at most; the first must be above 0 and not above the second",
                self.eject, self.eject_most
            )));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Balance;
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let server = |name: &str| Server::new(name, "10.0.0.1:80".parse().unwrap());
        let good = Backend {
            name: "alb".to_owned(),
            balance: Balance::default(),
            tls: None,
            send_proxy: None,
            protocol: Protocol::default(),
            terms: Terms::default(),
            check: None,
            servers: vec![server("one")],
            place: String::new(),
        };
        assert_eq!(good.problems(), []);
        let empty = Backend {
            servers: Vec::new(),
            ..good.clone()
        };
        assert!(empty.problems()[0].text.contains("has no server"));
        let guessing = Backend {
            protocol: Protocol::Either,
            ..good.clone()
        };
        assert!(guessing.problems()[0].text.contains("no ALPN"));
        let bad = Backend {
            tls: Some(Tls {
                ca: Some("ca.pem".into()),
                server_name: Some("a b".to_owned()),
                unverified: true,
                ..Tls::default()
            }),
            terms: Terms {
                retries: 11,
                connect: Duration::ZERO,
                eject_most: Duration::from_secs(1),
                ..Terms::default()
            },
            servers: [server("one"), server("one")]
                .map(|server| Server {
                    weight: 0,
                    ..server
                })
                .to_vec(),
            ..good
        };
        let problems = bad.problems();
        for (key, part) in [
            ("servers", "weight 0"),
            ("servers.one", "two servers called `one`"),
            ("tls.ca", "no effect"),
            ("tls.server_name", "`a b` cannot be a certificate's name"),
            ("retries", "11 retries"),
            ("connect_timeout", "connect timeout of 0"),
            ("eject_time_most", "left out for eject_time = 5s"),
        ] {
            let told = |problem: &Wrong| problem.key == key && problem.text.contains(part);
            assert!(problems.iter().any(told), "{part}: {problems:?}");
        }
        assert_eq!(problems.len(), 7, "{problems:?}");
    }
}
