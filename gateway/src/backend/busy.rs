//! Those who find no room at a backend's servers: a warning a minute says which of its limits turned them away. Who they are and
//! how long they waited is their own line's to say. Called by `search`.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use super::Backend;
use crate::complaint::Complaint;
use crate::failure::Failure;

/// Why somebody is turned away for whom there is a server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Busy {
    /// As many wait as may.
    Crowded,
    /// No connection became free in time.
    TooLong,
}

/// What was said of each.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<[Complaint; 2]>);

impl Backend {
    /// There was no room for somebody in its queue, or for too long: one line a minute of each.
    pub(super) fn turns_away(&self, busy: Busy) -> Failure {
        let mut complaints = self.busy.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = complaints[busy as usize].due(Instant::now());
        drop(complaints);
        if let Some(times) = due {
            let (name, declared) = (&self.name, &self.declared);
            let (most, within) = (self.terms.queued, self.terms.queue);
            let why = match busy {
                Busy::Crowded => format!("{most} wait already, as many as may (max_queued)"),
                Busy::TooLong => format!("none became free within {within:?} (queue_timeout)"),
            };
            warn!(
                said.what = "busy",
                said.backend = %name,
                said.why = %why,
                times,
                "backend {name}: visitors are turned away (backend-busy): every server that is fit has as many connections as it may (max_connections), and {why}; raise what is too low in {declared}, or add servers"
            );
        }
        Failure::BackendBusy
    }
}
