//! Accept loops: take a connection, check that its source and the machine have room for it, hand it to a worker. Visitors
//! are shed before tunnels when descriptors run out, and nothing spins.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_shared::drain::Drain;
use tidegate_shared::socket::{tune_plain, tune_tunnel};
use tidegate_shared::workers::Workers;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::failure::Failure;
use crate::metrics::Metrics;
use crate::page;
use crate::source::Sources;
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
}

impl Crowd {
    pub fn new(sources: Sources, most: usize, because: &'static str) -> Arc<Self> {
        Arc::new(Self {
            sources,
            most,
            because,
            open: AtomicUsize::new(0),
            telling: AtomicUsize::new(0),
        })
    }
}

/// Accepts visitors until the drain begins.
pub async fn visitors(
    listener: TcpListener,
    secured: Option<Secured>,
    reception: Arc<Reception>,
    crowd: Arc<Crowd>,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    let mut complaint = Complaint::default();
    while let Some((stream, visitor)) = accept(&listener, &drain, &metrics, &mut complaint).await {
        tune_plain(&stream);
        if crowd.open.load(Relaxed) >= crowd.most {
            complaint.say(|| {
                format!(
                    "{} visitors' connections are open, the limit ({})",
                    crowd.most, crowd.because
                )
            });
            shed(
                stream,
                secured.is_some(),
                Failure::Limit,
                &crowd,
                &metrics,
                &drain,
            );
            continue;
        }
        let Some(entry) = crowd.sources.enter(visitor.ip(), Instant::now()) else {
            shed(
                stream,
                secured.is_some(),
                Failure::TooManyConnections,
                &crowd,
                &metrics,
                &drain,
            );
            continue;
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
        let (reception, secured) = (Arc::clone(&reception), secured.clone());
        let task = reception.drain.clone().track(async move {
            let _counted = (counted, entry);
            if let Some(stream) = stream.here() {
                reception.serve(stream, visitor, secured).await;
            }
        });
        hand_over(&workers, task);
    }
}

/// Accepts tunnels until the drain begins.
pub async fn tunnels(
    listener: TcpListener,
    security: Security,
    intake: Arc<Intake>,
    sources: Sources,
    workers: Arc<Workers>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    let mut complaint = Complaint::default();
    while let Some((stream, agent)) = accept(&listener, &drain, &metrics, &mut complaint).await {
        tune_tunnel(&stream);
        let Some(entry) = sources.enter(agent.ip(), Instant::now()) else {
            metrics.tunnels_refused.count("source");
            continue;
        };
        let Some(stream) = Moved::of(stream) else {
            continue;
        };
        let (intake, security) = (Arc::clone(&intake), security.clone());
        let task = intake.drain.clone().track(async move {
            if let Some(stream) = stream.here() {
                Box::pin(intake.serve(stream, agent, security, entry)).await;
            }
        });
        hand_over(&workers, task);
    }
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
                complaint.say(|| format!("cannot accept connections: {error}"));
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

/// Says the same thing at most once a second.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn say(&mut self, what: impl FnOnce() -> String) {
        if self
            .0
            .is_none_or(|last| last.elapsed() >= Duration::from_secs(1))
        {
            self.0 = Some(Instant::now());
            warn!("{}", what());
        }
    }
}

/// Tells a visitor that there is no room for it, where it can be told.
fn shed(
    stream: TcpStream,
    tls: bool,
    failure: Failure,
    crowd: &Arc<Crowd>,
    metrics: &Metrics,
    drain: &Drain,
) {
    metrics.visitors_shed.inc();
    metrics.failed(failure);
    if tls || crowd.telling.load(Relaxed) >= TELLING {
        return;
    }
    crowd.telling.fetch_add(1, Relaxed);
    let crowd = Arc::clone(crowd);
    drain.spawn(async move {
        // Whoever does not take it in time does without.
        let _told = timeout(Duration::from_millis(500), tell(stream, failure)).await;
        crowd.telling.fetch_sub(1, Relaxed);
    });
}

async fn tell(mut stream: TcpStream, failure: Failure) -> io::Result<()> {
    let status = failure.status();
    let text = failure.sentence();
    let answer = format!(
        "HTTP/1.1 {} {}\r\nconnection: close\r\nretry-after: {}\r\n{}: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or(""),
        failure.retry_after().unwrap_or(1),
        page::REASON,
        failure.reason(),
        text.len() + 1,
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
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
