//! An upgraded connection and one HTTP/2 stream, joined: bytes as they come, both ways, each direction closed for itself
//! (RFC 8441 §5, RFC 9113 §8.5). Called at both ends of a tunnel for WebSocket and whatever else is upgraded.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio_util::io::poll_read_buf;

use crate::idle::{Idle, Quiet, Silence, Stall};
use crate::inbound::Inbound;
use crate::pump::{Pump, Stop};
use crate::unacked::Unacked;

/// What went through, in octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the upgraded connection into the stream.
    pub sent: u64,
    /// From the stream into the upgraded connection.
    pub received: u64,
}

/// Why a join ended otherwise than by both sides' closing.
#[derive(Debug, Error)]
pub enum Broken {
    #[error("the upgraded connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("the upgraded connection took nothing of what waits for it within {0:?}")]
    Stalled(Duration),
    #[error("nothing moved for {:?}", .0.within)]
    Idle(Quiet),
    #[error("the stream was reset by the other end of the tunnel: {0}")]
    Reset(Reason),
    #[error("the tunnel is gone: {0}")]
    Gone(#[source] h2::Error),
    #[error("what the upgraded connection says first is not to be passed on")]
    Unwanted,
}

/// Octets that tell one protocol from another.
const FIRST: usize = 16;

/// Most that is read from the connection at once.
const CHUNK: usize = 16 * 1024;

/// How long a join lasts, and how it ends.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// For how long `io` may take nothing of what waits for it; `None` for any time.
    pub stall: Option<Duration>,
    /// For how long nothing may move.
    pub silence: Silence,
    /// What the far end is told where `io` fails (RFC 9113 §7).
    pub failed: Reason,
}

/// Relays until both directions are closed or one fails. When it returns an error the stream is reset and `io` dropped.
/// `ahead` was read from `io` already, and goes out first; `stall` is for how long `io` may take nothing of what waits for it,
/// `None` for any time.
pub async fn join<T>(
    io: T,
    ahead: Bytes,
    send: SendStream<Bytes>,
    recv: Inbound,
    stall: Option<Duration>,
) -> (Traffic, Result<(), Broken>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let terms = Terms {
        stall,
        silence: Silence::default(),
        failed: Reason::CANCEL,
    };
    let mut join = Join::new(io, ahead, send, recv, &terms);
    let result = join.run().await;
    (join.traffic(), result)
}

/// A connection and a stream on their way to their ends.
pub struct Join<T> {
    outward: Pump<Reading<ReadHalf<T>>>,
    inward: Writing<WriteHalf<T>>,
    idle: Option<Idle>,
    failed: Reason,
    before: (Traffic, u64),
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("traffic", &self.traffic())
            .finish_non_exhaustive()
    }
}

impl<T> Join<T> {
    /// Whether the upgraded connection was told, behind all that is for it, that no more comes.
    pub fn is_told(&self) -> bool {
        self.inward.done
    }

    /// What has gone through so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.outward.sent(),
            received: self.inward.from.received(),
        }
    }
}

impl<T> Join<T> {
    /// What the upgraded connection has said first: at most sixteen octets.
    pub fn first_octets(&self) -> &[u8] {
        let reading = self.outward.body();
        &reading.first[..reading.known]
    }
}

impl<T> Join<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    /// `ahead` was read from `io` already, and goes out first.
    pub fn new(io: T, ahead: Bytes, send: SendStream<Bytes>, recv: Inbound, terms: &Terms) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self {
            outward: Pump::new(
                Reading {
                    io: reader,
                    ahead,
                    buffer: BytesMut::new(),
                    first: [0; FIRST],
                    known: 0,
                    unwanted: None,
                    ended: false,
                }
                .noting_ahead(),
                send,
            ),
            inward: Writing {
                io: writer,
                from: recv,
                chunk: Bytes::new(),
                written: 0,
                closing: false,
                done: false,
                beneath: None,
                stall: terms.stall.map(Stall::new),
            },
            idle: Idle::new(terms.silence),
            failed: terms.failed,
            before: (Traffic::default(), 0),
        }
    }

    /// Counts as moving what leaves the connection beneath, when nothing else does.
    #[must_use]
    pub fn over(mut self, beneath: Option<Unacked>) -> Self {
        self.inward.beneath = beneath;
        self
    }

    /// Breaks off where what the connection says first is this, before the octet that makes it so has been passed on. What was
    /// read ahead is part of it, and is for the caller to look at.
    #[must_use]
    pub fn refusing(mut self, unwanted: Option<fn(&[u8]) -> bool>) -> Self {
        self.outward.body_mut().unwanted = unwanted;
        self
    }

    /// Relays until both directions are closed or one fails. Whatever becomes of it, [`Self::traffic`] can be asked.
    ///
    /// # Errors
    /// See [`Broken`]; the stream is reset then.
    pub async fn run(&mut self) -> Result<(), Broken> {
        self.watched(|_| true).await
    }

    /// As [`Self::run`], and after each turn, up to the last one, `look` is shown how things are, until it has seen enough.
    ///
    /// # Errors
    /// See [`Broken`].
    pub async fn watched(&mut self, mut look: impl FnMut(&Self) -> bool) -> Result<(), Broken> {
        let mut seen = false;
        let result = poll_fn(|cx| {
            let polled = self.poll(cx);
            seen = seen || look(self);
            polled
        })
        .await;
        match &result {
            Ok(()) => {}
            Err(Broken::Io(_)) => self.outward.reset(self.failed),
            Err(_) => self.outward.reset(Reason::CANCEL),
        }
        result
    }

    /// The connection, for whoever has to say how it ends.
    pub fn into_io(self) -> T {
        self.outward.into_body().io.unsplit(self.inward.io)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let out = match self.outward.poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(Stop::Body(_))) if self.outward.body().is_unwanted() => {
                return Poll::Ready(Err(Broken::Unwanted));
            }
            Poll::Ready(Err(Stop::Body(error))) => return Poll::Ready(Err(Broken::Io(error))),
            // The far side wants no more; what it has to say may still be coming.
            Poll::Ready(Err(Stop::Reset(Reason::NO_ERROR))) => true,
            Poll::Ready(Err(Stop::Reset(reason))) => {
                return Poll::Ready(Err(Broken::Reset(reason)));
            }
            Poll::Ready(Err(Stop::Gone(error))) => return Poll::Ready(Err(Broken::Gone(error))),
            Poll::Pending => false,
        };
        let back = match self.inward.poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
            Poll::Pending => false,
        };
        if out && back {
            return Poll::Ready(Ok(()));
        }
        let traffic = (self.traffic(), self.inward.written);
        let moved = std::mem::replace(&mut self.before, traffic) != traffic;
        let beneath = self.inward.beneath;
        let waits = || beneath?.octets();
        if let Some(idle) = &mut self.idle
            && let Some(quiet) = idle.is_over(moved, out || back, waits, cx)
        {
            return Poll::Ready(Err(Broken::Idle(quiet)));
        }
        Poll::Pending
    }
}

struct Reading<R> {
    io: R,
    /// Read before, and goes first.
    ahead: Bytes,
    buffer: BytesMut,
    /// What came first, and how much of it.
    first: [u8; FIRST],
    known: usize,
    /// What it may not begin with.
    unwanted: Option<fn(&[u8]) -> bool>,
    ended: bool,
}

impl<R> Reading<R> {
    fn noting_ahead(mut self) -> Self {
        let ahead = std::mem::take(&mut self.ahead);
        self.note(&ahead);
        self.ahead = ahead;
        self
    }

    fn note(&mut self, read: &[u8]) {
        let more = read.len().min(FIRST - self.known);
        self.first[self.known..self.known + more].copy_from_slice(&read[..more]);
        self.known += more;
    }

    fn is_unwanted(&self) -> bool {
        self.unwanted
            .is_some_and(|is| is(&self.first[..self.known]))
    }
}

impl<R: AsyncRead + Unpin> Body for Reading<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.ahead)))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        this.buffer.reserve(CHUNK);
        match ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buffer)) {
            Ok(0) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Ok(_) => {
                let read = this.buffer.split().freeze();
                if this.known < FIRST {
                    this.note(&read);
                    if this.is_unwanted() {
                        return Poll::Ready(Some(Err(io::ErrorKind::InvalidData.into())));
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(read))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

struct Writing<W> {
    io: W,
    from: Inbound,
    chunk: Bytes,
    /// Octets that `io` has taken.
    written: u64,
    closing: bool,
    done: bool,
    /// The connection beneath, where somebody looks how much of what was written it has not brought to its end.
    beneath: Option<Unacked>,
    stall: Option<Stall>,
}

impl<W: AsyncWrite + Unpin> Writing<W> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.closing {
                let closed = Pin::new(&mut self.io).poll_shutdown(cx);
                ready!(self.taken(cx, closed))?;
                self.done = true;
                continue;
            }
            if !self.chunk.is_empty() {
                let written = Pin::new(&mut self.io).poll_write(cx, &self.chunk);
                let n = ready!(self.taken(cx, written))?;
                if n == 0 {
                    return Poll::Ready(Err(Broken::Io(io::ErrorKind::WriteZero.into())));
                }
                self.written += n as u64;
                self.chunk.advance(n);
                continue;
            }
            match Pin::new(&mut self.from).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.chunk = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(match error.reason() {
                        Some(reason) if error.is_reset() => Broken::Reset(reason),
                        _ => Broken::Gone(error),
                    }));
                }
                Poll::Ready(None) => self.closing = true,
                Poll::Pending => {
                    let flushed = Pin::new(&mut self.io).poll_flush(cx);
                    ready!(self.taken(cx, flushed))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// What came of an offer to `io`: it took some of what waits for it, or it has not for too long.
    fn taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        offered: Poll<io::Result<T>>,
    ) -> Poll<Result<T, Broken>> {
        let Some(stall) = &mut self.stall else {
            return offered.map_err(Broken::Io);
        };
        let beneath = self.beneath;
        if offered.is_ready() {
            stall.taken();
        } else if stall.is_over(|| beneath?.octets(), cx) {
            return Poll::Ready(Err(Broken::Stalled(stall.most())));
        }
        offered.map_err(Broken::Io)
    }
}
