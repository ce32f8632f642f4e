//! What an operator asks of a server, and what he is shown of it.

use std::sync::atomic::Ordering::Relaxed;

use tidegate_shared::clock;

use super::super::check::Checks;
use super::{READY, Server};
use crate::intent::Mode;
use crate::intent::talk::Row;

impl Server {
    /// What an operator asks of it, if anything.
    pub(in crate::backend) fn mode(&self) -> Option<Mode> {
        [Mode::Drain, Mode::Maintenance]
            .into_iter()
            .find(|mode| *mode as u8 == self.mode.load(Relaxed))
    }

    /// Does what an operator asks: in this mode, with this weight, and as declared where there is none.
    pub(crate) fn obey(&self, mode: Option<Mode>, weight: Option<u16>) {
        let was_idle = self.is_idle();
        self.weight
            .store(weight.unwrap_or(self.declared_weight), Relaxed);
        self.mode
            .store(mode.map_or(READY, |mode| mode as u8), Relaxed);
        if mode == Some(Mode::Maintenance) {
            self.close_resting();
        }
        if was_idle && !self.is_idle() {
            self.slow_start.begin(clock::now_ms());
        }
        // Whoever waits for room looks again: there may be some, or nothing left to wait for.
        self.room.changed();
    }

    /// As `tidegated get` shows it, but for who asked for what.
    pub(crate) fn row(&self) -> Row {
        let state = match self.mode() {
            Some(mode) => mode.to_string(),
            None if self.share() == 0 => "unused".to_owned(),
            None if self.is_vacant() => "no address".to_owned(),
            None if self.is_down() => "down".to_owned(),
            None if self.is_out() => "left out".to_owned(),
            None => "in use".to_owned(),
        };
        Row {
            backend: self.backend().to_owned(),
            server: self.name.clone(),
            address: self.address(),
            state,
            backup: self.backup,
            weight: self.weight.load(Relaxed).into(),
            declared_weight: self.declared_weight.into(),
            in_flight: self.outstanding(),
            connections: self.open(),
            requests: self.counts.requests.get(),
            mode: None,
            weighed: None,
            fault: self.checks.as_ref().and_then(Checks::fault),
        }
    }
}
