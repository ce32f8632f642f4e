//! What is told of a server's connections that are in doubt.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tracing::warn;

use super::pulse::END_AFTER;
use crate::complaint::Complaint;

/// See the module's head. Shared by a server's connections.
pub(in super::super) struct Doubts {
    backend: Arc<str>,
    server: String,
    count: Counter,
    complaint: Mutex<Complaint>,
}

impl fmt::Debug for Doubts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Doubts")
    }
}

impl Doubts {
    pub(in super::super) fn new(backend: &Arc<str>, server: &str) -> Self {
        Self {
            backend: Arc::clone(backend),
            server: server.to_owned(),
            count: Counter::default(),
            complaint: Mutex::default(),
        }
    }

    /// How many connections have been in doubt.
    pub(in super::super) fn get(&self) -> u64 {
        self.count.get()
    }

    /// A connection with so many requests in flight says nothing.
    pub(super) fn began(&self, load: usize) {
        self.count.inc();
        let mut complaint = self
            .complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(times) = complaint.due(Instant::now()) else {
            return;
        };
        drop(complaint);
        let (backend, server) = (&self.backend, &self.server);
        let end = Duration::from_millis(END_AFTER);
        let often = match times {
            1 => String::new(),
            _ => format!(" ({times} connections since this was last said)"),
        };
        warn!(
            said.what = "in-doubt",
            said.backend = %backend,
            said.server = %server,
            said.in_flight = load,
            said.times = times,
            "backend {backend}: server {server} says nothing on an HTTP/2 connection with {load} requests in flight, not even to a PING: other requests go on another connection, and this one is closed after {end:?} of silence{often}"
        );
    }
}
