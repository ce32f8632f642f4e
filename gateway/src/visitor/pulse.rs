//! What goes on on a visitor's HTTP/1 connection, noted by its socket and by the request in hand, and read by the watch
//! that ends it when nothing does. One timer per connection and none per request: the watch looks at these notes when
//! the earliest possible deadline is due.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tidegate_shared::clock;

use super::rate::Rate;
use super::wait::Wait;
use crate::failure::Failure;

/// How long a visitor may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the connection's start, or a head's first octet, to the head's end.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Without an octet of a body that is due, or without taking one of a response.
    pub stall: Duration,
    /// Octets per second that a body must bring on average, until its response has begun; zero for any.
    pub body_rate: u64,
    /// For one who has half-closed, until its response begins: it may have left after all. `None` for as long as others.
    pub half_closed: Option<Duration>,
}

/// A body's rate is averaged over so long, or over the time for a stall where that is less.
const RATE_OVER: Duration = Duration::from_secs(30);

impl Patience {
    /// Over how long a body's rate is averaged.
    pub fn rate_over(&self) -> Duration {
        self.stall.min(RATE_OVER)
    }

    /// Whether a body that brought so many octets in this time came too slowly.
    pub fn is_crawl(&self, octets: u64, took: Duration) -> bool {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        octets.saturating_mul(1000) / ms < self.body_rate
    }

    /// How often to look whether somebody's patience is over: a quarter of the least of it.
    pub fn grain(&self) -> Duration {
        let half_closed = self.half_closed.unwrap_or(self.stall);
        (self.head.min(self.idle).min(self.stall).min(half_closed) / 4)
            .clamp(Duration::from_millis(50), Duration::from_secs(5))
    }
}

/// A visitor that closes its half so soon after its request has half-closed on purpose; one that closes it later has
/// left. The two cannot be told apart on the wire (RFC 9112 §9.6).
pub(crate) const HALF_CLOSE_WITHIN_MS: u64 = 100;

/// How often it is looked whether a visitor is still there whose connection nobody reads.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Octets of interim responses that may wait for a visitor; more are dropped, as they may be (RFC 9110 §15.2).
const INTERIM_KEPT: usize = 16 * 1024;

/// See the module's head. All times by [`clock::now_ms`]; zero means "not".
#[derive(Debug)]
pub struct Pulse {
    began: u64,
    /// Octets of a head that have arrived while no request is in hand, from its first.
    head_since: AtomicU64,
    idle_since: AtomicU64,
    in_hand: AtomicBool,
    /// No request is in hand, and all of the last response is on the wire.
    at_rest: AtomicBool,
    /// Whoever reads is told when something comes.
    reading: AtomicBool,
    to_look: AtomicBool,
    /// The last answer is given, and what still comes is read for nobody.
    lingering: AtomicBool,
    request_since: AtomicU64,
    wait: Wait,
    responding: AtomicBool,
    /// The response is complete, and the body that it answers still comes.
    resting: AtomicBool,
    /// Since when that is read for nobody.
    unwanted_since: AtomicU64,
    body_due_since: AtomicU64,
    /// Of that body.
    rate: Rate,
    heard: AtomicU64,
    blocked_since: AtomicU64,
    /// Of what comes meanwhile.
    blocked_rate: Rate,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    finished_half: AtomicBool,
    requests: AtomicU64,
    /// Why the gateway has cut the connection, if it has.
    cut: OnceLock<Failure>,
    /// Interim responses that the socket is to send before anything else.
    interim: Mutex<Vec<u8>>,
    /// There are some.
    to_say: AtomicBool,
    /// One of [`FRAMED`], [`UNENDED`] and [`UNWRITTEN`].
    close: AtomicU8,
}

/// The response in hand says by itself where it ends.
const FRAMED: u8 = 0;
/// The end of the connection is to be the response's end (RFC 9112 §6.3, for HTTP/1.0), and would come too early.
const UNENDED: u8 = 1;
/// The same, with all of the response taken and some of it perhaps not on the wire.
const UNWRITTEN: u8 = 2;

/// What is overdue on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// A head that does not end.
    Head,
    /// Nothing was asked for some time.
    Idle,
    /// A body that does not come.
    Body,
    /// A response that is not taken.
    Reading,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = clock::now_ms();
        Self {
            began: now,
            head_since: AtomicU64::new(0),
            idle_since: AtomicU64::new(now),
            in_hand: AtomicBool::new(false),
            at_rest: AtomicBool::new(true),
            reading: AtomicBool::new(false),
            to_look: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
            request_since: AtomicU64::new(0),
            wait: Wait::default(),
            responding: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            unwanted_since: AtomicU64::new(0),
            body_due_since: AtomicU64::new(0),
            rate: Rate::default(),
            heard: AtomicU64::new(now),
            blocked_since: AtomicU64::new(0),
            blocked_rate: Rate::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            finished_half: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            cut: OnceLock::new(),
            interim: Mutex::default(),
            to_say: AtomicBool::new(false),
            close: AtomicU8::new(FRAMED),
        }
    }
}

impl Pulse {
    /// So many octets arrived.
    pub(crate) fn read(&self, octets: usize) {
        let now = clock::now_ms();
        if !self.in_hand.load(Relaxed) && self.head_since.load(Relaxed) == 0 {
            self.head_since.store(now, Relaxed);
        }
        self.heard.store(now, Relaxed);
        add(&self.received, octets as u64);
    }

    /// Whoever reads was told that there is nothing at this moment, or has had something and may not come back for more.
    pub(crate) fn waits_for_octets(&self, waits: bool) {
        self.reading.store(waits, Relaxed);
    }

    /// Whether a request is in hand and nobody reads what comes behind it, nor that nothing will.
    pub(crate) fn is_held_back(&self) -> bool {
        self.in_hand.load(Relaxed) && !self.reading.load(Relaxed)
    }

    /// It is to be looked whether the visitor is still there.
    pub(crate) fn look_for_visitor(&self) {
        self.to_look.store(true, Relaxed);
    }

    /// Whether that is to be looked for, once.
    pub(crate) fn is_to_look(&self) -> bool {
        let to_look = self.to_look.load(Relaxed);
        if to_look {
            self.to_look.store(false, Relaxed);
        }
        to_look
    }

    /// What still comes is no head of anything.
    pub(crate) fn linger(&self) {
        self.lingering.store(true, Relaxed);
    }

    pub(crate) fn is_lingering(&self) -> bool {
        self.lingering.load(Relaxed)
    }

    pub(crate) fn wrote(&self, octets: usize) {
        add(&self.sent, octets as u64);
        if self.blocked_since.load(Relaxed) != 0 {
            self.blocked_since.store(0, Relaxed);
        }
    }

    pub(crate) fn write_blocked(&self) {
        if self.blocked_since.load(Relaxed) == 0 {
            self.blocked_from(clock::now_ms());
        }
    }

    /// Nothing could be written since that moment, at which the visitor may have taken some of what was written earlier.
    pub(crate) fn blocked_from(&self, now: u64) {
        self.blocked_since.store(now, Relaxed);
        self.blocked_rate.begin(self.received.load(Relaxed), now);
    }

    /// Since when nothing could be written, if so it is.
    pub(crate) fn blocked_since(&self) -> Option<u64> {
        Some(self.blocked_since.load(Relaxed)).filter(|since| *since != 0)
    }

    /// When the visitor last sent an octet of the request in hand, or began it.
    fn last_heard(&self) -> u64 {
        let heard = self.heard.load(Relaxed);
        self.request_since.load(Relaxed).max(heard)
    }

    /// The visitor closed its half. Whether it meant only that half is for the time to say; not where it `owes` more of a body.
    pub(crate) fn closed_half(&self, owes: bool) -> bool {
        let now = clock::now_ms();
        // Whoever has not sent all of a body has not finished: that is no half-close.
        let meant = self.in_hand.load(Relaxed)
            && !owes
            && now.saturating_sub(self.last_heard()) <= HALF_CLOSE_WITHIN_MS;
        self.finished_half.store(meant, Relaxed);
        meant
    }

    /// Whether the visitor has half-closed, and its response has not begun for so long that it must be taken for gone.
    pub(crate) fn is_gone(&self, now: u64, patience: &Patience) -> bool {
        let silent = u128::from(now.saturating_sub(self.last_heard()));
        let overdue = |within: Duration| silent >= within.as_millis();
        self.half_closed()
            && self.in_hand.load(Relaxed)
            && !self.is_responding()
            && patience.half_closed.is_some_and(overdue)
    }

    /// Whether the visitor will send nothing more and waits for what it asked.
    pub(crate) fn half_closed(&self) -> bool {
        self.finished_half.load(Relaxed)
    }

    pub(crate) fn is_in_hand(&self) -> bool {
        self.in_hand.load(Relaxed)
    }

    /// Everything that was to be written has been.
    pub(crate) fn all_written(&self) {
        self.at_rest.store(!self.is_in_hand(), Relaxed);
    }

    /// The response that begins will end with the connection.
    pub(crate) fn ends_with_connection(&self) {
        self.close.store(UNENDED, Relaxed);
    }

    /// All of the response was taken.
    pub(crate) fn response_ended(&self) {
        if self.close.load(Relaxed) == UNENDED {
            self.close.store(UNWRITTEN, Relaxed);
        }
    }

    /// What was taken is on the wire.
    pub(crate) fn flushed(&self) {
        if self.close.load(Relaxed) == UNWRITTEN {
            self.close.store(FRAMED, Relaxed);
        }
    }

    /// Whether a connection that ended in order would make a part of a response look like all of it.
    pub(crate) fn must_not_end(&self) -> bool {
        self.close.load(Relaxed) != FRAMED
    }

    /// Whether what is written next belongs to no request: it can only be the answer to a head that was not understood.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.at_rest.load(Relaxed)
    }

    /// A head is complete: returns when its first octet arrived.
    pub(crate) fn request_began(&self, now: u64) -> u64 {
        self.in_hand.store(true, Relaxed);
        self.at_rest.store(false, Relaxed);
        self.responding.store(false, Relaxed);
        self.resting.store(false, Relaxed);
        self.body_due_since.store(0, Relaxed);
        self.request_since.store(now, Relaxed);
        self.wait.begin(now);
        add(&self.requests, 1);
        let since = self.head_since.load(Relaxed);
        self.head_since.store(0, Relaxed);
        if since == 0 { now } else { since }
    }

    /// Since when the head that has not come to its end has been waited for: its first octet, or the connection's start or
    /// the last request's end where not even that came.
    pub(crate) fn head_began(&self) -> u64 {
        match (self.head_since.load(Relaxed), self.requests.load(Relaxed)) {
            (0, 0) => self.began,
            (0, _) => self.idle_since.load(Relaxed),
            (since, _) => since,
        }
    }

    /// The connection is given up with a request in hand, for this; the first to say so is believed.
    pub(crate) fn cut(&self, failure: Failure) {
        self.cut.get_or_init(|| failure);
    }

    /// Why a request in hand has ended with its connection, if that was the gateway's doing.
    pub(crate) fn cut_for(&self) -> Option<Failure> {
        self.cut.get().copied()
    }

    /// The response is complete, or given up.
    pub(crate) fn request_ended(&self, now: u64) {
        self.in_hand.store(false, Relaxed);
        self.body_due_since.store(0, Relaxed);
        self.idle_since.store(now, Relaxed);
    }

    /// The response is complete, and its request in hand until its body is.
    pub(crate) fn response_left_rest(&self) {
        self.resting.store(true, Relaxed);
        self.unwanted_since.store(0, Relaxed);
    }

    /// What still comes of the body is read for nobody.
    pub(crate) fn rest_is_unwanted(&self) {
        if self.unwanted_since.load(Relaxed) == 0 {
            self.unwanted_since.store(clock::now_ms(), Relaxed);
        }
    }

    /// The body has come to its end, or is given up. That of the next request may be in hand by then.
    pub(crate) fn rest_ended(&self) {
        if self.resting.load(Relaxed) {
            self.resting.store(false, Relaxed);
            self.request_ended(clock::now_ms());
            // Where the response is not all written, its last octets say so.
            self.at_rest
                .store(self.blocked_since.load(Relaxed) == 0, Relaxed);
        }
    }

    /// A response has begun: a body is not held to a rate while it goes on.
    pub(crate) fn response_began(&self) {
        self.responding.store(true, Relaxed);
    }

    pub(crate) fn is_responding(&self) -> bool {
        self.responding.load(Relaxed)
    }

    /// Whether a response is on its way that has not been handed on to its end.
    pub(crate) fn is_answering(&self) -> bool {
        self.is_in_hand() && self.is_responding()
    }

    /// Whether the request in hand has had no response for so long, its own body not being the reason.
    pub(crate) fn waits_for_response(&self, now: u64, most: Duration) -> bool {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX / 4);
        self.in_hand.load(Relaxed)
            && !self.is_responding()
            && self.body_due_since.load(Relaxed) == 0
            && self.wait.lasts(now) >= most
    }

    /// The request in hand waits for a place on a tunnel, or no longer.
    pub(crate) fn held(&self, holds: bool) {
        self.wait.hold(holds, clock::now_ms());
    }

    /// Whether the request's body is what everything waits for.
    pub(crate) fn body_due(&self, due: bool) {
        let since = self.body_due_since.load(Relaxed);
        if due && since == 0 {
            let now = clock::now_ms();
            self.body_due_since.store(now, Relaxed);
            self.rate.begin(self.received.load(Relaxed), now);
        } else if !due && since != 0 {
            self.body_due_since.store(0, Relaxed);
        }
    }

    /// To be said before anything else, if it is heard.
    pub(crate) fn send_interim(&self, octets: &[u8]) {
        if self.interim().len() + octets.len() <= INTERIM_KEPT
            && self.blocked_since.load(Relaxed) == 0
        {
            self.say(octets);
        }
    }

    /// To be said before anything else.
    pub(crate) fn say(&self, octets: &[u8]) {
        self.interim().extend_from_slice(octets);
        self.to_say.store(true, Relaxed);
    }

    /// What is to be said before anything else, once.
    pub(crate) fn take_interim(&self) -> Option<Vec<u8>> {
        // Asked before everything that is written.
        if !self.to_say.load(Relaxed) {
            return None;
        }
        self.to_say.store(false, Relaxed);
        Some(std::mem::take(&mut *self.interim()))
    }

    fn interim(&self) -> MutexGuard<'_, Vec<u8>> {
        self.interim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is overdue at this moment, or when to look again.
    pub(crate) fn overdue(&self, patience: &Patience, now: u64) -> Result<u64, Overdue> {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4);
        let check = |since: u64, patience: u64, what: Overdue| {
            let end = since.saturating_add(patience);
            if now >= end { Err(what) } else { Ok(end) }
        };
        if self.is_lingering() {
            return Ok(now + ms(patience.grain()));
        }
        let blocked = self.blocked_since.load(Relaxed);
        if blocked != 0 {
            // Who sends first and reads then is not stuck.
            let since = blocked.max(self.heard.load(Relaxed));
            check(since, ms(patience.stall), Overdue::Reading)?;
            self.blocked_rate(patience, blocked, now)?;
        }
        if self.in_hand.load(Relaxed) {
            let unwanted = self.unwanted_since.load(Relaxed);
            if self.resting.load(Relaxed) && unwanted != 0 {
                check(unwanted, ms(patience.stall), Overdue::Body)?;
            }
            let due = self.body_due_since.load(Relaxed);
            let again = now + ms(patience.grain());
            if due == 0 {
                return Ok(again);
            }
            check(
                due.max(self.heard.load(Relaxed)),
                ms(patience.stall),
                Overdue::Body,
            )?;
            return self.rate(patience, now).map(|()| again);
        }
        if self.requests.load(Relaxed) == 0 {
            return check(self.began, ms(patience.head), Overdue::Head)
                .map(|end| end.min(now + ms(patience.grain())));
        }
        match self.head_since.load(Relaxed) {
            0 => check(
                self.idle_since.load(Relaxed),
                ms(patience.idle),
                Overdue::Idle,
            ),
            since => check(since, ms(patience.head), Overdue::Head),
        }
        .map(|end| end.min(now + ms(patience.grain())))
    }

    /// One who takes nothing is not excused by an octet now and then.
    fn blocked_rate(&self, patience: &Patience, blocked: u64, now: u64) -> Result<(), Overdue> {
        let passed = Duration::from_millis(now.saturating_sub(blocked));
        let received = self.received.load(Relaxed);
        if passed >= patience.stall && self.blocked_rate.is_crawl(received, now, patience) {
            return Err(Overdue::Reading);
        }
        Ok(())
    }

    fn rate(&self, patience: &Patience, now: u64) -> Result<(), Overdue> {
        let responding = self.responding.load(Relaxed) && !self.resting.load(Relaxed);
        let received = self.received.load(Relaxed);
        if !responding && self.rate.is_crawl(received, now, patience) {
            return Err(Overdue::Body);
        }
        Ok(())
    }
}

/// All is noted by the connection's own task: a step that nobody else can come between would be waited for in vain.
fn add(counter: &AtomicU64, more: u64) {
    let before = counter.load(Relaxed);
    counter.store(before.wrapping_add(more), Relaxed);
}

#[cfg(test)]
mod tests;
