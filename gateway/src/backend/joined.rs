//! A connection to a server that has changed its protocol (RFC 9110 §7.8), joined with a visitor: octets as they come, both ways,
//! each direction closed for itself. An HTTP/2 visitor's stream takes it as an answer's body; an HTTP/1 visitor's connection is
//! joined with it by `visitor::upgrade`.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body, Frame};
use tidegate_shared::idle::{Quiet, Stall};
use tidegate_shared::origin::Line;
use tidegate_shared::unacked::{self, Unacked};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;
use tokio_util::io::poll_read_buf;

use super::server::{InFlight, What};
use crate::access::Record;
use crate::answer::{Cut, Rest};
use crate::failure::Failure;
use crate::lasting::{Lasting, Watch};

/// Most that is read at once.
const CHUNK: usize = 16 * 1024;

/// See the module's head. `B` is what the visitor says.
#[derive(Debug)]
pub struct Joined<B> {
    in_flight: InFlight,
    line: Line,
    /// What the server had said together with its agreement.
    ahead: Bytes,
    buffer: BytesMut,
    /// `None` for a visitor whose connection is joined later.
    body: Option<B>,
    /// To be written to the server.
    chunk: Bytes,
    up: Up,
    received: u64,
    /// Octets that the server has taken.
    taken: u64,
    sent: u64,
    ended: bool,
    failure: Option<Failure>,
}

/// How far the visitor's direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Up {
    Open,
    /// The visitor has said all; the server is to be told.
    Closing,
    Done,
}

impl<B> Joined<B> {
    pub(super) fn new(in_flight: InFlight, line: Line, ahead: Bytes, body: Option<B>) -> Self {
        Self {
            in_flight,
            line,
            ahead,
            buffer: BytesMut::new(),
            body,
            chunk: Bytes::new(),
            up: Up::Open,
            received: 0,
            taken: 0,
            sent: 0,
            ended: false,
            failure: None,
        }
    }

    fn with<C>(self, body: C) -> Joined<C> {
        Joined {
            in_flight: self.in_flight,
            line: self.line,
            ahead: self.ahead,
            buffer: self.buffer,
            body: Some(body),
            chunk: self.chunk,
            up: self.up,
            received: self.received,
            taken: self.taken,
            sent: self.sent,
            ended: self.ended,
            failure: self.failure,
        }
    }

    /// Whether the server has said all that it has to say.
    pub(crate) const fn is_whole(&self) -> bool {
        self.ended && self.failure.is_none()
    }

    /// Whether the visitor's direction goes on behind the server's.
    pub(crate) fn leaves_rest(&self) -> bool {
        self.is_whole() && self.up != Up::Done
    }

    /// What has been moved so far, by any step of either direction.
    pub(crate) const fn moved(&self) -> (u64, u64) {
        (self.received + self.taken, self.sent)
    }

    /// Octets that the server has not acknowledged, where that is known.
    pub(crate) fn unacked(&self) -> Option<u64> {
        self.line.unacked()
    }

    /// Whether one side has said all that it has to say.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.ended || self.up == Up::Done
    }

    /// Both sides are silent for too long.
    pub(crate) fn give_up(&mut self) {
        self.ended = true;
        self.failure = Some(Failure::UpgradedTimeout);
    }

    /// Notes what has gone both ways.
    pub(crate) fn finish(&self, record: &mut Record) {
        record.received = self.received;
        record.sent = self.sent;
        if !self.is_whole() {
            record.failed(self.failure.unwrap_or(Failure::VisitorGone));
        }
    }

    fn poll_server(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.ahead)));
        }
        self.buffer.reserve(CHUNK);
        ready!(poll_read_buf(
            Pin::new(&mut self.line),
            cx,
            &mut self.buffer
        ))?;
        Poll::Ready(Ok(self.buffer.split().freeze()))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Joined<B> {
    /// The next that the server says; what the visitor says goes on meanwhile.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Err(failure)) = self.poll_up(cx) {
            return Poll::Ready(Some(Err(self.cut(Cut::Visitor(failure)))));
        }
        match ready!(self.poll_server(cx)) {
            Ok(octets) if octets.is_empty() => {
                self.ended = true;
                Poll::Ready(None)
            }
            Ok(octets) => {
                self.sent += octets.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(octets))))
            }
            Err(error) => {
                self.in_flight.server.count(What::Cut, &error.to_string());
                Poll::Ready(Some(Err(self.cut(Cut::Upgraded(error)))))
            }
        }
    }

    fn cut(&mut self, cut: Cut) -> Cut {
        self.ended = true;
        self.failure = Some(cut.failure());
        cut
    }

    /// Moves what the visitor says. A server that takes no more of it has ended its side, and may still speak.
    pub(crate) fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let line = Pin::new(&mut self.line);
            match self.up {
                Up::Done => return Poll::Ready(Ok(())),
                Up::Closing => {
                    // One that is gone need not be told.
                    let _gone = ready!(line.poll_shutdown(cx));
                    self.up = Up::Done;
                }
                Up::Open if !self.chunk.is_empty() => {
                    match ready!(line.poll_write(cx, &self.chunk)) {
                        Ok(0) | Err(_) => self.up = Up::Done,
                        Ok(octets) => {
                            self.taken += octets as u64;
                            self.chunk.advance(octets);
                        }
                    }
                }
                Up::Open => match self.body.as_mut().map(|body| Pin::new(body).poll_frame(cx)) {
                    None | Some(Poll::Ready(None)) => self.up = Up::Closing,
                    Some(Poll::Ready(Some(Ok(frame)))) => {
                        self.chunk = frame.into_data().unwrap_or_default();
                        self.received += self.chunk.len() as u64;
                    }
                    Some(Poll::Ready(Some(Err(_broken)))) => {
                        self.up = Up::Done;
                        return Poll::Ready(Err(Failure::VisitorGone));
                    }
                    Some(Poll::Pending) => {
                        if ready!(line.poll_flush(cx)).is_err() {
                            self.up = Up::Done;
                            continue;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    /// The same behind the server's last octet.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Rest {
        match self.poll_up(cx) {
            Poll::Ready(_) => Rest::Done,
            // Neither side owes the other anything, at any time.
            Poll::Pending => Rest::Untaken,
        }
    }
}

impl<B> Joined<B> {
    /// Joins it with a visitor's connection, until both directions are closed, either side breaks off, or both are silent for
    /// too long. `beneath` is the visitor's connection as the system has it. `stall` is for how long the visitor may take nothing of
    /// what waits for it. Returns what has gone each way, from
    /// and to the visitor, and what went wrong.
    pub(crate) async fn run<T>(
        self,
        visitor: T,
        beneath: Option<Unacked>,
        stall: Duration,
        lasting: Lasting,
    ) -> (u64, u64, Option<Parted>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let (io, out) = split(visitor);
        let mut joined = self.with(Reading {
            io,
            buffer: BytesMut::new(),
        });
        let mut down = Down {
            out,
            chunk: Bytes::new(),
            taken: 0,
            beneath,
            stall: Stall::new(stall),
            done: false,
        };
        let mut watch = Watch::new(lasting);
        let parted = poll_fn(|cx| {
            let up = match joined.poll_up(cx) {
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(Parted::Failed(failure))),
                up => up.is_ready(),
            };
            match down.poll(&mut joined, cx) {
                Poll::Ready(Err(failure)) => return Poll::Ready(Some(Parted::Failed(failure))),
                Poll::Ready(Ok(())) if up => return Poll::Ready(None),
                _ => {}
            }
            let ended = up || down.done;
            let (up, read) = joined.moved();
            let moved = (up, read + down.taken);
            let waits = || {
                let visitors = beneath.and_then(Unacked::octets);
                unacked::both(visitors, joined.unacked())
            };
            let quiet = watch.as_mut();
            let quiet = quiet.and_then(|watch| watch.is_over(moved, ended, waits, cx));
            match quiet {
                Some(quiet) => Poll::Ready(Some(Parted::Silent(quiet))),
                None => Poll::Pending,
            }
        })
        .await;
        if let Some(Parted::Silent(_)) = parted {
            end_in_order(&mut down.out).await;
            end_in_order(&mut joined.line).await;
        }
        (joined.received, joined.sent, parted)
    }
}

/// How what was joined ended otherwise than by both sides' closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parted {
    Failed(Failure),
    /// Neither side has said anything for too long.
    Silent(Quiet),
}

/// How long the end of a connection may take to be sent.
const ENDING: Duration = Duration::from_secs(1);

/// Says on a connection that it ends: nothing of what went on on it is lost.
pub(crate) async fn end_in_order<T: AsyncWrite + Unpin>(io: &mut T) {
    // Whoever is gone need not be told.
    let _told = timeout(ENDING, io.shutdown()).await;
}

/// What the visitor says on its connection.
#[derive(Debug)]
struct Reading<T> {
    io: ReadHalf<T>,
    buffer: BytesMut,
}

impl<T: AsyncRead + Unpin> Body for Reading<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        this.buffer.reserve(CHUNK);
        Poll::Ready(
            match ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buffer)) {
                Ok(0) => None,
                Ok(_) => Some(Ok(Frame::data(this.buffer.split().freeze()))),
                Err(error) => Some(Err(error)),
            },
        )
    }
}

/// What the server says, on its way to the visitor's connection.
struct Down<T> {
    out: WriteHalf<T>,
    chunk: Bytes,
    /// Octets that the visitor has taken.
    taken: u64,
    beneath: Option<Unacked>,
    stall: Stall,
    done: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Down<T> {
    fn poll(
        &mut self,
        joined: &mut Joined<Reading<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        while !self.done {
            if !self.chunk.is_empty() {
                let written = Pin::new(&mut self.out).poll_write(cx, &self.chunk);
                match ready!(self.taken(written, cx))? {
                    0 => return Poll::Ready(Err(Failure::VisitorGone)),
                    octets => {
                        self.taken += octets as u64;
                        self.chunk.advance(octets);
                    }
                }
                continue;
            }
            if joined.ended {
                let closed = Pin::new(&mut self.out).poll_shutdown(cx);
                ready!(self.taken(closed, cx))?;
                self.done = true;
                continue;
            }
            match joined.poll(cx) {
                Poll::Ready(Some(Ok(frame))) => self.chunk = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(cut))) => return Poll::Ready(Err(cut.failure())),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    let flushed = Pin::new(&mut self.out).poll_flush(cx);
                    ready!(self.taken(flushed, cx))?;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What came of an offer to the visitor: it took some of what waits for it, or it has not for too long.
    fn taken<R>(
        &mut self,
        offered: Poll<io::Result<R>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<R, Failure>> {
        let beneath = self.beneath;
        if offered.is_ready() {
            self.stall.taken();
        } else if self.stall.is_over(|| beneath?.octets(), cx) {
            return Poll::Ready(Err(Failure::VisitorStalled));
        }
        offered.map_err(|_gone| Failure::VisitorGone)
    }
}
