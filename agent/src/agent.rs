//! The whole agent: starts workers and tasks, runs until it is told to end, finishes what is in flight. Dials nobody itself
//! (`reconcile` does). Called by `main`, and by the demo.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tidegate_shared::descriptors;
use tidegate_shared::drain::Drain;
use tidegate_shared::signals::{Asked, Hangup, Unasked};
use tidegate_shared::workers::Workers;
use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use crate::app::App;
use crate::config::Config;
use crate::identity;
use crate::reconcile::{Common, Orders, keep_gateway};
use crate::wake::{self, Watch};

/// Runs an agent on the calling thread until it is told to end; see [`Agent::run`].
///
/// # Errors
/// The system's own, or what `print` returned.
pub fn run(config: Config, print: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
    descriptors::raise();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async { Box::pin(Agent::start(config)?.run(print)).await });
    // A name that is still being resolved is no reason to stay.
    runtime.shutdown_background();
    ended
}

/// An agent whose workers run and which has not dialled yet.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    workers: Arc<Workers>,
    drain: Drain,
    signals: Signals,
    unasked: Unasked,
}

#[derive(Debug)]
struct Signals {
    asked: Asked,
    hangup: Hangup,
}

/// What a signal says.
enum Told {
    End(&'static str),
    Reload,
}

/// Connections to the app are looked through this often.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Agent {
    /// Takes what the system gives: threads and signals. To be called on a runtime.
    ///
    /// # Errors
    /// The system's own.
    pub fn start(config: Config) -> io::Result<Self> {
        if config.identity.is_none() {
            warn!(
                "CLEAR TEXT to the gateway: everybody on the way can read and change everything, and the gateway cannot know who this is"
            );
        }
        Ok(Self {
            workers: Workers::start(config.workers.get(), "worker")?,
            config,
            drain: Drain::new(),
            signals: Signals::listen(),
            unasked: Unasked::listen(),
        })
    }

    /// Keeps tunnels up until SIGTERM or SIGINT, then finishes what is in flight, for as long as it was given. A second
    /// signal ends that. `print` is called with each line for standard output: the gateways, and `ready` once one of
    /// them has all its tunnels.
    ///
    /// # Errors
    /// What `print` returned.
    pub async fn run(mut self, print: impl Fn(&str) -> io::Result<()>) -> io::Result<()> {
        let (give, orders) = watch::channel(Orders::default());
        let give = Arc::new(give);
        let app = App::new(
            self.config.app.clone(),
            self.config.workers,
            self.drain.clone(),
        );
        let complete = Arc::new(Notify::new());
        let common = Common {
            tunnels: self.config.tunnels,
            care: self.config.care,
            app: Arc::clone(&app),
            workers: Arc::clone(&self.workers),
            drain: self.drain.clone(),
            orders,
            complete: Arc::clone(&complete),
        };
        let target = &self.config.app.target;
        match &self.config.app.greeting {
            Some(plan) => info!(
                "visitors go to the app at {target}, each behind a PROXY {} header",
                plan.version
            ),
            None => info!("visitors go to the app at {target}"),
        }
        self.sweep(&app);
        let (drain, for_wake) = (self.drain.clone(), Arc::clone(&give));
        let unasked = std::mem::take(&mut self.unasked);
        let _waited_for = self.drain.spawn(async move {
            tokio::select! {
                () = drain.finishing() => {}
                () = watch_sleep(&for_wake) => {}
                () = unasked.log() => {}
            }
        });
        for (gateway, dialler) in &self.config.gateways {
            print(&format!("tunnels {gateway}"))?;
            let keeping = keep_gateway(gateway.clone(), dialler.clone(), common.clone());
            let _waited_for = self.drain.spawn(Box::pin(keeping));
        }
        drop(common);
        let mut identity = self.config.identity.take().map(identity::Keeper::new);
        let mut ready = false;
        loop {
            tokio::select! {
                told = self.signals.next() => match told {
                    Told::Reload => renew(&mut identity, &give),
                    Told::End(signal) => {
                        info!("{signal}: no more requests are taken, those in flight have {:?}", self.config.drain);
                        break;
                    }
                },
                () = look_again(identity.as_ref()) => renew(&mut identity, &give),
                () = complete.notified(), if !ready => {
                    ready = true;
                    print("ready")?;
                }
            }
        }
        self.finish().await;
        Ok(())
    }

    /// Waits for what is in flight, for as long as it was given, or until it is told again to end.
    async fn finish(&mut self) {
        tokio::select! {
            left = self.drain.finish(self.config.drain) => {
                if left > 0 {
                    warn!("{left} tasks were not finished in time and are dropped");
                }
            }
            signal = self.signals.asked.to_end() => warn!("{signal} again: ending at once"),
        }
    }

    fn sweep(&self, app: &Arc<App>) {
        for worker in 0..self.workers.count() {
            let (drain, app) = (self.drain.clone(), Arc::clone(app));
            let sweeping = self.drain.track(async move {
                let every = async {
                    loop {
                        sleep(SWEEP_EVERY).await;
                        app.sweep();
                    }
                };
                tokio::select! {
                    () = drain.finishing() => {}
                    () = every => {}
                }
            });
            self.workers.spawn_on(worker, async move {
                // `None` when it was told to end at once.
                let _either = sweeping.await;
            });
        }
    }
}

impl Signals {
    fn listen() -> Self {
        Self {
            asked: Asked::listen(),
            hangup: Hangup::listen(),
        }
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            signal = self.asked.to_end() => Told::End(signal),
            () = self.hangup.recv() => Told::Reload,
        }
    }
}

async fn look_again(identity: Option<&identity::Keeper>) {
    match identity {
        Some(keeper) => sleep(keeper.pause()).await,
        None => std::future::pending().await,
    }
}

fn renew(identity: &mut Option<identity::Keeper>, give: &watch::Sender<Orders>) {
    let Some(keeper) = identity else { return };
    let changed = keeper.look();
    if changed.identity || changed.authorities {
        give.send_modify(|orders| {
            orders.renewed += u64::from(changed.identity);
            orders.trusting += u64::from(changed.authorities);
        });
    }
}

/// Has everything doubted after the machine slept.
async fn watch_sleep(give: &watch::Sender<Orders>) {
    let mut watch = Watch::new(SystemTime::now(), Instant::now());
    let mut ticks = interval(wake::EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(slept) = watch.look(SystemTime::now(), Instant::now()) {
            info!(
                "nothing ran here for {slept:.1?}; every tunnel is asked whether it is still there"
            );
            give.send_modify(|orders| orders.woke += 1);
        }
    }
}
