//! Looks after one address of a gateway: does what `keeper` decides, tells it what became of it, and says what of that is worth
//! a line. Which tunnels there are is in the `roster`; each runs as an `attempt` on a worker, and tells of itself. Called by
//! `reconcile`, once for each address.

mod attempt;
mod roster;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_shared::{clock, socket};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::attempt::{Attempt, Event, before_up};
use self::roster::{Entry, Roster, Stage};
use crate::dial::{Dialler, Failure};
use crate::keeper::{Keeper, Order, Round};
use crate::random::Random;
use crate::reconcile::{Common, Orders};
use crate::report::Report;
use crate::serve::{Ending, News};

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
        roster: Roster::on(common.workers.count()),
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

/// One address and its tunnels.
struct Post {
    address: SocketAddr,
    keeper: Keeper,
    roster: Roster,
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

/// Between two looks whether this machine still has the addresses that its tunnels come from.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
        for control in self.roster.controls() {
            control.retire();
        }
        while !self.roster.is_empty() {
            let Some((id, event)) = told.recv().await else {
                break;
            };
            if matches!(event, Event::Failed(_) | Event::Ended(_)) {
                self.roster.gone(id);
            }
        }
    }

    /// Does what is due. Returns when to look again.
    fn act(&mut self) -> Option<u64> {
        let now = clock::now_ms();
        let mut until = self.roster.let_go(now);
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
        let (id, entry) = self.roster.enter(round, self.orders.renewed);
        let attempt = Attempt {
            id,
            address: self.address,
            dialler: self.dialler.clone(),
            care: self.common.care,
            app: Arc::clone(&self.common.app),
            control: entry.control,
            tell: self.tell.clone(),
        };
        let tracked = self.common.drain.track(Box::pin(attempt.run()));
        self.common.workers.spawn_on(entry.worker, async move {
            // `None` when the deadline for finishing has passed; then nobody waits for the news.
            let _aborted = tracked.await;
        });
    }

    fn hear(&mut self, id: u64, event: Event) {
        let now = clock::now_ms();
        match event {
            Event::From(local) => self.roster.comes_from(id, local),
            Event::News(News::Up) => self.came_up(id, now),
            Event::News(News::Leaving) => self.asked_to_leave(id, now),
            Event::Failed(failure) => {
                if let Some(entry) = self.roster.gone(id) {
                    self.failed(now, entry.round, &failure);
                }
            }
            Event::Ended(ending) => {
                if let Some(entry) = self.roster.gone(id) {
                    self.ended(now, &entry, &ending);
                }
            }
        }
    }

    fn came_up(&mut self, id: u64, now: u64) {
        let Some(entry) = self.roster.came_up(id, now) else {
            return;
        };
        self.keeper.came_up(entry.round);
        if let Some(line) = self.report.works(now) {
            info!("gateway {}: {line}", self.address);
        }
        debug!(id, "a tunnel to {} is up", self.address);
        if entry.certificate != self.orders.renewed {
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
        let Some(entry) = self.roster.asked_to_leave(id, now) else {
            return;
        };
        if let Stage::Up { since } = entry.stage {
            debug!(
                id,
                "the gateway at {} asks for another tunnel", self.address
            );
            self.keeper.lost(now, since, entry.round, true);
        }
    }

    fn failed(&mut self, now: u64, round: Round, failure: &Failure) {
        self.keeper.failed(now, round, failure.kind);
        self.trouble.notify_one();
        if let Some(line) = self.report.failed(now, failure) {
            warn!("gateway {}: {line}", self.address);
        }
    }

    fn ended(&mut self, now: u64, entry: &Entry, ending: &Ending) {
        match entry.stage {
            Stage::Dialling => self.failed(now, entry.round, &before_up(ending)),
            Stage::Up { since } => {
                let polite = matches!(ending, Ending::Closed | Ending::Retired);
                self.keeper.lost(now, since, entry.round, polite);
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
            for control in self.roster.controls() {
                control.probe();
            }
            self.keeper.hurry();
        }
        if orders.trusting != before.trusting {
            self.keeper.hurry();
        }
        if orders.renewed != before.renewed {
            let now = clock::now_ms();
            for id in self.roster.ids() {
                self.renew(id, now);
            }
            self.keeper.hurry();
        }
    }

    /// Has the tunnels replaced that come from an address which this machine has lost: it is in another network, or in
    /// none. Waiting for an unanswered PING would take three times as long as the visitors are to wait.
    fn look_around(&mut self) {
        let lost = self.roster.uprooted(socket::is_ours);
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
        if self.roster.replace(id, now).is_some() {
            self.keeper.replace();
        }
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
