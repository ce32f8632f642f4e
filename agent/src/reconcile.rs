//! Keeps the wanted tunnels to every address of every gateway: does what `keeper` decides, and tells it what became of it.
//! One task per gateway resolves its name, one per address looks after its tunnels; the tunnels themselves run on workers.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::workers::Workers;
use tokio::net::lookup_host;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::app::App;
use crate::backoff::{Backoff, Kind};
use crate::dial::{Dialler, Failure, Layer};
use crate::keeper::{Keeper, Order};
use crate::random::Random;
use crate::report::Report;
use crate::serve::{self, Care, Control, Ending, News};
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
        let pause = match resolve(&gateway).await {
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

async fn resolve(gateway: &Gateway) -> std::io::Result<Vec<SocketAddr>> {
    let looking = lookup_host((gateway.host.as_str(), gateway.port));
    let mut addresses: Vec<SocketAddr> = timeout(RESOLVE_WITHIN, looking)
        .await
        .map_err(|_elapsed| {
            std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer from DNS")
        })??
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::NotFound,
            "it has no address",
        ));
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
                let (tell, told) = mpsc::unbounded_channel();
                let post = Post {
                    address: *address,
                    keeper: Keeper::new(self.common.tunnels, Random::from_system()),
                    live: HashMap::new(),
                    next_id: 0,
                    report: Report::default(),
                    losses: 0,
                    orders: *self.common.orders.borrow(),
                    trouble: Arc::clone(&self.trouble),
                    tell,
                    dialler: self.dialler.clone(),
                    common: self.common.clone(),
                };
                let _waited_for = self.common.drain.spawn(post.keep(told, stop.clone()));
                Known { stop, missing: 0 }
            });
        }
    }
}

/// What a tunnel's task tells the one who looks after its address.
#[derive(Debug)]
enum Event {
    News(News),
    Failed(Failure),
    Ended(Ending),
}

/// One address and its tunnels.
struct Post {
    address: SocketAddr,
    keeper: Keeper,
    live: HashMap<u64, Live>,
    next_id: u64,
    report: Report,
    /// Tunnels lost since all were up.
    losses: u64,
    orders: Orders,
    trouble: Arc<Notify>,
    tell: mpsc::UnboundedSender<(u64, Event)>,
    dialler: Dialler,
    common: Common,
}

struct Live {
    control: Arc<Control>,
    worker: usize,
    began: u64,
    certificate: u64,
    stage: Stage,
}

/// dialling ──first PING answered──▶ up ──GOAWAY or renewal──▶ leaving (──replacement up, or too late──▶ retired)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Dialling,
    Up {
        since: u64,
    },
    /// Works, and is to be replaced; by this moment at the latest.
    Leaving {
        until: u64,
    },
    Retired,
}

/// How long a tunnel that is to be replaced waits for its replacement.
const REPLACE_WITHIN_MS: u64 = 10_000;

impl Post {
    /// Ends when the address is given up or the agent finishes, and the last tunnel is gone.
    async fn keep(
        mut self,
        mut told: mpsc::UnboundedReceiver<(u64, Event)>,
        stop: CancellationToken,
    ) {
        let drain = self.common.drain.clone();
        let mut orders = self.common.orders.clone();
        loop {
            let until = self.act();
            tokio::select! {
                biased;
                () = drain.finishing() => break,
                () = stop.cancelled() => break,
                Some((id, event)) = told.recv() => self.hear(id, event),
                Ok(()) = orders.changed() => {
                    let orders = *orders.borrow_and_update();
                    self.obey(orders);
                }
                () = at(until) => {}
            }
        }
        for live in self.live.values() {
            live.control.retire();
        }
        // Attempts that are still being made come up, find that they are not wanted, and end.
        while !self.live.is_empty() {
            let Some((id, event)) = told.recv().await else {
                break;
            };
            if matches!(event, Event::Failed(_) | Event::Ended(_)) {
                self.live.remove(&id);
            }
        }
    }

    /// Does what is due. Returns when to look again.
    fn act(&mut self) -> Option<u64> {
        let now = clock::now_ms();
        let mut until = None;
        for live in self.live.values_mut() {
            if let Stage::Leaving { until: end } = live.stage {
                if now >= end {
                    live.retire();
                } else {
                    until = Some(until.map_or(end, |until: u64| until.min(end)));
                }
            }
        }
        match self.keeper.next(now) {
            Order::Dial(attempts) => {
                for _ in 0..attempts {
                    self.dial(now);
                }
            }
            Order::WaitUntil(at) => until = Some(until.map_or(at, |until| until.min(at))),
            Order::Rest => {}
        }
        until
    }

    fn dial(&mut self, now: u64) {
        self.keeper.dialling();
        let id = self.next_id;
        self.next_id += 1;
        let worker = self.quietest_worker();
        let control = Arc::new(Control::default());
        self.live.insert(
            id,
            Live {
                control: Arc::clone(&control),
                worker,
                began: now,
                certificate: self.orders.renewed,
                stage: Stage::Dialling,
            },
        );
        let tunnel = tunnel(
            id,
            self.address,
            self.dialler.clone(),
            self.common.care,
            Arc::clone(&self.common.app),
            control,
            self.tell.clone(),
        );
        let tracked = self.common.drain.track(Box::pin(tunnel));
        self.common.workers.spawn_on(worker, async move {
            // `None` when the deadline for finishing has passed; then nobody waits for the news.
            let _aborted = tracked.await;
        });
    }

    fn quietest_worker(&self) -> usize {
        let mut tunnels = vec![0_usize; self.common.workers.count()];
        for live in self.live.values() {
            if live.stage != Stage::Retired {
                tunnels[live.worker] += 1;
            }
        }
        (0..tunnels.len())
            .min_by_key(|worker| tunnels[*worker])
            .unwrap_or(0)
    }

    fn hear(&mut self, id: u64, event: Event) {
        let now = clock::now_ms();
        match event {
            Event::News(News::Up) => self.came_up(id, now),
            Event::News(News::Leaving) => self.asked_to_leave(id, now),
            Event::Failed(failure) => {
                if let Some(live) = self.live.remove(&id) {
                    self.failed(now, live.began, &failure);
                }
            }
            Event::Ended(ending) => {
                if let Some(live) = self.live.remove(&id) {
                    self.ended(now, &live, &ending);
                }
            }
        }
    }

    fn came_up(&mut self, id: u64, now: u64) {
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        live.stage = Stage::Up { since: now };
        let stale = live.certificate != self.orders.renewed;
        self.keeper.came_up();
        if let Some(line) = self.report.works(now) {
            info!("gateway {}: {line}", self.address);
        }
        debug!(id, "a tunnel to {} is up", self.address);
        // One leaves for each that comes.
        if let Some(leaving) = self
            .live
            .values_mut()
            .find(|live| matches!(live.stage, Stage::Leaving { .. }))
        {
            leaving.retire();
        }
        if stale {
            self.renew(id, now);
        }
        if self.keeper.is_complete() {
            let again = if self.losses > 0 { " again" } else { "" };
            if self.losses > 0
                || !self
                    .live
                    .values()
                    .any(|live| matches!(live.stage, Stage::Leaving { .. }))
            {
                debug!(
                    "{} tunnels to {} are up{again}",
                    self.keeper.up(),
                    self.address
                );
            }
            self.losses = 0;
            self.common.complete.notify_one();
        }
    }

    fn asked_to_leave(&mut self, id: u64, now: u64) {
        let Some(live) = self.live.get_mut(&id) else {
            return;
        };
        match live.stage {
            Stage::Up { since } => {
                debug!(
                    id,
                    "the gateway at {} asks for another tunnel", self.address
                );
                live.stage = Stage::Leaving {
                    until: now + REPLACE_WITHIN_MS,
                };
                self.keeper.lost(now, since, true);
            }
            // It never came up; its end will be counted as a failure.
            Stage::Dialling => live.control.retire(),
            Stage::Leaving { .. } | Stage::Retired => {}
        }
    }

    fn failed(&mut self, now: u64, began: u64, failure: &Failure) {
        self.keeper.failed(now, began, failure.kind);
        self.trouble.notify_one();
        if let Some(line) = self.report.failed(now, failure) {
            warn!("gateway {}: {line}", self.address);
        }
    }

    fn ended(&mut self, now: u64, live: &Live, ending: &Ending) {
        match live.stage {
            Stage::Dialling => self.failed(now, live.began, &before_up(ending)),
            Stage::Up { since } => {
                let polite = matches!(ending, Ending::Closed | Ending::Retired);
                self.keeper.lost(now, since, polite);
                self.lost(now, ending, polite);
            }
            Stage::Leaving { .. } | Stage::Retired => {
                debug!(?ending, "a replaced tunnel to {} ended", self.address)
            }
        }
    }

    /// Says so: once, and then not again until all tunnels were up.
    fn lost(&mut self, now: u64, ending: &Ending, polite: bool) {
        self.losses += 1;
        if let Ending::Refused(text) = ending {
            if let Some(line) = self.report.failed(now, &Failure::refused(text)) {
                warn!("gateway {}: {line}", self.address);
            }
        } else if polite || self.losses > 1 {
            debug!("a tunnel to {} ended: {ending}", self.address);
        } else {
            info!(
                "a tunnel to {} ended: {ending}; dialling again",
                self.address
            );
        }
        self.trouble.notify_one();
    }

    fn obey(&mut self, orders: Orders) {
        let before = std::mem::replace(&mut self.orders, orders);
        if orders.woke != before.woke {
            for live in self.live.values() {
                live.control.probe();
            }
            self.keeper.hurry();
        }
        if orders.renewed != before.renewed {
            let now = clock::now_ms();
            let up: Vec<u64> = self.live.keys().copied().collect();
            for id in up {
                self.renew(id, now);
            }
            self.keeper.hurry();
        }
    }

    /// Has a tunnel replaced that shows a certificate which is no longer ours.
    fn renew(&mut self, id: u64, now: u64) {
        if let Some(live) = self.live.get_mut(&id)
            && matches!(live.stage, Stage::Up { .. })
        {
            live.stage = Stage::Leaving {
                until: now + REPLACE_WITHIN_MS,
            };
            self.keeper.replace();
        }
    }
}

impl Live {
    fn retire(&mut self) {
        self.stage = Stage::Retired;
        self.control.retire();
    }
}

/// Sleeps until a moment of [`clock`], or for ever.
async fn at(until: Option<u64>) {
    match until {
        None => std::future::pending().await,
        Some(until) => {
            let from_now = Duration::from_millis(until.saturating_sub(clock::now_ms()));
            tokio::time::sleep_until(Instant::now() + from_now).await;
        }
    }
}

/// One attempt, and if it comes up the tunnel's whole life. The last thing it tells is how it ended.
async fn tunnel(
    id: u64,
    address: SocketAddr,
    dialler: Dialler,
    care: Care,
    app: Arc<App>,
    control: Arc<Control>,
    tell: mpsc::UnboundedSender<(u64, Event)>,
) {
    // Nobody listens any more only when the agent is ending.
    let dialled = match Box::pin(dialler.dial(address)).await {
        Ok(dialled) => dialled,
        Err(failure) => {
            let _ending = tell.send((id, Event::Failed(failure)));
            return;
        }
    };
    drop(dialler);
    let news = tell.clone();
    let ending = serve::drive(
        dialled,
        care,
        control,
        move |exchange, wire| app.serve(exchange, wire),
        move |piece| {
            let _ending = news.send((id, Event::News(piece)));
        },
    )
    .await;
    let _ending = tell.send((id, Event::Ended(ending)));
}

/// Why an attempt failed whose reversal had worked.
fn before_up(ending: &Ending) -> Failure {
    match ending {
        Ending::Refused(text) => Failure::refused(text),
        other => Failure {
            layer: Layer::Reversal,
            kind: if matches!(other, Ending::Silent { .. }) {
                Kind::Path
            } else {
                Kind::Rejected
            },
            text: format!(
                "the tunnel ended before it was used: {other}; the gateway's log may say why"
            ),
        },
    }
}
