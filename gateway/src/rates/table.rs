//! What is known of each source, for a bounded number of them. Whoever holds a connection or a request of a source holds the
//! source too, and counts without asking here again; only what comes for the first time, or again, looks it up.
//!
//! A source is found in one of 64 hash tables, each behind a lock that is held for a look along a short chain. Where a
//! table is full, a newcomer takes the place of the one of a few that has been quiet the longest, so that a flood from millions of
//! sources costs each of them the same few steps and no memory. Those of whom something is held are never forgotten.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Tables; a power of two.
const SHARDS: usize = 64;

/// Of so many the one that has been quiet the longest is forgotten.
const LOOKED_AT: usize = 8;

/// And of so many if all of those are held.
const LOOKED_AT_MOST: usize = 64;

/// For a newcomer, so many are looked at first whether they need be remembered any longer: twice as many as there are newcomers,
/// so that a table becomes no larger than what is in use.
const TIDIED: usize = 2;

/// Whom is counted together: an address or a prefix, at listeners of one set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// IPv4 as IPv6 has it (RFC 4291 §2.5.5.2).
    high: u64,
    low: u64,
    rules: u16,
    prefix: u8,
}

impl Key {
    /// `v4` and `v6` are the octets' bits that count.
    pub fn of(address: IpAddr, v4: u8, v6: u8, rules: u16) -> Self {
        let (bits, prefix) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96 + v4.min(32)),
            IpAddr::V6(address) => (address.to_bits(), v6.min(128)),
        };
        let shift = 128 - u32::from(prefix);
        let bits = bits.checked_shr(shift).unwrap_or(0).checked_shl(shift);
        let bits = bits.unwrap_or(0);
        Self {
            high: (bits >> 64) as u64,
            // The lower half, which is meant.
            low: bits as u64,
            rules,
            prefix,
        }
    }
}

/// `192.0.2.7`, `192.0.2.0/24` or `2001:db8:1:2::/64`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(u128::from(self.high) << 64 | u128::from(self.low));
        match (address.to_ipv4_mapped(), self.prefix) {
            (Some(v4), 128) => write!(f, "{v4}"),
            (Some(v4), prefix) => write!(f, "{v4}/{}", prefix.saturating_sub(96)),
            (None, 128) => write!(f, "{address}"),
            (None, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

/// What is counted of a source. Those who count hold it.
#[derive(Debug)]
pub struct Source {
    /// The key's parts: as one field it would bring its padding with it.
    high: u64,
    low: u64,
    rules: u16,
    prefix: u8,
    /// For [`super::rate::Rate`]: connections, requests and errors.
    pub connection_rate: AtomicU64,
    pub request_rate: AtomicU64,
    pub error_rate: AtomicU64,
    /// At this moment.
    pub connections: AtomicU32,
    pub requests: AtomicU32,
    /// When it was looked up last, in seconds.
    seen: AtomicU32,
    /// When the log named it last, in seconds, and how often it should have since.
    told: AtomicU32,
    untold: AtomicU32,
}

/// The log names a source at most so often.
const TELL_EVERY: u32 = 60;

const SECOND: u64 = 1_000_000_000;

impl Source {
    fn new(key: Key, now: u64) -> Self {
        Self {
            high: key.high,
            low: key.low,
            rules: key.rules,
            prefix: key.prefix,
            connection_rate: AtomicU64::new(0),
            request_rate: AtomicU64::new(0),
            error_rate: AtomicU64::new(0),
            connections: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            seen: AtomicU32::new(seconds(now)),
            told: AtomicU32::new(0),
            untold: AtomicU32::new(0),
        }
    }

    /// Whom it stands for.
    pub fn key(&self) -> Key {
        Key {
            high: self.high,
            low: self.low,
            rules: self.rules,
            prefix: self.prefix,
        }
    }

    /// Whether the log is to name it, and how often it should have been named since.
    pub fn tell(&self, now: u64) -> Option<u32> {
        let (now, told) = (seconds(now).max(1), self.told.load(Relaxed));
        let quiet = told != 0 && now.saturating_sub(told) < TELL_EVERY;
        if quiet
            || self
                .told
                .compare_exchange(told, now, Relaxed, Relaxed)
                .is_err()
        {
            self.untold.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.untold.swap(0, Relaxed) + 1)
    }

    /// Up to when it counts that this source is remembered: beyond that it would be served like one that is not known.
    fn matters_until(&self) -> u64 {
        let rates = [&self.connection_rate, &self.request_rate, &self.error_rate];
        let full_at = rates.map(|rate| rate.load(Relaxed)).into_iter().max();
        let told = match self.told.load(Relaxed) {
            0 => 0,
            told => u64::from(told + TELL_EVERY) * SECOND,
        };
        full_at.unwrap_or_default().max(told)
    }

    /// The later, the less it is to be forgotten.
    fn last_heard(&self) -> u64 {
        self.matters_until()
            .max(u64::from(self.seen.load(Relaxed)) * SECOND)
    }
}

fn seconds(now: u64) -> u32 {
    u32::try_from(now / SECOND).unwrap_or(u32::MAX)
}

/// See the module's head.
#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Sources in one table.
    most: usize,
    known: AtomicUsize,
    forgotten: AtomicU64,
}

impl Table {
    /// For so many sources, or a few less.
    pub fn new(most: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            most: (most / SHARDS).max(1),
            known: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
        }
    }

    /// The source, known or not. `now` is by [`tidegate_shared::clock::ns`].
    pub fn get(&self, key: Key, now: u64) -> Arc<Source> {
        let hash = self.hasher.hash_one(key);
        // The low bits choose the chain.
        let shard = &self.shards[(hash >> 32) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = shard.find(key, hash) {
            source.seen.store(seconds(now), Relaxed);
            return Arc::clone(source);
        }
        let source = Source::new(key, now);
        let mut place = shard.unneeded(now);
        if place.is_none() && shard.slots.len() >= self.most {
            place = shard.quietest();
            self.forgotten
                .fetch_add(u64::from(place.is_some()), Relaxed);
        }
        if let Some(at) = place {
            let old = self.hasher.hash_one(shard.slots[at].source.key());
            return shard.replace(at, old, source, hash);
        }
        self.known.fetch_add(1, Relaxed);
        shard.add(source, self.most, |key| self.hasher.hash_one(key))
    }

    /// Sources that are known.
    pub fn count(&self) -> usize {
        self.known.load(Relaxed)
    }

    /// Sources that had to make room for others, ever.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Relaxed)
    }
}

/// One hash table: chains through `slots`, and where each begins.
#[derive(Debug, Default)]
struct Shard {
    heads: Vec<u32>,
    slots: Vec<Slot>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    source: Arc<Source>,
    next: u32,
}

const END: u32 = u32::MAX;

/// Chains to begin with.
const FIRST_HEADS: usize = 8;

impl Shard {
    fn chain(&self, hash: u64) -> usize {
        // The number of chains is a power of two.
        hash as usize & (self.heads.len() - 1)
    }

    fn find(&self, key: Key, hash: u64) -> Option<&Arc<Source>> {
        if self.heads.is_empty() {
            return None;
        }
        let mut at = self.heads[self.chain(hash)];
        while at != END {
            let slot = &self.slots[at as usize];
            if slot.source.key() == key {
                return Some(&slot.source);
            }
            at = slot.next;
        }
        None
    }

    /// One more, which is not known.
    fn add(&mut self, source: Source, most: usize, hash_of: impl Fn(Key) -> u64) -> Arc<Source> {
        if self.slots.len() == self.heads.len() {
            self.grow(most, &hash_of);
        }
        let chain = self.chain(hash_of(source.key()));
        let source = Arc::new(source);
        // Behind four thousand million sources of one table there is no more memory.
        let at = u32::try_from(self.slots.len()).unwrap_or(END);
        self.slots.push(Slot {
            source: Arc::clone(&source),
            next: self.heads[chain],
        });
        self.heads[chain] = at;
        source
    }

    fn grow(&mut self, most: usize, hash_of: impl Fn(Key) -> u64) {
        let heads = (self.heads.len() * 2).max(FIRST_HEADS);
        self.heads = vec![END; heads];
        // No more than will be used.
        let room = heads.min(most.max(self.slots.len() + 1)) - self.slots.len();
        self.slots.reserve_exact(room);
        for at in 0..self.slots.len() {
            let chain = self.chain(hash_of(self.slots[at].source.key()));
            self.slots[at].next = self.heads[chain];
            self.heads[chain] = u32::try_from(at).unwrap_or(END);
        }
    }

    /// One of the next that nobody holds, and that would be served in the same way if it were not known.
    fn unneeded(&mut self, now: u64) -> Option<usize> {
        for _ in 0..TIDIED.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let source = &self.slots[self.hand].source;
            if Arc::strong_count(source) == 1 && source.matters_until() <= now {
                return Some(self.hand);
            }
        }
        None
    }

    /// Of the next few that nobody holds, the one that matters least.
    fn quietest(&mut self) -> Option<usize> {
        let mut best: Option<(u64, usize)> = None;
        for looked in 1..=LOOKED_AT_MOST.min(self.slots.len()) {
            self.hand = (self.hand + 1) % self.slots.len();
            let source = &self.slots[self.hand].source;
            if Arc::strong_count(source) == 1 {
                let heard = source.last_heard();
                if best.is_none_or(|(least, _)| heard < least) {
                    best = Some((heard, self.hand));
                }
            }
            if looked >= LOOKED_AT && best.is_some() {
                break;
            }
        }
        best.map(|(_, at)| at)
    }

    /// Puts a source in the place of another.
    fn replace(&mut self, at: usize, old: u64, source: Source, hash: u64) -> Arc<Source> {
        let (from, to) = (self.chain(old), self.chain(hash));
        let number = u32::try_from(at).unwrap_or(END);
        let next = self.slots[at].next;
        if self.heads[from] == number {
            self.heads[from] = next;
        } else {
            let mut before = self.heads[from] as usize;
            while self.slots[before].next != number {
                before = self.slots[before].next as usize;
            }
            self.slots[before].next = next;
        }
        self.slots[at].next = self.heads[to];
        self.heads[to] = number;
        let place = &mut self.slots[at].source;
        match Arc::get_mut(place) {
            // Nobody holds it, and nobody can take it without this table's lock.
            Some(place) => *place = source,
            None => *place = Arc::new(source),
        }
        Arc::clone(place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn key(host: u32) -> Key {
        Key::of(Ipv4Addr::from_bits(host).into(), 32, 64, 0)
    }

    #[test]
    fn whom_is_counted_together() {
        let of = |address: &str, v4, v6| Key::of(address.parse().unwrap(), v4, v6, 1);
        for (address, v4, v6, shown) in [
            ("192.0.2.7", 32, 64, "192.0.2.7"),
            ("::ffff:192.0.2.7", 32, 64, "192.0.2.7"),
            ("192.0.2.7", 24, 64, "192.0.2.0/24"),
            ("192.0.2.7", 0, 64, "0.0.0.0/0"),
            ("2001:db8:1:2:3:4:5:6", 32, 64, "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3:4:5:6", 32, 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8:1:2:3:4:5:6", 32, 0, "::/0"),
        ] {
            assert_eq!(of(address, v4, v6).to_string(), shown);
        }
        assert_eq!(of("::ffff:192.0.2.7", 32, 64), of("192.0.2.7", 32, 48));
        assert_ne!(
            of("192.0.2.7", 32, 64),
            Key::of("192.0.2.7".parse().unwrap(), 32, 64, 2)
        );
        // That of everybody over IPv6 is not that of everybody over IPv4.
        assert_ne!(of("::1", 0, 0), of("0.0.0.0", 0, 0));
    }

    proptest! {
        /// Against a set: nobody is known twice, nobody who is held is forgotten, and there are no more than there is room for.
        #[test]
        fn it_is_a_bounded_set(
            hosts in prop::collection::vec((0_u32..600, any::<bool>()), 1..2000), most in 64_usize..512,
        ) {
            let table = Table::new(most);
            let (mut held, mut seen) = (Vec::<Arc<Source>>::new(), HashSet::new());
            for (at, (host, hold)) in hosts.into_iter().enumerate() {
                let source = table.get(key(host), at as u64 * SECOND);
                prop_assert_eq!(source.key(), key(host));
                prop_assert!(Arc::ptr_eq(&source, &table.get(key(host), at as u64 * SECOND)));
                if let Some(other) = held.iter().find(|other| other.key() == key(host)) {
                    prop_assert!(Arc::ptr_eq(other, &source));
                } else if hold && held.len() < 20 {
                    source.connections.fetch_add(1, Relaxed);
                    held.push(source);
                }
                seen.insert(host);
            }
            let slots: usize = table.shards.iter().map(|shard| shard.lock().unwrap().slots.len()).sum();
            prop_assert_eq!(slots, table.count());
            prop_assert!(slots <= seen.len() && slots <= most + held.len());
            for source in held {
                prop_assert_eq!(source.connections.load(Relaxed), 1);
            }
        }
    }

    #[test]
    fn a_flood_of_strangers_does_not_make_it_forget_who_is_busy() {
        let table = Table::new(6400);
        let busy = table.get(key(0), 0);
        busy.request_rate.store(3600 * SECOND, Relaxed);
        drop(busy);
        for host in 1..200_000 {
            let now = u64::from(host) * SECOND / 1000;
            let stranger = table.get(key(host), now);
            stranger.request_rate.store(now + 60 * SECOND, Relaxed);
        }
        assert!(table.count() <= 6400, "{}", table.count());
        assert!(table.forgotten() >= 100_000, "{}", table.forgotten());
        let busy = table.get(key(0), 200 * SECOND);
        assert_eq!(busy.request_rate.load(Relaxed), 3600 * SECOND);
    }

    #[test]
    fn who_needs_not_be_remembered_takes_no_room() {
        let table = Table::new(25_600);
        let held: Vec<_> = (0..100).map(|host| table.get(key(host), 0)).collect();
        for host in 100..100_000 {
            table.get(key(host), u64::from(host));
        }
        // Half of what there is room for, and an eighth of those who have come.
        assert!(table.count() < 12_800, "{}", table.count());
        assert_eq!(table.forgotten(), 0);
        assert_eq!(held[7].key(), table.get(key(7), 0).key());
    }

    #[test]
    fn where_all_are_held_there_is_room_all_the_same() {
        let table = Table::new(64);
        let held: Vec<_> = (0..1000).map(|host| table.get(key(host), 0)).collect();
        assert_eq!(table.count(), 1000);
        drop(held);
        for host in 1000..9000 {
            table.get(key(host), SECOND);
        }
        assert_eq!(table.count(), 1000);
    }

    #[test]
    fn the_log_names_a_source_once_a_minute() {
        let source = Source::new(key(1), 0);
        assert_eq!(source.tell(0), Some(1));
        for second in 0..60 {
            assert_eq!(source.tell(second * SECOND), None);
        }
        assert_eq!(source.tell(61 * SECOND), Some(61));
    }

    /// What the README says of memory.
    #[test]
    fn a_source_takes_no_more_than_its_share() {
        assert!(size_of::<Source>() <= 64, "{}", size_of::<Source>());
        assert_eq!(size_of::<Slot>(), 16);
    }
}
