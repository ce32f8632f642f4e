//! One round of questions for a name: its addresses, or its services and their hosts' addresses. What nobody answers is as it
//! was. Asks through `ask`; what the answers come to is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::super::config::{Family, Place, Server as Said};
use super::super::whereabouts::Found;
use super::ask::{Asker, Unheard};
use super::pace::Heard;
use super::reply::{Nothing, Records, Reply, address, service};
use super::{Counts, dns_name};

/// What a server's slots are filled from.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: Name,
    /// `None` where records say it.
    port: Option<u16>,
    family: Family,
    pub(super) slots: usize,
}

impl Wanted {
    pub(super) fn of(said: &Said) -> Option<Self> {
        let (name, port, family, slots) = match &said.place {
            Place::Fixed(_) => return None,
            Place::Addresses {
                name,
                family,
                slots,
            } => (&name.host, Some(name.port), family, slots),
            Place::Services {
                service,
                family,
                slots,
            } => (service, None, family, slots),
        };
        Some(Self {
            // What is no name was refused with the file.
            name: dns_name(name).ok()?,
            port,
            family: *family,
            slots: slots.get().into(),
        })
    }
}

/// What is known of a name, from round to round.
#[derive(Debug, Default)]
pub(super) struct Round {
    known: BTreeMap<Question, Known>,
}

/// One question, as far as two differ.
type Question = (Name, RecordType);

#[derive(Clone, Debug)]
enum Known {
    Records(Vec<RData>),
    Nothing(&'static str),
}

/// Where servers are, by one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host {
    /// `None` where no record says it.
    priority: Option<u16>,
    name: Name,
    port: u16,
    weight: u16,
}

/// A question that nobody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// `app.internal. (A)`.
    pub(super) question: String,
    pub(super) kind: &'static str,
    pub(super) why: String,
}

/// What came of a round.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Addresses for slots.
    pub(super) found: Vec<Found>,
    /// Addresses that no server can have.
    pub(super) unusable: BTreeSet<IpAddr>,
    /// Something was answered, now or formerly.
    pub(super) is_known: bool,
    /// Why there is none, if there is none.
    pub(super) nothing: Option<&'static str>,
    /// Why not everything was answered.
    pub(super) unheard: Option<Gap>,
    ttl: Option<Duration>,
}

impl Outcome {
    pub(super) fn heard(&self) -> Heard {
        match (&self.unheard, self.nothing) {
            (Some(_), _) => Heard::Part,
            (None, Some(_)) => Heard::Nothing(self.ttl),
            (None, None) => Heard::All(self.ttl.unwrap_or_default()),
        }
    }

    fn lasts(&mut self, ttl: Option<Duration>) {
        self.ttl = self.ttl.into_iter().chain(ttl).min();
    }
}

impl Round {
    /// Asks for everything. An outcome has no addresses that no server can have, and those of a former round where nobody
    /// answers.
    pub(super) async fn ask(&mut self, wanted: &Wanted, asker: &Asker, counts: &Counts) -> Outcome {
        let mut outcome = Outcome::default();
        let mut asked = BTreeSet::new();
        let hosts = match wanted.port {
            Some(port) => vec![Host {
                priority: None,
                name: wanted.name.clone(),
                port,
                weight: 1,
            }],
            None => {
                let question = (wanted.name.clone(), RecordType::SRV);
                let answers = questions(asker, counts, [question.clone()]).await;
                self.take(answers, &mut outcome);
                let services = self.known.get(&question);
                let hosts = hosts(services, wanted.slots);
                asked.insert(question);
                hosts
            }
        };
        let families: &[RecordType] = match wanted.family {
            Family::Both => &[RecordType::A, RecordType::AAAA],
            Family::Ipv4 => &[RecordType::A],
            Family::Ipv6 => &[RecordType::AAAA],
        };
        let names: BTreeSet<&Name> = hosts.iter().map(|host| &host.name).collect();
        let all: Vec<Question> = names
            .into_iter()
            .flat_map(|name| families.iter().map(|family| (name.clone(), *family)))
            .collect();
        asked.extend(all.iter().cloned());
        let answers = questions(asker, counts, all).await;
        self.take(answers, &mut outcome);
        self.known.retain(|question, _| asked.contains(question));
        self.gather(&hosts, families, &mut outcome);
        outcome
    }

    /// Keeps what was answered.
    fn take(&mut self, answers: Vec<(Question, Result<Reply, Unheard>)>, outcome: &mut Outcome) {
        for (question, answer) in answers {
            match answer {
                Ok(Reply::Records(Records { data, ttl })) => {
                    outcome.lasts(Some(ttl));
                    self.known.insert(question, Known::Records(data));
                }
                Ok(Reply::Nothing(Nothing { why, ttl })) => {
                    outcome.lasts(ttl);
                    self.known.insert(question, Known::Nothing(why));
                }
                // `ask` follows aliases to their end.
                Ok(Reply::Alias { .. }) => {}
                Err(Unheard { kind, why }) => {
                    let (name, of) = question;
                    outcome.unheard.get_or_insert_with(|| Gap {
                        question: format!("{name} ({of})"),
                        kind,
                        why,
                    });
                }
            }
        }
    }

    /// Everything that is known of hosts, as slots need it.
    fn gather(&self, hosts: &[Host], families: &[RecordType], outcome: &mut Outcome) {
        outcome.is_known = !self.known.is_empty();
        let best = hosts.iter().map(|host| host.priority).min();
        for host in hosts {
            for family in families {
                let Some(Known::Records(data)) = self.known.get(&(host.name.clone(), *family))
                else {
                    continue;
                };
                for address in data.iter().filter_map(address) {
                    let ip = match address {
                        Ok(ip) => ip,
                        Err(nowhere) => {
                            outcome.unusable.insert(nowhere);
                            continue;
                        }
                    };
                    outcome.found.push(Found {
                        at: SocketAddr::new(ip, host.port),
                        share: host.weight.max(1),
                        backup: Some(host.priority) != best,
                        priority: host.priority,
                    });
                }
            }
        }
        if outcome.found.is_empty() && outcome.unusable.is_empty() {
            let mut why = self.known.values().filter_map(|known| match known {
                Known::Nothing(why) => Some(*why),
                Known::Records(_) => None,
            });
            outcome.nothing = outcome
                .is_known
                .then(|| why.next().unwrap_or("has no server"));
        }
    }
}

/// Hosts of services: those of the best priority first, and of a long answer not many more than there are slots.
fn hosts(services: Option<&Known>, slots: usize) -> Vec<Host> {
    let Some(Known::Records(data)) = services else {
        return Vec::new();
    };
    let mut hosts: Vec<Host> = data
        .iter()
        .filter_map(service)
        .map(|service| Host {
            priority: Some(service.priority),
            name: service.target.clone(),
            port: service.port,
            weight: service.weight,
        })
        .collect();
    hosts.sort_unstable();
    hosts.truncate(slots.saturating_mul(2));
    hosts
}

/// Asks all of them at once.
async fn questions(
    asker: &Asker,
    counts: &Counts,
    all: impl IntoIterator<Item = Question>,
) -> Vec<(Question, Result<Reply, Unheard>)> {
    let asked = all.into_iter().map(|question| async {
        let (name, of) = &question;
        let answer = asker.ask(name, *of, |result| counts.count(result)).await;
        (question, answer)
    });
    join_all(asked).await
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{A, SRV};

    use super::*;

    fn name(text: &str) -> Name {
        dns_name(text).unwrap()
    }

    fn records(data: Vec<RData>) -> Result<Reply, Unheard> {
        let ttl = Duration::from_secs(60);
        Ok(Reply::Records(Records { data, ttl }))
    }

    fn a(last: u8) -> RData {
        RData::A(A([10, 0, 0, last].into()))
    }

    fn host(priority: u16, of: &str, port: u16, weight: u16) -> Host {
        Host {
            priority: Some(priority),
            name: name(of),
            port,
            weight,
        }
    }

    #[test]
    fn what_nobody_answers_is_as_it_was() {
        let (v4, v6) = (RecordType::A, RecordType::AAAA);
        let hosts = [host(0, "app.test", 80, 1)];
        let question = |of| (name("app.test"), of);
        let mut round = Round::default();
        let mut outcome = Outcome::default();
        let lost = || {
            Err(Unheard {
                kind: "SERVFAIL",
                why: "10.0.0.2:53 answered SERVFAIL".to_owned(),
            })
        };
        round.take(vec![(question(v4), lost())], &mut outcome);
        round.gather(&hosts, &[v4, v6], &mut outcome);
        assert!(!outcome.is_known && outcome.nothing.is_none());
        assert_eq!(outcome.heard(), Heard::Part);
        let mut outcome = Outcome::default();
        round.take(vec![(question(v4), records(vec![a(1)]))], &mut outcome);
        round.gather(&hosts, &[v4, v6], &mut outcome);
        assert_eq!(outcome.heard(), Heard::All(Duration::from_secs(60)));
        let first = outcome.found;
        let mut outcome = Outcome::default();
        round.take(vec![(question(v4), lost())], &mut outcome);
        round.gather(&hosts, &[v4, v6], &mut outcome);
        assert_eq!(outcome.found, first);
        let gap = outcome.unheard.unwrap();
        assert_eq!(gap.question, "app.test. (A)");
        assert_eq!(gap.why, "10.0.0.2:53 answered SERVFAIL");
    }

    #[test]
    fn services_have_ports_weights_and_backups() {
        let record = |priority, weight, port, target| {
            RData::SRV(SRV::new(priority, weight, port, name(target)))
        };
        let answer = Known::Records(vec![
            record(20, 5, 81, "c.test"),
            record(10, 0, 80, "a.test"),
            record(10, 7, 82, "b.test"),
            record(10, 7, 0, "b.test"),
        ]);
        let hosts = hosts(Some(&answer), 5);
        assert_eq!(
            hosts,
            [
                host(10, "a.test", 80, 0),
                host(10, "b.test", 82, 7),
                host(20, "c.test", 81, 5)
            ]
        );
        let mut round = Round::default();
        let mut outcome = Outcome::default();
        let answers = [("a.test", 1), ("b.test", 2), ("c.test", 3)]
            .map(|(of, last)| ((name(of), RecordType::A), records(vec![a(last)])));
        round.take(answers.into(), &mut outcome);
        round.gather(&hosts, &[RecordType::A], &mut outcome);
        let shown: Vec<(String, u16, bool)> = outcome
            .found
            .iter()
            .map(|found| (found.at.to_string(), found.share, found.backup))
            .collect();
        let as_due = [
            ("10.0.0.1:80", 1, false),
            ("10.0.0.2:82", 7, false),
            ("10.0.0.3:81", 5, true),
        ]
        .map(|(at, share, backup)| (at.to_owned(), share, backup));
        assert_eq!(shown, as_due);
    }

    #[test]
    fn nothing_has_its_reason_and_unusable_addresses_are_told() {
        let question = (name("app.test"), RecordType::A);
        let mut round = Round::default();
        let hosts = [host(0, "app.test", 80, 1)];
        let mut outcome = Outcome::default();
        let nothing = Nothing {
            why: "does not exist (NXDOMAIN)",
            ttl: None,
        };
        let answer = Ok(Reply::Nothing(nothing));
        round.take(vec![(question.clone(), answer)], &mut outcome);
        round.gather(&hosts, &[RecordType::A], &mut outcome);
        assert_eq!(outcome.nothing, Some("does not exist (NXDOMAIN)"));
        assert_eq!(outcome.heard(), Heard::Nothing(None));
        let mut outcome = Outcome::default();
        let zero = RData::A(A([0, 0, 0, 0].into()));
        round.take(vec![(question, records(vec![zero, a(1)]))], &mut outcome);
        round.gather(&hosts, &[RecordType::A], &mut outcome);
        assert_eq!((outcome.found.len(), outcome.unusable.len()), (1, 1));
    }
}
