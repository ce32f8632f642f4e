//! A request in flight: counted, and judged by where the server was when it came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Server, What};

/// A request in flight, for whoever counts them, and where the server was when it came.
#[derive(Debug)]
pub(in crate::backend) struct InFlight {
    pub(in crate::backend) server: Arc<Server>,
    epoch: u64,
    /// The address, where DNS gave it.
    pub(in crate::backend) at: Option<SocketAddr>,
}

impl InFlight {
    pub(in crate::backend) fn on(server: &Arc<Server>) -> Self {
        server.outstanding.fetch_add(1, Relaxed);
        let epoch = server.epoch();
        let found = server.whereabouts.with(|here| here.found).flatten();
        Self {
            server: Arc::clone(server),
            epoch,
            at: found.map(|found| found.at),
        }
    }

    /// It has answered, where it is.
    pub(in crate::backend) fn answered(&self) {
        if self.server.epoch() == self.epoch {
            self.server.answered();
        }
    }

    /// A request has failed on it, for this. Of an address that it had before, that says nothing of the next request.
    pub(in crate::backend) fn failed(&self, what: What, why: &str) {
        if self.server.epoch() == self.epoch {
            self.server.failed(what, why);
        } else {
            self.server.count(what, why);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.server.outstanding.fetch_sub(1, Relaxed);
        // A place on a shared connection may be free.
        if self.server.shares() && self.server.room.is_limited() {
            self.server.room.rests();
        }
    }
}
