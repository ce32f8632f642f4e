//! The tunnels of one address: which there are, how far each has come, on which worker it runs, and when those leave that are to
//! be replaced. Whether to dial is `keeper`'s to decide, and what to say of it all is the post's. Has no clock: every `now` is in
//! milliseconds of [`tidegate_shared::clock`].

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::keeper::Round;
use crate::serve::Control;

/// How long a tunnel that is to be replaced waits for its replacement.
const REPLACE_WITHIN_MS: u64 = 10_000;

/// See the module's head.
pub(super) struct Roster {
    tunnels: HashMap<u64, Entry>,
    /// Those that are to be replaced, the one that waits longest in front.
    leaving: VecDeque<u64>,
    /// Tunnels on each worker.
    load: Vec<usize>,
    next_id: u64,
}

/// A tunnel as it was when it was asked about.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) control: Arc<Control>,
    pub(super) worker: usize,
    pub(super) round: Round,
    /// Which renewal's certificate it has shown.
    pub(super) certificate: u64,
    /// The address of ours that it comes from, once that is known.
    local: Option<SocketAddr>,
    pub(super) stage: Stage,
}

/// dialling ──first PING answered──▶ up ──GOAWAY or renewal──▶ leaving (──replacement up, or too late──▶ retired)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Dialling,
    Up {
        since: u64,
    },
    /// Works, and is to be replaced; by this moment at the latest.
    Leaving {
        until: u64,
    },
    Retired,
}

impl Roster {
    /// Nothing yet, on so many workers.
    pub(super) fn on(workers: usize) -> Self {
        Self {
            tunnels: HashMap::new(),
            leaving: VecDeque::new(),
            load: vec![0; workers],
            next_id: 0,
        }
    }

    /// Enters a tunnel that is about to be dialled, on the worker that has the fewest.
    pub(super) fn enter(&mut self, round: Round, certificate: u64) -> (u64, Entry) {
        let worker = (0..self.load.len())
            .min_by_key(|worker| self.load[*worker])
            .unwrap_or(0);
        self.load[worker] += 1;
        let id = self.next_id;
        self.next_id += 1;
        let entry = Entry {
            control: Arc::default(),
            worker,
            round,
            certificate,
            local: None,
            stage: Stage::Dialling,
        };
        self.tunnels.insert(id, entry.clone());
        (id, entry)
    }

    /// Its task is over.
    pub(super) fn gone(&mut self, id: u64) -> Option<Entry> {
        let entry = self.tunnels.remove(&id)?;
        self.load[entry.worker] -= 1;
        Some(entry)
    }

    pub(super) fn comes_from(&mut self, id: u64, local: SocketAddr) {
        if let Some(entry) = self.tunnels.get_mut(&id) {
            entry.local = Some(local);
        }
    }

    /// Its first PING was answered. One of those that wait for a replacement leaves.
    pub(super) fn came_up(&mut self, id: u64, now: u64) -> Option<Entry> {
        let entry = self.tunnels.get_mut(&id)?;
        entry.stage = Stage::Up { since: now };
        let entry = entry.clone();
        while let Some(leaving) = self.leaving.pop_front() {
            if let Some(leaving) = self.tunnels.get_mut(&leaving)
                && matches!(leaving.stage, Stage::Leaving { .. })
            {
                leaving.retire();
                break;
            }
        }
        Some(entry)
    }

    /// The gateway wants it gone. One that is up is to be replaced: returned is what it was. One that never came up ends at
    /// once, which will be counted as a failure.
    pub(super) fn asked_to_leave(&mut self, id: u64, now: u64) -> Option<Entry> {
        let entry = self.tunnels.get(&id)?;
        if entry.stage == Stage::Dialling {
            entry.control.retire();
        }
        self.replace(id, now)
    }

    /// Has a tunnel that is up leave when another has come, or when it has waited too long for that. Returns what it was.
    pub(super) fn replace(&mut self, id: u64, now: u64) -> Option<Entry> {
        let entry = self.tunnels.get_mut(&id)?;
        if !matches!(entry.stage, Stage::Up { .. }) {
            return None;
        }
        let before = entry.clone();
        entry.stage = Stage::Leaving {
            until: now + REPLACE_WITHIN_MS,
        };
        self.leaving.push_back(id);
        Some(before)
    }

    /// Lets those go that have waited too long for a replacement. Returns when to look again.
    pub(super) fn let_go(&mut self, now: u64) -> Option<u64> {
        while let Some(id) = self.leaving.front() {
            if let Some(entry) = self.tunnels.get_mut(id) {
                match entry.stage {
                    Stage::Leaving { until } if now < until => return Some(until),
                    Stage::Leaving { .. } => entry.retire(),
                    _ => {}
                }
            }
            self.leaving.pop_front();
        }
        None
    }

    /// The tunnels that are up and come from an address of which `is_ours` says that it is not; asked once for each address.
    pub(super) fn uprooted(
        &self,
        mut is_ours: impl FnMut(SocketAddr) -> bool,
    ) -> Vec<(u64, SocketAddr)> {
        let mut ours = HashMap::new();
        self.tunnels
            .iter()
            .filter(|(_, entry)| matches!(entry.stage, Stage::Up { .. }))
            .filter_map(|(id, entry)| entry.local.map(|local| (*id, local)))
            .filter(|(_, local)| !*ours.entry(local.ip()).or_insert_with(|| is_ours(*local)))
            .collect()
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.tunnels.keys().copied().collect()
    }

    pub(super) fn controls(&self) -> impl Iterator<Item = &Control> {
        self.tunnels.values().map(|entry| &*entry.control)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tunnels.is_empty()
    }
}

impl Entry {
    fn retire(&mut self) {
        self.stage = Stage::Retired;
        self.control.retire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Keeper;
    use crate::random::Random;
    use std::task::{Context, Waker};

    fn round() -> Round {
        Keeper::new(1, Random::from_system()).dialling()
    }

    fn is_retired(entry: &Entry) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        entry.control.poll_retired(&mut cx).is_ready()
    }

    /// Tunnels that are up, since the moment 0.
    fn up<const N: usize>(roster: &mut Roster) -> [(u64, Entry); N] {
        std::array::from_fn(|_| {
            let (id, _) = roster.enter(round(), 0);
            (id, roster.came_up(id, 0).unwrap())
        })
    }

    #[test]
    fn one_leaves_for_each_that_comes_and_in_its_order() {
        let mut roster = Roster::on(1);
        let [(first, one), (second, two), (third, three)] = up(&mut roster);
        assert!(roster.replace(second, 0).is_some());
        assert!(roster.asked_to_leave(first, 0).is_some());
        assert!(roster.replace(first, 0).is_none(), "it is leaving already");
        let left = |roster: &Roster| {
            let controls = [&one, &two, &three].map(is_retired);
            assert!(!roster.is_empty());
            controls
        };
        assert_eq!(left(&roster), [false, false, false]);
        up::<1>(&mut roster);
        assert_eq!(left(&roster), [false, true, false]);
        up::<2>(&mut roster);
        assert_eq!(left(&roster), [true, true, false]);
        assert!(roster.replace(third, 1).is_some());
    }

    #[test]
    fn a_tunnel_whose_replacement_does_not_come_leaves_all_the_same() {
        let mut roster = Roster::on(1);
        let [(first, one), (second, two)] = up(&mut roster);
        assert!(roster.replace(first, 5).is_some());
        assert!(roster.replace(second, 7).is_some());
        assert_eq!(roster.let_go(6), Some(5 + REPLACE_WITHIN_MS));
        assert_eq!(
            roster.let_go(5 + REPLACE_WITHIN_MS),
            Some(7 + REPLACE_WITHIN_MS)
        );
        assert!(is_retired(&one) && !is_retired(&two));
    }

    #[test]
    fn one_that_ends_by_itself_holds_none_behind_it_up() {
        let mut roster = Roster::on(1);
        let [(first, _), (second, two)] = up(&mut roster);
        assert!(roster.replace(first, 0).is_some());
        assert!(roster.replace(second, 0).is_some());
        roster.gone(first);
        assert_eq!(roster.let_go(REPLACE_WITHIN_MS), None);
        assert!(is_retired(&two));
    }

    #[test]
    fn one_that_is_asked_to_leave_before_it_is_up_ends_and_is_not_replaced() {
        let mut roster = Roster::on(1);
        let (id, entry) = roster.enter(round(), 0);
        assert!(roster.replace(id, 0).is_none() && !is_retired(&entry));
        assert!(roster.asked_to_leave(id, 0).is_none() && is_retired(&entry));
        assert_eq!(roster.gone(id).unwrap().stage, Stage::Dialling);
    }

    #[test]
    fn work_is_spread_and_given_back() {
        let mut roster = Roster::on(2);
        let entered = [0, 1, 2].map(|_| roster.enter(round(), 0));
        let workers = entered.each_ref().map(|(_, entry)| entry.worker);
        assert_eq!(workers, [0, 1, 0]);
        roster.gone(entered[0].0);
        roster.gone(entered[2].0);
        assert_eq!(roster.enter(round(), 0).1.worker, 0);
    }

    #[test]
    fn an_address_is_asked_about_once() {
        let mut roster = Roster::on(1);
        let tunnels: [_; 3] = up(&mut roster);
        let from = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
        for ((id, _), local) in tunnels.iter().zip([
            from("192.0.2.1", 1),
            from("192.0.2.1", 2),
            from("192.0.2.2", 1),
        ]) {
            roster.comes_from(*id, local);
        }
        let mut asked = 0;
        let mut lost = roster.uprooted(|local| {
            asked += 1;
            local.ip() != from("192.0.2.1", 0).ip()
        });
        lost.sort();
        assert_eq!(asked, 2);
        assert_eq!(lost, [(0, from("192.0.2.1", 1)), (1, from("192.0.2.1", 2))]);
    }
}
