//! Knows where the gateways are: resolves their names, again and again, and has a `post` look after each address that it
//! finds, or finds no more. Knows nothing of tunnels. Started by `agent`, once for each gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::workers::Workers;
use tokio::net::lookup_host;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::App;
use crate::backoff::{Backoff, Kind};
use crate::dial::{Dialler, Failure};
use crate::post;
use crate::random::Random;
use crate::report::Report;
use crate::serve::Care;
use crate::target::bracketed;

/// A gateway as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

/// What concerns every tunnel of the agent; each number counts up when it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// The machine slept, or this process was stopped: doubt everything.
    pub woke: u64,
    /// The certificate was renewed: replace every tunnel.
    pub renewed: u64,
    /// Other gateways are believed: one that was refused may be taken. Tunnels stay.
    pub trusting: u64,
}

/// What all gateways' tunnels have in common. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Common {
    pub tunnels: usize,
    pub care: Care,
    pub app: Arc<App>,
    pub workers: Arc<Workers>,
    pub drain: Drain,
    pub orders: watch::Receiver<Orders>,
    /// Told whenever an address has all its tunnels.
    pub complete: Arc<Notify>,
}

/// How often a name is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// At most so often when tunnels fail.
const RESOLVE_AT_MOST_EVERY: Duration = Duration::from_secs(1);

const RESOLVE_WITHIN: Duration = Duration::from_secs(5);

/// An address is given up when it is missing from so many answers in a row: some servers answer with a part of what they
/// know.
const MISSING: u32 = 2;

/// Keeps tunnels to one gateway until it is time to finish.
pub async fn keep_gateway(gateway: Gateway, dialler: Dialler, common: Common) {
    let mut fleet = Fleet {
        trouble: Arc::new(Notify::new()),
        addresses: BTreeMap::new(),
        dialler,
        common,
    };
    if let Ok(address) = gateway.host.parse::<IpAddr>() {
        fleet.found(&[SocketAddr::new(address, gateway.port)]);
        fleet.common.drain.finishing().await;
        return;
    }
    let mut report = Report::default();
    let mut backoff = Backoff::new(Random::from_system());
    let mut orders = fleet.common.orders.clone();
    loop {
        let resolved = tokio::select! {
            () = fleet.common.drain.finishing() => return,
            resolved = resolve(&gateway) => resolved,
        };
        let pause = match resolved {
            Ok(addresses) => {
                backoff.lived();
                if let Some(line) = report.works(clock::now_ms()) {
                    info!("resolving {gateway}: {line}");
                }
                fleet.found(&addresses);
                RESOLVE_EVERY
            }
            Err(error) => {
                let failure = Failure::resolve(&gateway.host, &error);
                if let Some(line) = report.failed(clock::now_ms(), &failure) {
                    warn!("gateway {gateway}: {line}");
                }
                Duration::from_millis(backoff.failed(Kind::Path))
            }
        };
        let trouble = Arc::clone(&fleet.trouble);
        tokio::select! {
            () = fleet.common.drain.finishing() => return,
            () = sleep(pause) => {}
            () = async {
                sleep(RESOLVE_AT_MOST_EVERY).await;
                trouble.notified().await;
            } => {}
            changed = orders.changed() => if changed.is_err() { return },
        }
    }
}

async fn resolve(gateway: &Gateway) -> io::Result<Vec<SocketAddr>> {
    let looking = lookup_host((gateway.host.as_str(), gateway.port));
    let mut addresses: Vec<SocketAddr> = timeout(RESOLVE_WITHIN, looking)
        .await
        .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "no answer from DNS"))??
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    }
    Ok(addresses)
}

/// The addresses of one gateway.
struct Fleet {
    addresses: BTreeMap<SocketAddr, Known>,
    /// Told by an address on which attempts fail: perhaps the gateway has moved.
    trouble: Arc<Notify>,
    dialler: Dialler,
    common: Common,
}

struct Known {
    stop: CancellationToken,
    missing: u32,
}

impl Fleet {
    fn found(&mut self, addresses: &[SocketAddr]) {
        self.addresses.retain(|address, known| {
            if addresses.contains(address) {
                known.missing = 0;
                return true;
            }
            known.missing += 1;
            if known.missing < MISSING {
                return true;
            }
            info!("gateway address {address} is gone from DNS; its tunnels are drained");
            known.stop.cancel();
            false
        });
        for address in addresses {
            self.addresses.entry(*address).or_insert_with(|| {
                let stop = CancellationToken::new();
                let keeping = post::keep(
                    *address,
                    self.dialler.clone(),
                    self.common.clone(),
                    Arc::clone(&self.trouble),
                    stop.clone(),
                );
                let _waited_for = self.common.drain.spawn(keeping);
                Known { stop, missing: 0 }
            });
        }
    }
}
