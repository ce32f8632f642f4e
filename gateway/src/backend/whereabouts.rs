//! Where a server is: where the operator says, or for the time being where DNS does. Each change of address begins an epoch, so
//! that a connection of a former one can be told from those of the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use arc_swap::ArcSwapOption;

use super::config::Address;
use super::hash::Place;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Whereabouts {
    here: ArcSwapOption<Here>,
    epoch: AtomicU64,
}

/// An address, and what belongs to it.
#[derive(Debug)]
pub(super) struct Here {
    pub(super) address: Address,
    /// `None` where the operator has given it.
    pub(super) found: Option<Found>,
    /// What decides which visitors are its own.
    pub(super) place: Place,
}

/// An address that DNS gives, and its part in what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Found {
    pub(super) at: SocketAddr,
    /// Against others' of the same answer, 1 or more; an SRV record's weight.
    pub(super) share: u16,
    /// Used only while none of the others is fit; an SRV record of lower priority.
    pub(super) backup: bool,
    /// An SRV record's, where there is one.
    pub(super) priority: Option<u16>,
}

impl Here {
    /// Where the operator says; visitors are the server's, wherever it is moved.
    pub(super) fn declared(address: Address, server: &str) -> Self {
        Self {
            address,
            found: None,
            place: Place::of(server),
        }
    }

    /// Where DNS says. Visitors keep the address over restarts and at other gateways, where it may be in another slot.
    pub(super) fn found(found: Found) -> Self {
        Self {
            address: Address {
                host: found.at.ip().to_string(),
                port: found.at.port(),
            },
            found: Some(found),
            place: Place::of(&found.at.to_string()),
        }
    }

    /// Its part in what comes, against others of the same answer.
    pub(super) fn share(&self) -> u32 {
        self.found.map_or(1, |found| found.share.into())
    }

    pub(super) fn is_backup(&self) -> bool {
        self.found.is_some_and(|found| found.backup)
    }

    /// As an SRV record has it: the lower, the sooner it is used.
    pub(super) fn priority(&self) -> Option<u16> {
        self.found.and_then(|found| found.priority)
    }
}

impl Whereabouts {
    pub(super) fn new(here: Option<Here>) -> Self {
        Self {
            here: ArcSwapOption::from(here.map(Arc::new)),
            epoch: AtomicU64::new(0),
        }
    }

    /// Looks at where it is, if it is anywhere.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Here) -> T) -> Option<T> {
        self.here.load().as_deref().map(look)
    }

    /// The same, to be held on to.
    pub(super) fn here(&self) -> Option<Arc<Here>> {
        self.here.load_full()
    }

    /// Which of its addresses this is. To be read before the address is, so that a doubt is a former one's.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(SeqCst)
    }

    /// What DNS gives from here on. Whether the address is another one.
    pub(super) fn change(&self, next: Option<Found>) -> bool {
        let former = self.with(|here| here.found.map(|found| found.at)).flatten();
        self.here
            .store(next.map(|found| Arc::new(Here::found(found))));
        let moved = former != next.map(|found| found.at);
        if moved {
            self.epoch.fetch_add(1, SeqCst);
        }
        moved
    }
}
