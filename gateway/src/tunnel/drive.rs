//! The task that owns a tunnel's connection. No other task may hold it; requests reach it through handles.

use std::future::{Future, poll_fn};
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, client};
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::liveness::{Liveness, Move, Patience, Sight};
use tidegate_shared::reversal::frames::{self, Goaway};
use tidegate_shared::seam::Seam;
use tidegate_shared::text::quoted;
use tidegate_shared::window::Window;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep_until};
use tracing::{debug, info};

use super::flood::{Arrived, Flood};
use super::{Ending, Life, Tunnel};
use crate::pool::Pool;

/// What a driver is told beside its connection.
#[derive(Clone, Copy, Debug)]
pub struct Care {
    pub patience: Patience,
    /// The most that an agent may send ahead on one stream.
    pub window_most: u32,
    /// What a tunnel carries may go on for so long after the tunnel left the pool.
    pub grace: Duration,
}

/// Requests after which a tunnel is to be replaced: three quarters of the stream identifiers that a client has
/// (RFC 9113 §5.1.1), which `h2` cannot begin again.
const REQUESTS_IN_A_LIFE: u64 = (1 << 30) / 4 * 3;

/// Padded empty DATA frames after which a tunnel is to be replaced: `h2` ends the connection at a hundred.
const PADDED_EMPTY_IN_A_LIFE: u64 = 75;

/// How long an agent that is sent on may keep a tunnel that it does not need, in milliseconds.
const GOES_WITHIN: u64 = 1000;

/// Owns one tunnel until it is gone. Ends when: (1) the agent closes, or the connection breaks; (2) a PING is not
/// answered in time; (3) the agent said GOAWAY, the certificate expired, or the gateway drains, and the last stream
/// finished or the grace is over; (4) the agent floods it with frames. Whichever it is, the tunnel has left the
/// pool before this returns, and those who wait for a response on it have been told.
///
/// The driver is put in its box before anything waits, so that an idle tunnel keeps its connection's room once and not
/// again in every future that hands it on.
pub(crate) fn drive<T>(
    connection: client::Connection<Seam<T>, Bytes>,
    tunnel: Arc<Tunnel>,
    pool: Arc<Pool>,
    care: Care,
    drain: &Drain,
) -> impl Future<Output = Ending> + Send + use<T>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    let now = clock::now_ms();
    let mut driver = Box::new(Driver {
        connection,
        liveness: Liveness::new(care.patience, now),
        window: Window::new(care.window_most),
        ping: None,
        sent_at: Instant::now(),
        idle: false,
        retiring: None,
        leaving: None,
        told: false,
        sent_on: None,
        looked_at: 0,
        flood: Flood::since(now),
        tunnel,
        pool,
        care,
    });
    driver.ping = driver.connection.ping_pong();
    // The first round trips decide the window before the first visitor comes.
    driver.send_ping(false);
    let mut drained = drain.finishing();
    async move {
        let tunnel = Arc::clone(&driver.tunnel);
        let mut tick = pin!(sleep_until(Instant::now().into()));
        let mut called = pin!(tunnel.driver().notified());
        let ending = poll_fn(|cx| {
            if !driver.told && Pin::new(&mut drained).poll(cx).is_ready() {
                driver.told = true;
                driver.leave(Ending::Drained);
            }
            while called.as_mut().poll(cx).is_ready() {
                called.set(tunnel.driver().notified());
                driver.idle = false;
                driver.wake(tick.as_mut());
            }
            driver.poll(cx, tick.as_mut())
        })
        .await;
        let ending = driver.leaving.take().map_or(ending, |leaving| leaving.why);
        driver.pool.unfile(&tunnel, &ending);
        tunnel.end(ending.clone());
        ending
    }
}

struct Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    connection: client::Connection<Seam<T>, Bytes>,
    tunnel: Arc<Tunnel>,
    pool: Arc<Pool>,
    care: Care,
    liveness: Liveness,
    window: Window,
    ping: Option<PingPong>,
    sent_at: Instant,
    /// The tick is as far away as an idle tunnel wants it; a request that begins to wait must bring it nearer.
    idle: bool,
    /// Since when a replacement has been asked for.
    retiring: Option<u64>,
    leaving: Option<Leaving>,
    told: bool,
    /// Since when the agent has been asked to bring its tunnel elsewhere.
    sent_on: Option<u64>,
    /// Control frames that had arrived when the agent's limit on streams was last looked at.
    looked_at: u64,
    flood: Flood,
}

/// What the agent said to end it, fit for the log and for visitors: its words are its own.
fn farewell(goaway: &Goaway) -> Ending {
    Ending::Goaway {
        code: goaway.code,
        said: quoted(&goaway.debug),
    }
}

struct Leaving {
    why: Ending,
    until: u64,
}

impl Leaving {
    /// Whether there was nothing to say to the agent: it was the one that spoke.
    fn said(&self) -> bool {
        matches!(self.why, Ending::Goaway { .. })
    }
}

impl<T> Driver<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>, mut tick: Pin<&mut Sleep>) -> Poll<Ending> {
        loop {
            if let Poll::Ready(result) = Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(self.closed(result.err()));
            }
            self.look_at_places();
            if self.leaving.is_none()
                && let Some(goaway) = self.tunnel.wire.goaway()
            {
                let why = farewell(goaway);
                self.leave(why);
                continue;
            }
            if self.poll_pong(cx) {
                // A new window is announced with the connection's next poll.
                continue;
            }
            if self.idle && self.tunnel.waiting_since().is_some() {
                self.idle = false;
                self.wake(tick.as_mut());
            }
            if tick.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if let Some(ending) = self.tick(tick.as_mut()) {
                return Poll::Ready(ending);
            }
        }
    }

    /// The agent may have sent SETTINGS that allow more streams, or fewer: a request that would wait in `h2` for one has to
    /// find a place on another tunnel, or hear of the limit.
    fn look_at_places(&mut self) {
        let arrived = self.tunnel.wire.control();
        if arrived == self.looked_at {
            return;
        }
        self.looked_at = arrived;
        if let Some(requests) = self.tunnel.requests()
            && self
                .tunnel
                .places
                .allow(requests.current_max_send_streams())
        {
            self.tunnel.place_freed();
        }
    }

    /// The connection is over: why.
    fn closed(&self, error: Option<h2::Error>) -> Ending {
        match (self.tunnel.wire.goaway(), error) {
            (Some(goaway), _) => farewell(goaway),
            (None, None) => Ending::Closed {
                why: "the agent closed the connection".into(),
            },
            // `h2` has bounds of its own: for frames without content, and for small ones that nobody takes.
            (None, Some(error))
                if error.is_library() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) =>
            {
                Ending::Flood
            }
            (None, Some(error)) => Ending::Closed {
                why: match error.get_io().map(std::io::Error::kind) {
                    Some(ErrorKind::UnexpectedEof) => {
                        "the connection was cut without a goodbye".into()
                    }
                    Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                        "the connection was reset".into()
                    }
                    Some(ErrorKind::TimedOut) => {
                        "the connection's data was not acknowledged in time".into()
                    }
                    _ => format!("the connection broke: {error}"),
                },
            },
        }
    }

    /// Takes the tunnel out of the pool and lets what it carries finish.
    fn leave(&mut self, why: Ending) {
        if self.leaving.is_some() {
            return;
        }
        if why != Ending::Drained || self.tunnel.outstanding() == 0 {
            self.pool.unfile(&self.tunnel, &why);
            self.tunnel.enter(Life::Draining);
        }
        if !matches!(why, Ending::Goaway { .. }) {
            // Every stream may still be answered; the agent had better dial elsewhere (RFC 9113 §6.8).
            self.tunnel
                .wire
                .inject(frames::goaway(0x7fff_ffff, 0, &why.to_string()));
        }
        let grace = u64::try_from(self.care.grace.as_millis()).unwrap_or(u64::MAX / 2);
        self.leaving = Some(Leaving {
            why,
            until: clock::now_ms() + grace,
        });
        self.idle = false;
    }

    fn wake(&self, tick: Pin<&mut Sleep>) {
        tick.reset(Instant::now().into());
    }

    /// Whether the connection has to be polled again.
    fn poll_pong(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.liveness.is_waiting() {
            return false;
        }
        let Some(ping) = &mut self.ping else {
            return false;
        };
        match ping.poll_pong(cx) {
            Poll::Ready(Ok(_)) => {}
            // The connection's own poll reports what is wrong with it.
            Poll::Ready(Err(_)) | Poll::Pending => return false,
        }
        let rtt = self.sent_at.elapsed();
        self.liveness.answered(rtt);
        let smoothed = self.liveness.rtt().unwrap_or(rtt);
        self.tunnel.set_rtt(smoothed);
        if self.tunnel.life() == Life::Doubted {
            debug!(tunnel = self.tunnel.id, "a doubted tunnel answered");
            self.tunnel.enter(Life::Filed);
        }
        let wire = &self.tunnel.wire;
        let announced = self.window.measured(rtt, wire.data(), wire.unread());
        if !self.window.is_sure() {
            return self.send_ping(false);
        }
        let Some(window) = announced else {
            return false;
        };
        // Refused only while the last change is not acknowledged; the next round trip asks again.
        let _unacknowledged = self.connection.set_initial_window_size(window);
        true
    }

    fn send_ping(&mut self, probe: bool) -> bool {
        let Some(ping) = &mut self.ping else {
            return false;
        };
        if ping.send_ping(Ping::opaque()).is_err() {
            return false;
        }
        self.window.begin(self.tunnel.wire.data());
        self.sent_at = Instant::now();
        self.liveness.sent(clock::ms(self.sent_at), probe);
        true
    }

    /// The time has come for something. Sets the next time.
    fn tick(&mut self, tick: Pin<&mut Sleep>) -> Option<Ending> {
        let now = clock::now_ms();
        if let Some(leaving) = &self.leaving {
            let done = self.tunnel.outstanding() == 0
                && (leaving.said() || !self.tunnel.wire.is_injecting());
            if now >= leaving.until || done {
                return Some(leaving.why.clone());
            }
        }
        if self.flooded(now) {
            return Some(Ending::Flood);
        }
        self.mind_the_end(now);
        let waiting_since = self.tunnel.waiting_since();
        let sight = Sight {
            now,
            heard: self.tunnel.wire.heard_ms(),
            waiting_since,
            asked: self.tunnel.take_asked(),
        };
        let mut until = match self.liveness.next(sight) {
            Move::Wait { until } => until,
            Move::Ping { probe } => {
                if self.send_ping(probe) {
                    now + 1
                } else {
                    now + 1000
                }
            }
            Move::Doubt { until } => {
                if self.tunnel.life() == Life::Filed {
                    info!(
                        tunnel = self.tunnel.id,
                        name = %self.tunnel.agent.primary,
                        agent = %self.tunnel.agent.address,
                        "tunnel in doubt: a probe is overdue; requests go elsewhere where they can"
                    );
                    self.tunnel.enter(Life::Doubted);
                    self.pool.doubt_siblings(&self.tunnel);
                }
                until
            }
            Move::GiveUp { silent_ms } => return Some(Ending::Silent { for_ms: silent_ms }),
        };
        self.idle = self.tunnel.outstanding() == 0 && waiting_since.is_none();
        // A window that data fills is measured, and a flood noticed, while anything goes on.
        if !self.idle {
            until = until.min(now + 250);
            self.measure_if_full();
        }
        if let Some(leaving) = &self.leaving {
            // Soon again: its goodbye leaves with the connection's next poll.
            until = until.min(leaving.until).min(now + 20);
        } else if self.sent_on.is_some() {
            until = until.min(now + GOES_WITHIN);
        }
        if let Some(end) = self.certificate_ends()
            && let Ok(left) = end.duration_since(SystemTime::now())
        {
            until = until
                .min(now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)) + 1);
        }
        let pause = Duration::from_millis(until.saturating_sub(now).max(1));
        tick.reset((Instant::now() + pause).into());
        None
    }

    /// While a whole window arrives between two ticks, every tick measures a round trip, so that the window can grow.
    fn measure_if_full(&mut self) {
        let arrived = self.tunnel.wire.data();
        let since = arrived.saturating_sub(self.window.mark());
        if !self.liveness.is_waiting() && since >= u64::from(self.window.present()) / 2 {
            self.send_ping(false);
        }
    }

    fn flooded(&mut self, now: u64) -> bool {
        let tunnel = &self.tunnel;
        let seen = Arrived {
            control: tunnel.wire.control(),
            heads: tunnel.wire.heads(),
            updates: tunnel.wire.updates(),
            octets: tunnel.wire.octets().1,
            sent: tunnel.sent(),
            open: tunnel.outstanding() as u64,
        };
        self.flood.is_on(now, seen)
    }

    /// From when on a handshake with the certificate fails. Its last second counts as a whole (RFC 5280 §4.1.2.5): an end
    /// before that would have the agent dial in vain, again and again.
    fn certificate_ends(&self) -> Option<SystemTime> {
        Some(self.tunnel.agent.not_after? + Duration::from_secs(1))
    }

    /// Expiry, and counters that end a connection when they are full.
    fn mind_the_end(&mut self, now: u64) {
        if self.leaving.is_some() {
            return;
        }
        if self
            .certificate_ends()
            .is_some_and(|end| SystemTime::now() >= end)
        {
            return self.leave(Ending::Expired);
        }
        if self.pool.is_sending_on() {
            self.send_on(now);
        }
        let worn = self.tunnel.sent() > REQUESTS_IN_A_LIFE
            || self.tunnel.wire.padded_empty() > PADDED_EMPTY_IN_A_LIFE;
        match self.retiring {
            None if worn => {
                info!(
                    tunnel = self.tunnel.id,
                    "tunnel is worn; asking the agent for a fresh one"
                );
                self.retiring = Some(now);
                self.tunnel
                    .wire
                    .inject(frames::goaway(0x7fff_ffff, 0, "a fresh tunnel, please"));
            }
            // Without a replacement a worn tunnel is still better than none.
            Some(since) if self.pool.has_younger_sibling(&self.tunnel, since) => {
                self.leave(Ending::Replaced)
            }
            _ => {}
        }
    }

    /// Asks the agent to bring its tunnel elsewhere. One that dials only where a tunnel has ended, as HAProxy does, has it ended
    /// when nothing is in flight on it.
    fn send_on(&mut self, now: u64) {
        let Some(since) = self.sent_on else {
            self.sent_on = Some(now);
            let why = Ending::Drained.to_string();
            self.tunnel
                .wire
                .inject(frames::goaway(0x7fff_ffff, 0, &why));
            return;
        };
        if now >= since + GOES_WITHIN && self.tunnel.outstanding() == 0 {
            self.leave(Ending::Drained);
        }
    }
}
