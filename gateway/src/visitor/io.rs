//! A visitor's HTTP/1 socket as hyper sees it: what was read while the protocol was still open is replayed, interim
//! responses go out before anything else, a half-close does not look like a departure, and everything leaves a note in
//! the connection's pulse.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tidegate_shared::socket::poll_write_pieces;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pulse::Pulse;

/// See the module's head.
#[derive(Debug)]
pub(super) struct VisitorIo<T> {
    io: T,
    replay: Bytes,
    pulse: Arc<Pulse>,
    interim: Bytes,
}

impl<T> VisitorIo<T> {
    pub(super) fn new(io: T, seen: Bytes, pulse: Arc<Pulse>) -> Self {
        pulse.read(&seen);
        Self {
            io,
            replay: seen,
            pulse,
            interim: Bytes::new(),
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

impl<T: AsyncWrite + Unpin> AsyncWrite for VisitorIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.io).poll_write(cx, octets);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
        let written = poll_write_pieces(Pin::new(&mut self.io), cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_pending() {
            self.pulse.write_blocked();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
