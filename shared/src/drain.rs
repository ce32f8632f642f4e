//! How everything ends: a signal to finish, a count of what has not finished, a deadline. The only spawner: what is
//! spawned here is waited for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// How long what has not come to a request, or to a tunnel, may still take when everything else finishes.
pub const IDLE_OVER: Duration = Duration::from_secs(1);

/// Handed to everything that runs; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    finish: Signal,
    abort: Signal,
    tasks: TaskTracker,
}

/// A flag that can be waited for. The flag itself is looked at on every poll of everything that runs, so it is an atomic
/// beside the token, which takes a lock.
#[derive(Clone, Debug, Default)]
struct Signal {
    given: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Signal {
    fn give(&self) {
        self.given.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_given(&self) -> bool {
        self.given.load(Ordering::Acquire)
    }

    fn wait(&self) -> Finishing {
        Finishing {
            signal: self.clone(),
            wait: None,
            waker: None,
        }
    }
}

/// Ready once a signal was given. Polling it again is a look at a flag.
#[derive(Debug)]
pub struct Finishing {
    signal: Signal,
    wait: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    waker: Option<Waker>,
}

impl Future for Finishing {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.signal.is_given() {
            return Poll::Ready(());
        }
        if this
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        this.waker = Some(cx.waker().clone());
        let token = &this.signal.token;
        this.wait
            .get_or_insert_with(|| Box::pin(token.clone().cancelled_owned()))
            .as_mut()
            .poll(cx)
    }
}

/// A task that ends with its future or with the abort.
struct UntilAborted<F> {
    abort: Finishing,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for UntilAborted<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        if Pin::new(&mut self.abort).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        self.future.as_mut().poll(cx).map(Some)
    }
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task on the present runtime that [`Self::finish`] will wait for. It is dropped when the deadline passes.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = self.until_aborted(future);
        #[expect(
            clippy::disallowed_methods,
            reason = "the one spawner that the ban points to"
        )]
        tokio::spawn(self.tasks.track_future(async move {
            // `None` when the deadline passed first.
            let _finished = task.await;
        }))
    }

    fn until_aborted<F: Future>(&self, future: F) -> UntilAborted<F> {
        UntilAborted {
            abort: self.abort.wait(),
            future: Box::pin(future),
        }
    }

    /// Counts a future as a task without spawning it, for those that run on a worker of their own.
    pub fn track<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        self.tasks.track_future(self.until_aborted(future))
    }

    /// Ready once it is time to finish: take nothing more, complete what is in hand.
    pub fn finishing(&self) -> Finishing {
        self.finish.wait()
    }

    pub fn is_finishing(&self) -> bool {
        self.finish.is_given()
    }

    /// Ready a second after the end was asked for: what is not in flight by then, such as a handshake or half a head, is not
    /// waited for.
    pub async fn idle_over(&self) {
        self.finishing().await;
        sleep(IDLE_OVER).await;
    }

    /// Asks everything to finish and waits for it, `within` at most; what is left then is dropped. Returns how many
    /// tasks that were.
    pub async fn finish(&self, within: Duration) -> usize {
        self.finish.give();
        self.tasks.close();
        let in_time = timeout(within, self.tasks.wait()).await.is_ok();
        let left = if in_time { 0 } else { self.tasks.len() };
        self.abort.give();
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_finishes_is_waited_for_and_what_does_not_is_dropped() {
        let drain = Drain::new();
        let (one, two) = (drain.clone(), drain.clone());
        let polite = drain.spawn(async move { one.finishing().await });
        let stubborn = drain.spawn(async move {
            two.finishing().await;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        assert!(!polite.is_finished() && !drain.is_finishing());
        assert_eq!(drain.finish(Duration::from_secs(5)).await, 1);
        assert!(polite.await.is_ok() && stubborn.await.is_ok());
        drain.finishing().await;
    }
}
