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
    /// One was not there, and the next one was tried; or there was none left.
    missing: Mutex<[Complaint; 2]>,
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
        listener: &str,
        within: Duration,
        visitor: &TcpStream,
        record: &mut Record,
    ) -> Result<TcpStream, Ended> {
        tokio::select! {
            biased;
            dialled = self.any(listener, within, record) => dialled.ok_or(Ended::NoServer),
            _gone = visitor.ready(Interest::ERROR) => Err(Ended::Failed(Failure::VisitorGone)),
        }
    }

    async fn any(
        &self,
        listener: &str,
        within: Duration,
        record: &mut Record,
    ) -> Option<TcpStream> {
        let first = self.next.fetch_add(1, Relaxed);
        for turn in 0..self.all.len() {
            let server = &self.all[first.wrapping_add(turn) % self.all.len()];
            let last = turn + 1 == self.all.len();
            record.attempts += 1;
            let until = Instant::now() + within;
            let found = timeout(within, lookup_host((server.host.as_str(), server.port))).await;
            let addresses = match found {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    let why = format_args!("its name cannot be resolved: {error}");
                    self.complain(listener, server, last, &why);
                    continue;
                }
                Err(_elapsed) => {
                    let why = format_args!("its name was not resolved within {within:?}");
                    self.complain(listener, server, last, &why);
                    continue;
                }
            };
            let mut addresses = addresses.peekable();
            while let Some(address) = addresses.next() {
                let left = until.saturating_duration_since(Instant::now());
                record.server = Some(address);
                match socket::connect(address, left).await {
                    Ok(server) => return Some(server),
                    Err(error) => {
                        let last = last && addresses.peek().is_none();
                        self.complain(listener, server, last, &error);
                    }
                }
            }
        }
        None
    }

    /// A server is not there: one line a minute, and one where it was the `last` that could be tried.
    fn complain(&self, listener: &str, server: &Address, last: bool, why: &dyn Display) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let due = missing[usize::from(last)].due(Instant::now());
        drop(missing);
        let then = match (last, self.all.len()) {
            (false, _) => "the next one is tried",
            (true, 1) => "there is no other, and the visitor's connection is broken off",
            (true, _) => "it was the last one, and the visitor's connection is broken off",
        };
        match due {
            Some(times) => {
                warn!(%listener, servers = %self.name, times, "the server {server} cannot be reached: {why}; {then}")
            }
            None => {
                debug!(%listener, servers = %self.name, "the server {server} cannot be reached: {why}; {then}")
            }
        }
    }
}
