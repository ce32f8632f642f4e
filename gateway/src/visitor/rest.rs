//! The body of a request whose answer is complete: an app may answer first and read then. It goes on for as long as the visitor
//! sends and the app reads, and is held to a body's usual limits. Called by `h1` and `h2` when an answer is written.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tidegate_shared::inbound::Inbound;
use tokio::time::sleep;

use super::due::Due;
use super::inlet::Incoming;
use super::pulse::{Patience, Pulse};
use crate::answer::{Answer, Rest};

/// Goes on with a stream's body until the visitor has said it, or takes too long. What is left then is refused by dropping
/// it (RFC 9113 §8.1).
pub(super) async fn finish(patience: &Patience, mut answer: Answer<Inbound>) {
    if !answer.leaves_rest() {
        return;
    }
    let mut due: Option<Due> = None;
    let mut look = pin!(sleep(patience.grain()));
    poll_fn(|cx| {
        loop {
            match (answer.poll_rest(cx), &mut due) {
                (Rest::Done | Rest::Unwanted, _) => return Poll::Ready(()),
                (Rest::Untaken, due) => *due = None,
                (Rest::Due(moved), Some(due)) => due.came(moved),
                (Rest::Due(moved), due) => *due = Some(Due::begin(moved)),
            }
            ready!(look.as_mut().poll(cx));
            if due.as_mut().is_some_and(|due| due.is_overdue(patience)) {
                return Poll::Ready(());
            }
            let again = Instant::now() + patience.grain();
            look.as_mut().reset(again.into());
        }
    })
    .await;
}

/// The same on an HTTP/1 connection, in the connection's own task, which goes on to the next request then. The pulse keeps the time.
pub(super) struct Left {
    pulse: Arc<Pulse>,
    /// There is something in `answer`.
    some: AtomicBool,
    // Only ever touched by the connection's own task, so never waited for.
    answer: Mutex<Option<Box<Answer<Incoming>>>>,
}

impl Left {
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self {
            pulse,
            some: AtomicBool::new(false),
            answer: Mutex::default(),
        }
    }

    pub(super) fn is_some(&self) -> bool {
        self.some.load(Relaxed)
    }

    /// Takes what an answer leaves of its request.
    pub(super) fn put(&self, answer: Answer<Incoming>) {
        self.pulse.response_left_rest();
        let mut left = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        *left = Some(Box::new(answer));
        self.some.store(true, Relaxed);
    }

    /// Moves it. Ready when there is nothing left to move.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_some() {
            return Poll::Ready(());
        }
        let mut left = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = left.as_mut() {
            match answer.poll_rest(cx) {
                Rest::Due(_) => {
                    self.pulse.body_due(true);
                    return Poll::Pending;
                }
                Rest::Untaken => {
                    self.pulse.body_due(false);
                    return Poll::Pending;
                }
                // A connection that is closed with octets unread may take the answer with it (RFC 9112 §9.6).
                Rest::Unwanted => {
                    self.pulse.body_due(true);
                    self.pulse.rest_is_unwanted();
                    ready!(answer.poll_unwanted(cx));
                }
                Rest::Done => {}
            }
        }
        *left = None;
        self.some.store(false, Relaxed);
        self.pulse.rest_ended();
        Poll::Ready(())
    }
}
