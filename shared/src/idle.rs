//! How long nothing has moved on something that two ends keep open. Used by `relay` and `duplex`, and by the gateway for what an
//! upgrade has opened.

use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::timer::Timer;

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
#[derive(Debug)]
pub struct Idle {
    silence: Silence,
    since: Instant,
    ended: bool,
    timer: Timer,
}

impl Idle {
    /// From this moment on; `None` where any time will do.
    pub fn new(silence: Silence) -> Option<Self> {
        let limit = silence.limit(true)?;
        let since = Instant::now();
        let end = since + silence.most.unwrap_or(limit.within);
        Some(Self {
            silence,
            since,
            ended: false,
            timer: Timer::until(end),
        })
    }

    /// Whether that has lasted too long; `moved` says that something did since the last time, `ended` that one side has said all
    /// that it has to say.
    pub fn is_over(&mut self, moved: bool, ended: bool, cx: &mut Context<'_>) -> Option<Quiet> {
        // That a side ends is something, too.
        let turned = self.ended != ended;
        if moved || turned {
            self.since = Instant::now();
        }
        let limit = self.silence.limit(ended)?;
        let end = self.since + limit.within;
        if turned {
            self.ended = ended;
            self.timer.reset(end);
        }
        while self.timer.poll(cx).is_ready() {
            if self.timer.deadline() >= end {
                return Some(limit);
            }
            self.timer.reset(end);
        }
        None
    }
}

#[cfg(test)]
mod tests {
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
            idle.is_over(moved, ended, cx)
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
        let still = poll_fn(|cx| Poll::Ready(idle.is_over(false, false, cx)));
        assert_eq!(still.await, None);
        assert_eq!(lasts(&mut idle, true).await, (10, true));
        let longer = Silence {
            half_closed: Some(Duration::from_secs(600)),
            ..SILENCE
        };
        let mut idle = Idle::new(longer).unwrap();
        assert_eq!(lasts(&mut idle, true).await, (60, false));
    }
}
