//! What is told of a server's connections that are in doubt.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
    /// It has been told of that the server answers no PING.
    told_of_unanswered: AtomicBool,
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
            told_of_unanswered: AtomicBool::new(false),
        }
    }

    /// How many connections have been in doubt.
    pub(in super::super) fn get(&self) -> u64 {
        self.count.get()
    }

    /// The server has understood how a connection began, and not answered the PING of its beginning.
    pub(super) fn unanswered(&self) {
        if self.told_of_unanswered.swap(true, Relaxed) {
            return;
        }
        let (backend, server) = (&self.backend, &self.server);
        warn!(
            said.what = "no-ping",
            said.backend = %backend,
            said.server = %server,
            "backend {backend}: server {server} answers no PING on its HTTP/2 connections, which RFC 9113 §6.7 demands: what it leaves without an answer is noticed only when `response_timeout` is over; this is said once"
        );
    }

    /// A connection with so many requests in flight says nothing, and has not for so long.
    pub(super) fn began(&self, load: usize, silence: Duration) {
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
            "backend {backend}: server {server} says nothing on an HTTP/2 connection with {load} requests in flight, not even to a PING: the last octet came {silence:?} ago; other requests go on another connection, and this one is closed after {end:?} of silence{often}"
        );
    }
}
