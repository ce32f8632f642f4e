//! Background tasks of the harness: each ends when its owner is dropped, so a test leaves nothing running.

use std::future::Future;

use tokio::task::JoinHandle;

/// A running task; dropping it aborts the task.
#[derive(Debug)]
pub struct Task(JoinHandle<()>);

/// Runs `future` beside the test until it ends or the [`Task`] is dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "the ban is for the programs; here the Task is what ends the future"
)]
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(tokio::spawn(future))
}

impl Task {
    /// Whether the future has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tasks that share one owner: the connections of a server.
pub type Tasks = tokio::task::JoinSet<()>;
