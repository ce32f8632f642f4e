//! One gateway takes another's place on the same machine. The one that ends stops listening for visitors and agents at once; its
//! admin address and its control socket it keeps, so that its drain can be watched, until one that comes asks for them. That one
//! waits for what is not free yet, and for agents that are on their way.
//!
//! ```text
//! the one that comes: claim ─GET /ready, POST /give-way─▶ admin  ─┬▶ handover: the one that ends
//!                     control ─give-way, on the socket──▶ control ─┘
//! ```

pub(crate) mod claim; // the side of the one that comes

use std::sync::Arc;

use tidegate_shared::drain::Drain;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::intent::Desk;
use crate::pool::Pool;

/// The side of the one that ends.
#[derive(Debug)]
pub struct Handover {
    /// Of the listeners for visitors and agents.
    listeners: Drain,
    page: CancellationToken,
    control: CancellationToken,
    /// Either of them.
    any: CancellationToken,
}

/// What is given only to one who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The admin address.
    Page,
    /// The control socket.
    Control,
}

impl Handover {
    /// Of a gateway whose listeners end with this.
    pub fn new(listeners: Drain) -> Arc<Self> {
        Arc::new(Self {
            listeners,
            page: CancellationToken::new(),
            control: CancellationToken::new(),
            any: CancellationToken::new(),
        })
    }

    /// Whether this gateway ends.
    pub fn is_draining(&self) -> bool {
        self.listeners.is_finishing()
    }

    /// Has a part given up; only by a gateway that ends. Whether it is.
    pub fn give(&self, part: Part) -> bool {
        if !self.is_draining() {
            return false;
        }
        if !self.has_given(part) {
            info!(
                "gave way: {} is another gateway's from here on",
                match part {
                    Part::Page => "the admin address",
                    Part::Control => "the control socket",
                }
            );
        }
        self.token(part).cancel();
        self.any.cancel();
        true
    }

    /// Whether a part is another gateway's.
    pub fn has_given(&self, part: Part) -> bool {
        self.token(part).is_cancelled()
    }

    /// Ready once a part is to be given up.
    pub async fn given(&self, part: Part) {
        self.token(part).cancelled().await;
    }

    fn token(&self, part: Part) -> &CancellationToken {
        match part {
            Part::Page => &self.page,
            Part::Control => &self.control,
        }
    }
}

/// Sends the agents to whoever comes after this gateway: at once where that has shown itself, and otherwise when nobody is left
/// whose request might still need a tunnel of its own. Orders are that one's as well from then on.
pub async fn attend(handover: Arc<Handover>, pool: Arc<Pool>, desk: Arc<Desk>, until: Drain) {
    tokio::select! {
        () = until.finishing() => return,
        () = handover.any.cancelled() => {}
        () = handover.listeners.idle_over() => {}
    }
    pool.send_on();
    tokio::select! {
        () = until.finishing() => {}
        () = handover.any.cancelled() => desk.retire().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_one_that_ends_gives_way_and_only_what_is_asked_for() {
        let listeners = Drain::new();
        let handover = Handover::new(listeners.clone());
        assert!(!handover.give(Part::Page) && !handover.has_given(Part::Page));
        listeners.finish(Duration::ZERO).await;
        assert!(handover.give(Part::Page));
        handover.given(Part::Page).await;
        assert!(handover.has_given(Part::Page) && !handover.has_given(Part::Control));
    }
}
