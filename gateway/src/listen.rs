//! Accept loops: take a connection, check that its source and the machine have room for it, hand it to a worker. Visitors
//! are shed before tunnels when descriptors run out, and nothing spins.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_shared::drain::Drain;
use tidegate_shared::socket::{QUEUED, accept_waiting, tune_plain, tune_tunnel};
use tidegate_shared::workers::Workers;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::warn;

use crate::access::Access;
use crate::complaint::Complaint;
use crate::door::{Arrival, Door};
use crate::exchange::Target;
use crate::failure::Failure;
use crate::farewell::{Came, Telling, Word, tell, tell_over_tls};
use crate::metrics::Metrics;
use crate::rates::{Admission, Excess, Guest, Limit, Warden};
use crate::route::Routes;
use crate::source::{Entry, Sources};
use crate::tcp::{Shed, Tcp};
use crate::tunnel::accept::{Intake, Security};
use crate::visitor::{Reception, Secured};

/// Descriptors kept free of visitors: for tunnels, listeners, logs and the admin page.
const RESERVED_SHARE: u64 = 4;

/// And at least so many.
const RESERVED_LEAST: u64 = 64;

/// For how many visitors' connections there are descriptors, where each takes so many.
pub(crate) fn affordable(descriptors: u64, each: u64) -> u64 {
    // On a machine that has few as well.
    let reserved = (descriptors / RESERVED_SHARE)
        .max(RESERVED_LEAST)
        .min(descriptors * 3 / 4);
    (descriptors - reserved) / each
}

/// After the system refused to accept, wait this long; accepting is level-triggered and would spin.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// Visitors' connections, counted over all listeners.
#[derive(Debug)]
pub struct Crowd {
    pub most: usize,
    /// What the number comes from, for whoever wants to raise it.
    pub because: &'static str,
    open: AtomicUsize,
    telling: Arc<Telling>,
    full: Mutex<Complaint>,
    crowded: Mutex<Complaint>,
}

impl Crowd {
    pub fn new(most: usize, because: &'static str) -> Arc<Self> {
        Arc::new(Self {
            most,
            because,
            open: AtomicUsize::new(0),
            telling: Arc::default(),
            full: Mutex::default(),
            crowded: Mutex::default(),
        })
    }

    /// Tells the operator why visitors are turned away.
    fn complain(&self, refusal: &Refusal, warden: &Warden) {
        let (complaint, whose, most, because) = match refusal {
            Refusal::Source(excess) if excess.limit == Limit::Connections => (
                &self.crowded,
                " of one address",
                warden.rules.connections as usize,
                "--max-visitors-per-source",
            ),
            // Its own line says so.
            Refusal::Source(_) => return,
            Refusal::Full => (&self.full, "", self.most, self.because),
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

/// Why a visitor's connection is turned away.
enum Refusal {
    /// All places are taken.
    Full,
    /// Of what its source has done.
    Source(Excess),
}

impl Refusal {
    fn failure(&self) -> Failure {
        match self {
            Self::Full => Failure::Limit,
            Self::Source(excess) => excess.limit.failure(),
        }
    }

    /// The line of a list that says so, if one does.
    fn list(&self, access: &Access) -> Option<String> {
        match self {
            Self::Full => None,
            Self::Source(excess) => access.metrics().sources.place(excess.list?),
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
    pub warden: Arc<Warden>,
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
    let mut queue = Queue::of(listener);
    while let Some((stream, visitor)) = queue.accept(&drain, &metrics).await {
        tune_plain(&stream);
        // Behind a load balancer there are many visitors at one address; whose connection it is says its header.
        let known = (!front.door.reads_headers()).then_some(visitor);
        let admitted = match room(&crowd, &front.warden, known) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                let came = Came::now(stream, visitor);
                shed(came, &refusal, &front, &reception, &crowd, &drain);
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
                visit(reception, stream, visitor, front, admitted, counted).await;
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
    known: Option<Admission>,
    counted: Counted,
) {
    let began = Instant::now();
    let (arrival, admission) = if let Some(admission) = known {
        (Arrival::of(visitor), admission)
    } else {
        let admitted = tokio::select! {
            biased;
            admitted = front.door.admit(&mut stream, visitor) => admitted,
            () = reception.drain.idle_over() => return,
        };
        let Some(arrival) = admitted else {
            return;
        };
        let admission = front.warden.admit(arrival.from.ip(), Instant::now());
        (arrival, admission)
    };
    let guest = match settled(admission, &reception, front.warden.rules.tarpit).await {
        Ok(guest) => guest,
        Err(excess) => {
            let refusal = Refusal::Source(excess);
            let (crowd, drain) = (&counted.crowd, &reception.drain);
            let came = Came {
                stream,
                from: arrival.from,
                at: began,
            };
            return shed(came, &refusal, &front, &reception, crowd, drain);
        }
    };
    match &front.tcp {
        Some(tcp) => {
            Box::pin(tcp.serve(&reception, &front.door, stream, arrival, began)).await;
            drop(guest);
        }
        None => reception.serve(stream, arrival, front, guest).await,
    }
    drop(counted);
}

/// Whoever may come in, or why not: that of one who is held comes after its time, or when the gateway ends. Until then it has
/// no place of anything but its connection.
async fn settled(
    admission: Admission,
    reception: &Reception,
    tarpit: Duration,
) -> Result<Guest, Excess> {
    match admission {
        Admission::In(guest) => Ok(guest),
        Admission::Held(_guest, _held, excess) => {
            tokio::select! {
                biased;
                () = reception.drain.finishing() => {}
                () = sleep(tarpit) => {}
            }
            Err(excess)
        }
        Admission::Out(excess) => Err(excess),
    }
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
    let mut queue = Queue::of(listener);
    while let Some((stream, agent)) = queue.accept(&drain, &metrics).await {
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
    let (agent, header, entry) = if let Some(entry) = known {
        (agent, None, entry)
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
        (arrival.from, arrival.header, entry)
    };
    Box::pin(intake.serve(stream, agent, header, &gate, entry)).await;
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

/// Connections that wait to be accepted.
struct Queue {
    listener: TcpListener,
    complaint: Complaint,
    /// How many of them may have come before the drain began.
    left: usize,
}

impl Queue {
    fn of(listener: TcpListener) -> Self {
        Self {
            listener,
            complaint: Complaint::default(),
            left: QUEUED,
        }
    }

    /// The next one; `None` when the listener is to be closed.
    async fn accept(
        &mut self,
        drain: &Drain,
        metrics: &Metrics,
    ) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = if drain.is_finishing() {
                // Whoever has come already would be reset with the listener. Those who come from here on stand behind them, and
                // where they never cease nobody else would have the address.
                self.left = self.left.checked_sub(1)?;
                accept_waiting(&self.listener).transpose()?
            } else {
                tokio::select! {
                    biased;
                    accepted = self.listener.accept() => accepted,
                    () = drain.finishing() => continue,
                }
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
                    if let Some(times) = self.complaint.due(Instant::now()) {
                        warn!(times, "cannot accept connections: {error}");
                    }
                    if drain.is_finishing() {
                        return None;
                    }
                    sleep(REFUSED_PAUSE).await;
                }
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
fn room(
    crowd: &Crowd,
    warden: &Arc<Warden>,
    visitor: Option<SocketAddr>,
) -> Result<Option<Admission>, Refusal> {
    let full = crowd.open.load(Relaxed) >= crowd.most;
    let Some(visitor) = visitor else {
        return if full { Err(Refusal::Full) } else { Ok(None) };
    };
    let (from, now) = (visitor.ip(), Instant::now());
    if full {
        // Whoever is not served is not told of limits either.
        let denied = warden.denied(from, now);
        return Err(denied.map_or(Refusal::Full, Refusal::Source));
    }
    match warden.admit(from, now) {
        Admission::Out(excess) => Err(Refusal::Source(excess)),
        admission => Ok(Some(admission)),
    }
}

/// Turns a visitor away, with a word where it would be understood: over TLS only of what he has done himself, for where the gateway
/// is full a handshake is one thing more that there is no room for.
fn shed(
    came: Came,
    refusal: &Refusal,
    front: &Front,
    reception: &Reception,
    crowd: &Arc<Crowd>,
    drain: &Drain,
) {
    let access = &reception.gateway.access;
    crowd.complain(refusal, &front.warden);
    access.metrics().visitors_shed.inc();
    let silent = matches!(refusal, Refusal::Source(excess) if excess.is_silent());
    if let Some(tcp) = &front.tcp {
        let shed = Shed {
            failure: refusal.failure(),
            list: refusal.list(access),
        };
        tcp.shed(reception, came.from, came.at, shed);
        return;
    }
    if silent {
        return;
    }
    let excess = match refusal {
        Refusal::Source(excess) => Some(*excess),
        Refusal::Full => None,
    };
    let word = Word {
        failure: refusal.failure(),
        excess,
    };
    match (&front.secured, excess) {
        (None, _) => tell(came, &word, &crowd.telling, access, drain),
        (Some(secured), Some(_)) => {
            tell_over_tls(came, word, &secured.config, &crowd.telling, access, drain);
        }
        (Some(_), None) => {}
    }
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::TcpStream as Client;

    use tidegate_shared::socket::{close_abruptly, listen};

    use super::*;

    #[test]
    fn all_that_visitors_take_leaves_some_for_the_rest() {
        assert_eq!((affordable(1024, 1), affordable(1024, 2)), (768, 384));
        for descriptors in [16, 64, 100, 256, 1024, 524_288] {
            for each in [1, 2] {
                let taken = affordable(descriptors, each) * each;
                assert!(taken > 0 && taken <= descriptors * 3 / 4, "{descriptors}");
            }
        }
    }

    /// Somebody stands in the queue at every look, and those who stood there when the end began are served.
    #[tokio::test]
    async fn a_flood_does_not_keep_the_address_from_whoever_comes_next() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (mut queue, metrics, drain) = (Queue::of(listener), Metrics::new(), Drain::new());
        let come = || Client::connect(address).unwrap();
        let mut waiting: VecDeque<_> = (0..50).map(|_| come()).collect();
        drain.finish(Duration::ZERO).await;
        let mut served = 0;
        while let Some((accepted, from)) = queue.accept(&drain, &metrics).await {
            let first = waiting.pop_front().unwrap();
            assert_eq!(from, first.local_addr().unwrap());
            waiting.push_back(come());
            // No port waits for the end of one.
            close_abruptly(&accepted, true);
            served += 1;
            assert!(served < 2 * QUEUED, "it never ends");
        }
        assert!((50..=QUEUED).contains(&served), "{served}");
        drop(queue);
        listen(address).unwrap();
    }
}
