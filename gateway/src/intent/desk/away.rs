//! Orders for servers that DNS finds. One is for the machine at an address: it holds in whichever slot has that address, waits
//! where none has, and never meets another machine.

use tracing::info;

use super::super::book::Entry;
use super::super::talk::{Change, Row, Which};
use super::super::words::{asked, named};
use super::super::{Bidding, Identity};
use super::{Desk, locked};
use crate::backend::{Backend, Seated, Server};

impl Desk {
    /// What holds for whoever this is.
    pub(crate) fn bidding(&self, identity: Identity) -> Bidding {
        locked(&self.book).orders(identity).bidding()
    }

    /// DNS has given a slot another address than the `former` one, or the same with another weight.
    pub(crate) fn moved(&self, slot: &Server, former: Option<Seated>) {
        let seated = slot.seated();
        if seated == former {
            return;
        }
        let (backend, name) = (slot.backend(), &slot.name);
        if let Some(Seated { identity, address }) = former {
            let left = self.bidding(identity);
            if left != Bidding::default() {
                info!(
                    "backend {backend}: server {name} was {address}, and what is asked of that ({}) goes with it, to whichever server has the address next",
                    named(left)
                );
            }
        }
        let Some(Seated { identity, address }) = seated else {
            return;
        };
        let orders = locked(&self.book).orders(identity);
        for (change, note) in orders.each() {
            info!(
                "backend {backend}: server {name} ({address}) {}, {note}, as was asked of this address",
                asked(change)
            );
        }
    }

    /// Whether an entry is for a machine that DNS may find.
    pub(super) fn may_come(&self, entry: &Entry) -> bool {
        self.slots_of(&entry.backend, &entry.server)
            .next()
            .is_some()
    }

    fn slots_of<'a>(
        &'a self,
        backend: &'a str,
        called: &'a str,
    ) -> impl Iterator<Item = &'a Server> {
        let all = self
            .backends
            .iter()
            .filter(move |one| *one.name == *backend);
        all.flat_map(|backend| backend.servers())
            .map(|server| &**server)
            .filter(move |server| server.is_slot() && server.called() == called)
    }

    /// Takes back what was asked of machines that DNS does not give, where a server is called by its name without a slot.
    /// `None` where DNS does not find it.
    pub(super) fn set_of_absent(
        &self,
        backend: &Backend,
        called: &str,
        change: Change,
    ) -> Option<Result<String, String>> {
        let slots: Vec<_> = self.slots_of(&backend.name, called).collect();
        if slots.is_empty() {
            return None;
        }
        if !matches!(change, Change::Ready | Change::Weight(None)) {
            let all: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
            return Some(Err(format!(
                "DNS finds `{called}` of backend `{}`, and an order is for one of the servers that it finds: {}",
                backend.name,
                all.join(", ")
            )));
        }
        let here: Vec<Identity> = slots
            .iter()
            .filter_map(|slot| Some(slot.seated()?.identity))
            .collect();
        let known = (&*backend.name, called);
        let count =
            locked(&self.book).take_back(known, change, |identity| here.contains(&identity));
        let whose = format!("of addresses of {called} that DNS does not give");
        if count == 0 {
            return Some(Err(format!(
                "backend {}: nothing of that kind is asked {whose}; of one that it gives, name the server, as `tidegated get {}` lists it",
                backend.name, backend.name
            )));
        }
        let said = format!(
            "backend {}: what was asked {whose} is taken back",
            backend.name
        );
        Some(Ok(said))
    }

    /// Orders that wait for an address.
    pub(super) fn absent(&self, which: &Which) -> Vec<Row> {
        let wanted =
            |named: &Option<String>, name: &str| named.as_ref().is_none_or(|named| named == name);
        let here: Vec<Identity> = self
            .servers()
            .filter_map(|server| Some(server.seated()?.identity))
            .collect();
        let book = locked(&self.book);
        let waiting = book.entries().filter(|(identity, entry)| {
            wanted(&which.backend, &entry.backend)
                && wanted(&which.server, &entry.server)
                && !here.contains(identity)
        });
        waiting
            .map(|(_, entry)| {
                let all = entry.orders.bidding();
                let why = format!(
                    "{} is asked of an address that DNS does not give: it waits for that one",
                    named(all)
                );
                Row {
                    backend: entry.backend.clone(),
                    server: entry.server.clone(),
                    address: "no address".to_owned(),
                    state: "away".to_owned(),
                    weight: all.weight.unwrap_or_default().into(),
                    declared_weight: all.weight.unwrap_or_default().into(),
                    fault: Some(why),
                    mode: entry.orders.mode.as_ref().map(|held| held.note.clone()),
                    weighed: entry.orders.weight.as_ref().map(|held| held.note.clone()),
                    ..Row::default()
                }
            })
            .collect()
    }
}
