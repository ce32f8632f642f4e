//! How long nothing has moved on something that two ends keep open. Used by `relay` and `duplex`, and by the gateway for what an
//! upgrade has opened.

use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::timer::Timer;
use crate::unacked::LOOKS;

/// For how long nothing may move in either direction; `None` for any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// At any time.
    pub most: Option<Duration>,
    /// Once one of the two sides has said all that it has to say; `None` for the same.
    pub half_closed: Option<Duration>,
}

/// Nothing has moved for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    pub within: Duration,
    /// It was the time for what one side has ended.
    pub half_closed: bool,
}

impl Silence {
    /// What counts for a connection of which one side has ended, or none.
    fn limit(&self, ended: bool) -> Option<Quiet> {
        let whole = self.most.map(|within| Quiet {
            within,
            half_closed: false,
        });
        let half = self.half_closed.filter(|_| ended).map(|within| Quiet {
            within,
            half_closed: true,
        });
        match (whole, half) {
            (Some(whole), Some(half)) if half.within < whole.within => Some(half),
            (whole, half) => whole.or(half),
        }
    }
}

/// For how long nothing has moved. One timer, looked at when it is due: what moves does not touch it.
///
/// What a side has not taken yet may be in the system's hands already, up to some megabytes of it. While that gets less something
/// moves, though nobody here has anything to do.
#[derive(Debug)]
pub struct Idle {
    silence: Silence,
    since: Instant,
    ended: bool,
    /// What waited in the system at the last look, if there was one since something was moved here.
    waits: Option<u64>,
    timer: Timer,
}

impl Idle {
    /// From this moment on; `None` where any time will do.
    pub fn new(silence: Silence) -> Option<Self> {
        let limit = silence.limit(true)?;
        let since = Instant::now();
        let within = silence.most.unwrap_or(limit.within);
        Some(Self {
            silence,
            since,
            ended: false,
            waits: None,
            timer: Timer::until(since + within / LOOKS),
        })
    }

    /// Whether that has lasted too long; `moved` says that something did since the last time, `ended` that one side has said all
    /// that it has to say, and `waits` how much of what was written the system has not brought to its end yet, where that is known.
    pub fn is_over(
        &mut self,
        moved: bool,
        ended: bool,
        waits: impl Fn() -> Option<u64>,
        cx: &mut Context<'_>,
    ) -> Option<Quiet> {
        // That a side ends is something, too.
        let turned = self.ended != ended;
        if moved || turned {
            self.since = Instant::now();
            self.waits = None;
        }
        let limit = self.silence.limit(ended)?;
        if turned {
            self.ended = ended;
            self.timer.reset(self.since + limit.within / LOOKS);
        }
        while self.timer.poll(cx).is_ready() {
            let due = self.timer.deadline();
            let look = self.since + limit.within / LOOKS;
            let next = if due < look {
                look
            } else if let Some(next) = self.look(waits(), limit.within) {
                next
            } else {
                return Some(limit);
            };
            self.timer.reset(next);
        }
        None
    }

    /// When to look again; `None` once it has lasted too long.
    fn look(&mut self, waits: Option<u64>, within: Duration) -> Option<Instant> {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.waits, waits);
        if before.is_some() && waits.is_some() && before != waits {
            self.since = now;
        }
        let (soon, end) = (now + within / LOOKS, self.since + within);
        let still = waits.is_some_and(|octets| octets > 0);
        if still && before.is_none() {
            // There is nothing yet that it could be compared with.
            return Some(soon);
        }
        if now >= end {
            return None;
        }
        Some(if still { soon.min(end) } else { end })
    }
}

/// For how long whoever something waits for has taken nothing of it.
#[derive(Debug)]
pub struct Stall {
    most: Duration,
    blocked: bool,
    /// Once it has been.
    idle: Option<Idle>,
}

impl Stall {
    pub fn new(most: Duration) -> Self {
        Self {
            most,
            blocked: false,
            idle: None,
        }
    }

    pub fn most(&self) -> Duration {
        self.most
    }

    /// Some was taken.
    pub fn taken(&mut self) {
        self.blocked = false;
    }

    /// Nothing was taken: whether that has lasted too long. `waits` is as for [`Idle::is_over`].
    pub fn is_over(&mut self, waits: impl Fn() -> Option<u64>, cx: &mut Context<'_>) -> bool {
        let begins = !std::mem::replace(&mut self.blocked, true);
        if self.idle.is_none() {
            self.idle = Idle::new(Silence {
                most: Some(self.most),
                half_closed: None,
            });
        }
        let idle = self.idle.as_mut();
        idle.is_some_and(|idle| idle.is_over(begins, false, waits, cx).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    const SILENCE: Silence = Silence {
        most: Some(Duration::from_secs(60)),
        half_closed: Some(Duration::from_secs(10)),
    };

    /// When it is over, seen from now, if nothing moves.
    async fn lasts(idle: &mut Idle, ended: bool) -> (u64, bool) {
        let began = Instant::now();
        let mut first = true;
        let quiet = poll_fn(|cx| {
            let moved = std::mem::take(&mut first);
            idle.is_over(moved, ended, || None, cx)
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        assert_eq!(quiet.within, began.elapsed());
        (quiet.within.as_secs(), quiet.half_closed)
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_side_has_ended_lasts_shorter() {
        let mut idle = Idle::new(SILENCE).unwrap();
        assert_eq!(lasts(&mut idle, false).await, (60, false));
        let mut idle = Idle::new(SILENCE).unwrap();
        assert_eq!(lasts(&mut idle, true).await, (10, true));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_time_counts_and_either_may_be_missing() {
        let none = Silence::default();
        assert!(Idle::new(none).is_none());
        let whole = Silence {
            half_closed: None,
            ..SILENCE
        };
        let mut idle = Idle::new(whole).unwrap();
        assert_eq!(lasts(&mut idle, true).await, (60, false));
        let half = Silence {
            most: None,
            ..SILENCE
        };
        let mut idle = Idle::new(half).unwrap();
        let still = poll_fn(|cx| Poll::Ready(idle.is_over(false, false, || None, cx)));
        assert_eq!(still.await, None);
        assert_eq!(lasts(&mut idle, true).await, (10, true));
        let longer = Silence {
            half_closed: Some(Duration::from_secs(600)),
            ..SILENCE
        };
        let mut idle = Idle::new(longer).unwrap();
        assert_eq!(lasts(&mut idle, true).await, (60, false));
    }

    /// So many octets wait at the first look, and fewer at each that follows, until some are left that nobody takes.
    async fn drains(waits: u64, step: u64, left: u64) -> Duration {
        let began = Instant::now();
        let mut idle = Idle::new(SILENCE).unwrap();
        let still = Cell::new(waits);
        let look = || Some(still.replace(still.get().saturating_sub(step).max(left)));
        let quiet = poll_fn(|cx| {
            idle.is_over(false, true, look, cx)
                .map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        assert!(quiet.half_closed);
        began.elapsed()
    }

    /// Ten seconds are waited for, in looks of an eighth of that.
    #[tokio::test(start_paused = true)]
    async fn what_the_other_end_takes_moves() {
        let ms = Duration::from_millis;
        assert_eq!(drains(0, 0, 0).await, ms(10_000));
        assert_eq!(drains(80, 0, 80).await, ms(10_000), "nobody takes any");
        assert_eq!(drains(80, 1, 0).await, ms(81 * 1_250 + 10_000));
        assert_eq!(drains(80, 1, 72).await, ms(9 * 1_250 + 10_000));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_stalls_and_each_time_anew() {
        let most = Duration::from_secs(10);
        let mut stall = Stall::new(most);
        for still in [80_u64, 0] {
            let began = Instant::now();
            stall.taken();
            let waits = Cell::new(still);
            let less = || Some(waits.replace(waits.get().saturating_sub(10)));
            poll_fn(|cx| {
                let over = stall.is_over(less, cx);
                if over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let drained = Duration::from_millis(if still > 0 { 9 * 1_250 } else { 0 });
            assert_eq!(began.elapsed(), drained + most, "{still}");
        }
    }
}
