//! A visitor's HTTP/1 socket as hyper sees it: what was read while the protocol was still open is replayed, interim
//! responses go out before anything else, a half-close does not look like a departure, hyper's own answer to what it cannot
//! parse becomes ours, a response that broke off does not look whole, and everything leaves a note in the connection's pulse.
//! Where nobody reads, a look at what the system knows tells whether the visitor is still there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tidegate_shared::socket::{Presence, close_abruptly, poll_write_pieces, presence};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::pulse::Pulse;

/// Makes the answer to a head that hyper refuses with this status.
pub(super) type Refusal = Box<dyn FnMut(StatusCode) -> Bytes + Send>;

/// A visitor's socket, which can be told how it is to end, and asked whether the visitor has ended it.
pub(super) trait Ends {
    /// With a reset when it is closed, or in order.
    fn end_abruptly(&self, abruptly: bool);

    /// How the visitor stands to the connection, by what the system knows and without reading.
    fn presence(&self) -> Presence;
}

impl Ends for TcpStream {
    fn end_abruptly(&self, abruptly: bool) {
        close_abruptly(self, abruptly);
    }

    fn presence(&self) -> Presence {
        presence(self)
    }
}

/// Octets of a body that a TLS session may hold, beside what waits in its socket: a record that came in part, and some whole
/// ones that nobody has taken.
const HELD_BY_TLS: u64 = 64 * 1024;

impl<T: Ends> Ends for TlsStream<T> {
    fn end_abruptly(&self, abruptly: bool) {
        self.get_ref().0.end_abruptly(abruptly);
    }

    fn presence(&self) -> Presence {
        match self.get_ref().0.presence() {
            Presence::Finished { unread } => Presence::Finished {
                unread: unread.saturating_add(HELD_BY_TLS),
            },
            other => other,
        }
    }
}

/// See the module's head.
pub(super) struct VisitorIo<T> {
    io: T,
    /// What was read and hyper has not had yet.
    replay: Bytes,
    pulse: Arc<Pulse>,
    interim: Bytes,
    refusal: Refusal,
    /// What the socket was told last.
    abruptly: bool,
}

impl<T> VisitorIo<T> {
    pub(super) fn new(io: T, seen: Bytes, pulse: Arc<Pulse>, refusal: Refusal) -> Self {
        Self {
            io,
            replay: seen,
            pulse,
            interim: Bytes::new(),
            refusal,
            abruptly: false,
        }
    }

    /// What there is to read is not to be read.
    fn stopped(&self) -> Poll<io::Result<()>> {
        if self.pulse.is_malformed() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a line of a chunked body ends otherwise than with CRLF",
            )));
        }
        // What is behind a request for an upgrade: hyper asks again when that is answered.
        Poll::Pending
    }

    /// The socket itself, for whoever has the last word.
    pub(super) fn into_inner(self) -> T {
        self.io
    }

    /// Puts our answer in the place of hyper's own refusal, to go out before the socket is flushed. Whether this was one.
    fn put_refusal(&mut self, octets: &[u8]) -> bool {
        if !self.pulse.is_at_rest() {
            return false;
        }
        let Some(status) = refused_with(octets) else {
            return false;
        };
        self.interim = (self.refusal)(status);
        true
    }
}

/// The status of an answer that begins here, if it refuses.
fn refused_with(octets: &[u8]) -> Option<StatusCode> {
    let line = octets.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    StatusCode::from_bytes(line)
        .ok()
        .filter(|status| status.is_client_error())
}

impl<T: Ends> VisitorIo<T> {
    /// Lets the socket end in order only where that does not make a part of a response look like all of it. Told
    /// beforehand, so that it holds however the connection ends, and were it with the process.
    fn mind_the_end(&mut self) {
        let abruptly = self.pulse.must_not_end();
        if abruptly != self.abruptly {
            self.abruptly = abruptly;
            self.io.end_abruptly(abruptly);
        }
    }

    /// Whether the visitor has left with a request in hand, where nobody reads and so nobody finds its end: it has reset the
    /// connection, or closed its half with more of its body owed than can still be read.
    fn has_left(&self) -> bool {
        self.pulse.is_held_back()
            && match self.io.presence() {
                Presence::Here => false,
                Presence::Gone => true,
                Presence::Finished { unread } => {
                    self.pulse.owed().is_some_and(|owed| owed > unread)
                }
            }
    }
}

impl<T: AsyncWrite + Unpin> VisitorIo<T> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.is_empty() {
            let mut waiting = self.pulse.interim();
            if waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.interim = std::mem::take(&mut *waiting).into();
        }
        while !self.interim.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(n)) => self.pulse.wrote(*n),
            Poll::Pending => self.pulse.write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for VisitorIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.pulse.waits_for_octets(false);
        if !this.replay.is_empty() {
            let run = this.replay.len().min(buf.remaining());
            let taken = this.pulse.read(&this.replay[..run]);
            if taken == 0 {
                return this.stopped();
            }
            buf.put_slice(&this.replay[..taken]);
            this.replay.advance(taken);
            return Poll::Ready(Ok(()));
        }
        if this.pulse.half_closed() {
            // The end is seen once the response has been given: hyper asks again then.
            return if this.pulse.is_in_hand() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            };
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        this.pulse.waits_for_octets(read.is_pending());
        ready!(read)?;
        let arrived = &buf.filled()[before..];
        if arrived.is_empty() {
            return if this.pulse.closed_half() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            };
        }
        let taken = this.pulse.read(arrived);
        if taken < arrived.len() {
            this.replay = Bytes::copy_from_slice(&arrived[taken..]);
            buf.set_filled(before + taken);
            if taken == 0 {
                return this.stopped();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Ends + Unpin> AsyncWrite for VisitorIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        if self.put_refusal(octets) {
            return Poll::Ready(Ok(octets.len()));
        }
        self.mind_the_end();
        let written = Pin::new(&mut self.io).poll_write(cx, octets);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        if let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && self.put_refusal(first)
        {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        self.mind_the_end();
        let written = poll_write_pieces(Pin::new(&mut self.io), cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        if self.pulse.is_to_look() && self.has_left() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        // hyper flushes when it has written all that it had.
        self.pulse.all_written();
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        match &flushed {
            Poll::Pending => self.pulse.write_blocked(),
            Poll::Ready(Ok(())) => {
                self.pulse.flushed();
                self.mind_the_end();
            }
            Poll::Ready(Err(_)) => {}
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
