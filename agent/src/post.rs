//! Looks after one address of a gateway: does what `keeper` decides, and tells it what became of it. The tunnels themselves
//! run on workers, and tell of themselves.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tidegate_shared::{clock, socket};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::app::App;
use crate::backoff::Kind;
use crate::dial::{Dialler, Failure, Layer};
use crate::keeper::{Keeper, Order, Round};
use crate::random::Random;
use crate::reconcile::{Common, Orders};
use crate::report::Report;
use crate::serve::{self, Care, Control, Ending, News};

/// Keeps tunnels to one address until `stop` or the agent's end, and returns when the last of them is gone. `trouble` is
/// told whenever one could not be made or was lost.
pub async fn keep(
    address: SocketAddr,
    dialler: Dialler,
    common: Common,
    trouble: Arc<Notify>,
    stop: CancellationToken,
) {
    let (tell, told) = mpsc::unbounded_channel();
    let orders = *common.orders.borrow();
    let post = Post {
        address,
        keeper: Keeper::new(common.tunnels, Random::from_system()),
        live: HashMap::new(),
        leaving: VecDeque::new(),
        load: vec![0; common.workers.count()],
        next_id: 0,
        report: Report::default(),
        losses: 0,
        complete: false,
        orders,
        trouble,
        tell,
        dialler,
        common,
    };
    post.keep(told, stop).await;
}

/// What a tunnel's task tells the one who looks after its address.
#[derive(Debug)]
enum Event {
    /// It is dialled, from this address.
    From(SocketAddr),
    News(News),
    Failed(Failure),
    Ended(Ending),
}

/// One address and its tunnels.
struct Post {
    address: SocketAddr,
    keeper: Keeper,
    live: HashMap<u64, Live>,
    /// Those that are to be replaced, the one that waits longest in front.
    leaving: VecDeque<u64>,
    /// Tunnels on each worker.
    load: Vec<usize>,
    next_id: u64,
    report: Report,
    /// Tunnels lost since all were up.
    losses: u64,
    /// All were up once.
    complete: bool,
    orders: Orders,
    trouble: Arc<Notify>,
    tell: mpsc::UnboundedSender<(u64, Event)>,
    dialler: Dialler,
    common: Common,
}

struct Live {
    control: Arc<Control>,
    worker: usize,
    round: Round,
    certificate: u64,
    /// The address of ours that it comes from, once that is known.
    local: Option<SocketAddr>,
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

/// Between two looks whether this machine still has the addresses that its tunnels come from.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a tunnel that is to be replaced waits for its replacement.
const REPLACE_WITHIN_MS: u64 = 10_000;

impl Post {
    async fn keep(
        mut self,
        mut told: mpsc::UnboundedReceiver<(u64, Event)>,
        stop: CancellationToken,
    ) {
        let drain = self.common.drain.clone();
        let mut orders = self.common.orders.clone();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                _ = looks.tick() => self.look_around(),
                () = at(until) => {}
            }
        }
        for live in self.live.values() {
            live.control.retire();
        }
        while !self.live.is_empty() {
            let Some((id, event)) = told.recv().await else {
                break;
            };
            if matches!(event, Event::Failed(_) | Event::Ended(_)) {
                self.gone(id);
            }
        }
    }

    /// Does what is due. Returns when to look again.
    fn act(&mut self) -> Option<u64> {
        let now = clock::now_ms();
        let mut until = None;
        while let Some(live) = self.leaving.front().and_then(|id| self.live.get_mut(id)) {
            match live.stage {
                Stage::Leaving { until: end } if now < end => {
                    until = Some(end);
                    break;
                }
                Stage::Leaving { .. } => live.retire(),
                _ => {}
            }
            self.leaving.pop_front();
        }
        match self.keeper.next(now) {
            Order::Dial(attempts) => {
                for _ in 0..attempts {
                    self.dial();
                }
            }
            Order::WaitUntil(at) => until = Some(until.map_or(at, |until| until.min(at))),
            Order::Rest => {}
        }
        until
    }

    fn dial(&mut self) {
        let round = self.keeper.dialling();
        let id = self.next_id;
        self.next_id += 1;
        let worker = self.quietest_worker();
        self.load[worker] += 1;
        let control = Arc::new(Control::default());
        self.live.insert(
            id,
            Live {
                control: Arc::clone(&control),
                worker,
                round,
                certificate: self.orders.renewed,
                local: None,
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
        (0..self.load.len())
            .min_by_key(|worker| self.load[*worker])
            .unwrap_or(0)
    }

    fn gone(&mut self, id: u64) -> Option<Live> {
        let live = self.live.remove(&id)?;
        self.load[live.worker] -= 1;
        Some(live)
    }

    fn hear(&mut self, id: u64, event: Event) {
        let now = clock::now_ms();
        match event {
            Event::From(local) => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.local = Some(local);
                }
            }
            Event::News(News::Up) => self.came_up(id, now),
            Event::News(News::Leaving) => self.asked_to_leave(id, now),
            Event::Failed(failure) => {
                if let Some(live) = self.gone(id) {
                    self.failed(now, live.round, &failure);
                }
            }
            Event::Ended(ending) => {
                if let Some(live) = self.gone(id) {
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
        self.keeper.came_up(live.round);
        if let Some(line) = self.report.works(now) {
            info!("gateway {}: {line}", self.address);
        }
        debug!(id, "a tunnel to {} is up", self.address);
        // One leaves for each that comes.
        while let Some(leaving) = self.leaving.pop_front() {
            if let Some(live) = self.live.get_mut(&leaving)
                && matches!(live.stage, Stage::Leaving { .. })
            {
                live.retire();
                break;
            }
        }
        if stale {
            self.renew(id, now);
        }
        if self.keeper.is_complete() {
            let again = std::mem::replace(&mut self.complete, true);
            if !again || self.losses > 0 {
                info!(
                    "all {} tunnels to {} are up{}",
                    self.keeper.up(),
                    self.address,
                    if again { " again" } else { "" }
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
                self.leaving.push_back(id);
                self.keeper.lost(now, since, live.round, true);
            }
            // It never came up; its end will be counted as a failure.
            Stage::Dialling => live.control.retire(),
            Stage::Leaving { .. } | Stage::Retired => {}
        }
    }

    fn failed(&mut self, now: u64, round: Round, failure: &Failure) {
        self.keeper.failed(now, round, failure.kind);
        self.trouble.notify_one();
        if let Some(line) = self.report.failed(now, failure) {
            warn!("gateway {}: {line}", self.address);
        }
    }

    fn ended(&mut self, now: u64, live: &Live, ending: &Ending) {
        match live.stage {
            Stage::Dialling => self.failed(now, live.round, &before_up(ending)),
            Stage::Up { since } => {
                let polite = matches!(ending, Ending::Closed | Ending::Retired);
                self.keeper.lost(now, since, live.round, polite);
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
        if orders.trusting != before.trusting {
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

    /// Has the tunnels replaced that come from an address which this machine has lost: it is in another network, or in
    /// none. Waiting for an unanswered PING would take three times as long as the visitors are to wait.
    fn look_around(&mut self) {
        let mut ours = HashMap::new();
        let lost: Vec<(u64, SocketAddr)> = self
            .live
            .iter()
            .filter(|(_, live)| matches!(live.stage, Stage::Up { .. }))
            .filter_map(|(id, live)| live.local.map(|local| (*id, local)))
            .filter(|(_, local)| {
                !*ours
                    .entry(local.ip())
                    .or_insert_with(|| socket::is_ours(*local))
            })
            .collect();
        let Some((_, local)) = lost.first() else {
            return;
        };
        info!(
            "this machine no longer has the address {}; the tunnels from there to {} are replaced",
            local.ip(),
            self.address
        );
        let now = clock::now_ms();
        for (id, _) in lost {
            self.renew(id, now);
        }
        self.keeper.hurry();
    }

    /// Has a tunnel replaced although it may still work: its certificate or its address is no longer ours.
    fn renew(&mut self, id: u64, now: u64) {
        if let Some(live) = self.live.get_mut(&id)
            && matches!(live.stage, Stage::Up { .. })
        {
            live.stage = Stage::Leaving {
                until: now + REPLACE_WITHIN_MS,
            };
            self.leaving.push_back(id);
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
            sleep(Duration::from_millis(until.saturating_sub(clock::now_ms()))).await;
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
    let event = match or_retired(&control, Box::pin(dialler.dial(address))).await {
        Some(Ok((dialled, local))) => {
            if let Some(local) = local {
                let _ending = tell.send((id, Event::From(local)));
            }
            Ok(dialled)
        }
        Some(Err(failure)) => Err(Event::Failed(failure)),
        None => Err(Event::Ended(Ending::Retired)),
    };
    // Nobody listens any more only when the agent is ending.
    let dialled = match event {
        Ok(dialled) => dialled,
        Err(event) => {
            let _ending = tell.send((id, event));
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

/// An attempt, unless it is not wanted any more.
async fn or_retired<F>(control: &Control, mut attempt: F) -> Option<F::Output>
where
    F: Future + Unpin,
{
    poll_fn(|cx| {
        if control.poll_retired(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut attempt).poll(cx).map(Some)
    })
    .await
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
