//! Servers that the gateway dials for a connection, one after the other from where the last one began. Balance and health are not its business.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_shared::socket;
use tokio::io::Interest;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::record::{Ended, Record};
use crate::backend::config::Address;
use crate::backend::greeting::SendProxy;
use crate::backend::mismatch::Mismatches;
use crate::complaint::Complaint;
use crate::failure::Failure;

/// Servers of which any will do.
#[derive(Debug)]
pub struct Servers {
    /// All of them, as the log has them.
    pub name: Arc<str>,
    all: Vec<Address>,
    /// What each is told of the visitor before anything else.
    pub proxy: Option<SendProxy>,
    /// What names them, and where: for whoever has to be told what to change.
    pub place: String,
    /// What they expect otherwise.
    pub mismatches: Mismatches,
    next: AtomicUsize,
    /// Some of them are not there.
    missing: Mutex<Complaint>,
}

impl Servers {
    /// Of at least one.
    pub fn new(all: Vec<Address>, proxy: Option<SendProxy>, place: String) -> Self {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        Self {
            name: names.join(",").into(),
            all,
            proxy,
            place,
            mismatches: Mismatches::default(),
            next: AtomicUsize::new(0),
            missing: Mutex::default(),
        }
    }

    /// Connects to the first that answers, `within` at most for each.
    pub(super) async fn dial(
        &self,
        within: Duration,
        visitor: &TcpStream,
        record: &mut Record,
    ) -> Result<TcpStream, Ended> {
        tokio::select! {
            biased;
            dialled = self.any(within, record) => dialled.ok_or(Ended::NoServer),
            _gone = visitor.ready(Interest::ERROR) => Err(Ended::Failed(Failure::VisitorGone)),
        }
    }

    async fn any(&self, within: Duration, record: &mut Record) -> Option<TcpStream> {
        let first = self.next.fetch_add(1, Relaxed);
        for turn in 0..self.all.len() {
            let server = &self.all[first.wrapping_add(turn) % self.all.len()];
            record.attempts += 1;
            let until = Instant::now() + within;
            let found = timeout(within, lookup_host((server.host.as_str(), server.port))).await;
            let addresses = match found {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    self.complain(
                        server,
                        &format_args!("its name cannot be resolved: {error}"),
                    );
                    continue;
                }
                Err(_elapsed) => {
                    let why = format_args!("its name was not resolved within {within:?}");
                    self.complain(server, &why);
                    continue;
                }
            };
            for address in addresses {
                let left = until.saturating_duration_since(Instant::now());
                record.server = Some(address);
                match socket::connect(address, left).await {
                    Ok(server) => return Some(server),
                    Err(error) => self.complain(server, &error),
                }
            }
        }
        None
    }

    /// A server is not there: one line a minute, with the last of the reasons.
    fn complain(&self, server: &Address, why: &dyn Display) {
        let due = self
            .missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(Instant::now());
        match due {
            Some(times) => {
                warn!(servers = %self.name, times, "the server {server} cannot be reached: {why}; the next one is tried, if there is any")
            }
            None => debug!(servers = %self.name, "the server {server} cannot be reached: {why}"),
        }
    }
}
