//! One thread, one runtime, one core: a connection lives on one worker, so the lock that `h2` takes per connection is
//! never contended by its own streams, and a wake-up rarely crosses a thread. Both programs spread their tunnels and
//! connections over these.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The index of the worker that the caller runs on; `usize::MAX` on any other thread.
pub fn here() -> usize {
    HERE.get()
}

/// The threads. Dropping this ends them, together with what still runs on them.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Thread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    join: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers (at least one), their threads named `name-0`, `name-1`, ….
    ///
    /// # Errors
    /// When the system refuses a thread or an epoll instance.
    pub fn start(count: usize, name: &str) -> io::Result<Arc<Self>> {
        let threads = (0..count.max(1))
            .map(|index| Thread::start(index, name))
            .collect::<io::Result<_>>()?;
        Ok(Arc::new(Self {
            threads,
            next: AtomicUsize::new(0),
        }))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// The next worker in turn.
    pub fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Relaxed) % self.threads.len();
        &self.threads[turn].handle
    }

    /// Runs a future on the worker of that index, modulo their number, and forgets it.
    pub fn spawn_on<F>(&self, index: usize, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.threads[index % self.threads.len()]
            .handle
            .spawn(future);
    }
}

impl Thread {
    fn start(index: usize, name: &str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let join = thread::Builder::new()
            .name(format!("{name}-{index}"))
            .spawn(move || {
                HERE.set(index);
                // A dropped sender means the same as a message: the workers are to end.
                let _asked = runtime.block_on(stopped);
                runtime.shutdown_background();
            })?;
        Ok(Self {
            handle,
            stop: Some(stop),
            join: Some(join),
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for thread in &mut self.threads {
            drop(thread.stop.take());
        }
        for thread in &mut self.threads {
            if let Some(join) = thread.join.take()
                && join.thread().id() != thread::current().id()
            {
                // A worker that panicked has said so; there is nothing to add while ending.
                let _panicked = join.join();
            }
        }
    }
}
