//! Accept loops: take a connection, check that its source and the machine have room for it, hand it to a worker. Visitors
//! are shed before tunnels when descriptors run out, and nothing spins.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_shared::drain::Drain;
use tidegate_shared::socket::{tune_plain, tune_tunnel};
use tidegate_shared::workers::Workers;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::access::{Access, Record};
use crate::complaint::Complaint;
use crate::door::{Arrival, Door};
use crate::exchange::Target;
use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::page;
use crate::route::Routes;
use crate::source::{Entry, Sources};
use crate::tcp::Tcp;
use crate::tunnel::accept::{Intake, Security};
use crate::visitor::{Reception, Secured};

/// Descriptors kept free of visitors: for tunnels, listeners, logs and the admin page.
pub const RESERVED_SHARE: u64 = 4;

/// And at least so many.
pub const RESERVED_LEAST: u64 = 64;

/// After the system refused to accept, wait this long; accepting is level-triggered and would spin.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// How many visitors are being told that there is no room, at once.
const TELLING: usize = 64;

/// Visitors' connections, counted over all listeners.
#[derive(Debug)]
pub struct Crowd {
    pub sources: Sources,
    pub most: usize,
    /// What the number comes from, for whoever wants to raise it.
    pub because: &'static str,
    open: AtomicUsize,
    telling: AtomicUsize,
    full: Mutex<Complaint>,
    crowded: Mutex<Complaint>,
}

impl Crowd {
    pub fn new(sources: Sources, most: usize, because: &'static str) -> Arc<Self> {
        Arc::new(Self {
            sources,
            most,
            because,
            open: AtomicUsize::new(0),
            telling: AtomicUsize::new(0),
            full: Mutex::default(),
            crowded: Mutex::default(),
        })
    }

    /// Tells the operator why visitors are turned away.
    fn complain(&self, failure: Failure) {
        let (complaint, whose, most, because) = match failure {
            Failure::TooManyConnections => (
                &self.crowded,
                " of one address",
                self.sources.most(),
                "--max-visitors-per-source",
            ),
            _ => (&self.full, "", self.most, self.because),
        };
        let due = complaint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(Instant::now());
        if let Some(shed) = due {
            warn!(
                shed,
                "visitors are turned away: {most} connections{whose} are open, the limit ({because})"
            );
        }
    }
}

/// What a visitors' listener has in front.
#[derive(Debug)]
pub struct Front {
    pub door: Door,
    pub secured: Option<Secured>,
    pub routes: Routes<Target>,
    /// In TCP mode; then nothing else here counts but the door.
    pub tcp: Option<Tcp>,
}

/// What a tunnels' listener has in front.
#[derive(Debug)]
pub struct Gate {
    pub door: Door,
    pub security: Security,
}

/// Accepts visitors until the drain begins.
pub async fn visitors(
    listener: TcpListener,
    front: Arc<Front>,
    reception: Arc<Reception>,
    crowd: Arc<Crowd>,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    let mut complaint = Complaint::default();
    while let Some((stream, visitor)) = accept(&listener, &drain, &metrics, &mut complaint).await {
        tune_plain(&stream);
        // Behind a load balancer there are many visitors at one address; whose connection it is says its header.
        let known = (!front.door.reads_headers()).then_some(visitor);
        let entry = match room(&crowd, known) {
            Ok(entry) => entry,
            Err(failure) => {
                shed(stream, visitor, failure, &front, &reception, &crowd, &drain);
                continue;
            }
        };
        crowd.open.fetch_add(1, Relaxed);
        metrics.visitors_opened.inc();
        let counted = Counted {
            crowd: Arc::clone(&crowd),
            metrics: Arc::clone(&metrics),
        };
        let Some(stream) = Moved::of(stream) else {
            continue;
        };
        let (reception, front) = (Arc::clone(&reception), Arc::clone(&front));
        let task = reception.drain.clone().track(async move {
            if let Some(stream) = stream.here() {
                visit(reception, stream, visitor, front, entry, counted).await;
            }
        });
        hand_over(&workers, task);
    }
}

/// One visitor's connection, from the moment that it has a worker.
async fn visit(
    reception: Arc<Reception>,
    mut stream: TcpStream,
    visitor: SocketAddr,
    front: Arc<Front>,
    mut entry: Option<Entry>,
    counted: Counted,
) {
    let began = Instant::now();
    let arrival = if front.door.reads_headers() {
        let admitted = tokio::select! {
            biased;
            admitted = front.door.admit(&mut stream, visitor) => admitted,
            () = reception.drain.idle_over() => return,
        };
        let Some(arrival) = admitted else {
            return;
        };
        entry = counted
            .crowd
            .sources
            .enter(arrival.from.ip(), Instant::now());
        if entry.is_none() {
            let failure = Failure::TooManyConnections;
            return shed(
                stream,
                arrival.from,
                failure,
                &front,
                &reception,
                &counted.crowd,
                &reception.drain,
            );
        }
        arrival
    } else {
        Arrival::of(visitor)
    };
    match &front.tcp {
        Some(tcp) => Box::pin(tcp.serve(&reception, stream, arrival, began)).await,
        None => reception.serve(stream, arrival, front).await,
    }
    drop((counted, entry));
}

/// Accepts tunnels until the drain begins.
pub async fn tunnels(
    listener: TcpListener,
    gate: Arc<Gate>,
    intake: Arc<Intake>,
    sources: Sources,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    let mut complaint = Complaint::default();
    while let Some((stream, agent)) = accept(&listener, &drain, &metrics, &mut complaint).await {
        tune_tunnel(&stream);
        let known = if gate.door.reads_headers() {
            None
        } else {
            let Some(entry) = sources.enter(agent.ip(), Instant::now()) else {
                metrics.tunnels_refused.count("source");
                continue;
            };
            Some(entry)
        };
        let Some(stream) = Moved::of(stream) else {
            continue;
        };
        let (intake, gate, sources) = (Arc::clone(&intake), Arc::clone(&gate), sources.clone());
        let task = intake.drain.clone().track(async move {
            if let Some(stream) = stream.here() {
                attach(intake, stream, agent, gate, known, sources).await;
            }
        });
        hand_over(&workers, task);
    }
}

/// One agent's connection, from the moment that it has a worker.
async fn attach(
    intake: Arc<Intake>,
    mut stream: TcpStream,
    agent: SocketAddr,
    gate: Arc<Gate>,
    known: Option<Entry>,
    sources: Sources,
) {
    let (agent, entry) = if let Some(entry) = known {
        (agent, entry)
    } else {
        let admitted = tokio::select! {
            biased;
            admitted = gate.door.admit(&mut stream, agent) => admitted,
            () = intake.drain.idle_over() => return,
        };
        let Some(arrival) = admitted else {
            return intake.metrics.tunnels_refused.count("proxy");
        };
        let Some(entry) = sources.enter(arrival.from.ip(), Instant::now()) else {
            return intake.metrics.tunnels_refused.count("source");
        };
        (arrival.from, entry)
    };
    Box::pin(intake.serve(stream, agent, &gate, entry)).await;
}

fn hand_over(workers: &Workers, task: impl Future<Output = Option<()>> + Send + 'static) {
    workers.next().spawn(async move {
        // `None` when the drain's deadline passed first.
        let _finished = task.await;
    });
}

/// A socket on its way to another worker's runtime: it is registered with that one's epoll, not with ours.
struct Moved(std::net::TcpStream);

impl Moved {
    fn of(stream: TcpStream) -> Option<Self> {
        stream.into_std().ok().map(Self)
    }

    fn here(self) -> Option<TcpStream> {
        TcpStream::from_std(self.0).ok()
    }
}

async fn accept(
    listener: &TcpListener,
    drain: &Drain,
    metrics: &Metrics,
    complaint: &mut Complaint,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.finishing() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // An IPv4 peer of a listener on [::] is shown as what it is.
            Ok((stream, peer)) => {
                return Some((
                    stream,
                    SocketAddr::new(peer.ip().to_canonical(), peer.port()),
                ));
            }
            Err(error) if gone_already(&error) => {}
            Err(error) => {
                metrics.accept_failed.inc();
                if let Some(times) = complaint.due(Instant::now()) {
                    warn!(times, "cannot accept connections: {error}");
                }
                sleep(REFUSED_PAUSE).await;
            }
        }
    }
}

/// Errors of the connection that was to be accepted, and not of the listener (accept(2)).
fn gone_already(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// A visitor's place, or why there is none. One who is not known yet has none among those of its source.
fn room(crowd: &Crowd, visitor: Option<SocketAddr>) -> Result<Option<Entry>, Failure> {
    if crowd.open.load(Relaxed) >= crowd.most {
        return Err(Failure::Limit);
    }
    let Some(visitor) = visitor else {
        return Ok(None);
    };
    crowd
        .sources
        .enter(visitor.ip(), Instant::now())
        .map(Some)
        .ok_or(Failure::TooManyConnections)
}

/// Turns a visitor away, with a word where there is no TLS in the way, and it would be understood.
fn shed(
    stream: TcpStream,
    visitor: SocketAddr,
    failure: Failure,
    front: &Front,
    reception: &Reception,
    crowd: &Arc<Crowd>,
    drain: &Drain,
) {
    let access = &reception.gateway.access;
    crowd.complain(failure);
    access.metrics().visitors_shed.inc();
    if let Some(tcp) = &front.tcp {
        tcp.shed(reception, visitor, failure);
    } else if front.secured.is_none() {
        tell(stream, visitor, failure, access, crowd, drain);
    }
}

/// Tells a visitor that there is no room for it; a few at a time, the others are closed without a word. An answer has an id
/// and a line in the access log, like every other.
fn tell(
    stream: TcpStream,
    visitor: SocketAddr,
    failure: Failure,
    access: &Arc<Access>,
    crowd: &Arc<Crowd>,
    drain: &Drain,
) {
    if crowd.telling.fetch_add(1, Relaxed) >= TELLING {
        crowd.telling.fetch_sub(1, Relaxed);
        return;
    }
    let record = access.record(&visitor.to_string().into(), false, Instant::now());
    let crowd = Arc::clone(crowd);
    drain.spawn(async move {
        // Whoever does not take it in time does without.
        let _told = timeout(
            Duration::from_millis(500),
            last_words(stream, failure, record),
        )
        .await;
        crowd.telling.fetch_sub(1, Relaxed);
    });
}

async fn last_words(mut stream: TcpStream, failure: Failure, mut record: Record) -> io::Result<()> {
    stream
        .write_all(&page::last_words(failure, &mut record))
        .await?;
    stream.shutdown().await?;
    drop(record);
    // What was sent must be read, or the reset that follows takes our answer with it.
    let mut sink = [0; 1024];
    while tokio::io::AsyncReadExt::read(&mut stream, &mut sink).await? > 0 {}
    Ok(())
}

struct Counted {
    crowd: Arc<Crowd>,
    metrics: Arc<Metrics>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.crowd.open.fetch_sub(1, Relaxed);
        self.metrics.visitors_closed.inc();
    }
}
