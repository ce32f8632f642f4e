//! Where a server is for the time being, what an operator asks of whoever is there, and what he is shown of it. An order is for a
//! machine: of a slot, whose address DNS may give to another one any moment, it goes with the address.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};

use tidegate_shared::clock;

use super::super::check::Checks;
use super::super::fitness::Fitness;
use super::super::slow_start::WHOLE;
use super::super::whereabouts::{Found, Here};
use super::{AS_DECLARED, READY, Server};
use crate::intent::talk::Row;
use crate::intent::{Bidding, Identity, Mode};

/// Which machine a server is for the time being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seated {
    pub(crate) identity: Identity,
    /// As people read it.
    pub(crate) address: String,
}

impl Server {
    /// Which machine it is, for what operators ask of it; `None` where DNS has given it no address.
    pub(crate) fn seated(&self) -> Option<Seated> {
        self.whereabouts.with(|here| {
            let address = here.address.to_string();
            let identity = self.identity_at(&address);
            Seated { identity, address }
        })
    }

    fn identity_at(&self, address: &str) -> Identity {
        Identity::of(&self.backend, &self.called, address)
    }

    /// What DNS gives it from here on: an address, another one, or none. Connections to a former one that rest are closed; what
    /// is in flight there ends in its own time, and says nothing of this server any more. `joins` where others are there already.
    /// `asked` says what operators ask of whoever is at an address.
    pub(in crate::backend) fn sit(
        &self,
        found: Option<Found>,
        joins: bool,
        asked: &dyn Fn(Identity) -> Bidding,
    ) {
        let seat = self.seat();
        let next = found.map(|found| self.identity_at(&Here::found(found).address.to_string()));
        let bidding = next.map(asked).unwrap_or_default();
        // Whoever is not to be used is not, in between either.
        let idle = bidding.mode.is_some() || bidding.weight == Some(0);
        if idle {
            self.take_orders(bidding);
        }
        let moved = self.whereabouts.change(found);
        if !idle {
            self.take_orders(bidding);
        }
        drop(seat);
        if !moved {
            return;
        }
        // Who comes is not to blame for who was there.
        self.with_fitness(|fitness| *fitness = Fitness::default());
        self.chose_http1.store(false, Relaxed);
        // What was seen of how connections end there is kept: whoever comes is of the same kind until the contrary is known, and
        // what a request that cannot be repeated would be lost by is not found out with one.
        if let Some(checks) = &self.checks {
            checks.forget();
        }
        self.close_resting();
        if joins {
            self.slow_start.begin(clock::now_ms());
        }
        self.room.changed();
    }

    /// What an operator asks of it, if anything.
    pub(in crate::backend) fn mode(&self) -> Option<Mode> {
        [Mode::Drain, Mode::Maintenance]
            .into_iter()
            .find(|mode| *mode as u8 == self.mode.load(Relaxed))
    }

    /// Does what operators ask of whoever has its address, as `asked` says.
    pub(crate) fn obey(&self, asked: &dyn Fn(Identity) -> Bidding) {
        let seat = self.seat();
        let bidding = self.seated().map(|seated| asked(seated.identity));
        let was_idle = self.is_idle();
        self.take_orders(bidding.unwrap_or_default());
        drop(seat);
        if self.mode() == Some(Mode::Maintenance) {
            self.close_resting();
        }
        if was_idle && !self.is_idle() {
            self.slow_start.begin(clock::now_ms());
        }
        // Whoever waits for room looks again: there may be some, or nothing left to wait for.
        self.room.changed();
    }

    fn take_orders(&self, bidding: Bidding) {
        let weight = bidding.weight.unwrap_or(AS_DECLARED);
        self.weight.store(weight, Relaxed);
        let mode = bidding.mode.map_or(READY, |mode| mode as u8);
        self.mode.store(mode, Relaxed);
    }

    /// An address and what is asked of whoever has it change together.
    fn seat(&self) -> MutexGuard<'_, ()> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its part in what comes while it is used: what is declared, by the operator or in its records, unless another one is asked.
    pub(super) fn weight_at(&self, here: &Here) -> u32 {
        match self.weight.load(Relaxed) {
            AS_DECLARED => self.declared_weight_at(here),
            asked => asked.into(),
        }
    }

    fn declared_weight_at(&self, here: &Here) -> u32 {
        u32::from(self.declared_weight) * here.share()
    }

    /// Its part in what comes for the time being: less than its weight while it starts slowly.
    pub(in crate::backend) fn effective_weight(&self) -> f64 {
        let part = self.slow_start.share(clock::now_ms());
        f64::from(self.share()) * f64::from(part) / f64::from(WHOLE)
    }

    fn starts(&self) -> bool {
        self.slow_start.share(clock::now_ms()) < WHOLE
    }

    /// Whether it is used only while none of the others is fit.
    pub(in crate::backend) fn is_backup(&self) -> bool {
        self.backup || self.whereabouts.with(Here::is_backup).unwrap_or_default()
    }

    /// Of its SRV record.
    pub(in crate::backend) fn priority(&self) -> Option<u16> {
        self.whereabouts.with(Here::priority).flatten()
    }

    /// What is declared of it, for whoever asks for something else.
    pub(crate) fn declared_weight(&self) -> u32 {
        let there = self.whereabouts.with(|here| self.declared_weight_at(here));
        there.unwrap_or_else(|| self.declared_weight.into())
    }

    /// As `tidegated get` shows it, but for who asked for what.
    pub(crate) fn row(&self) -> Row {
        let state = match self.mode() {
            Some(mode) => mode.to_string(),
            None if self.is_vacant() => "no address".to_owned(),
            None if self.share() == 0 => "unused".to_owned(),
            None if self.is_down() => "down".to_owned(),
            None if self.is_out() => "left out".to_owned(),
            None if self.starts() => "in use, slow start".to_owned(),
            None => "in use".to_owned(),
        };
        let fault = match () {
            () if self.is_down() => self.checks.as_ref().and_then(Checks::fault),
            () if self.is_out() => self.left_out_for(),
            () => None,
        };
        let declared_weight = self.declared_weight();
        let weight = self.whereabouts.with(|here| self.weight_at(here));
        Row {
            backend: self.backend().to_owned(),
            server: self.name.clone(),
            address: self.address(),
            state,
            backup: self.is_backup(),
            priority: self.priority(),
            weight: weight.unwrap_or(declared_weight),
            declared_weight,
            effective_weight: self.effective_weight(),
            in_flight: self.outstanding(),
            connections: self.open(),
            requests: self.counts.requests.get(),
            mode: None,
            weighed: None,
            fault,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU16;

    use super::super::super::config::{self, Balance, Family, Place, Protocol, Terms};
    use super::super::super::{Backend, Server};
    use super::*;
    use tidegate_shared::origin::SETTLED_MS;

    fn found(at: &str) -> Found {
        Found {
            at: at.parse::<SocketAddr>().unwrap(),
            share: 1,
            backup: false,
            priority: None,
        }
    }

    fn is_careful(server: &Server) -> bool {
        let (manners, now) = (&server.manners, clock::now_ms());
        !manners.is_unknown(now) && *manners.fit(now).start() == SETTLED_MS
    }

    #[test]
    fn an_address_begins_with_what_is_known_of_those_before_it() {
        let slots = |name: &str| {
            let place = Place::Addresses {
                name: format!("{name}.test:80").parse().unwrap(),
                family: Family::default(),
                slots: NonZeroU16::new(2).unwrap(),
            };
            config::Server::at(name, place)
        };
        let backend = Backend::new(
            &config::Backend {
                name: "alb".to_owned(),
                balance: Balance::default(),
                tls: None,
                send_proxy: None,
                protocol: Protocol::default(),
                terms: Terms::default(),
                check: None,
                servers: vec![slots("one"), slots("two")],
                place: String::new(),
            },
            1,
        );
        let backend = backend.unwrap();
        let [first, second, other, _] = backend.servers() else {
            panic!("two servers of two slots each")
        };
        let nothing = |_: Identity| Bidding::default();
        first.sit(Some(found("192.0.2.1:80")), false, &nothing);
        assert!(!is_careful(first), "of its kind nothing is known");
        first.manners.closed_after(3, clock::now_ms());
        first.sit(Some(found("192.0.2.2:80")), true, &nothing);
        assert!(is_careful(first), "another address");
        second.sit(Some(found("192.0.2.1:80")), true, &nothing);
        assert!(is_careful(second), "in another slot");
        other.sit(Some(found("192.0.2.3:80")), true, &nothing);
        assert!(!is_careful(other), "another server");
    }
}
