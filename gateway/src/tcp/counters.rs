//! What is counted of one listener in TCP mode, for the metrics page.

use prometheus_client::metrics::counter::Counter;

use super::record::{ENDINGS, Ended};
use crate::backend::mismatch::{MISMATCHES, Mismatch};
use crate::per_listener::PerListener;

impl PerListener<Counters> {
    /// Connections that the end of the gateway's time has cut, of all listeners.
    pub(crate) fn all_cut(&self) -> u64 {
        self.all().iter().map(|(_, counters)| counters.cut()).sum()
    }
}

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Counters {
    opened: Counter,
    ended: [Counter; ENDINGS.len()],
    received: Counter,
    sent: Counter,
    mismatches: [Counter; MISMATCHES.len()],
}

impl Counters {
    pub(super) fn opened(&self) {
        self.opened.inc();
    }

    pub(super) fn ended(&self, ended: Ended, received: u64, sent: u64) {
        let label = ended.label();
        if let Some(index) = ENDINGS.iter().position(|known| *known == label) {
            self.ended[index].inc();
        }
        self.received.inc_by(received);
        self.sent.inc_by(sent);
    }

    pub(super) fn mismatch(&self, mismatch: Mismatch) {
        self.mismatches[mismatch as usize].inc();
    }

    /// Connections that ended, by how.
    pub fn all_ended(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ENDINGS
            .iter()
            .zip(&self.ended)
            .map(|(label, counter)| (*label, counter.get()))
    }

    /// Those that the end of the gateway's time has cut.
    fn cut(&self) -> u64 {
        let label = Ended::Draining.label();
        let cut = self.all_ended().filter(|(ended, _)| *ended == label);
        cut.map(|(_, count)| count).sum()
    }

    /// Octets of connections that ended: from visitors and to them.
    pub fn octets(&self) -> (u64, u64) {
        (self.received.get(), self.sent.get())
    }

    /// Connections that have not ended.
    pub fn open(&self) -> u64 {
        let ended: u64 = self.all_ended().map(|(_, count)| count).sum();
        self.opened.get().saturating_sub(ended)
    }

    /// Connections to `servers` that expect something else, by what.
    pub fn all_mismatches(&self) -> impl Iterator<Item = (Mismatch, u64)> {
        MISMATCHES
            .into_iter()
            .map(|mismatch| (mismatch, self.mismatches[mismatch as usize].get()))
    }
}
