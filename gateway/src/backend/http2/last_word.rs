//! A server's connection as `h2` has it, which gives up where nothing can be written any more. A server that hangs up on what it
//! does not understand may have said before what it is, as an alert of TLS: that is read then, for whoever has to name it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, ready};

use tidegate_shared::origin::{First, Line};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::settling::Settling;

/// See the module's head. The connection itself keeps what it has heard first.
#[derive(Debug)]
pub(super) struct LastWord {
    line: Line,
    first: Arc<First>,
    settling: Settling,
}

impl LastWord {
    pub(super) fn of(line: Line) -> Self {
        let first = line.first();
        Self {
            line,
            first,
            settling: Settling::default(),
        }
    }

    /// Set when the server has acknowledged our SETTINGS.
    pub(super) fn settled(&self) -> Arc<AtomicBool> {
        self.settling.done()
    }

    fn heard<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = written
            && self.first.octets().is_none()
        {
            let mut octets = [0; 16];
            let mut word = ReadBuf::new(&mut octets);
            // Where nothing can be written there is an end to be read, though it may not be known yet; and what cannot be written
            // now cannot be then. What the connection makes of what it reads is all that is wanted.
            let _ended = ready!(Pin::new(&mut self.line).poll_read(cx, &mut word));
        }
        written
    }
}

impl AsyncRead for LastWord {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.line).poll_read(cx, buf);
        self.settling.heard(&buf.filled()[before..]);
        read
    }
}

impl AsyncWrite for LastWord {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.line).poll_write(cx, octets);
        self.heard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.line).poll_write_vectored(cx, slices);
        self.heard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.line.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.line).poll_flush(cx);
        self.heard(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line).poll_shutdown(cx)
    }
}
