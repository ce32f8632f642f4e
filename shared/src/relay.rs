//! Two TCP connections made one: octets as they come, both ways, each direction closed for itself. Called by whoever passes a
//! connection on without a look at what it says; a connection and an HTTP/2 stream are joined by `duplex`.
//!
//! ```text
//!  near ─read─▶ one buffer per thread ─write─▶ far      while little comes at a time
//!  near ─splice─▶ a pipe of the kernel's ─splice─▶ far  while a whole buffer waits: nothing is copied
//! ```
//!
//! Both directions are one future's. A direction holds a buffer or a pipe only while the far side has not taken what is in
//! it, so a connection on which nothing moves costs its two sockets.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, Bytes};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::idle::{Idle, Quiet, Silence};
use crate::socket::break_off;
use crate::unacked;

/// What went through, in octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the near connection to the far one.
    pub forth: u64,
    /// From the far connection to the near one.
    pub back: u64,
}

/// Why a relay ended otherwise than by both sides' closing.
#[derive(Debug, Error)]
pub enum Broken {
    #[error("the near connection failed: {0}")]
    Near(#[source] io::Error),
    #[error("the far connection failed: {0}")]
    Far(#[source] io::Error),
    #[error("nothing moved for {:?}", .0.within)]
    Idle(Quiet),
    #[error("what the near side says first is not to be passed on")]
    Unwanted,
}

/// What is read at once.
const SCRATCH: usize = 64 * 1024;

/// Octets that a pipe holds, where the system allows it (pipe(7): up to 1 MiB unless it was told otherwise).
const PIPE: usize = 256 * 1024;

/// Octets that tell one protocol from another.
const FIRST: usize = 16;

/// Empty pipes that a thread keeps for the next who needs one.
const PIPES_KEPT: usize = 32;

/// Steps of one direction before others have a turn.
const STEPS_IN_A_TURN: u32 = 8;

thread_local! {
    /// Nothing is left in it when a future of this thread returns.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// Two connections on their way to their ends.
#[derive(Debug)]
pub struct Relay {
    near: TcpStream,
    far: TcpStream,
    forth: Way,
    back: Way,
    idle: Option<Idle>,
    /// Which side was the first to end, and when, once one has.
    first: Option<(Side, Instant)>,
}

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Near,
    Far,
}

impl Relay {
    /// `silence` is for how long nothing may move.
    pub fn new(near: TcpStream, far: TcpStream, silence: Silence) -> Self {
        Self {
            near,
            far,
            forth: Way::default(),
            back: Way::default(),
            idle: Idle::new(silence),
            first: None,
        }
    }

    /// Has the far side take this first: it was read from the near one already, or is said in its name.
    #[must_use]
    pub fn ahead(mut self, octets: Bytes) -> Self {
        self.forth.left = octets;
        self
    }

    /// `said` is what was read from the near side before. Where what it says first, this and what comes behind it, is `unwanted`,
    /// the relay breaks off before the octet that makes it so has been passed on.
    #[must_use]
    pub fn began(mut self, said: &[u8], unwanted: Option<fn(&[u8]) -> bool>) -> Self {
        self.forth.note(said);
        self.forth.unwanted = unwanted;
        self
    }

    /// Relays until both directions are closed or one fails. Whatever becomes of it, [`Self::traffic`] can be asked; after an
    /// error both connections are fit to be dropped only.
    ///
    /// # Errors
    /// See [`Broken`].
    pub async fn run(&mut self) -> Result<(), Broken> {
        self.watched(|_| true).await
    }

    /// As [`Self::run`], and after each turn, up to the last one, `look` is shown how things are, until it has seen enough.
    ///
    /// # Errors
    /// See [`Broken`].
    pub async fn watched(&mut self, mut look: impl FnMut(&Self) -> bool) -> Result<(), Broken> {
        let mut seen = false;
        poll_fn(|cx| {
            let polled = self.poll(cx);
            seen = seen || look(self);
            polled
        })
        .await
    }

    /// What has gone through so far: taken by the other side, and not merely read.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            forth: self.forth.moved,
            back: self.back.moved,
        }
    }

    /// When the far side said that it has said everything, or broke off, where it was the first to do so.
    pub fn far_ended_first(&self) -> Option<Instant> {
        match self.first {
            Some((Side::Far, at)) => Some(at),
            _ => None,
        }
    }

    /// What the two sides have said first, near and far: at most sixteen octets each.
    pub fn first_octets(&self) -> (&[u8], &[u8]) {
        (self.forth.first_octets(), self.back.first_octets())
    }

    /// Ends both connections behind an error, or before their end: a direction that was closed in order stays whole, and whoever
    /// waits for more than came sees it break off.
    pub fn break_off(self) {
        break_off(&self.near, self.back.closed);
        break_off(&self.far, self.forth.closed);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let before = self.traffic();
        let forth = self.forth.poll(&mut self.near, &mut self.far, cx);
        let back = self.back.poll(&mut self.far, &mut self.near, cx);
        let both = match (forth, back) {
            (Poll::Ready(Err(Fault::Unwanted)), _) | (_, Poll::Ready(Err(Fault::Unwanted))) => {
                self.first
                    .get_or_insert_with(|| (Side::Near, Instant::now()));
                return Poll::Ready(Err(Broken::Unwanted));
            }
            (Poll::Ready(Err(Fault::Reading(error))), _)
            | (_, Poll::Ready(Err(Fault::Writing(error)))) => {
                self.first
                    .get_or_insert_with(|| (Side::Near, Instant::now()));
                return Poll::Ready(Err(Broken::Near(error)));
            }
            (Poll::Ready(Err(Fault::Writing(error))), _)
            | (_, Poll::Ready(Err(Fault::Reading(error)))) => {
                self.first
                    .get_or_insert_with(|| (Side::Far, Instant::now()));
                return Poll::Ready(Err(Broken::Far(error)));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => true,
            _ => false,
        };
        if self.first.is_none() && (self.forth.ended || self.back.ended) {
            let side = if self.forth.ended {
                Side::Near
            } else {
                Side::Far
            };
            self.first = Some((side, Instant::now()));
        }
        if both {
            return Poll::Ready(Ok(()));
        }
        let moved = self.traffic() != before;
        let ended = self.forth.closed || self.back.closed;
        let (near, far) = (&self.near, &self.far);
        let waits = || unacked::both(unacked::octets(near), unacked::octets(far));
        if let Some(idle) = &mut self.idle
            && let Some(quiet) = idle.is_over(moved, ended, waits, cx)
        {
            return Poll::Ready(Err(Broken::Idle(quiet)));
        }
        Poll::Pending
    }
}

enum Fault {
    Reading(io::Error),
    Writing(io::Error),
    Unwanted,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// Read, and not taken by the other side: in here,
    left: Bytes,
    /// or in here, so many octets.
    piped: Option<(Pipe, usize)>,
    /// The last read found a buffer's worth.
    bulk: bool,
    ended: bool,
    closed: bool,
    moved: u64,
    /// What was read first, and how much of it there is.
    first: [u8; FIRST],
    known: usize,
    /// What it may not begin with.
    unwanted: Option<fn(&[u8]) -> bool>,
}

impl Way {
    /// Keeps what came first.
    fn note(&mut self, read: &[u8]) {
        let more = read.len().min(FIRST - self.known);
        self.first[self.known..self.known + more].copy_from_slice(&read[..more]);
        self.known += more;
    }

    fn first_octets(&self) -> &[u8] {
        &self.first[..self.known]
    }

    fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..STEPS_IN_A_TURN {
            if self.closed {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_write(to, cx)).map_err(Fault::Writing)?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Writing)?;
                self.closed = true;
            } else if self.bulk
                && let Some(pipe) = Pipe::take()
            {
                ready!(self.poll_splice(pipe, from, cx)).map_err(Fault::Reading)?;
            } else {
                ready!(self.poll_copy(from, to, cx))?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Has the other side take what was read.
    fn poll_write(&mut self, to: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((pipe, octets)) = &mut self.piped {
            ready!(to.poll_write_ready(cx))?;
            let taken = to.try_io(Interest::WRITABLE, || pipe.empty_into(to, *octets));
            match taken {
                Ok(taken) => {
                    self.moved += taken as u64;
                    *octets -= taken;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            if *octets == 0
                && let Some((pipe, _)) = self.piped.take()
            {
                pipe.give_back();
            }
        }
        while !self.left.is_empty() {
            let taken = ready!(Pin::new(&mut *to).poll_write(cx, &self.left))?;
            self.moved += taken as u64;
            self.left.advance(taken);
        }
        self.left = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Reads into an empty pipe.
    fn poll_splice(
        &mut self,
        pipe: Pipe,
        from: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if from.poll_read_ready(cx)?.is_pending() {
                pipe.give_back();
                return Poll::Pending;
            }
            match from.try_io(Interest::READABLE, || pipe.fill_from(from)) {
                Ok(0) => {
                    self.ended = true;
                    pipe.give_back();
                    return Poll::Ready(Ok(()));
                }
                Ok(octets) => {
                    self.bulk = octets >= SCRATCH / 4;
                    self.piped = Some((pipe, octets));
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads what is there and offers it at once; what is not taken is kept.
    fn poll_copy(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(from).poll_read(cx, &mut read)).map_err(Fault::Reading)?;
            let read = read.filled();
            self.ended = read.is_empty();
            self.bulk = read.len() == SCRATCH;
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.known < FIRST {
                self.note(read);
                if self.unwanted.is_some_and(|is| is(self.first_octets())) {
                    return Poll::Ready(Err(Fault::Unwanted));
                }
            }
            match Pin::new(to).poll_write(cx, read).map_err(Fault::Writing)? {
                Poll::Ready(taken) => {
                    self.moved += taken as u64;
                    if taken < read.len() {
                        self.left = Bytes::copy_from_slice(&read[taken..]);
                    }
                }
                Poll::Pending => self.left = Bytes::copy_from_slice(read),
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// Room in the kernel for what is on its way from one socket to another (splice(2)).
#[derive(Debug)]
struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    /// An empty one; `None` where the system has no more, and what is relayed is copied.
    fn take() -> Option<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Some(pipe);
        }
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        // One of the usual size does as well.
        let _refused = fcntl_setpipe_size(&into, PIPE);
        Some(Self { out, into })
    }

    /// Keeps an empty one for the next.
    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < PIPES_KEPT {
                pipes.push(self);
            }
        });
    }

    fn fill_from(&self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(splice(from, None, &self.into, None, PIPE, flags)?)
    }

    fn empty_into(&self, to: &TcpStream, octets: usize) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        Ok(splice(&self.out, None, to, None, octets, flags)?)
    }
}
