//! Which source of tunnels connects how often: how many connections that are not tunnels yet, and how long one whose handshakes
//! keep failing is held back. Pure but for its lock; the tunnels' listeners ask. What visitors may do is `rates`'s.
//!
//! A HAProxy agent with a wrong certificate redials thousands of times a second. Holding back the answer to the failed
//! handshake slows it down without touching its neighbours; only where that does not help (the other side is the one
//! that gives up) do all connections of the source wait before their handshake, briefly.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Sources remembered at most; beyond that those without a connection are forgotten, the quietest first.
const MOST_SOURCES: usize = 65_536;

/// Answers to failed handshakes held back at once, per source. More are answered without a pause.
const HELD_BACK: usize = 16;

/// The first and the longest pause after a failure. An agent that waits for an answer redials no faster than this, and
/// whoever set it up wrongly still learns of it within a second.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Failures within [`RAPID_WITHIN`] after which all connections of the source wait.
const RAPID: u32 = 10;
const RAPID_WITHIN: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A source that has not failed for so long starts afresh.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Failures of one source for one reason are logged at most so often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The table; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sources {
    table: Arc<Mutex<HashMap<IpAddr, Source>>>,
    most: usize,
}

#[derive(Debug)]
struct Source {
    open: usize,
    held_back: usize,
    failures: u32,
    last_failure: Option<Instant>,
    /// Failures since this moment, for telling rapid ones.
    burst: u32,
    burst_began: Instant,
    rapid: u32,
    /// By reason: there are some fifty.
    logged: Vec<(&'static str, Logged)>,
}

/// What is said of one source's failures of one kind.
#[derive(Debug, Default)]
struct Logged {
    last: Option<Instant>,
    unlogged: u64,
}

/// A connection of a source; counted until dropped.
#[derive(Debug)]
pub struct Entry {
    sources: Sources,
    key: IpAddr,
    held_back: bool,
}

/// What follows from a failed handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Penalty {
    /// The answer is to be held back for so long.
    pub pause: Duration,
    /// Whether to log it, and how many before it were not logged.
    pub log: Option<u64>,
}

impl Sources {
    /// `most` connections of one source at once.
    pub fn new(most: usize) -> Self {
        Self {
            table: Arc::default(),
            most,
        }
    }

    /// Counts a connection; `None` where its source has too many.
    pub fn enter(&self, address: IpAddr, now: Instant) -> Option<Entry> {
        let key = key(address);
        let mut table = self.lock();
        if table.len() >= MOST_SOURCES && !table.contains_key(&key) {
            forget_the_quiet(&mut table, now);
        }
        let source = table.entry(key).or_insert_with(|| Source::new(now));
        if source.open >= self.most {
            return None;
        }
        source.open += 1;
        Some(Entry {
            sources: self.clone(),
            key,
            held_back: false,
        })
    }

    /// Sources in the table, for tests and metrics.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Source>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// How long this connection must wait before its handshake, because its source fails rapidly whatever is done.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let table = self.sources.lock();
        let source = table.get(&self.key)?;
        if source.rapid == 0
            || source
                .last_failure
                .is_none_or(|last| now.duration_since(last) > 5 * LONGEST_WAIT)
        {
            return None;
        }
        Some((Duration::from_millis(125) * 2u32.saturating_pow(source.rapid)).min(LONGEST_WAIT))
    }

    /// The handshake failed, for a reason that is one of a few words.
    pub fn failed(&mut self, now: Instant, reason: &'static str) -> Penalty {
        let mut table = self.sources.lock();
        let Some(source) = table.get_mut(&self.key) else {
            return Penalty {
                pause: Duration::ZERO,
                log: Some(0),
            };
        };
        source.failed(now);
        let log = source.log(now, reason);
        if source.held_back >= HELD_BACK {
            return Penalty {
                pause: Duration::ZERO,
                log,
            };
        }
        if !self.held_back {
            source.held_back += 1;
            self.held_back = true;
        }
        let pause = FIRST_PAUSE * 2u32.saturating_pow(source.failures.saturating_sub(1).min(8));
        Penalty {
            pause: pause.min(LONGEST_PAUSE),
            log,
        }
    }

    /// The handshake succeeded: the source is in good standing again.
    pub fn succeeded(&self) {
        if let Some(source) = self.sources.lock().get_mut(&self.key) {
            source.failures = 0;
            source.rapid = 0;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.sources.lock();
        if let Some(source) = table.get_mut(&self.key) {
            source.open = source.open.saturating_sub(1);
            source.held_back -= usize::from(self.held_back);
            if source.open == 0 && source.last_failure.is_none() {
                table.remove(&self.key);
            }
        }
    }
}

impl Source {
    fn new(now: Instant) -> Self {
        Self {
            open: 0,
            held_back: 0,
            failures: 0,
            last_failure: None,
            burst: 0,
            burst_began: now,
            rapid: 0,
            logged: Vec::new(),
        }
    }

    fn failed(&mut self, now: Instant) {
        if self
            .last_failure
            .is_some_and(|last| now.duration_since(last) > FORGIVEN_AFTER)
        {
            self.failures = 0;
            self.rapid = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.last_failure = Some(now);
        if now.duration_since(self.burst_began) > RAPID_WITHIN {
            self.burst = 0;
            self.burst_began = now;
        }
        self.burst += 1;
        if self.burst >= RAPID {
            self.rapid = self.rapid.saturating_add(1);
            self.burst = 0;
        }
    }

    fn log(&mut self, now: Instant, reason: &'static str) -> Option<u64> {
        let known = self.logged.iter().position(|(known, _)| *known == reason);
        let at = known.unwrap_or_else(|| {
            self.logged.push((reason, Logged::default()));
            self.logged.len() - 1
        });
        let logged = &mut self.logged[at].1;
        let quiet = |last: Instant| now.duration_since(last) < LOG_EVERY;
        if logged.last.is_some_and(quiet) {
            logged.unlogged += 1;
            return None;
        }
        logged.last = Some(now);
        Some(std::mem::take(&mut logged.unlogged))
    }
}

/// One IPv4 address, or the /64 that an IPv6 site gets as one.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn forget_the_quiet(table: &mut HashMap<IpAddr, Source>, now: Instant) {
    let forgiven = |source: &Source| {
        source
            .last_failure
            .is_none_or(|last| now.duration_since(last) > FORGIVEN_AFTER)
    };
    table.retain(|_, source| source.open > 0 || !forgiven(source));
    if table.len() >= MOST_SOURCES {
        // More attackers than places: whoever holds no connection is forgotten, and starts afresh.
        table.retain(|_, source| source.open > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn pauses_grow_and_are_logged_once_a_minute() {
        let sources = Sources::new(100);
        let start = Instant::now();
        let mut logged = 0;
        let mut pauses = Vec::new();
        for second in 0..90 {
            let now = start + Duration::from_secs(second);
            let penalty = sources.enter(HOST, now).unwrap().failed(now, "unknown-ca");
            pauses.push(penalty.pause.as_millis());
            logged += u32::from(penalty.log.is_some());
        }
        assert_eq!(pauses[..6], [50, 100, 200, 400, 800, 1000]);
        assert_eq!(logged, 2);
    }

    #[test]
    fn each_reason_is_logged_by_itself_and_counted_by_itself() {
        let sources = Sources::new(100);
        let start = Instant::now();
        let failed = |reason, second| {
            let now = start + Duration::from_secs(second);
            sources.enter(HOST, now).unwrap().failed(now, reason).log
        };
        assert_eq!(failed("unknown-ca", 0), Some(0));
        assert_eq!(failed("certificate-expired", 1), Some(0));
        assert_eq!(failed("unknown-ca", 2), None);
        assert_eq!(failed("unknown-ca", 3), None);
        assert_eq!(failed("certificate-expired", 4), None);
        assert_eq!(failed("unknown-ca", 60), Some(2));
        assert_eq!(failed("certificate-expired", 62), Some(1));
    }

    #[test]
    fn a_source_that_fails_rapidly_waits_and_its_neighbour_does_not() {
        let sources = Sources::new(100);
        let now = Instant::now();
        for _ in 0..25 {
            sources.enter(HOST, now).unwrap().failed(now, "unknown-ca");
        }
        assert!(sources.enter(HOST, now).unwrap().wait(now).is_some());
        let other = sources
            .enter(Ipv4Addr::new(192, 0, 2, 2).into(), now)
            .unwrap();
        assert_eq!(other.wait(now), None);
        let later = now + Duration::from_secs(6);
        assert_eq!(
            sources.enter(HOST, later).unwrap().wait(later),
            None,
            "waiting ends with the failures"
        );
    }

    #[test]
    fn connections_are_counted_by_site_and_given_back() {
        let sources = Sources::new(2);
        let now = Instant::now();
        let site = |host: u16| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, host));
        let one = sources.enter(site(1), now);
        let _two = sources.enter(site(2), now).unwrap();
        assert!(sources.enter(site(3), now).is_none());
        drop(one);
        assert!(sources.enter(site(3), now).is_some());
        drop(_two);
        assert_eq!(
            sources.len(),
            0,
            "a source without connections or failures takes no room"
        );
    }

    #[test]
    fn the_table_is_bounded() {
        let sources = Sources::new(1);
        let now = Instant::now();
        for host in 0..u32::try_from(MOST_SOURCES).unwrap() + 10 {
            sources
                .enter(Ipv4Addr::from(0x0a00_0000 + host).into(), now)
                .unwrap()
                .failed(now, "unknown-ca");
        }
        assert!(sources.len() <= MOST_SOURCES);
    }
}
