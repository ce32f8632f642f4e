//! How a request, or a connection in TCP mode, comes to a server: whose turn it is, room for a connection there, and the wait
//! where every fit server is full. What is sent then, and whether it may be sent again, is its caller's to know.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_shared::clock;
use tokio::time::{Instant, timeout_at};

use super::balance::Pick;
use super::bound::Tie;
use super::busy::Busy;
use super::greeting::Introduced;
use super::hash::Key;
use super::server::{Grant, InFlight, May, Server};
use super::{Backend, Tried};
use crate::failure::Failure;

/// How long a request waits before it is tried once more with a server that it has failed with; each further time twice as
/// long.
const SAME_SERVER_AFTER: Duration = Duration::from_millis(100);

/// Who asks.
#[derive(Debug)]
pub struct Caller<'a> {
    pub source: IpAddr,
    /// What servers are told, where they are told anything.
    pub introduced: Option<Introduced<'a>>,
    /// The visitor's connection, where more than one request of it may go on one of a server's.
    pub tie: Option<&'a Arc<Tie>>,
}

impl Caller<'_> {
    /// One of whom nothing is told.
    pub fn from(source: IpAddr) -> Self {
        Self {
            source,
            introduced: None,
            tie: None,
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) backend: &'a Arc<Backend>,
    pub(super) may: May,
    /// What it is known by, where that decides who takes it.
    key: Option<Key>,
    caller: &'a Caller<'a>,
    tried: Tried,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        backend: &'a Arc<Backend>,
        may: May,
        key: Option<Key>,
        caller: &'a Caller<'a>,
    ) -> Self {
        Self {
            backend,
            may,
            key,
            caller,
            tried: Tried::default(),
        }
    }

    /// What a connection that is opened begins with.
    pub(super) fn header(&self) -> Option<Vec<u8>> {
        let plan = self.backend.send_proxy()?;
        Some(match &self.caller.introduced {
            Some(introduced) => plan.header(introduced),
            None => plan.of_ourselves(None),
        })
    }

    /// Whose connection alone it is then.
    pub(super) fn tie(&self) -> Option<&'a Arc<Tie>> {
        self.caller.tie
    }

    /// It has failed with this one.
    pub(super) fn failed_on(&mut self, server: &Arc<Server>) {
        self.tried.0.extend(self.backend.place_of(server));
    }

    /// How long to give a server some time with which it has failed, where there is no other.
    pub(super) fn pause(&self) -> Option<Duration> {
        let times = self.tried.0.len();
        if times == 0 || !self.backend.has_tried_all(&self.tried) {
            return None;
        }
        let doubled = u32::try_from(times - 1).unwrap_or(u32::MAX).min(4);
        Some(SAME_SERVER_AFTER * 2_u32.pow(doubled))
    }

    /// A server and a connection, or the right to open one, without a wait, at this moment by `clock::ms`. `None` where every fit server is full, or others
    /// wait already: they come first.
    pub(super) fn at_once(&self, now: u64) -> Result<Option<(InFlight, Grant)>, Failure> {
        if self.backend.queue.count() == 0 {
            self.take(now)
        } else {
            Ok(None)
        }
    }

    fn take(&self, now: u64) -> Result<Option<(InFlight, Grant)>, Failure> {
        // Another may take the room between the look and the step: as often as there are servers, and not for ever.
        for _ in 0..=self.backend.servers.len() {
            match self.backend.pick(&self.tried, self.key, self.tie(), now) {
                Pick::None => return Err(self.backend.nobody()),
                Pick::Down => return Err(Failure::ServersDown),
                Pick::Wait => return Ok(None),
                Pick::Take(index) => {
                    let server = &self.backend.servers[index];
                    if let Some(grant) = server.grant(now, self.may, self.tie()) {
                        return Ok(Some((InFlight::on(server), grant)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The same with a wait, in its turn and for the backend's time.
    pub(super) async fn wait_for_room(&self) -> Result<(InFlight, Grant), Failure> {
        let queue = &self.backend.queue;
        let until = Instant::now() + self.backend.terms.queue;
        let mut came_back = false;
        loop {
            let Some(mut place) = queue.join(came_back) else {
                return Err(self.backend.turns_away(Busy::Crowded));
            };
            // What became free before it was joined has told nobody.
            if queue.count() == 1
                && let Some(found) = self.take(clock::now_ms())?
            {
                return Ok(found);
            }
            let Ok(Some(mut turn)) = timeout_at(until, place.turn()).await else {
                return Err(self.backend.turns_away(Busy::TooLong));
            };
            if let Some(found) = self.take(clock::now_ms())? {
                turn.spend();
                return Ok(found);
            }
            // There may be room at a server that is no use to this one, and is to the next.
            turn.pass_on();
            came_back = true;
        }
    }
}
