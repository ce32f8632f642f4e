//! Places for the admin page's connections: whoever comes has one, and where there is none left, whoever has had his longest
//! of those from the busiest source makes room. An answer takes a millisecond, so that only idlers lose theirs.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The places.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    taken: Mutex<Taken>,
}

/// In the order in which they were taken.
#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, (IpAddr, CancellationToken)>,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    leave: CancellationToken,
}

impl Seats {
    /// For so many at once, of whom those who are leaving have a moment more.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            taken: Mutex::default(),
        })
    }

    /// A place for whoever comes from there.
    pub(super) fn take(self: &Arc<Self>, source: IpAddr) -> Seat {
        let leave = CancellationToken::new();
        let mut taken = self.taken();
        if taken.seats.len() >= self.most {
            taken.make_room();
        }
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, (source, leave.clone()));
        Seat {
            seats: Arc::clone(self),
            number,
            leave,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn make_room(&mut self) {
        let mut count: HashMap<IpAddr, usize> = HashMap::new();
        for (source, _) in self.seats.values() {
            *count.entry(*source).or_default() += 1;
        }
        let most = count.values().max().copied();
        let busiest = |source: &IpAddr| count.get(source).copied() == most;
        let oldest = self
            .seats
            .iter()
            .find(|(_, (source, _))| busiest(source))
            .map(|(number, _)| *number);
        if let Some((_, leave)) = oldest.and_then(|number| self.seats.remove(&number)) {
            leave.cancel();
        }
    }
}

impl Seat {
    /// Ready when somebody else needs the place.
    pub(super) async fn is_needed(&self) {
        self.leave.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Whoever had to leave has none any more.
        self.seats.taken().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn from(host: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, host).into()
    }

    #[test]
    fn the_busiest_source_makes_room_and_its_oldest_goes_first() {
        let seats = Seats::new(3);
        let other = seats.take(from(1));
        let mut idlers: Vec<Seat> = (0..20).map(|_| seats.take(from(2))).collect();
        assert!(!other.leave.is_cancelled(), "a lone one keeps its place");
        let stayed = idlers.split_off(18);
        assert!(idlers.iter().all(|seat| seat.leave.is_cancelled()));
        assert!(stayed.iter().all(|seat| !seat.leave.is_cancelled()));
        drop((other, idlers, stayed));
        assert!(seats.taken().seats.is_empty());
    }
}
