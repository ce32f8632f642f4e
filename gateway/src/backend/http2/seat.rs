//! A request's place on a connection, and what those who have one and the connection's driver know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::{Notify, watch};

/// Of one connection.
#[derive(Debug)]
pub(super) struct Shared {
    /// Requests that have a place.
    load: AtomicUsize,
    /// Those of them that wait for the head of their answer.
    waiting: AtomicUsize,
    /// Told when one begins to wait.
    begun: Notify,
    /// The server answers no PING.
    doubted: watch::Sender<bool>,
    /// It was ended for that.
    silent: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            load: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            begun: Notify::new(),
            doubted: watch::Sender::new(false),
            silent: AtomicBool::new(false),
        }
    }
}

impl Shared {
    pub(super) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    pub(super) fn somebody_waits(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// Ready when a request begins to wait.
    pub(super) async fn somebody_begins(&self) {
        self.begun.notified().await;
    }

    pub(super) fn is_doubted(&self) -> bool {
        *self.doubted.borrow()
    }

    /// Whether that is new.
    pub(super) fn doubt(&self, doubted: bool) -> bool {
        self.doubted
            .send_if_modified(|was| std::mem::replace(was, doubted) != doubted)
    }

    /// The connection ends because nobody is there.
    pub(super) fn end_silent(&self) {
        self.silent.store(true, Relaxed);
    }

    /// A place for one more.
    pub(super) fn seat(self: &Arc<Self>, requests: &SendRequest<Bytes>) -> Seat {
        self.load.fetch_add(1, Relaxed);
        Seat {
            requests: requests.clone(),
            shared: Arc::clone(self),
        }
    }
}

/// One request's place on a connection.
#[derive(Debug)]
pub(in super::super) struct Seat {
    pub(in super::super) requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

impl Seat {
    /// From here on the request waits for the head of its answer.
    pub(super) fn wait(&self) -> Waiting {
        let shared = Arc::clone(&self.shared);
        if shared.waiting.fetch_add(1, Relaxed) == 0 {
            shared.begun.notify_one();
        }
        Waiting { shared }
    }

    /// Whether the connection has ended because its server answered no PING.
    pub(super) fn was_silent(&self) -> bool {
        self.shared.silent.load(Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.load.fetch_sub(1, Relaxed);
    }
}

/// A request that waits for the head of its answer, for as long as this is held.
#[derive(Debug)]
pub(super) struct Waiting {
    shared: Arc<Shared>,
}

impl Waiting {
    /// Ready when the connection gets into doubt. Never where it was in doubt already: there was no better one then.
    pub(super) fn doubt(&self) -> impl Future<Output = ()> + use<> {
        let mut doubted = self.shared.doubted.subscribe();
        let was = *doubted.borrow_and_update();
        async move {
            if was || doubted.wait_for(|doubted| *doubted).await.is_err() {
                std::future::pending().await
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(1, Relaxed);
    }
}
