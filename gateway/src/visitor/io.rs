//! A visitor's HTTP/1 socket as hyper sees it: what was read while the protocol was still open is replayed, interim
//! responses go out before anything else, a half-close does not look like a departure, hyper's own answer to what it cannot
//! parse becomes ours, a response that broke off does not look whole, and everything leaves a note in the connection's pulse.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tidegate_shared::socket::{close_abruptly, poll_write_pieces};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::pulse::Pulse;

/// Makes the answer to a head that hyper refuses with this status.
pub(super) type Refusal = Box<dyn FnMut(StatusCode) -> Bytes + Send>;

/// A visitor's socket, which can be told how it is to end.
pub(super) trait Ends {
    /// With a reset when it is closed, or in order.
    fn end_abruptly(&self, abruptly: bool);
}

impl Ends for TcpStream {
    fn end_abruptly(&self, abruptly: bool) {
        close_abruptly(self, abruptly);
    }
}

impl<T: Ends> Ends for TlsStream<T> {
    fn end_abruptly(&self, abruptly: bool) {
        self.get_ref().0.end_abruptly(abruptly);
    }
}

/// See the module's head.
pub(super) struct VisitorIo<T> {
    io: T,
    replay: Bytes,
    pulse: Arc<Pulse>,
    interim: Bytes,
    refusal: Refusal,
    /// What the socket was told last.
    abruptly: bool,
}

impl<T> VisitorIo<T> {
    pub(super) fn new(io: T, seen: Bytes, pulse: Arc<Pulse>, refusal: Refusal) -> Self {
        pulse.read(&seen);
        Self {
            io,
            replay: seen,
            pulse,
            interim: Bytes::new(),
            refusal,
            abruptly: false,
        }
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
        if !this.replay.is_empty() {
            let run = this.replay.len().min(buf.remaining());
            buf.put_slice(&this.replay[..run]);
            this.replay.advance(run);
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
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let arrived = &buf.filled()[before..];
        if arrived.is_empty() {
            return if this.pulse.closed_half() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            };
        }
        this.pulse.read(arrived);
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
