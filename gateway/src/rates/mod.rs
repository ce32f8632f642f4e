//! How much one source may do: connections and requests, at once and within some time, and how often it may be wrong. `listen`
//! asks when a connection comes, before its first octet is answered, and `visitor` when a request does.
//!
//! ```text
//!  file ─▶ lists ─▶ ranges          connection ─▶ Warden::admit ─▶ Guest ─▶ Guest::ask ─▶ Pass
//!                      └── deny, allow ──┘            └── table: Source, rate ──┘
//! ```
//!
//! What is done about it is the caller's: this says whether, why, and for how long. Whom a connection is from is `door`'s, and how
//! many agents one source brings is `source`'s and the pool's.

pub mod client; // whom a trusted hop asks for

pub mod counters; // what is counted

mod guest; // a connection and its requests

pub mod lists; // files of addresses

mod pit; // those who are made to wait

pub mod ranges; // many ranges

pub mod rate; // so many within some time

pub mod rules; // what is allowed

pub mod table; // what is known of whom

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_shared::clock;
use tracing::info;

use counters::Counters;
pub(crate) use guest::remove;
pub use guest::{Guest, Pass};
use lists::Lists;
pub use pit::{Held, Pit};
use rate::Rate;
pub use rules::{Action, Limit, Rules};
use table::{Source, Table};

/// What all listeners share.
#[derive(Debug)]
pub struct Watch {
    pub table: Table,
    pub lists: Lists,
    pub pit: Pit,
    lines: Lines,
    /// Those on a list of `deny`, of whom only the log wants to know: apart, so that a flood of them takes neither a place nor a
    /// line from a source that is beyond a limit.
    denied: Table,
    lines_of_denied: Lines,
}

/// Lines that name sources in a minute, over all of them.
const LINES: u32 = 600;

/// So many of those who are denied are told apart. Whoever had to make room for others may be named again within the minute, as
/// far as there are lines.
const DENIED: usize = 4096;

/// Lines that name a source, and those that were too many.
#[derive(Debug, Default)]
struct Lines {
    said: AtomicU64,
    unsaid: AtomicU64,
}

impl Lines {
    /// Whether one more may be written, and how many have not been since.
    fn may_tell(&self, now: u64) -> Option<u64> {
        let rate = Rate::new(LINES, Duration::from_secs(60));
        if rate.is_some_and(|rate| rate.take(&self.said, now).is_err()) {
            self.unsaid.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, Relaxed))
    }
}

/// One listener's guard.
#[derive(Debug)]
pub struct Warden {
    pub listener: Arc<str>,
    pub rules: Arc<Rules>,
    pub watch: Arc<Watch>,
    pub counters: Arc<Counters>,
}

/// A source is beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    pub limit: Limit,
    /// What is to be done: `Tell` in the place of `Tarpit` where that is full.
    pub action: Action,
    /// Whether the connection is the source's own, and not that of a hop which asks for many.
    pub own: bool,
    /// Whom it is about.
    pub who: IpAddr,
    /// Where a list says so.
    pub list: Option<lists::Entry>,
    /// When there will be room, if that is known.
    pub wait: Option<Duration>,
}

impl Excess {
    /// Whether the connection ends without an answer.
    pub fn is_silent(&self) -> bool {
        self.own && self.action == Action::Refuse
    }

    /// Seconds after which it makes sense to ask again (RFC 9110 §10.2.3).
    pub fn retry_after(&self) -> Option<u64> {
        let wait = self.wait?;
        Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
    }
}

/// What becomes of a connection.
#[derive(Debug)]
pub enum Admission {
    In(Guest),
    /// It is to be held for as long as the rules say, and then closed.
    Held(Guest, Held, Excess),
    Out(Excess),
}

impl Watch {
    /// `sources` are remembered, and so many are `held` at once.
    pub fn new(sources: usize, held: usize, lists: Lists) -> Arc<Self> {
        Arc::new(Self {
            table: Table::new(sources),
            lists,
            pit: Pit::new(held),
            lines: Lines::default(),
            denied: Table::new(DENIED),
            lines_of_denied: Lines::default(),
        })
    }
}

impl Warden {
    /// A connection from there has come.
    pub fn admit(self: &Arc<Self>, from: IpAddr, at: Instant) -> Admission {
        let rules = &*self.rules;
        // Before the lists are read: what changes meanwhile is a change.
        let changes = self.watch.lists.changes();
        if let Some(excess) = self.denied(from, at) {
            return Admission::Out(excess);
        }
        let mut guest = Guest::new(Arc::clone(self), from, changes);
        if rules.allows(from) {
            return Admission::In(guest);
        }
        let now = clock::ns(at);
        let source = self.watch.table.get(rules.key(from), now);
        let open = guest.is_of(Arc::clone(&source));
        let Err((limit, wait)) = self.judge_connection(&source, open, now) else {
            return Admission::In(guest);
        };
        let (excess, held) = self.beyond((limit, wait), &source, from, true, now);
        match (excess.action, held) {
            (Action::Mark, _) => {
                guest.mark(limit);
                Admission::In(guest)
            }
            (Action::Tarpit, Some(held)) => Admission::Held(guest, held, excess),
            _ => Admission::Out(excess),
        }
    }

    /// Whether whoever comes from there is not served, whatever it has done.
    pub fn denied(&self, from: IpAddr, at: Instant) -> Option<Excess> {
        let by = self.on_list(from)?;
        Some(self.deny(from, true, by, at))
    }

    /// The line of a list because of which whoever comes from there is not served.
    fn on_list(&self, from: IpAddr) -> Option<lists::Entry> {
        let (list, line) = self.rules.denies(from)?;
        self.watch.lists.entry(list, line)
    }

    fn judge_connection(
        &self,
        source: &Source,
        open: u32,
        now: u64,
    ) -> Result<(), (Limit, Option<u64>)> {
        let rules = &*self.rules;
        if open > rules.connections {
            return Err((Limit::Connections, None));
        }
        if let Some(rate) = rules.connection_rate
            && let Err(wait) = rate.take(&source.connection_rate, now)
        {
            return Err((Limit::ConnectionRate, Some(wait)));
        }
        // Whoever is to be refused for its errors is not let in to make more of them.
        if let (Some(rate), Action::Refuse) = (rules.error_rate, rules.error_action)
            && let Err(wait) = rate.look(&source.error_rate, now)
        {
            return Err((Limit::ErrorRate, Some(wait)));
        }
        Ok(())
    }

    /// What happens to one who is beyond a limit; counted, and said once a minute.
    fn beyond(
        &self,
        (limit, wait): (Limit, Option<u64>),
        source: &Source,
        from: IpAddr,
        own: bool,
        now: u64,
    ) -> (Excess, Option<Held>) {
        let mut action = self.rules.action(limit);
        let mut held = None;
        if action == Action::Refuse && !own {
            // Others have their requests on that connection.
            action = Action::Tell;
        }
        if action == Action::Tarpit {
            held = self.watch.pit.enter();
            if held.is_none() {
                action = Action::Tell;
            }
        }
        self.counters.count(limit, action);
        if let Some(times) = source.tell(now)
            && let Some(unsaid) = self.watch.lines.may_tell(now)
        {
            info!(
                source = %source.key(), visitor = %from, listener = %self.listener, limit = %limit.label(), action = %action.label(),
                times, unsaid, "a source is beyond its limit of {} ({})", words(limit), self.rules.describe(limit)
            );
        }
        let excess = Excess {
            limit,
            action,
            own,
            who: from,
            list: None,
            wait: wait.map(Duration::from_nanos),
        };
        (excess, held)
    }

    /// Somebody of a list of those who are not served has come.
    fn deny(&self, from: IpAddr, own: bool, by: lists::Entry, at: Instant) -> Excess {
        self.counters.count(Limit::Deny, Action::Refuse);
        let now = clock::ns(at);
        let source = self.watch.denied.get(self.rules.key(from), now);
        if let Some(times) = source.tell(now)
            && let Some(unsaid) = self.watch.lines_of_denied.may_tell(now)
        {
            let list = self.watch.lists.place(by).unwrap_or_default();
            info!(
                source = %source.key(), visitor = %from, listener = %self.listener, %list, limit = %Limit::Deny.label(),
                action = %Action::Refuse.label(), times, unsaid, "a source on a list of `deny` was refused"
            );
        }
        Excess {
            limit: Limit::Deny,
            action: Action::Refuse,
            own,
            who: from,
            list: Some(by),
            wait: None,
        }
    }
}

/// The limit for people.
fn words(limit: Limit) -> &'static str {
    match limit {
        Limit::Deny => "nothing",
        Limit::Connections => "connections at once",
        Limit::ConnectionRate => "new connections",
        Limit::Requests => "requests at once",
        Limit::RequestRate => "requests",
        Limit::ErrorRate => "errors",
    }
}

#[cfg(test)]
mod tests;
