//! A timer that is left alone while it stands: asking it anew for every octet that moves would cost more than what it watches over.
//! Called by whoever watches over something that moves often.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// See the module's head.
#[derive(Debug)]
pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Who is woken by it as it stands.
    woken: Option<Waker>,
}

impl Timer {
    pub fn until(deadline: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(deadline)),
            woken: None,
        }
    }

    pub fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }

    /// Sets it anew; whoever is to be woken by it polls it behind this.
    pub fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        self.woken = None;
    }

    /// Whether it is due. It stays so until it is set anew.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_known = |waker: &Waker| waker.will_wake(cx.waker());
        if !self.sleep.is_elapsed() && self.woken.as_ref().is_some_and(is_known) {
            return Poll::Pending;
        }
        self.woken = Some(cx.waker().clone());
        // A task that has used up its turn would be told "not yet", and the timer nothing of whom to wake.
        ready!(pin!(unconstrained(self.sleep.as_mut())).poll(cx));
        self.woken = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::task::coop::{has_budget_remaining, poll_proceed};

    use super::*;

    const WHILE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn it_is_due_in_its_time_and_when_it_was_set_anew() {
        let began = Instant::now();
        let mut timer = Timer::until(began + WHILE);
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(began.elapsed(), WHILE);
        poll_fn(|cx| timer.poll(cx)).await;
        assert_eq!(began.elapsed(), WHILE, "due until it is set anew");
        timer.reset(began + 3 * WHILE);
        let mut earlier = true;
        poll_fn(|cx| {
            let polled = timer.poll(cx);
            if std::mem::take(&mut earlier) {
                timer.reset(began + 2 * WHILE);
                return timer.poll(cx);
            }
            polled
        })
        .await;
        assert_eq!(began.elapsed(), 2 * WHILE);
    }

    /// What has used up its turn by other means is woken all the same.
    #[tokio::test(start_paused = true)]
    async fn it_wakes_who_had_no_turn_left() {
        let began = Instant::now();
        let mut timer = Timer::until(began + WHILE);
        poll_fn(|cx| {
            while has_budget_remaining() {
                let Poll::Ready(step) = poll_proceed(cx) else {
                    break;
                };
                step.made_progress();
            }
            timer.poll(cx)
        })
        .await;
        assert_eq!(began.elapsed(), WHILE);
    }
}
