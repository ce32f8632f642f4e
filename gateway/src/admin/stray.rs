//! What comes to the operator's page and is no question in HTTP: a PROXY header, or TLS, as a balancer's check or a scraper that
//! is set up for another port sends. Counted as at any listener, and told of in a line.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tidegate_shared::reversal::Seen;
use tracing::warn;

use crate::complaint::{Due, Roll};
use crate::config::listeners::Named;
use crate::door::{Counters, Kind, canonical};

/// The page, among listeners.
pub const LISTENER: &str = "admin";

/// See the module's head.
#[derive(Debug)]
pub struct Strays {
    named: Named,
    counters: Arc<Counters>,
    headers: Mutex<Roll>,
    tls: Mutex<Roll>,
}

impl Strays {
    /// Of the page that this option opens.
    pub fn new(named: Named, counters: Arc<Counters>) -> Self {
        Self {
            named,
            counters,
            headers: Mutex::default(),
            tls: Mutex::default(),
        }
    }

    /// Somebody has said this in the place of a question.
    pub(super) fn came(&self, said: &[u8], from: SocketAddr) {
        let seen = Seen::at_the_end(said);
        let peer = canonical(from);
        let (ip, named) = (peer.ip(), &self.named);
        let (kind, roll, remedy) = match seen {
            Seen::ProxyV1 | Seen::ProxyV2 => (
                Kind::Unexpected,
                &self.headers,
                format!(
                    "the operator's page ({named}) reads none; have {ip} send none to this port, or connect to a listener whose `proxy` takes one (HAProxy: without send-proxy, send-proxy-v2 and check-send-proxy)"
                ),
            ),
            Seen::TlsRecord => (
                Kind::Tls,
                &self.tls,
                format!(
                    "the operator's page ({named}) is served in clear text; have {ip} ask in http, or connect to a listener that has certificates"
                ),
            ),
            _ => return,
        };
        self.counters.mismatch(kind);
        let due = roll
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(ip, Instant::now());
        if let Some(Due { times, also }) = due {
            warn!(
                said.what = kind.label(), %peer, listener = %LISTENER, times, also,
                "a connection that came in does not fit its listener: expected HTTP in clear text, got {seen}: {remedy}"
            );
        }
    }
}
