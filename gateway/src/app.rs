//! Opens everything, runs it, and ends it in order: no visitor is taken any more, those in hand are answered, then the
//! tunnels go. `main` and the tests enter by the same door.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;
use tidegate_shared::descriptors;
use tidegate_shared::drain::Drain;
use tidegate_shared::idle::Silence;
use tidegate_shared::log::Sink;
use tidegate_shared::proxy_header;
use tidegate_shared::reversal::Marks;
use tidegate_shared::reversal::io::Terms;
use tidegate_shared::signals::{Hangup, Unasked};
use tidegate_shared::tls::Trust;
use tidegate_shared::workers::Workers;
use tokio::net::TcpListener;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::access::Access;
use crate::admin::{self, Admin};
use crate::backend::names::config::Resolver;
use crate::backend::{Backend, attend, check, find};
use crate::certificates::Certificates;
use crate::config::listeners::{Listener, Named};
use crate::config::passing::Onward;
use crate::config::{Config, Goal, Loaded, Problem, Run};
use crate::door::{Complaints, Door, Expect};
use crate::exchange::{Gateway, Target};
use crate::failure::Failure;
use crate::files::{self, Files};
use crate::forward::Policy;
use crate::intent::control::Control;
use crate::intent::{self, Desk};
use crate::lasting::Lasting;
use crate::listen::{self, Crowd, Front, Gate};
use crate::metrics::{Ids, Metrics, registry};
use crate::pool::{self, Pool};
use crate::range::Range;
use crate::rates::{Warden, Watch};
use crate::route::Routes;
use crate::source::Sources;
use crate::succession::claim::Claim;
use crate::succession::{self, Handover};
use crate::tcp::{self, Tcp};
use crate::tunnel::accept::{Intake, Security};
use crate::tunnel::drive::Care;
use crate::visitor::{self, Reception, Strays, pulse};

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
            crowd: crowd(run, descriptors, each),
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

/// Answers the visitors in hand, `within` at most or until somebody is in a hurry, then lets the tunnels go.
async fn stop(
    reception: &Reception,
    intake: &Intake,
    within: Duration,
    mut asked: impl AsyncFnMut(),
) {
    let began = Instant::now();
    info!("stopping: visitors in hand are answered, for {within:?} at most");
    let mut hurried = false;
    let hurry = async {
        asked().await;
        hurried = true;
        warn!("asked to stop a second time: what is in flight is cut");
    };
    reception.drain.finish_politely(within, hurry).await;
    let left = if hurried {
        Duration::from_millis(100)
    } else {
        within
            .saturating_sub(began.elapsed())
            .max(Duration::from_secs(1))
    };
    tokio::select! {
        _left = intake.drain.finish(left) => {}
        () = asked() => {}
    }
    let took = began.elapsed();
    match intake.metrics.failures(Failure::Draining) {
        0 => info!("stopped after {took:?}"),
        cut => warn!("stopped after {took:?}; requests in flight that were cut: {cut}"),
    }
}

/// How many worker threads there are.
pub(crate) fn workers(run: &Run) -> usize {
    match usize::from(run.workers.unwrap_or_default()) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    }
}

/// What a listener does with connections that it passes on, where it is in TCP mode.
fn passing(
    config: &Config,
    listener: &Listener,
    backends: &[Arc<Backend>],
    metrics: &Metrics,
) -> Option<Tcp> {
    let told = listener.passing.as_ref()?;
    // A name that no backend has was refused with the file.
    let target = |goal: &Onward| match goal {
        Onward::Tunnel(name) => Some(tcp::route::Target::Tunnel(name.clone())),
        Onward::Servers {
            all,
            send_proxy,
            place,
        } => {
            let servers = tcp::Servers::new(all.clone(), send_proxy.clone(), place.clone());
            Some(tcp::route::Target::Servers(Arc::new(servers)))
        }
        Onward::Backend(name) => {
            let named = backends.iter().find(|known| *known.name == **name);
            named.map(|known| tcp::route::Target::Backend(Arc::clone(known)))
        }
    };
    let by_name = config
        .passed
        .iter()
        .filter(|passed| passed.is_for(&listener.name))
        .filter_map(|passed| Some((passed.sni.clone(), target(&passed.goal)?)));
    let routes = tcp::route::Routes::new(by_name, told.goal.value.as_ref().and_then(target));
    let terms = tcp::Terms {
        hello: told.hello.value,
        connect: told.connect.value,
        silence: Silence {
            most: Some(told.idle.value).filter(|idle| !idle.is_zero()),
            half_closed: Some(told.half_closed.value).filter(|time| !time.is_zero()),
        },
    };
    let counters = metrics.tcp.of(&listener.name);
    Some(Tcp::new(
        Arc::clone(&listener.name),
        routes,
        terms,
        counters,
    ))
}

/// What stands in front of a tunnels' listener, and the start of what stands in front of a visitors' one.
fn door(run: &Run, listener: &Arc<str>, tls: bool, metrics: &Metrics) -> Door {
    Door {
        listener: Arc::clone(listener),
        named: Named::Option("--tunnels-proxy"),
        expect: Expect::Off,
        from_named: Named::Option("--proxy-from"),
        from: Arc::new([]),
        terms: proxy_header::io::Terms {
            most: run.proxy.max_proxy_header,
            within: run.proxy.proxy_timeout,
        },
        counters: metrics.proxy_headers.of(listener),
        tls,
        tls_named: Named::Option("--identity"),
        at: Named::Option("--tunnels"),
        complaints: Complaints::default(),
        told_of_nobody: AtomicBool::default(),
        strays: Strays::default(),
    }
}

/// Opens the listeners for agents.
async fn tunnels(
    config: &Config,
    trust: Option<&Arc<Trust<ServerConfig>>>,
    metrics: &Metrics,
    claim: &mut Claim,
) -> Result<Vec<(TcpListener, Arc<Gate>)>, Trouble> {
    let (run, sources) = (&config.run, &config.sources);
    let from: Arc<[Range]> = config.tunnels_proxy_from.value.clone().into();
    let door = |listener: &str, tls| Door {
        named: config.tunnels_named("tunnels_proxy", "proxy", "--tunnels-proxy"),
        expect: run.proxy.tunnels_proxy,
        from_named: match &config.tunnels_proxy_from {
            from if from.given => from.named.clone(),
            _ => config.tunnels_named("proxy_from", "proxy_from", "--proxy-from"),
        },
        from: Arc::clone(&from),
        tls_named: sources.named("identity", "--identity"),
        at: match tls {
            true => sources.named("tunnels", "--tunnels"),
            false => sources.named("tunnels_clear", "--tunnels-clear"),
        },
        ..door(run, &listener.into(), tls, metrics)
    };
    let mut open = Vec::new();
    if let (Some(address), Some(trust)) = (run.tunnels, trust) {
        let gate = Gate {
            door: door("tunnels", true),
            security: Security::Tls(Arc::clone(trust)),
        };
        let named = sources.named("tunnels", "--tunnels");
        let listener = claim.listener(&named, address).await?;
        open.push((listener, Arc::new(gate)));
    }
    if let Some(address) = run.tunnels_clear {
        let named = sources.named("tunnels_clear", "--tunnels-clear");
        let listener = claim.listener(&named, address).await?;
        warn!(
            address = %listener.local_addr().unwrap_or(address),
            "tunnels are accepted in CLEAR TEXT here: whoever can connect can serve {}",
            run.tunnels_clear_name.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
        let gate = Gate {
            door: door("tunnels-clear", false),
            security: Security::Clear(run.tunnels_clear_name.clone().into()),
        };
        open.push((listener, Arc::new(gate)));
    }
    Ok(open)
}

fn crowd(run: &Run, descriptors: u64, each: u64) -> Arc<Crowd> {
    let room = listen::affordable(descriptors, each);
    let most = run
        .limits
        .max_visitors
        .min(usize::try_from(room).unwrap_or(usize::MAX));
    let scarce = most < run.limits.max_visitors;
    if scarce {
        info!(
            "{descriptors} descriptors leave room for {most} visitors' connections (--max-visitors {})",
            run.limits.max_visitors
        );
    }
    let because = if scarce {
        "of the descriptors that this process may have: LimitNOFILE, ulimit -n"
    } else {
        "--max-visitors"
    };
    Crowd::new(most, because)
}

fn pool_limits(run: &Run) -> pool::Limits {
    pool::Limits {
        tunnels: run.limits.max_tunnels,
        tunnels_per_name: run.limits.tunnels_per_name(),
        tunnels_per_source: run.limits.tunnels_per_source(),
        held: run.limits.max_held,
        held_per_name: run.limits.held_per_name(),
        held_octets: usize::try_from(run.limits.max_held_octets).unwrap_or(usize::MAX),
        hold: if run.limits.holds() {
            run.patience.hold
        } else {
            Duration::ZERO
        },
    }
}

fn reception(run: &Run, pool: &Arc<Pool>, metrics: &Arc<Metrics>, sink: &Sink) -> Reception {
    let written = (!run.no_access_log).then(|| sink.clone());
    // Tells runs apart; where two start in one second on one machine, their processes differ.
    let started = SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let run_id = u32::try_from(started & 0xffff_ffff).unwrap_or_default()
        ^ std::process::id().rotate_left(20);
    let access = Access::new(written, run.log, Arc::clone(metrics), run_id);
    let gateway = Gateway {
        pool: Arc::clone(pool),
        metrics: Arc::clone(metrics),
        access: Arc::new(access),
        policy: Policy {
            x_forwarded: !run.no_x_forwarded,
            forwarded: !run.no_forwarded,
            via: !run.no_via,
            trusted: run.trust.clone(),
        },
        max_body: run.limits.body(),
        lasting: Lasting::new(run.patience.silence()),
        has_tunnels: run.tunnels.is_some() || run.tunnels_clear.is_some(),
    };
    Reception {
        gateway: Arc::new(gateway),
        unshaken: Mutex::default(),
        unfinished: Mutex::default(),
        limits: visitor::Limits {
            patience: pulse::Patience {
                head: run.patience.head_timeout,
                idle: run.patience.idle_timeout,
                stall: run.patience.stall_timeout,
                body_rate: run.patience.body_rate,
                half_closed: run.patience.half_closed(),
            },
            tls: run.patience.tls_timeout,
            head: run.limits.max_head,
            fields: run.limits.max_fields,
            streams: run.limits.max_streams,
            response: Some(run.patience.response_timeout).filter(|time| !time.is_zero()),
        },
        drain: Drain::new(),
    }
}

fn intake(config: &Config, pool: &Arc<Pool>, metrics: &Arc<Metrics>) -> Intake {
    let run = &config.run;
    Intake {
        pool: Arc::clone(pool),
        metrics: Arc::clone(metrics),
        terms: Terms {
            settle_within: run.patience.settle_timeout,
            max_streams: run.limits.max_tunnel_streams,
            marks: Marks::VISITOR,
            ..Terms::default()
        },
        care: Care {
            patience: run.patience.liveness(),
            window_most: run.limits.window_max,
            grace: run.patience.drain,
        },
        handshake_within: run.patience.tls_timeout,
        wildcards: run.allow_wildcards,
        names: config.names.as_ref().map(|names| Arc::clone(&names.value)),
        drain: Drain::new(),
        ids: Ids::default(),
    }
}

/// Files that change and names that nobody remembers.
async fn housekeeping(
    mut certificates: Certificates,
    pool: Arc<Pool>,
    watch: Arc<Watch>,
    loaded: Option<Loaded>,
    mut hangup: Hangup,
    drain: Drain,
) {
    let mut ticks = interval(Duration::from_secs(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forgotten = Instant::now();
    loop {
        tokio::select! {
            () = drain.finishing() => return,
            _ = ticks.tick() => {}
            () = hangup.recv() => {
                let (watch, loaded) = (Arc::clone(&watch), loaded.clone());
                // A list may be long, and the disk slow.
                let _looked = spawn_blocking(move || {
                    if let Some(changed) = loaded.and_then(|loaded| loaded.changed()) {
                        warn!("SIGHUP: {changed}; certificates and lists of sources alone are read again");
                    }
                    info!("SIGHUP: looking at the files of certificates and of sources");
                    watch.lists.look();
                })
                .await;
            }
        }
        certificates.look();
        if forgotten.elapsed() >= Duration::from_secs(60) {
            forgotten = Instant::now();
            pool.forget();
        }
    }
}
