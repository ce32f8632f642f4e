//! How many requests wait for names that left moments ago, and whose. Pure but for its lock; the pool asks before it lets one
//! wait.
//!
//! The room is for everybody: the names of one certificate may take three times what is free beside them, which is three
//! quarters of an empty house. So an agent that leaves again and again, and has visitors of its own come and wait for it,
//! leaves room for the visitors of others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_shared::name::NamePattern;

/// How many times what is free the requests for one owner's names may take.
const TIMES_FREE: usize = 3;

/// Who waits.
#[derive(Debug)]
pub(crate) struct Held {
    most: Share,
    state: Mutex<State>,
}

/// Requests, and octets of their heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) requests: usize,
    pub(crate) octets: usize,
}

#[derive(Debug, Default)]
struct State {
    all: Share,
    /// Of those that have any.
    owners: HashMap<NamePattern, Share>,
}

/// A request's room; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    held: &'a Held,
    owner: NamePattern,
    octets: usize,
}

impl Held {
    pub(crate) fn new(most: Share) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    /// Room for a request whose head takes so many octets; `None` where there is none, or none for this owner: the first
    /// name in the certificate of the agent that left.
    pub(crate) fn enter(&self, owner: &NamePattern, octets: usize) -> Option<Place<'_>> {
        let mut state = self.lock();
        let own = state.owners.get(owner).copied().unwrap_or_default();
        let fits = |most: usize, all: usize, own: usize, more: usize| {
            let free = most.saturating_sub(all);
            more <= free && own < free.saturating_mul(TIMES_FREE)
        };
        let (most, all) = (self.most, state.all);
        if !fits(most.requests, all.requests, own.requests, 1)
            || !fits(most.octets, all.octets, own.octets, octets)
        {
            return None;
        }
        let with = |share: Share| Share {
            requests: share.requests + 1,
            octets: share.octets + octets,
        };
        state.all = with(all);
        state.owners.insert(owner.clone(), with(own));
        Some(Place {
            held: self,
            owner: owner.clone(),
            octets,
        })
    }

    /// How many wait.
    pub(crate) fn requests(&self) -> usize {
        self.lock().all.requests
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let without = |share: &mut Share| {
            share.requests -= 1;
            share.octets -= self.octets;
            share.requests == 0
        };
        let mut state = self.held.lock();
        let _empty = without(&mut state.all);
        if state.owners.get_mut(&self.owner).is_some_and(without) {
            state.owners.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NamePattern {
        NamePattern::from_operator(text).unwrap()
    }

    fn held(requests: usize, octets: usize) -> Held {
        Held::new(Share { requests, octets })
    }

    #[test]
    fn one_owner_leaves_a_quarter_to_others_whatever_it_does() {
        let held = held(1024, 1 << 20);
        let (greedy, modest) = (name("greedy.test"), name("modest.test"));
        let mut places: Vec<_> = (0..2000).filter_map(|_| held.enter(&greedy, 100)).collect();
        assert_eq!(places.len(), 768);
        let others: Vec<_> = (0..150).filter_map(|_| held.enter(&modest, 100)).collect();
        assert_eq!(others.len(), 150);
        assert!(held.enter(&greedy, 100).is_none());
        places.clear();
        assert_eq!(held.requests(), 150);
        assert!(held.enter(&greedy, 100).is_some());
        drop(others);
        assert_eq!(held.lock().all, Share::default());
        assert!(held.lock().owners.is_empty());
    }

    #[test]
    fn a_small_room_is_for_whoever_comes() {
        let one = name("one.test");
        for most in 1..=3 {
            let held = held(most, 1 << 20);
            let places: Vec<_> = (0..10).filter_map(|_| held.enter(&one, 1)).collect();
            assert_eq!(places.len(), most);
        }
    }

    #[test]
    fn octets_are_shared_as_requests_are() {
        let held = held(1000, 4000);
        let (greedy, modest) = (name("greedy.test"), name("modest.test"));
        let places: Vec<_> = (0..100).filter_map(|_| held.enter(&greedy, 500)).collect();
        assert_eq!(places.len(), 6);
        assert!(held.enter(&modest, 1001).is_none());
        assert!(held.enter(&modest, 1000).is_some());
    }
}
