//! Which address of a name is which server. Pure: answers and moments in, changes out; moments are milliseconds by
//! `clock::now_ms`. Called by the task that keeps a name.
//!
//! An address keeps its slot for as long as it is in use. One that is no longer in the answer is held for some time, for
//! resolvers give now these and now those of many addresses, and gives its slot up sooner to one that is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use super::super::whereabouts::Found;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    seats: Vec<Option<Held>>,
    hold_ms: u64,
    /// So that two gateways with fewer slots than there are addresses do not choose the same ones.
    salt: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    found: Found,
    /// Since when it is in no answer; `None` where it is.
    missing: Option<u64>,
}

/// What becomes of a slot. Slots count from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has an address, in the place of another one or of none.
    Came {
        slot: usize,
        found: Found,
        former: Option<SocketAddr>,
    },
    /// Its address is the same, and has another part in what comes.
    Weighed { slot: usize, found: Found },
    /// Its address is not in the answer, and is held.
    Missing { slot: usize, at: SocketAddr },
    /// It has none any more.
    Left { slot: usize, at: SocketAddr },
}

impl Slots {
    pub(super) fn new(slots: usize, hold_ms: u64, salt: u64) -> Self {
        Self {
            seats: vec![None; slots],
            hold_ms,
            salt,
        }
    }

    /// These are the addresses, in whatever order; some may be there twice.
    pub(super) fn answered(&mut self, now: u64, answer: &[Found]) -> Vec<Change> {
        let mut answer = answer.to_vec();
        // The best that is said of an address counts.
        answer.sort_unstable_by_key(|found| (found.at, found.backup, u16::MAX - found.share));
        answer.dedup_by_key(|found| found.at);
        let mut changes = self.marked(now, &answer);
        // Who comes takes a place before it is empty: in between there would be one server less.
        for found in self.newcomers(&answer) {
            let Some(slot) = self.slot_for(found) else {
                continue;
            };
            let held = Held {
                found,
                missing: None,
            };
            let former = self.seats[slot].replace(held).map(|held| held.found.at);
            changes.push(Change::Came {
                slot,
                found,
                former,
            });
        }
        changes.extend(self.passed(now));
        changes
    }

    /// Those that have been held for long enough leave.
    pub(super) fn passed(&mut self, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (slot, seat) in self.seats.iter_mut().enumerate() {
            let over = |held: &mut Held| {
                held.missing
                    .is_some_and(|since| now.saturating_sub(since) >= self.hold_ms)
            };
            if let Some(held) = seat.take_if(over) {
                let at = held.found.at;
                changes.push(Change::Left { slot, at });
            }
        }
        changes
    }

    /// When [`Self::passed`] is due.
    pub(super) fn due(&self) -> Option<u64> {
        let held = self.seats.iter().flatten();
        let missing = held.filter_map(|held| held.missing).min()?;
        Some(missing.saturating_add(self.hold_ms))
    }

    /// How many have an address.
    pub(super) fn taken(&self) -> usize {
        self.seats.iter().flatten().count()
    }

    /// Notes of each seat whether it is in the answer, and what is said of it there.
    fn marked(&mut self, now: u64, answer: &[Found]) -> Vec<Change> {
        let mut changes = Vec::new();
        for (slot, seat) in self.seats.iter_mut().enumerate() {
            let Some(held) = seat else { continue };
            let at = held.found.at;
            match answer.binary_search_by_key(&at, |found| found.at) {
                Ok(index) => {
                    let found = answer[index];
                    if held.found != found {
                        changes.push(Change::Weighed { slot, found });
                    }
                    *held = Held {
                        found,
                        missing: None,
                    };
                }
                Err(_) if held.missing.is_none() => {
                    held.missing = Some(now);
                    changes.push(Change::Missing { slot, at });
                }
                Err(_) => {}
            }
        }
        changes
    }

    /// Those without a slot, in the order in which they get one.
    fn newcomers(&self, answer: &[Found]) -> Vec<Found> {
        let mut all: Vec<Found> = answer
            .iter()
            .filter(|found| {
                let here = |held: &Held| held.found.at == found.at;
                !self.seats.iter().flatten().any(here)
            })
            .copied()
            .collect();
        all.sort_unstable_by_key(|found| (found.backup, self.lot(found.at), found.at));
        all
    }

    /// A slot that is free, or whose address has less of a claim: one that is held, the one that is missing for longest; or a
    /// backup where this one is none.
    fn slot_for(&self, found: Found) -> Option<usize> {
        if let Some(free) = self.seats.iter().position(Option::is_none) {
            return Some(free);
        }
        let seats = || {
            let seats = self.seats.iter().enumerate();
            seats.filter_map(|(slot, seat)| Some((slot, seat.as_ref()?)))
        };
        let missing = seats()
            .filter_map(|(slot, held)| Some((held.missing?, self.lot(held.found.at), slot)))
            .min();
        let backup = seats()
            .filter(|(_, held)| held.found.backup && !found.backup)
            .map(|(slot, held)| (self.lot(held.found.at), slot))
            .max();
        missing
            .map(|(.., slot)| slot)
            .or_else(|| backup.map(|(_, slot)| slot))
    }

    fn lot(&self, at: SocketAddr) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.salt, at).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const HOLD: u64 = 30_000;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn found(n: u8) -> Found {
        Found {
            at: at(n),
            share: 1,
            backup: false,
            priority: None,
        }
    }

    fn seated(slots: &Slots) -> Vec<Option<SocketAddr>> {
        let at = |seat: &Option<Held>| seat.map(|held| held.found.at);
        slots.seats.iter().map(at).collect()
    }

    #[test]
    fn what_vanishes_is_held_and_leaves() {
        let mut slots = Slots::new(3, HOLD, 7);
        slots.answered(0, &[found(1), found(2)]);
        let before = seated(&slots);
        let slot = before.iter().position(|seat| *seat == Some(at(1))).unwrap();
        let missing = Change::Missing { slot, at: at(1) };
        assert_eq!(slots.answered(1_000, &[found(2)]), [missing]);
        assert_eq!(slots.answered(2_000, &[found(2)]), [], "said once");
        assert_eq!(slots.due(), Some(31_000));
        assert_eq!(slots.passed(30_999), []);
        assert_eq!(seated(&slots), before);
        assert_eq!(slots.passed(31_000), [Change::Left { slot, at: at(1) }]);
        assert_eq!((slots.due(), slots.taken()), (None, 1));
    }

    #[test]
    fn what_comes_back_in_time_never_left() {
        let mut slots = Slots::new(1, HOLD, 7);
        slots.answered(0, &[found(1)]);
        slots.answered(10, &[]);
        assert_eq!(slots.answered(HOLD, &[found(1)]), []);
        assert_eq!(slots.due(), None);
    }

    #[test]
    fn who_is_in_the_answer_takes_the_place_of_who_is_not() {
        let mut slots = Slots::new(1, HOLD, 7);
        slots.answered(0, &[found(1)]);
        let former = Some(at(1));
        let came = Change::Came {
            slot: 0,
            found: found(2),
            former,
        };
        let missing = Change::Missing { slot: 0, at: at(1) };
        assert_eq!(slots.answered(1, &[found(2)]), [missing, came]);
        assert_eq!(slots.answered(2, &[found(2), found(3)]), [], "full");
    }

    #[test]
    fn a_server_takes_the_place_of_a_backup_and_weights_change_in_place() {
        let backup = |n| Found {
            backup: true,
            ..found(n)
        };
        let mut slots = Slots::new(2, HOLD, 7);
        slots.answered(0, &[backup(1), found(2)]);
        assert_eq!(slots.taken(), 2);
        slots.answered(1, &[backup(1), found(2), found(3)]);
        assert!(!seated(&slots).contains(&Some(at(1))));
        let heavy = Found {
            share: 9,
            ..found(3)
        };
        let slot = seated(&slots).iter().position(|seat| *seat == Some(at(3)));
        let weighed = Change::Weighed {
            slot: slot.unwrap(),
            found: heavy,
        };
        assert_eq!(slots.answered(2, &[heavy, found(2)]), [weighed]);
    }

    #[test]
    fn without_hold_it_leaves_at_once() {
        let mut slots = Slots::new(1, 0, 7);
        slots.answered(0, &[found(1)]);
        let (at, former) = (at(1), Some(at(1)));
        let missing = Change::Missing { slot: 0, at };
        let came = Change::Came {
            slot: 0,
            found: found(2),
            former,
        };
        assert_eq!(slots.answered(5, &[found(2)]), [missing, came]);
        slots.answered(9, &[]);
        assert_eq!(slots.taken(), 0);
    }

    fn answers() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
        let answer = prop::collection::vec(0u8..12, 0..8);
        prop::collection::vec((0u64..20_000, answer), 1..30)
    }

    proptest! {
        #[test]
        fn slots_are_kept_held_and_never_too_many(
            slots in 1usize..6, salt: u64, answers in answers(),
        ) {
            let mut machine = Slots::new(slots, HOLD, salt);
            let mut now = 0;
            let mut missing: HashMap<SocketAddr, u64> = HashMap::new();
            for (later, answer) in answers {
                let due = machine.due();
                now += later;
                if due.is_some_and(|due| due <= now) {
                    machine.passed(now);
                }
                let before = seated(&machine);
                let answer: Vec<Found> = answer.into_iter().map(found).collect();
                let given: Vec<SocketAddr> = answer.iter().map(|found| found.at).collect();
                missing.retain(|at, _| !given.contains(at));
                for at in before.iter().flatten().filter(|at| !given.contains(at)) {
                    missing.entry(*at).or_insert(now);
                }
                machine.answered(now, &answer);
                let after = seated(&machine);
                prop_assert_eq!(after.len(), slots);
                let mut once: Vec<_> = after.iter().flatten().collect();
                once.sort();
                once.dedup();
                prop_assert_eq!(once.len(), after.iter().flatten().count(), "each once");
                for (slot, former) in before.iter().enumerate() {
                    let Some(former) = former else { continue };
                    if given.contains(former) {
                        prop_assert_eq!(after[slot], Some(*former), "it keeps its slot");
                    } else if after[slot] != Some(*former) {
                        // It gave way to one of the answer, when nothing was free any more.
                        prop_assert!(after[slot].is_some_and(|at| given.contains(&at)));
                        prop_assert!(after.iter().all(Option::is_some));
                    }
                }
                let mut wanted = given.clone();
                wanted.sort();
                wanted.dedup();
                let here = wanted.iter().filter(|at| after.contains(&Some(**at))).count();
                prop_assert_eq!(here, wanted.len().min(slots), "as many as there is room for");
                for at in after.iter().flatten() {
                    let since = missing.get(at);
                    prop_assert!(since.is_none_or(|since| now - since < HOLD), "nobody stays for longer");
                }
            }
        }

        #[test]
        fn the_order_of_an_answer_is_nothing(
            slots in 1usize..6, salt: u64, answers in answers(), backups: u16,
        ) {
            let found = |n: u8| Found { backup: backups >> n & 1 == 1, ..found(n) };
            let (mut one, mut other) = (Slots::new(slots, HOLD, salt), Slots::new(slots, HOLD, salt));
            let mut now = 0;
            for (later, answer) in answers {
                now += later;
                let answer: Vec<Found> = answer.into_iter().map(found).collect();
                let mut turned = answer.clone();
                turned.reverse();
                let middle = turned.len() / 2;
                turned.rotate_left(middle);
                one.answered(now, &answer);
                other.answered(now, &turned);
                prop_assert_eq!(&one, &other);
            }
        }
    }
}
