//! What an operator is told of a name: that addresses come and go, in one line for each answer that changes something; that the
//! resolver fails, once a minute, and that it is well again; and what about an answer is odd, once, and where it is otherwise odd
//! each time, once a minute.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Named;
use super::round::{Gap, Outcome};
use super::slots::Change;
use crate::complaint::Complaint;

/// Slots, or addresses, that one line names.
const NAMED: usize = 8;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Voice {
    backend: String,
    /// The name, as it is asked for.
    name: String,
    /// What the operator calls the server.
    server: String,
    slots: usize,
    hold: Duration,
    /// Since when not everything is answered.
    failing: Option<Instant>,
    /// That it fails was said.
    told: bool,
    complaints: Complaints,
    nothing: Option<&'static str>,
    unusable: BTreeSet<IpAddr>,
    /// The most addresses that were told of, where they are more than slots.
    too_many: usize,
}

impl Voice {
    pub(super) fn new(named: &Named, hold: Duration) -> Self {
        let name = named.wanted.name.to_string();
        let name = name.strip_suffix('.').unwrap_or(&name);
        Self {
            backend: named.backend.to_string(),
            name: name.to_owned(),
            server: named.server.clone(),
            slots: named.wanted.slots,
            hold,
            failing: None,
            told: false,
            complaints: Complaints::default(),
            nothing: None,
            unusable: BTreeSet::new(),
            too_many: 0,
        }
    }

    /// This came of a round, and changed this. So many slots have an address then.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        outcome: &Outcome,
        changes: &[Change],
        taken: usize,
    ) {
        self.hear(now, outcome.unheard.as_ref(), taken);
        self.tell_nothing(now, outcome.nothing, taken);
        if outcome.nothing.is_none() {
            self.tell(changes, taken);
        }
        if outcome.unusable != self.unusable {
            if !outcome.unusable.is_empty()
                && let Some(times) = self.complaints.due(Kind::Unusable, now)
            {
                let often = often(times);
                let all = listed(outcome.unusable.iter().map(ToString::to_string));
                let (backend, name) = (&self.backend, &self.name);
                warn!(
                    said.what = "dns-unusable",
                    said.backend = %backend,
                    said.server = %self.server,
                    said.name = %name,
                    said.address = %all,
                    "backend {backend}: {name} has addresses that no server can have, which are left out: {all}{often}"
                );
            }
            self.unusable.clone_from(&outcome.unusable);
        }
        let addresses = {
            let all: BTreeSet<_> = outcome.found.iter().map(|found| found.at).collect();
            all.len()
        };
        if addresses <= self.slots {
            self.too_many = 0;
        } else if addresses > self.too_many {
            self.too_many = addresses;
            let Some(times) = self.complaints.due(Kind::TooMany, now) else {
                return;
            };
            let often = often(times);
            let (backend, name) = (&self.backend, &self.name);
            let (server, slots) = (&self.server, self.slots);
            warn!(
                said.what = "dns-too-many",
                said.backend = %backend,
                said.server = %server,
                said.name = %name,
                said.addresses = addresses,
                said.slots = slots,
                "backend {backend}: {name} has {addresses} addresses, and `{server}` {slots} slots: the others are not used; give it more slots if they should be{often}"
            );
        }
    }

    /// The time is over for which something was held.
    pub(super) fn passed(&self, changes: &[Change], taken: usize) {
        self.tell(changes, taken);
    }

    fn tell(&self, changes: &[Change], taken: usize) {
        let Some(text) = told(changes, &self.server, self.hold) else {
            return;
        };
        let (backend, name, server) = (&self.backend, &self.name, &self.server);
        if taken == 0 {
            warn!(
                said.what = "dns-changed",
                said.backend = %backend,
                said.server = %server,
                said.name = %name,
                said.why = %text,
                said.addresses = taken,
                "backend {backend}: {name}: {text}; there is no other: until there is, nothing is sent to `{server}`"
            );
        } else {
            info!(
                said.what = "dns-changed",
                said.backend = %backend,
                said.server = %server,
                said.name = %name,
                said.why = %text,
                said.addresses = taken,
                "backend {backend}: {name}: {text}"
            );
        }
    }

    fn hear(&mut self, now: Instant, unheard: Option<&Gap>, taken: usize) {
        let (backend, name, server) = (&self.backend, &self.name, &self.server);
        let Some(Gap {
            question,
            kind,
            why,
        }) = unheard
        else {
            if let Some(since) = self.failing.take()
                && std::mem::take(&mut self.told)
            {
                let after = now.saturating_duration_since(since);
                info!(
                    said.what = "dns-well",
                    said.backend = %backend,
                    said.server = %server,
                    said.name = %name,
                    said.after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                    "backend {backend}: {name} is looked up again, after {after:.1?}"
                );
            }
            return;
        };
        self.failing.get_or_insert(now);
        let Some(times) = self.complaints.due(Kind::Failing(kind), now) else {
            return;
        };
        self.told = true;
        let often = often(times);
        let stays = if taken == 0 {
            "nothing is sent to it until it can be"
        } else {
            "what is known of it stays in use"
        };
        warn!(
            said.what = "dns-failing",
            said.backend = %backend,
            said.server = %server,
            said.name = %name,
            said.why = %why,
            said.times = times,
            "backend {backend}: {name} cannot be looked up: {question}: {why}; {stays}{often}"
        );
    }

    fn tell_nothing(&mut self, now: Instant, nothing: Option<&'static str>, taken: usize) {
        if nothing == self.nothing {
            return;
        }
        self.nothing = nothing;
        let Some(why) = nothing else { return };
        let Some(times) = self.complaints.due(Kind::Nothing(why), now) else {
            return;
        };
        let often = often(times);
        let (backend, name, server) = (&self.backend, &self.name, &self.server);
        let then = if taken == 0 {
            format!("nothing is sent to `{server}` until that changes")
        } else {
            let hold = self.hold;
            format!("the addresses that it had stay in use for {hold:?}")
        };
        warn!(
            said.what = "dns-nothing",
            said.backend = %backend,
            said.server = %server,
            said.name = %name,
            said.why = %why,
            "backend {backend}: {name} {why}; {then}{often}"
        );
    }
}

/// How often something was to be said, where that is more than once.
fn often(times: u64) -> String {
    match times {
        1 => String::new(),
        _ => format!(" ({times} times since this was last said)"),
    }
}

/// What can be odd about an answer. How exactly it is so may differ each time, and is told of the first alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failing(&'static str),
    Nothing(&'static str),
    Unusable,
    TooMany,
}

/// What is complained of again and again, each kind once a minute. There are few of them.
#[derive(Debug, Default)]
struct Complaints(Vec<(Kind, Complaint)>);

impl Complaints {
    /// How often this was to be said since it last was, if it is to be said.
    fn due(&mut self, kind: Kind, now: Instant) -> Option<u64> {
        let known = self.0.iter_mut().find(|(known, _)| *known == kind);
        if let Some((_, complaint)) = known {
            return complaint.due(now);
        }
        let mut complaint = Complaint::default();
        let due = complaint.due(now);
        self.0.push((kind, complaint));
        due
    }
}

/// Changes in words, or `None` where there are none.
fn told(changes: &[Change], server: &str, hold: Duration) -> Option<String> {
    let settled = |slot: usize| {
        changes.iter().any(|change| match change {
            Change::Came { slot: other, .. } | Change::Left { slot: other, .. } => *other == slot,
            Change::Weighed { .. } | Change::Missing { .. } => false,
        })
    };
    let mut leaves = false;
    let all: Vec<String> = changes
        .iter()
        .filter_map(|change| {
            Some(match change {
                Change::Came {
                    slot,
                    found,
                    former,
                } => {
                    let place = format!("{server}-{} is {}", slot + 1, found.at);
                    match former {
                        Some(former) => {
                            leaves = true;
                            format!("{place} and was {former}")
                        }
                        None => place,
                    }
                }
                Change::Weighed { slot, found } => {
                    let backup = if found.backup { ", as a backup" } else { "" };
                    format!("{server}-{} has weight {}{backup}", slot + 1, found.share)
                }
                // What became of it says it.
                Change::Missing { slot, .. } if settled(*slot) => return None,
                Change::Missing { slot, at } => format!(
                    "{server}-{} ({at}) is in the answer no more and stays in use for {hold:?}",
                    slot + 1
                ),
                Change::Left { slot, at } => {
                    leaves = true;
                    format!("{server}-{} has no address any more and was {at}", slot + 1)
                }
            })
        })
        .collect();
    if all.is_empty() {
        return None;
    }
    let mut text = listed(all.into_iter());
    if leaves {
        text.push_str("; what is in flight at a former address finishes there");
    }
    Some(text)
}

/// The first few, and how many more.
fn listed(all: impl Iterator<Item = String>) -> String {
    let mut all: Vec<String> = all.collect();
    let more = all.len().saturating_sub(NAMED);
    all.truncate(NAMED);
    let mut text = all.join(", ");
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::whereabouts::Found;
    use super::*;

    #[test]
    fn what_is_odd_in_another_way_each_time_is_one_line_a_minute() {
        let began = Instant::now();
        let mut complaints = Complaints::default();
        let kinds = [
            Kind::Failing("SERVFAIL"),
            Kind::Failing("invalid"),
            Kind::Nothing("has no address"),
            Kind::Nothing("has no server"),
            Kind::Unusable,
            Kind::TooMany,
        ];
        let mut said = 0;
        for turn in 0..1000 {
            let now = began + Duration::from_millis(turn);
            said += kinds
                .iter()
                .filter(|kind| complaints.due(**kind, now).is_some())
                .count();
        }
        assert_eq!(said, kinds.len());
        let later = began + Duration::from_secs(61);
        assert_eq!(complaints.due(Kind::Unusable, later), Some(1000));
    }

    #[test]
    fn changes_are_one_line() {
        let at = |last: u8| std::net::SocketAddr::from(([10, 0, 0, last], 80));
        let found = |last| Found {
            at: at(last),
            share: 1,
            backup: false,
            priority: None,
        };
        let changes = [
            Change::Missing { slot: 0, at: at(1) },
            Change::Missing { slot: 1, at: at(2) },
            Change::Came {
                slot: 0,
                found: found(3),
                former: Some(at(1)),
            },
            Change::Left { slot: 2, at: at(4) },
        ];
        let text = told(&changes, "one", Duration::from_secs(30)).unwrap();
        assert_eq!(
            text,
            "one-2 (10.0.0.2:80) is in the answer no more and stays in use for 30s, one-1 is 10.0.0.3:80 and was 10.0.0.1:80, \
             one-3 has no address any more and was 10.0.0.4:80; what is in flight at a former address finishes there"
        );
        assert_eq!(told(&[], "one", Duration::ZERO), None);
        let many: Vec<Change> = (0..20)
            .map(|slot| Change::Came {
                slot,
                found: found(1),
                former: None,
            })
            .collect();
        let text = told(&many, "one", Duration::ZERO).unwrap();
        assert!(
            text.ends_with("one-8 is 10.0.0.1:80, and 12 more"),
            "{text}"
        );
    }
}
