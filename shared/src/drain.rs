//! How everything ends: a signal to finish, a count of what has not finished, a deadline, and a last call before what is left
//! is dropped. The only spawner: what is spawned here is waited for.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
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

/// From the last call to the end of what is left: enough to write an answer that nobody waits for twice.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// Handed to everything that runs; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    finish: Signal,
    end: Arc<End>,
    tasks: TaskTracker,
}

/// The two signals that end what did not finish, in their order.
#[derive(Debug, Default)]
struct End {
    last_call: Signal,
    abort: Signal,
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
}

/// Ready once a signal was given. Polling it again is a look at a flag.
#[derive(Debug)]
pub struct Finishing {
    signal: Signal,
    waiting: Waiting,
}

impl Future for Finishing {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.waiting.poll(&this.signal, cx)
    }
}

/// A place in the queue of those who wait for a signal; taken with the first poll.
#[derive(Debug, Default)]
struct Waiting {
    wait: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    waker: Option<Waker>,
}

impl Waiting {
    fn poll(&mut self, signal: &Signal, cx: &mut Context<'_>) -> Poll<()> {
        if signal.is_given() {
            return Poll::Ready(());
        }
        if self
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        self.wait
            .get_or_insert_with(|| Box::pin(signal.token.clone().cancelled_owned()))
            .as_mut()
            .poll(cx)
    }
}

/// A task that ends with its future or with the abort. Its future is polled at the last call, whatever comes of it.
struct UntilAborted<F> {
    end: Arc<End>,
    /// For the abort from the last call on; until then for that.
    waiting: Waiting,
    called: bool,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for UntilAborted<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let this = &mut *self;
        let had_its_word = this.called;
        if !this.called && this.waiting.poll(&this.end.last_call, cx).is_ready() {
            this.called = true;
            this.waiting = Waiting::default();
        }
        if had_its_word && this.waiting.poll(&this.end.abort, cx).is_ready() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = this.future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        // On a busy machine both signals may have been given before this task had its turn.
        if this.called && this.waiting.poll(&this.end.abort, cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

impl Drain {
    /// With nothing to wait for yet.
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
            end: Arc::clone(&self.end),
            waiting: Waiting::default(),
            called: false,
            future: Box::pin(future),
        }
    }

    /// Counts a future as a task without spawning it, for those that run on a worker of their own.
    pub fn track<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        self.tasks.track_future(self.until_aborted(future))
    }

    /// Ready once it is time to finish: take nothing more, complete what is in hand.
    pub fn finishing(&self) -> Finishing {
        Finishing {
            signal: self.finish.clone(),
            waiting: Waiting::default(),
        }
    }

    /// Whether it is time to finish.
    pub fn is_finishing(&self) -> bool {
        self.finish.is_given()
    }

    /// Ready a second after the end was asked for: what is not in flight by then, such as a handshake or half a head, is not
    /// waited for.
    pub async fn idle_over(&self) {
        self.finishing().await;
        sleep(IDLE_OVER).await;
    }

    /// Whether the time is over and what has not finished is about to be dropped. Every task is polled when this becomes
    /// true.
    pub fn is_last_call(&self) -> bool {
        self.end.last_call.is_given()
    }

    /// Runs what cannot be finished once the last call has come: `None` where that cut it, which is for the caller to say. To be
    /// used in a task of this drain, which is polled at the last call.
    pub async fn until_last_call<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.is_last_call() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Asks everything to finish and waits for it, `within` at most; what is left then is dropped. Returns how many
    /// tasks that were.
    pub async fn finish(&self, within: Duration) -> usize {
        self.finish.give();
        self.tasks.close();
        let in_time = timeout(within, self.tasks.wait()).await.is_ok();
        let left = if in_time { 0 } else { self.tasks.len() };
        self.end.last_call.give();
        self.end.abort.give();
        left
    }

    /// As [`Self::finish`], for tasks that owe somebody a word: when the time is over, or `hurry` is ready, they learn of it
    /// by [`Self::is_last_call`] and have a quarter of a second. Ready when everything is gone, so that what a task writes when it
    /// is dropped is written. Whether all of it finished by itself.
    pub async fn finish_politely(&self, within: Duration, hurry: impl Future<Output = ()>) -> bool {
        self.finish.give();
        self.tasks.close();
        let in_time = tokio::select! {
            biased;
            () = self.tasks.wait() => true,
            () = sleep(within) => false,
            () = hurry => false,
        };
        self.end.last_call.give();
        if !in_time {
            let _said = timeout(LAST_WORDS, self.tasks.wait()).await;
        }
        self.end.abort.give();
        let _gone = timeout(Duration::from_secs(1), self.tasks.wait()).await;
        in_time
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

    #[tokio::test(start_paused = true)]
    async fn at_the_last_call_everything_has_a_word() {
        for hurried in [false, true] {
            let drain = Drain::new();
            let (said, heard) = std::sync::mpsc::channel();
            let mine = drain.clone();
            let _waited_for = drain.spawn(poll_fn(move |_| {
                if mine.is_last_call() {
                    said.send("sorry").unwrap();
                    return Poll::Ready(());
                }
                Poll::Pending
            }));
            let _stubborn = drain.spawn(std::future::pending());
            tokio::task::yield_now().await;
            let began = tokio::time::Instant::now();
            let hurry = async move {
                if !hurried {
                    std::future::pending::<()>().await;
                }
            };
            let within = Duration::from_secs(5);
            assert!(!drain.finish_politely(within, hurry).await);
            let took = began.elapsed();
            assert!(drain.tasks.is_empty() && heard.try_recv().is_ok());
            assert_eq!(took < within, hurried, "{took:?}");
        }
    }

    /// Also where the last call and the abort are one moment.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_cut_can_say_so() {
        let drain = Drain::new();
        let (said, heard) = std::sync::mpsc::channel();
        let mine = drain.clone();
        let _cut = drain.spawn(async move {
            let outcome = mine.until_last_call(std::future::pending::<()>()).await;
            said.send(outcome).unwrap();
        });
        tokio::task::yield_now().await;
        assert_eq!(drain.until_last_call(async { 1 }).await, Some(1));
        drain.finish(Duration::ZERO).await;
        drain.tasks.wait().await;
        assert_eq!(heard.try_recv(), Ok(None));
    }
}
