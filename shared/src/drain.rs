//! How everything ends: a signal to finish, a count of what has not finished, a deadline. The only spawner: what is
//! spawned here is waited for.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Handed to everything that runs; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    finish: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
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
        let abort = self.abort.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the one spawner that the ban points to"
        )]
        tokio::spawn(self.tasks.track_future(async move {
            tokio::select! {
                biased;
                () = abort.cancelled() => {}
                () = future => {}
            }
        }))
    }

    /// Counts a future as a task without spawning it, for those that run on a worker of their own.
    pub fn track<F: Future>(&self, future: F) -> impl Future<Output = Option<F::Output>> + use<F> {
        let abort = self.abort.clone();
        self.tasks
            .track_future(async move { abort.run_until_cancelled_owned(future).await })
    }

    /// Ready once it is time to finish: take nothing more, complete what is in hand.
    pub fn finishing(&self) -> WaitForCancellationFuture<'_> {
        self.finish.cancelled()
    }

    pub fn is_finishing(&self) -> bool {
        self.finish.is_cancelled()
    }

    /// Asks everything to finish and waits for it, `within` at most; what is left then is dropped. Returns how many
    /// tasks that were.
    pub async fn finish(&self, within: Duration) -> usize {
        self.finish.cancel();
        self.tasks.close();
        let in_time = timeout(within, self.tasks.wait()).await.is_ok();
        let left = if in_time { 0 } else { self.tasks.len() };
        self.abort.cancel();
        left
    }
}
