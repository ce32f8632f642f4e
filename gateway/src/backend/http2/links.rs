//! One worker's connections to one server, and the one that is being opened: whoever needs one while it is waits for the same.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tidegate_shared::drain::Drain;
use tidegate_shared::origin::Line;
use tidegate_shared::window;
use tokio::sync::{OnceCell, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

/// What a server may send ahead on all streams of one connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The largest list of fields taken from a server, in octets.
const HEADER_LIST: u32 = 64 * 1024;

/// Requests at once on one connection, whatever more the server would take: others open another one.
const MOST_STREAMS: usize = 256;

/// How often a connection with requests in flight is asked whether its server is there.
const PING_EVERY: Duration = Duration::from_secs(10);

/// How long the answer to that may take.
const PING_WITHIN: Duration = Duration::from_secs(10);

/// How long connections may take to end with the gateway.
const PARTING_WITHIN: Duration = Duration::from_millis(100);

/// See the module's head.
#[derive(Default)]
pub(in super::super) struct Links {
    open: Mutex<Vec<Link>>,
    opening: Mutex<Option<Arc<Opening>>>,
    /// Whatever drives one.
    pub(in super::super) drivers: Drain,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Links")
    }
}

/// What became of the connection that is being opened. The error is why there is none.
pub(in super::super) type Opening = OnceCell<Result<(), String>>;

/// A connection that may be shared.
#[derive(Clone, Debug)]
pub(in super::super) struct Link {
    requests: SendRequest<Bytes>,
    load: Arc<AtomicUsize>,
    /// Since when nothing has been in flight on it, as far as the sweep has seen.
    idle_since: Option<u64>,
}

/// One request's place on a connection.
#[derive(Debug)]
pub(in super::super) struct Seat {
    pub(in super::super) requests: SendRequest<Bytes>,
    load: Arc<AtomicUsize>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Relaxed);
    }
}

impl Link {
    /// Begins HTTP/2 on a connection, and has it driven for as long as somebody has to do with it. The error is why it cannot
    /// be used, as it follows the server's name.
    pub(in super::super) async fn open(
        line: Line,
        within: Duration,
        drivers: &Drain,
    ) -> Result<Self, String> {
        let begun = Builder::new()
            .enable_push(false)
            .initial_window_size(window::BASE)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_local_error_reset_streams(None)
            .handshake(line)
            .await;
        let (requests, mut connection) = begun.map_err(|error| not_http2(&error))?;
        let load = Arc::new(AtomicUsize::new(0));
        let pings = connection.ping_pong();
        let (told, mut settled) = watch::channel(None);
        let busy = Arc::clone(&load);
        let _detached = drivers.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = silence(pings, &told, &busy) => {
                    debug!("a server's HTTP/2 connection is closed: no answer to a PING within {PING_WITHIN:?}");
                    return;
                }
            };
            if let Err(error) = ended {
                debug!("a server's HTTP/2 connection ended: {error}");
                let _nobody_asks = told.send(Some(Err(not_http2(&error))));
            }
        });
        // The first PING is answered behind the server's SETTINGS.
        match timeout(within, settled.wait_for(Option::is_some)).await {
            Ok(Ok(known)) => {
                if let Some(Err(why)) = &*known {
                    return Err(why.clone());
                }
            }
            Ok(Err(_ended)) => return Err("it closed the connection".to_owned()),
            Err(_elapsed) => {
                return Err(format!(
                    "it took the connection and said nothing in HTTP/2 within {within:?}; does it speak HTTP/2 there?"
                ));
            }
        }
        Ok(Self {
            requests,
            load,
            idle_since: None,
        })
    }

    /// A place, if there is one.
    pub(in super::super) fn seat(&mut self) -> Option<Seat> {
        let most = self.requests.current_max_send_streams().min(MOST_STREAMS);
        if self.load.load(Relaxed) >= most {
            return None;
        }
        self.load.fetch_add(1, Relaxed);
        Some(Seat {
            requests: self.requests.clone(),
            load: Arc::clone(&self.load),
        })
    }

    /// Whether its server takes no more requests on it.
    fn is_over(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_over)))
    }
}

type Settled = watch::Sender<Option<Result<(), String>>>;

/// Ready when the server has not answered a PING for too long. The first one tells that it has settled.
async fn silence(pings: Option<PingPong>, settled: &Settled, load: &AtomicUsize) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    if pings.ping(Ping::opaque()).await.is_err() {
        // The connection itself says why.
        return std::future::pending().await;
    }
    let _nobody_asks = settled.send(Some(Ok(())));
    loop {
        sleep(PING_EVERY).await;
        if load.load(Relaxed) == 0 {
            continue;
        }
        match timeout(PING_WITHIN, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            Ok(Err(_over)) => return std::future::pending().await,
            Err(_elapsed) => return,
        }
    }
}

/// What is wrong with a server that does not speak it.
fn not_http2(error: &h2::Error) -> String {
    if error.is_io() || (error.is_go_away() && error.is_remote()) {
        return format!("it closed the connection before anything was asked in HTTP/2: {error}");
    }
    format!("it does not speak HTTP/2 there ({error}); leave `protocol` out if it speaks HTTP/1.1")
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opening_now(&self) -> MutexGuard<'_, Option<Arc<Opening>>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that has one.
    pub(in super::super) fn take(&self) -> Option<Seat> {
        let mut open = self.lock();
        open.retain_mut(|link| !link.is_over());
        open.iter_mut().find_map(Link::seat)
    }

    /// Whether there may be a place.
    pub(in super::super) fn have_room(&self) -> bool {
        let room = |link: &Link| {
            let most = link.requests.current_max_send_streams().min(MOST_STREAMS);
            link.load.load(Relaxed) < most
        };
        self.lock().iter().any(room)
    }

    /// What becomes of the connection that is being opened; of a new one where none is.
    pub(in super::super) fn opening(&self) -> Arc<Opening> {
        Arc::clone(self.opening_now().get_or_insert_default())
    }

    /// It is open, or will not be: the next one opens another.
    pub(in super::super) fn opened(&self, what: &Arc<Opening>) {
        let mut opening = self.opening_now();
        opening.take_if(|opening| Arc::ptr_eq(opening, what));
    }

    /// Keeps a connection for whoever comes.
    pub(in super::super) fn file(&self, link: Link) {
        self.lock().push(link);
    }

    /// Lets connections end on which nothing has been in flight for `rest_ms`.
    pub(in super::super) fn sweep(&self, now: u64, rest_ms: u64) {
        self.lock().retain_mut(|link| {
            if link.is_over() {
                return false;
            }
            if link.load.load(Relaxed) > 0 {
                link.idle_since = None;
                return true;
            }
            now.saturating_sub(*link.idle_since.get_or_insert(now)) < rest_ms
        });
    }

    /// Lets all of them end, and say so to their servers.
    pub(in super::super) async fn finish(&self) {
        self.clear();
        self.drivers.finish(PARTING_WITHIN).await;
    }

    /// Lets all of them end with their last request.
    pub(in super::super) fn clear(&self) {
        self.lock().clear();
    }
}
