//! Room for connections, and who waits for it. A server with a limit has so many connections at most, in use or resting; a
//! request that finds every fit server full waits in the backend's queue, first come, first served, for a bounded time and in
//! bounded number.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::oneshot;

/// Those who wait for room at any server of a backend.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<oneshot::Sender<Turn>>>,
    count: AtomicUsize,
    most: usize,
}

/// Whoever has it may look for room. Passed on if it is dropped unused.
#[derive(Debug)]
pub(super) struct Turn {
    queue: Option<Arc<Queue>>,
    /// How many more it may be passed on to: as many as waited when it was first given.
    more: usize,
}

/// A place in the queue, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    queue: &'a Queue,
    turn: oneshot::Receiver<Turn>,
}

impl Place<'_> {
    /// Waits for its turn. Nothing where the queue is gone, which it is with its backend.
    pub(super) async fn turn(&mut self) -> Option<Turn> {
        (&mut self.turn).await.ok()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // A turn that came meanwhile is passed on by its own drop.
        self.turn.close();
        if self.turn.try_recv().is_err() {
            self.queue.forget_those_who_left();
        }
    }
}

impl Queue {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            count: AtomicUsize::new(0),
            most,
        })
    }

    /// How many wait.
    pub(super) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Joins the queue at its end. `None` where it is full, but for one who has waited in it and found no room.
    pub(super) fn join(&self, again: bool) -> Option<Place<'_>> {
        let (give, turn) = oneshot::channel();
        let mut waiting = self.lock();
        if again || waiting.len() < self.most {
            waiting.push_back(give);
        } else {
            return None;
        }
        self.count.store(waiting.len(), Relaxed);
        Some(Place { queue: self, turn })
    }

    fn forget_those_who_left(&self) {
        let mut waiting = self.lock();
        waiting.retain(|waiter| !waiter.is_closed());
        self.count.store(waiting.len(), Relaxed);
    }

    /// There is room: it is the first one's turn.
    pub(super) fn pass(self: &Arc<Self>) {
        self.pass_at_most(self.count());
    }

    fn pass_at_most(self: &Arc<Self>, most: usize) {
        let Some(more) = most.checked_sub(1) else {
            return;
        };
        loop {
            let mut waiting = self.lock();
            let first = waiting.pop_front();
            self.count.store(waiting.len(), Relaxed);
            drop(waiting);
            let Some(first) = first else { return };
            match first.send(Turn {
                queue: Some(Arc::clone(self)),
                more,
            }) {
                Ok(()) => return,
                // Nobody waits there any more.
                Err(mut turn) => turn.spend(),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<oneshot::Sender<Turn>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// It has been used.
    pub(super) fn spend(&mut self) {
        self.queue = None;
    }

    /// It was no use: it is the next one's.
    pub(super) fn pass_on(self) {
        drop(self);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.pass_at_most(self.more);
        }
    }
}

/// How many connections a server has.
#[derive(Debug)]
pub(super) struct Room {
    open: AtomicUsize,
    /// `None` for any number.
    most: Option<usize>,
    queue: Arc<Queue>,
}

/// One connection's place. Held by the connection itself, to its end.
#[derive(Debug)]
pub(super) struct Permit(Arc<Room>);

/// The place of a connection that takes a while to end once it is let go. Held by the connection.
#[derive(Debug)]
pub(super) struct Lent(Arc<Mutex<Option<Permit>>>);

/// The right to give that place to another connection as soon as this one is let go.
#[derive(Clone, Debug)]
pub(super) struct Claim(Weak<Mutex<Option<Permit>>>);

impl Lent {
    pub(super) fn of(permit: Permit) -> Self {
        Self(Arc::new(Mutex::new(Some(permit))))
    }

    pub(super) fn claim(&self) -> Claim {
        Claim(Arc::downgrade(&self.0))
    }
}

impl Claim {
    /// The place; `None` where the connection has ended already.
    pub(super) fn take(&self) -> Option<Permit> {
        let lent = self.0.upgrade()?;
        lent.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Room {
    pub(super) fn new(most: Option<usize>, queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            most,
            queue,
        })
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(super) const fn is_limited(&self) -> bool {
        self.most.is_some()
    }

    pub(super) fn has_room(&self) -> bool {
        self.most.is_none_or(|most| self.open() < most)
    }

    /// Room for one more connection, if there is.
    pub(super) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let most = self.most.unwrap_or(usize::MAX);
        let one_more = |open| (open < most).then_some(open + 1);
        self.open
            .fetch_update(Relaxed, Relaxed, one_more)
            .ok()
            .map(|_before| Permit(Arc::clone(self)))
    }

    /// Something else changed that all who wait want to know of.
    pub(super) fn changed(&self) {
        for _ in 0..self.queue.count() {
            self.queue.pass();
        }
    }

    /// A connection rests, and may be used by whoever waits.
    pub(super) fn rests(&self) {
        self.queue.pass();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.0.queue.pass();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_and_room_comes_back() {
        let queue = Queue::new(1);
        let room = Room::new(Some(2), queue);
        let first = room.permit().unwrap();
        let second = room.permit().unwrap();
        assert!(room.permit().is_none() && !room.has_room());
        drop(first);
        assert!(room.permit().is_some());
        drop(second);
        assert_eq!(room.open(), 0);
    }

    #[test]
    fn turns_go_round_in_order_and_none_is_lost() {
        let queue = Queue::new(2);
        let room = Room::new(Some(1), Arc::clone(&queue));
        let held = room.permit().unwrap();
        let mut first = queue.join(false).unwrap();
        let mut second = queue.join(false).unwrap();
        assert!(queue.join(false).is_none(), "full");
        drop(held);
        let turn = first.turn.try_recv().unwrap();
        assert!(second.turn.try_recv().is_err(), "not yet");
        // The first one leaves without having used it.
        drop(turn);
        let mut turn = second.turn.try_recv().unwrap();
        turn.spend();
        drop(turn);
        assert_eq!(queue.count(), 0);
    }

    #[test]
    fn who_has_left_does_not_count_and_makes_room_in_a_full_queue() {
        let queue = Queue::new(2);
        let gone = queue.join(false).unwrap();
        let mut here = queue.join(false).unwrap();
        drop(gone);
        assert_eq!(queue.count(), 1);
        let mut last = queue.join(false).unwrap();
        queue.pass();
        here.turn.try_recv().unwrap().spend();
        queue.pass();
        last.turn.try_recv().unwrap().spend();
        assert_eq!(queue.count(), 0);
    }

    #[test]
    fn a_turn_that_comes_as_one_leaves_is_the_next_ones() {
        let queue = Queue::new(2);
        let leaving = queue.join(false).unwrap();
        let mut next = queue.join(false).unwrap();
        queue.pass();
        drop(leaving);
        next.turn.try_recv().unwrap().spend();
    }

    #[test]
    fn a_turn_that_is_no_use_to_anybody_ends() {
        let queue = Queue::new(2);
        let mut first = queue.join(false).unwrap();
        let mut second = queue.join(false).unwrap();
        queue.pass();
        first.turn.try_recv().unwrap().pass_on();
        let mut first = queue.join(true).unwrap();
        second.turn.try_recv().unwrap().pass_on();
        assert!(first.turn.try_recv().is_err(), "both have looked");
        assert_eq!(queue.count(), 1);
    }
}
