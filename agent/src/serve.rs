//! One tunnel, from the first SETTINGS to its end: frames, liveness, window, drain. Owns the `h2` connection and every
//! request on it; what a request does is `app`'s business, and whether a tunnel is wanted is `keeper`'s.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use futures_util::task::AtomicWaker;
use h2::{Ping, PingPong, server};
use tidegate_shared::clock;
use tidegate_shared::liveness::{Liveness, Move, Patience, Sight};
use tidegate_shared::reversal::io::{Dialled, Exchange};
use tidegate_shared::seam::{Seam, Wire};
use tidegate_shared::text::quoted;
use tidegate_shared::window::Window;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

/// How a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// We were asked to end it, and what was in flight is finished.
    Retired,
    /// The gateway closed in order, with or without a GOAWAY.
    Closed,
    /// The gateway sent GOAWAY with an error and this text.
    Refused(String),
    /// The gateway did not answer a PING, and nothing was heard for so long.
    Silent { ms: u64 },
    /// The connection broke.
    Broken(String),
    /// HTTP/2 on it failed.
    Failed(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retired => f.write_str("it was retired"),
            Self::Closed => f.write_str("the gateway closed it"),
            Self::Broken(why) => write!(f, "the connection broke: {why}"),
            Self::Refused(text) => write!(f, "refused by the gateway: {text}"),
            Self::Silent { ms } => write!(
                f,
                "nothing was heard of the gateway for {:.1} s",
                *ms as f64 / 1000.0
            ),
            Self::Failed(why) => write!(f, "HTTP/2 failed: {why}"),
        }
    }
}

/// What others may ask of a tunnel while it runs.
#[derive(Debug, Default)]
pub struct Control {
    retire: AtomicBool,
    probe: AtomicBool,
    driver: AtomicWaker,
}

impl Control {
    /// Finish what is in flight, take nothing more, end.
    pub fn retire(&self) {
        self.retire.store(true, Relaxed);
        self.driver.wake();
    }

    /// Ready once [`Self::retire`] was called. One task at a time may wait: first who dials, then the tunnel.
    pub fn poll_retired(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver.register(cx.waker());
        if self.retire.load(Relaxed) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Find out at once whether the gateway is still there.
    pub fn probe(&self) {
        self.probe.store(true, Relaxed);
        self.driver.wake();
    }
}

/// What a tunnel says of itself while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The gateway has answered a PING: it has accepted us, and the path works both ways.
    Up,
    /// The gateway asked for a replacement (GOAWAY without an error).
    Leaving,
}

/// A retired tunnel on which nothing is in flight is not held longer than this for the sake of a GOAWAY's round trip.
const RETIRED_IDLE_MS: u64 = 800;

/// A gateway that has sent GOAWAY with an error and does not close is left after this.
const REFUSED_MS: u64 = 1_000;

/// One request and its response, until both are over.
pub type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Owns one tunnel until it is gone. Ends when
/// 1. the gateway closes, or the connection fails;
/// 2. a PING stays unanswered ([`Liveness`]);
/// 3. it is retired and the last request is finished, or, with none in flight, 0.8 s later;
/// 4. the gateway sent GOAWAY with an error, and closes or lets 1 s pass.
///
/// Whichever it is: when this returns, every request on the tunnel is over, and so is its connection to the app. `serve`
/// is called for each request; `tell` for each piece of news, once per kind.
pub fn drive<T, S, N>(
    dialled: Dialled<T>,
    terms: Care,
    control: Arc<Control>,
    serve: S,
    tell: N,
) -> Box<impl Future<Output = Ending>>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Exchange, &Arc<Wire>) -> Serving + Unpin,
    N: Fn(News) + Unpin,
{
    let Dialled {
        mut connection,
        first,
        wire,
    } = dialled;
    let streams = FuturesUnordered::new();
    if let Some(first) = first {
        streams.push(serve(first, &wire));
    }
    let mut tunnel = Box::new(Tunnel {
        pings: connection.ping_pong(),
        connection,
        wire,
        liveness: Liveness::new(terms.patience, clock::now_ms()),
        pinged: Instant::now(),
        window: Window::new(terms.window_most),
        announce: None,
        alarm: Box::pin(sleep(Duration::ZERO)),
        alarm_at: 0,
        streams,
        control,
        life: Life::Opening,
        serve,
        tell,
    });
    // A gateway that answers has accepted us; until then the reversal alone does not mean that the tunnel is up.
    tunnel.ping(clock::now_ms(), false);
    tunnel
}

/// How to look after a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Care {
    pub patience: Patience,
    /// The most that a stream may be sent ahead.
    pub window_most: u32,
}

/// opening ──PING answered──▶ up ──GOAWAY──▶ left ──retire──▶ retiring ──last request──▶ (ended)
#[derive(Clone, Debug, PartialEq, Eq)]
enum Life {
    /// The first PING is on its way.
    Opening,
    Up,
    /// The gateway wants a replacement; requests may still come.
    Left,
    /// GOAWAY is sent; since when nothing has been in flight, if nothing is.
    Retiring {
        idle_since: Option<u64>,
    },
    Refused {
        text: String,
        since: u64,
    },
}

struct Tunnel<T, S, N>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection: server::Connection<Seam<T>, Bytes>,
    wire: Arc<Wire>,
    pings: Option<PingPong>,
    liveness: Liveness,
    /// When the last PING was written.
    pinged: Instant,
    window: Window,
    /// A window that could not be announced yet, because the last announcement is not acknowledged.
    announce: Option<u32>,
    alarm: Pin<Box<Sleep>>,
    alarm_at: u64,
    streams: FuturesUnordered<Serving>,
    control: Arc<Control>,
    life: Life,
    serve: S,
    tell: N,
}

impl<T, S, N> Future for Tunnel<T, S, N>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Exchange, &Arc<Wire>) -> Serving + Unpin,
    N: Fn(News) + Unpin,
{
    type Output = Ending;

    /// One turn: what arrived, what time it is, what the requests have to say. A request that writes wakes this task
    /// again, so that all that were ready leave together in the next turn.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ending> {
        let this = self.get_mut();
        if this.control.poll_retired(cx).is_ready() {
            this.retire();
        }
        if let Some(ending) = this.receive(cx) {
            return Poll::Ready(ending);
        }
        this.hear_goaway();
        this.hear_pong(cx);
        while let Poll::Ready(Some(())) = Pin::new(&mut this.streams).poll_next(cx) {}
        this.tend(cx).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T, S, N> Tunnel<T, S, N>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Exchange, &Arc<Wire>) -> Serving + Unpin,
    N: Fn(News) + Unpin,
{
    /// Lets `h2` read and write, and starts the requests that arrived.
    fn receive(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(exchange))) => {
                    self.streams.push((self.serve)(exchange, &self.wire))
                }
                Poll::Ready(Some(Err(error))) => return Some(self.ended(Some(&error))),
                Poll::Ready(None) => return Some(self.ended(None)),
                Poll::Pending => return None,
            }
        }
    }

    fn ended(&mut self, error: Option<&h2::Error>) -> Ending {
        self.hear_goaway();
        match (&self.life, error) {
            (Life::Refused { text, .. }, _) => Ending::Refused(text.clone()),
            (Life::Retiring { .. }, _) => Ending::Retired,
            (Life::Left, _) | (_, None) => Ending::Closed,
            (_, Some(error)) if error.is_io() => Ending::Broken(error.to_string()),
            (_, Some(error)) => Ending::Failed(error.to_string()),
        }
    }

    /// The seam keeps GOAWAY from `h2`: what it means is decided here.
    fn hear_goaway(&mut self) {
        if !matches!(self.life, Life::Opening | Life::Up) {
            return;
        }
        let Some(goaway) = self.wire.goaway() else {
            return;
        };
        if goaway.code == 0 {
            self.life = Life::Left;
            (self.tell)(News::Leaving);
        } else {
            let text = if goaway.debug.is_empty() {
                format!(
                    "it gave no reason (HTTP/2 error {})",
                    h2::Reason::from(goaway.code)
                )
            } else {
                quoted(&goaway.debug)
            };
            self.life = Life::Refused {
                text,
                since: clock::now_ms(),
            };
        }
    }

    fn retire(&mut self) {
        if !matches!(self.life, Life::Retiring { .. } | Life::Refused { .. }) {
            self.life = Life::Retiring { idle_since: None };
            self.connection.graceful_shutdown();
        }
    }

    fn hear_pong(&mut self, cx: &mut Context<'_>) {
        if !self.liveness.is_waiting() {
            return;
        }
        let Some(pings) = &mut self.pings else { return };
        match pings.poll_pong(cx) {
            Poll::Ready(Ok(_pong)) => {}
            // The connection is over, which its own poll says better.
            Poll::Ready(Err(_)) | Poll::Pending => return,
        }
        let rtt = self.pinged.elapsed();
        self.liveness.answered(rtt);
        if let Some(window) = self
            .window
            .measured(rtt, self.wire.data(), self.wire.unread())
        {
            self.announce = Some(window);
        }
        if !self.window.is_sure() {
            self.ping(clock::now_ms(), false);
        }
        if self.life == Life::Opening {
            self.life = Life::Up;
            (self.tell)(News::Up);
        }
        self.announce();
    }

    fn announce(&mut self) {
        if let Some(window) = self.announce
            // Refused while the last announcement waits for its acknowledgement; the next answered PING tries again.
            && self.connection.set_initial_window_size(window).is_ok()
        {
            self.announce = None;
        }
    }

    /// Does what the time asks for, and sets the alarm for the next time.
    fn tend(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        loop {
            let now = clock::now_ms();
            let asked = self.control.probe.load(Relaxed) && self.control.probe.swap(false, Relaxed);
            let sight = Sight {
                now,
                heard: self.wire.heard_ms(),
                waiting_since: None,
                asked,
            };
            let mut until = match self.liveness.next(sight) {
                Move::Wait { until } | Move::Doubt { until } => until,
                Move::Ping { probe } => {
                    self.ping(now, probe);
                    continue;
                }
                Move::GiveUp { silent_ms } => return Some(Ending::Silent { ms: silent_ms }),
            };
            match self.leave(now) {
                Some(Ok(at)) => until = until.min(at),
                Some(Err(ending)) => return Some(ending),
                None => {}
            }
            // An alarm that rings too early is cheaper than one that is set anew in every turn.
            if now < self.alarm_at && self.alarm_at <= until {
                return None;
            }
            self.alarm_at = until;
            let from_now = Duration::from_millis(until.saturating_sub(now));
            self.alarm
                .as_mut()
                .reset(tokio::time::Instant::now() + from_now);
            if self.alarm.as_mut().poll(cx).is_pending() {
                return None;
            }
        }
    }

    fn ping(&mut self, now: u64, probe: bool) {
        if let Some(pings) = &mut self.pings {
            // Refused only while one is on its way, which `liveness` rules out, or when the connection is over.
            let _over = pings.send_ping(Ping::opaque());
        }
        self.pinged = Instant::now();
        self.liveness.sent(now, probe);
    }

    /// How long a tunnel that is on its way out may still stay: until when, or how it ended.
    fn leave(&mut self, now: u64) -> Option<Result<u64, Ending>> {
        match &mut self.life {
            Life::Retiring { idle_since } => {
                if !self.streams.is_empty() || self.connection.has_streams() {
                    *idle_since = None;
                    return None;
                }
                let end = *idle_since.get_or_insert(now) + RETIRED_IDLE_MS;
                Some(if now >= end {
                    Err(Ending::Retired)
                } else {
                    Ok(end)
                })
            }
            Life::Refused { text, since } => {
                let end = *since + REFUSED_MS;
                Some(if now >= end {
                    Err(Ending::Refused(std::mem::take(text)))
                } else {
                    Ok(end)
                })
            }
            Life::Opening | Life::Up | Life::Left => None,
        }
    }
}
