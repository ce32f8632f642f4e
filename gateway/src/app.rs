//! Opens everything, runs it, and ends it in order: no visitor is taken any more, those in hand are answered, then the
//! tunnels go. `main` and the tests enter by the same door.

mod listeners; // doors

mod settings; // limits and times

mod housekeeping; // meanwhile

mod stop; // the end

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tidegate_shared::descriptors;
use tidegate_shared::drain::Drain;
use tidegate_shared::log::Sink;
use tidegate_shared::signals::{Hangup, Unasked};
use tidegate_shared::tls::Trust;
use tidegate_shared::workers::Workers;
use tokio::net::TcpListener;
use tracing::warn;

use crate::admin::{self, Admin};
use crate::backend::names::config::Resolver;
use crate::backend::{Backend, attend, check, find};
use crate::certificates::Certificates;
use crate::config::{Config, Goal, Loaded, Problem, Run};
use crate::door::Door;
use crate::exchange::Target;
use crate::files::{self, Files};
use crate::intent::control::Control;
use crate::intent::{self, Desk};
use crate::listen::{self, Crowd, Front, Gate};
use crate::metrics::{Metrics, registry};
use crate::pool::Pool;
use crate::rates::{Warden, Watch};
use crate::route::Routes;
use crate::source::Sources;
use crate::succession::claim::Claim;
use crate::succession::{self, Handover};
use crate::tunnel::accept::Intake;
use crate::visitor::Reception;
use housekeeping::housekeeping;
use listeners::{door, passing, tunnels};
use settings::{crowd, intake, pool_limits, reception};
use stop::stop;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Something that the user can mend; exit code 64.
    #[error("{0}")]
    Usage(String),
    /// The same of the configuration, all of it at once.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// Something that the user cannot; exit code 1.
    #[error("{0}")]
    Ours(String),
}

/// A gateway with all its sockets open and nothing accepted yet.
#[derive(Debug)]
pub struct App {
    visitors: Vec<(TcpListener, Arc<Front>)>,
    tunnels: Vec<(TcpListener, Arc<Gate>)>,
    admin: Option<(TcpListener, admin::Strays)>,
    control: Option<Control>,
    desk: Arc<Desk>,
    trust: Option<Arc<Trust<ServerConfig>>>,
    reception: Arc<Reception>,
    intake: Arc<Intake>,
    workers: Arc<Workers>,
    backends: Arc<[Arc<Backend>]>,
    resolver: Resolver,
    crowd: Arc<Crowd>,
    watch: Arc<Watch>,
    handshakes: Sources,
    sink: Sink,
    drain_within: Duration,
    loaded: Option<Loaded>,
    hangup: Hangup,
    unasked: Unasked,
}

/// Where the gateway listens, as printed at the start: one line each.
#[derive(Debug)]
pub struct Addresses(Vec<(Arc<str>, SocketAddr)>);

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, address) in &self.0 {
            writeln!(f, "{what} {address}")?;
        }
        f.write_str("ready")
    }
}

impl App {
    /// Reads every file that the configuration names, and opens every socket; where another gateway ends that has one, when that
    /// has given way.
    ///
    /// # Errors
    /// What cannot be read or opened, by name.
    pub async fn bind(config: &Config, sink: Sink) -> Result<Self, Trouble> {
        let run = &config.run;
        let Files {
            fronts,
            trust,
            backends,
            lists,
        } = files::read(config).map_err(Trouble::Config)?;
        let descriptors = descriptors::raise();
        let metrics = Arc::new(Metrics::new());
        let backends: Arc<[Arc<Backend>]> = backends.into();
        metrics.show_backends(Arc::clone(&backends));
        let target = |goal: &Goal| match goal {
            Goal::Tunnel(name) => Some(Target::Tunnel(name.as_str().to_owned())),
            Goal::Backend(name) => {
                let named = backends.iter().find(|known| *known.name == **name);
                named.map(|known| Target::Backend(Arc::clone(known)))
            }
        };
        let rates = &run.rates;
        let watch = Watch::new(rates.max_sources, rates.max_tarpitted, lists);
        metrics.sources.show(Arc::clone(&watch));
        let mut claim = Claim::default();
        let mut visitors = Vec::new();
        let ruled = config.ruled.iter().enumerate();
        for ((listener, secured), (at, ruled)) in config.listeners.iter().zip(fronts).zip(ruled) {
            let door = Door {
                listener: Arc::clone(&listener.name),
                named: listener.proxy.named.clone(),
                expect: listener.proxy.value,
                from_named: listener.proxy_from.named.clone(),
                from: listener.proxy_from.value.clone().into(),
                tls_named: listener.certificates.named.clone(),
                at: listener.address.named.clone(),
                ..door(run, &listener.name, secured.is_some(), &metrics)
            };
            let routes = config
                .routes
                .iter()
                .filter(|routed| routed.is_for(&listener.name))
                // A name that no backend has was refused with the file.
                .filter_map(|routed| routed.route.to(target));
            let front = Front {
                door,
                secured,
                routes: Routes::new(routes),
                tcp: passing(config, listener, &backends, &metrics),
                warden: Arc::new(Warden {
                    listener: Arc::clone(&listener.name),
                    rules: Arc::new(ruled.rules(at, &watch.lists)),
                    watch: Arc::clone(&watch),
                    counters: metrics.sources.of(&listener.name),
                }),
            };
            let address = &listener.address;
            let open = claim.listener(&address.named, address.value).await?;
            visitors.push((open, Arc::new(front)));
        }
        // A visitor whose request goes to a server has a connection there as well.
        let dials = !backends.is_empty() || visitors.iter().any(|(_, front)| front.tcp.is_some());
        let each = if dials { 2 } else { 1 };
        let tunnels = tunnels(config, trust.as_ref(), &metrics, &mut claim).await?;
        let named = |id, option| config.sources.named(id, option);
        let mut admin = None;
        if let Some(address) = run.admin {
            let named = named("admin", "--admin");
            let listener = claim.page(&named, address).await?;
            let counters = metrics.proxy_headers.of(&admin::LISTENER.into());
            admin = Some((listener, admin::Strays::new(named, counters)));
        }
        if let Some(address) = run.admin.filter(|address| !address.ip().is_loopback()) {
            warn!(%address, "the admin page can be read by whoever reaches this address");
        }
        let mut control = None;
        if let Some(path) = &run.control {
            let named = named("control", "--control");
            control = Some(claim.control(&named, path).await?);
        }
        // From here on nobody else writes it.
        let desk = Desk::open(Arc::clone(&backends), run.state_file.as_deref());
        metrics.show_desk(Arc::clone(&desk));
        let workers = Workers::start(workers(run), "worker").map_err(|error| {
            Trouble::Ours(format!("worker threads could not be started: {error}"))
        })?;
        let pool = Arc::new(Pool::new(pool_limits(run), Arc::clone(&metrics)));
        if claim.inherits {
            pool.expect_names();
        }
        Ok(Self {
            visitors,
            tunnels,
            admin,
            control,
            desk,
            trust,
            reception: Arc::new(reception(run, &pool, &metrics, &sink)),
            intake: Arc::new(intake(config, &pool, &metrics)),
            workers,
            backends,
            resolver: config.resolving.resolver.clone(),
            crowd: crowd(config, descriptors, each),
            watch,
            handshakes: Sources::new(run.limits.max_handshakes_per_source),
            sink,
            drain_within: run.patience.drain,
            loaded: config.loaded.clone(),
            // Taken over before anybody is told that the gateway is ready, and may send one.
            hangup: Hangup::listen(),
            unasked: Unasked::listen(),
        })
    }

    /// Where it listens, port 0 resolved.
    pub fn addresses(&self) -> Addresses {
        let mut all = Vec::new();
        let mut add = |what: &Arc<str>, listener: &TcpListener| {
            let address = listener.local_addr().ok();
            all.extend(address.map(|address| (Arc::clone(what), address)))
        };
        for (listener, front) in &self.visitors {
            add(&front.door.listener, listener);
        }
        for (listener, gate) in &self.tunnels {
            add(&gate.door.listener, listener);
        }
        if let Some((listener, _)) = &self.admin {
            add(&admin::LISTENER.into(), listener);
        }
        Addresses(all)
    }

    /// Runs until it is asked to end and everything in hand is finished, or the drain's time is over, or it is asked again.
    /// `asked` is ready with each time that it is asked.
    pub async fn run(self, mut asked: impl AsyncFnMut()) {
        let (listeners, page) = (Drain::new(), Drain::new());
        let handover = Handover::new(listeners.clone());
        find(&self.backends, &self.resolver, &self.desk, &page).await;
        let metrics = &self.intake.metrics;
        let pool = &self.intake.pool;
        let certs = self
            .visitors
            .iter()
            .filter_map(|(_, front)| front.secured.as_ref())
            .map(|secured| (secured.named.clone(), Arc::clone(&secured.certs)))
            .collect();
        for (listener, front) in self.visitors {
            listeners.spawn(listen::visitors(
                listener,
                front,
                Arc::clone(&self.reception),
                Arc::clone(&self.crowd),
                Arc::clone(&self.workers),
                Arc::clone(metrics),
                listeners.clone(),
            ));
        }
        for (listener, gate) in self.tunnels {
            listeners.spawn(listen::tunnels(
                listener,
                gate,
                Arc::clone(&self.intake),
                self.handshakes.clone(),
                Arc::clone(&self.workers),
                Arc::clone(metrics),
                listeners.clone(),
            ));
        }
        if let Some((listener, strays)) = self.admin
            && let Ok(address) = listener.local_addr()
        {
            let sink = self.sink.clone();
            let registry = registry(metrics, pool, move || sink.dropped());
            let admin = Admin {
                registry,
                pool: Arc::clone(pool),
                handover: Arc::clone(&handover),
                address,
                strays,
            };
            page.spawn(admin::serve(listener, Arc::new(admin), page.clone()));
        }
        page.spawn(intent::desk::attend(
            Arc::clone(&self.desk),
            listeners.clone(),
            page.clone(),
        ));
        page.spawn(succession::attend(
            Arc::clone(&handover),
            Arc::clone(pool),
            Arc::clone(&self.desk),
            page.clone(),
        ));
        if let Some(control) = self.control {
            page.spawn(control.serve(self.desk, handover, page.clone()));
        }
        page.spawn(housekeeping(
            Certificates::new(self.trust, certs),
            Arc::clone(pool),
            self.watch,
            self.loaded,
            self.hangup,
            page.clone(),
        ));
        if !self.backends.is_empty() {
            for worker in 0..self.workers.count() {
                let (backends, until) = (Arc::clone(&self.backends), page.clone());
                let attending = page.clone().track(attend(backends, worker == 0, until));
                self.workers.spawn_on(worker, async move {
                    let _over = attending.await;
                });
            }
        }
        // They end when the gateway is asked to: what they found last holds for the visitors in hand.
        for (turn, checking) in check::all(&self.backends, &listeners)
            .into_iter()
            .enumerate()
        {
            let checking = listeners.track(checking);
            self.workers.spawn_on(turn, async move {
                let _over = checking.await;
            });
        }
        let (unasked, until) = (self.unasked, page.clone());
        page.spawn(async move {
            tokio::select! {
                () = until.finishing() => {}
                () = unasked.log() => {}
            }
        });
        asked().await;
        listeners.finish(Duration::from_secs(1)).await;
        stop(&self.reception, &self.intake, self.drain_within, asked).await;
        page.finish(Duration::from_millis(200)).await;
    }
}

/// How many worker threads there are.
pub(crate) fn workers(run: &Run) -> usize {
    match usize::from(run.workers.unwrap_or_default()) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}
