//! Servers whose addresses come from DNS. For each such server one task asks for its name, as often as the answers' TTLs say,
//! and gives its slots their addresses; which slot has which address is `slots`' to decide, and when to ask again `pace`'s.
//!
//! ```text
//! keep ─▶ round ─▶ ask (one server after the other) ─▶ reply (a message read)
//!   │       └ what was known, where nobody answers
//!   ├───▶ slots ─▶ Server::sit
//!   ├───▶ pace ─▶ when again
//!   └───▶ voice ─▶ the log
//! ```

pub mod config; // what an operator says of DNS

mod ask; // questions, and who answers them

mod reply; // what a message says

mod round; // all that one name needs

mod slots; // which address is which server

mod pace; // when again

mod voice; // what an operator is told

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use hickory_resolver::proto::rr::Name;
use prometheus_client::metrics::counter::Counter;
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tokio::sync::mpsc;
use tokio::time::sleep;

pub(crate) use ask::Asker;
use config::Resolver;
use pace::Pace;
use reply::{Reply, What};
use round::{Round, Wanted};
use slots::{Change, Slots};
use voice::Voice;

use super::config::Server as Said;
use super::server::Server;
use crate::intent::Desk;

/// One server of an operator's whose addresses come from DNS, and its slots.
#[derive(Debug)]
pub(crate) struct Named {
    pub(super) backend: Arc<str>,
    /// What the operator calls it.
    pub(super) server: String,
    wanted: Wanted,
    slots: Vec<Arc<Server>>,
    pub(super) counts: Counts,
}

/// What has come of it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    results: [Counter; RESULTS.len()],
    /// When everything was last answered, by `clock::now_ms`; 0 for never.
    answered: AtomicU64,
    failing: AtomicBool,
}

/// What becomes of a question, in one word.
const RESULTS: [&str; 6] = [
    "answer",
    "none",
    "error",
    "timeout",
    "unreachable",
    "invalid",
];

impl Counts {
    fn count(&self, result: Result<&Reply, What>) {
        let word = match result {
            Ok(Reply::Records(_) | Reply::Alias { .. }) => 0,
            Ok(Reply::Nothing(_)) => 1,
            Err(What::Error) => 2,
            Err(What::Timeout) => 3,
            Err(What::Unreachable) => 4,
            Err(What::Invalid) => 5,
        };
        self.results[word].inc();
    }

    pub(super) fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RESULTS
            .iter()
            .zip(&self.results)
            .map(|(word, count)| (*word, count.get()))
    }

    /// How old the last whole answer is.
    pub(super) fn age(&self) -> Option<Duration> {
        let answered = self.answered.load(Relaxed);
        (answered != 0).then(|| Duration::from_millis(clock::now_ms().saturating_sub(answered)))
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Relaxed)
    }
}

impl Named {
    /// Of a server that is to be found by DNS, with its slots.
    pub(super) fn of(backend: &Arc<str>, said: &Said, slots: &[Arc<Server>]) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            backend: Arc::clone(backend),
            server: said.name.clone(),
            wanted: Wanted::of(said)?,
            slots: slots.to_vec(),
            counts: Counts::default(),
        }))
    }

    /// How many of its slots have an address.
    pub(super) fn taken(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.is_vacant()).count()
    }

    /// The slots take what has changed. `joins` unless it is the first answer.
    fn seat(&self, changes: &[Change], joins: bool, desk: &Desk) {
        let asked = |identity| desk.bidding(identity);
        for change in changes {
            let (slot, found, joins) = match *change {
                Change::Came { slot, found, .. } | Change::Weighed { slot, found } => {
                    (slot, Some(found), joins)
                }
                Change::Left { slot, .. } => (slot, None, false),
                Change::Missing { .. } => continue,
            };
            let slot = &self.slots[slot];
            let former = slot.seated();
            slot.sit(found, joins, &asked);
            desk.moved(slot, former);
        }
    }
}

/// Whom names are kept with.
#[derive(Clone, Debug)]
pub(crate) struct With {
    pub(crate) asker: Arc<Asker>,
    pub(crate) terms: Resolver,
    /// Knows what operators ask of whoever has an address.
    pub(crate) desk: Arc<Desk>,
}

/// Keeps a name's addresses until everything finishes. `first` is let go of with the first answer, whatever it is.
pub(crate) async fn keep(named: Arc<Named>, with: With, first: mpsc::Sender<()>, drain: Drain) {
    tokio::select! {
        () = drain.finishing() => {}
        () = keep_for_ever(&named, &with, first) => {}
    }
}

async fn keep_for_ever(named: &Named, with: &With, first: mpsc::Sender<()>) {
    let With { asker, terms, desk } = with;
    let hold_ms = u64::try_from(terms.hold.as_millis()).unwrap_or(u64::MAX);
    let mut slots = Slots::new(named.slots.len(), hold_ms, random());
    let mut round = Round::default();
    let mut pace = Pace::default();
    let mut voice = Voice::new(named, terms.hold);
    let mut first = Some(first);
    let mut was_known = false;
    loop {
        let outcome = round.ask(&named.wanted, asker, &named.counts).await;
        let now = clock::now_ms();
        // What was never answered leaves everything as it is.
        let changes = if outcome.is_known {
            slots.answered(now, &outcome.found)
        } else {
            slots.passed(now)
        };
        named.seat(&changes, was_known, desk);
        was_known |= outcome.is_known;
        named
            .counts
            .failing
            .store(outcome.unheard.is_some(), Relaxed);
        if outcome.unheard.is_none() {
            named.counts.answered.store(now, Relaxed);
        }
        voice.answered(Instant::now(), &outcome, &changes, slots.taken());
        drop(first.take());
        let mut again = pin_sleep(pace.after(outcome.heard(), terms, chance()));
        while !again.is_elapsed() {
            let left = slots.due().map(|due| due.saturating_sub(clock::now_ms()));
            tokio::select! {
                () = &mut again => {}
                () = sleep(Duration::from_millis(left.unwrap_or_default())), if left.is_some() => {
                    let changes = slots.passed(clock::now_ms());
                    named.seat(&changes, was_known, desk);
                    voice.passed(&changes, slots.taken());
                }
            }
        }
    }
}

fn pin_sleep(time: Duration) -> std::pin::Pin<Box<tokio::time::Sleep>> {
    Box::pin(sleep(time))
}

/// From 0 to 1.
fn chance() -> f64 {
    // 53 bits, as many as a double has.
    (random() >> 11) as f64 / (1_u64 << 53) as f64
}

fn random() -> u64 {
    let mut octets = [0; 8];
    match rand::fill(&mut octets) {
        Ok(()) => u64::from_ne_bytes(octets),
        // Nothing secret hangs on it.
        Err(_none) => 0,
    }
}

/// A name as DNS has it, from what an operator writes; dots at its end or not, it is the whole name.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn dns_name(text: &str) -> Result<Name, String> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| format!("`{text}` cannot be a name in DNS: {error}"))?;
    name.set_fqdn(true);
    if name.is_root() {
        return Err(format!("`{text}` is no name; write one like app.internal"));
    }
    Ok(name)
}
