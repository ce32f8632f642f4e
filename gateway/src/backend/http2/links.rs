//! One worker's connections to one server, and the one that is being opened: whoever needs one while it is waits for the same.

use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, Reason};
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::origin::{First, Line};
use tidegate_shared::reversal::Seen;
use tokio::sync::{OnceCell, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::super::mismatch::AT_ONCE;
use super::super::queue::{Claim, Permit};
use super::doubts::Doubts;
use super::last_word::LastWord;
use super::pulse::{Pulse, Sight, Step};
use super::seat::{Seat, Shared};

/// The largest list of fields taken from a server, in octets.
const HEADER_LIST: u32 = 64 * 1024;

/// Requests at once on one connection, whatever more the server would take: others open another one.
const MOST_STREAMS: u32 = 256;

/// What a server may send ahead on one stream: what a visitor who does not read costs, and what a download gets per round trip.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same on all streams of one connection: as much as all that do not read can have, so that they hold up nobody else.
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;

/// How often a connection is looked at while a request waits on it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// An answer to the first PING that has not come so long after our SETTINGS were acknowledged does not come.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(2);

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
    shared: Arc<Shared>,
    /// Since when nothing has been in flight on it, as far as the sweep has seen.
    idle_since: Option<u64>,
    /// To its place among the server's connections, where it is one visitor's.
    claim: Option<Claim>,
}

/// Why HTTP/2 did not begin on a connection.
#[derive(Debug)]
pub(in super::super) struct Unbegun {
    /// As it follows the server's name.
    pub(in super::super) why: String,
    /// What the server has said first,
    pub(in super::super) first: Arc<First>,
    /// whether it has ended the connection, or said what is no HTTP/2, at once,
    pub(in super::super) ended_soon: bool,
    /// and whether it said in HTTP/2 that it does not understand how the connection began.
    pub(in super::super) bewildered: bool,
}

/// What is wrong with a connection, as it follows the server's name; and whether it is what a server says to what is no HTTP/2.
#[derive(Clone, Debug)]
struct Fault {
    why: String,
    bewildered: bool,
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self {
            why,
            bewildered: false,
        }
    }
}

impl Link {
    /// Begins HTTP/2 on a connection, and has it driven for as long as somebody has to do with it. The error is why it cannot
    /// be used.
    pub(in super::super) async fn open(
        line: Line,
        within: Duration,
        drivers: &Drain,
        doubts: &Arc<Doubts>,
    ) -> Result<Self, Unbegun> {
        let (first, began) = (line.first(), Instant::now());
        let opened = timeout(within, Self::begin(line, drivers, doubts)).await;
        let (fault, ended) = match opened {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(fault)) => (fault, true),
            Err(_elapsed) => {
                let did = unsettled(&first);
                let why = format!("within {within:?} it took the connection and {did}");
                (why.into(), false)
            }
        };
        Err(Unbegun {
            why: fault.why,
            first,
            ended_soon: ended && began.elapsed() < AT_ONCE,
            bewildered: fault.bewildered,
        })
    }

    async fn begin(line: Line, drivers: &Drain, doubts: &Arc<Doubts>) -> Result<Self, Fault> {
        let heard = line.heard();
        let line = LastWord::of(line);
        let acknowledged = line.settled();
        let begun = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEADER_LIST)
            .max_local_error_reset_streams(None)
            .handshake(line)
            .await;
        let (requests, mut connection) = begun.map_err(|error| not_http2(&error))?;
        let shared = Arc::<Shared>::default();
        let pings = connection.ping_pong();
        let (told, mut settled) = watch::channel(None);
        let (at_ends, doubts) = (Arc::clone(&shared), Arc::clone(doubts));
        let _detached = drivers.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                // First, so that an octet is counted before what it means is asked for.
                biased;
                ended = &mut connection => ended,
                () = silence(pings, &acknowledged, &told, &at_ends, &heard, &doubts) => {
                    at_ends.end_silent();
                    return;
                }
            };
            if let Err(error) = ended {
                debug!("a server's HTTP/2 connection ended: {error}");
                let _nobody_asks = told.send(Some(Err(not_http2(&error))));
            }
        });
        // The first PING is answered, or our SETTINGS acknowledged, behind the server's SETTINGS.
        match settled.wait_for(Option::is_some).await {
            Ok(known) => {
                if let Some(Err(fault)) = &*known {
                    return Err(fault.clone());
                }
            }
            Err(_ended) => return Err("it closed the connection".to_owned().into()),
        }
        Ok(Self {
            requests,
            shared,
            idle_since: None,
            claim: None,
        })
    }

    /// It makes room for another one where nothing is in flight on it.
    pub(in super::super) fn giving_way(self, claim: Option<Claim>) -> Self {
        Self { claim, ..self }
    }

    /// A place, if there is one.
    pub(in super::super) fn seat(&self) -> Option<Seat> {
        self.has_room().then(|| self.shared.seat(&self.requests))
    }

    fn has_room(&self) -> bool {
        let most = self
            .requests
            .current_max_send_streams()
            .min(MOST_STREAMS as usize);
        self.shared.load() < most
    }

    /// Whether its server takes no more requests on it.
    fn is_over(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.requests.poll_ready(&mut cx), Poll::Ready(Err(_over)))
    }
}

type Settled = watch::Sender<Option<Result<(), Fault>>>;

/// Ready when nobody is there any more. That the server has settled is told by the answer to the first PING, or by its
/// acknowledging our SETTINGS; other PINGs ask whether it is there, of one that has answered the first.
async fn silence(
    pings: Option<PingPong>,
    acknowledged: &AtomicBool,
    settled: &Settled,
    shared: &Shared,
    heard: &AtomicU64,
    doubts: &Doubts,
) {
    let Some(mut pings) = pings else {
        return pending().await;
    };
    if pings.send_ping(Ping::opaque()).is_err() {
        // The connection itself says why.
        return pending().await;
    }
    // Nobody wakes this for the acknowledgement but what has read it, which is of the same task and comes first.
    let answered = poll_fn(|cx| match pings.poll_pong(cx) {
        Poll::Ready(answered) => Poll::Ready(Some(answered)),
        Poll::Pending if acknowledged.load(Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match answered.await {
        Some(Ok(_pong)) => {
            let _nobody_asks = settled.send(Some(Ok(())));
        }
        Some(Err(_over)) => return pending().await,
        None => {
            let _nobody_asks = settled.send(Some(Ok(())));
            if first_answer(&mut pings, doubts).await.is_err() {
                return pending().await;
            }
        }
    }
    let mut pulse = Pulse::new(clock::now_ms(), heard.load(Relaxed));
    loop {
        if !pulse.is_curious() && !shared.somebody_waits() {
            shared.somebody_begins().await;
            pulse.waits(clock::now_ms());
        }
        let answered = if pulse.is_asking() {
            let pong = poll_fn(|cx| pings.poll_pong(cx));
            match timeout(LOOK_EVERY, pong).await {
                Ok(Ok(_pong)) => true,
                Ok(Err(_over)) => return pending().await,
                Err(_elapsed) => false,
            }
        } else {
            sleep(LOOK_EVERY).await;
            false
        };
        let now = clock::now_ms();
        if answered {
            pulse.answered(now, heard.load(Relaxed));
        }
        let step = pulse.next(Sight {
            now,
            heard: heard.load(Relaxed),
            waits: shared.somebody_waits(),
        });
        let doubted = matches!(step, Step::Doubt | Step::End);
        if shared.doubt(doubted) && doubted {
            let silence = Duration::from_millis(pulse.silence(now));
            doubts.began(shared.load(), silence);
        }
        match step {
            Step::Rest | Step::Doubt => {}
            Step::Ask => {
                // One that was answered late, behind other frames, is no answer to this.
                let late = poll_fn(|cx| Poll::Ready(pings.poll_pong(cx))).await;
                if let Poll::Ready(Err(_over)) = late {
                    return pending().await;
                }
                // There is one at a time: where the last one is not answered yet, it stands for this.
                let _sent = pings.send_ping(Ping::opaque());
                pulse.asked(now);
            }
            Step::End => return,
        }
    }
}

/// Waits for the answer to the first PING, of a server that has acknowledged our SETTINGS: such a server owes both at once. Of one
/// that does not answer it nothing can be asked, on this connection.
async fn first_answer(pings: &mut PingPong, doubts: &Doubts) -> Result<(), h2::Error> {
    let answered = timeout(FIRST_ANSWER_WITHIN, poll_fn(|cx| pings.poll_pong(cx))).await;
    let answered = match answered {
        Ok(answered) => answered,
        Err(_elapsed) => {
            doubts.unanswered();
            poll_fn(|cx| pings.poll_pong(cx)).await
        }
    };
    answered.map(|_pong| ())
}

/// What a server has done that has not settled in time, as it follows `it took the connection and`.
fn unsettled(first: &First) -> String {
    match first.octets() {
        None | Some([]) => "said nothing; does it speak HTTP/2 there?".to_owned(),
        // SETTINGS.
        Some([0, _, _, 4, ..]) => {
            "began HTTP/2, but neither acknowledged our SETTINGS nor answered a PING; is it stuck?"
                .to_owned()
        }
        Some(octets) => format!(
            "said {}, but did not begin HTTP/2; does it speak that there?",
            Seen::at_the_end(octets)
        ),
    }
}

/// What is wrong with a server that does not speak it.
fn not_http2(error: &h2::Error) -> Fault {
    let says_goodbye = error.is_go_away() && error.is_remote();
    let why = if error.is_io() || says_goodbye {
        format!("it closed the connection before anything was asked in HTTP/2: {error}")
    } else {
        format!(
            "it does not speak HTTP/2 there ({error}); leave `protocol` out if it speaks HTTP/1.1"
        )
    };
    Fault {
        why,
        bewildered: says_goodbye && error.reason() == Some(Reason::PROTOCOL_ERROR),
    }
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opening_now(&self) -> MutexGuard<'_, Option<Arc<Opening>>> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection that has one, and is in no doubt.
    pub(in super::super) fn take(&self) -> Option<Seat> {
        let mut open = self.lock();
        open.retain_mut(|link| !link.is_over());
        let mut sure = open.iter().filter(|link| !link.shared.is_doubted());
        sure.find_map(Link::seat)
    }

    /// A place on any, where there is no better one.
    pub(in super::super) fn take_any(&self) -> Option<Seat> {
        self.lock().iter().find_map(Link::seat)
    }

    /// Whether there may be a place.
    pub(in super::super) fn have_room(&self) -> bool {
        self.lock().iter().any(Link::has_room)
    }

    /// Whether nothing is in flight on one.
    pub(in super::super) fn have_idle(&self) -> bool {
        self.lock().iter().any(|link| link.shared.load() == 0)
    }

    /// Lets one end on which nothing is in flight, and gives its place away.
    pub(in super::super) fn let_one_go(&self) -> Option<Permit> {
        let mut open = self.lock();
        loop {
            let idle = open.iter().position(|link| link.shared.load() == 0)?;
            let claim = open.swap_remove(idle).claim;
            // One that has ended meanwhile has no place any more.
            if let Some(place) = claim.and_then(|claim| claim.take()) {
                return Some(place);
            }
        }
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
            if link.shared.load() > 0 {
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
