//! Those who find no room at a backend's servers: a warning a minute says which of its limits turned them away. Who they are and
//! how long they waited is their own line's to say. Called by `search`.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use super::Backend;
use super::config::Terms;
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

impl Busy {
    /// Which limit it was.
    fn because(self, terms: &Terms) -> String {
        let (most, within) = (terms.queued, terms.queue);
        match self {
            Self::Crowded if most == 0 => "nobody may wait for one (max_queued = 0)".to_owned(),
            Self::Crowded => format!("{most} wait already, as many as may (max_queued)"),
            Self::TooLong if within.is_zero() => {
                "nobody waits for one (queue_timeout = 0)".to_owned()
            }
            Self::TooLong => format!("none became free within {within:?} (queue_timeout)"),
        }
    }
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
            let why = busy.because(&self.terms);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_limit_of_nothing_is_no_number_that_was_reached() {
        let usual = Terms::default();
        let none = Terms {
            queue: Duration::ZERO,
            queued: 0,
            ..usual
        };
        for (busy, terms, said) in [
            (
                Busy::Crowded,
                usual,
                "1000 wait already, as many as may (max_queued)",
            ),
            (
                Busy::Crowded,
                none,
                "nobody may wait for one (max_queued = 0)",
            ),
            (
                Busy::TooLong,
                usual,
                "none became free within 5s (queue_timeout)",
            ),
            (
                Busy::TooLong,
                none,
                "nobody waits for one (queue_timeout = 0)",
            ),
        ] {
            assert_eq!(busy.because(&terms), said);
        }
    }
}
