//! A visitor's HTTP/1 socket as `talk` sees it: interim responses go out before anything else, a response that broke off does
//! not look whole, and what is written leaves a note in the connection's pulse. What was read of it may be replayed. What the
//! system knows tells whether the visitor is still there.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tidegate_shared::socket::{Presence, close_abruptly, has_unread, poll_write_pieces, presence};
use tidegate_shared::unacked::Unacked;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::ahead::Ahead;
use super::pulse::Pulse;
use crate::handshake::Counted;

/// A visitor's socket, which can be told how it is to end, and asked whether the visitor has ended it.
pub(super) trait Ends {
    /// With a reset when it is closed, or in order.
    fn end_abruptly(&self, abruptly: bool);

    /// How the visitor stands to the connection, by what the system knows and without reading.
    fn presence(&self) -> Presence;

    /// Whether octets of his wait in the system.
    fn has_unread(&self) -> bool;

    /// The connection as the system has it.
    fn beneath(&self) -> Option<Unacked>;
}

impl Ends for TcpStream {
    fn end_abruptly(&self, abruptly: bool) {
        close_abruptly(self, abruptly);
    }

    fn presence(&self) -> Presence {
        presence(self)
    }

    fn has_unread(&self) -> bool {
        has_unread(self)
    }

    fn beneath(&self) -> Option<Unacked> {
        Unacked::of(self)
    }
}

impl Ends for Counted {
    fn end_abruptly(&self, abruptly: bool) {
        self.stream().end_abruptly(abruptly);
    }

    fn presence(&self) -> Presence {
        self.stream().presence()
    }

    fn has_unread(&self) -> bool {
        self.stream().has_unread()
    }

    fn beneath(&self) -> Option<Unacked> {
        self.stream().beneath()
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

    fn has_unread(&self) -> bool {
        self.get_ref().0.has_unread()
    }

    fn beneath(&self) -> Option<Unacked> {
        self.get_ref().0.beneath()
    }
}

/// See the module's head.
pub(super) struct VisitorIo<T> {
    io: Ahead<T>,
    pulse: Arc<Pulse>,
    interim: Bytes,
    /// What the socket was told last.
    abruptly: bool,
}

impl<T> VisitorIo<T> {
    pub(super) fn new(io: T, pulse: Arc<Pulse>) -> Self {
        Self {
            io: Ahead::new(io, Bytes::new()),
            pulse,
            interim: Bytes::new(),
            abruptly: false,
        }
    }

    /// The socket itself, for whoever has the last word.
    pub(super) fn into_inner(self) -> T {
        self.io.into_inner()
    }

    /// The same with octets that were read from it, and are to be read once more.
    pub(super) fn replaying(self, octets: Bytes) -> Self {
        Self {
            io: Ahead::new(self.io.into_inner(), octets),
            ..self
        }
    }

    /// Something to be said before anything else.
    pub(super) fn say(&self, octets: &[u8]) {
        self.pulse.say(octets);
    }
}

impl<T: Ends> VisitorIo<T> {
    /// Lets the socket end in order only where that does not make a part of a response look like all of it. Told
    /// beforehand, so that it holds however the connection ends, and were it with the process.
    fn mind_the_end(&mut self) {
        let abruptly = self.pulse.must_not_end();
        if abruptly != self.abruptly {
            self.abruptly = abruptly;
            self.io.get_ref().end_abruptly(abruptly);
        }
    }

    /// How the visitor stands to the connection.
    pub(super) fn presence(&self) -> Presence {
        self.io.get_ref().presence()
    }

    /// Whether octets of his wait in the system.
    pub(super) fn has_unread(&self) -> bool {
        self.io.get_ref().has_unread()
    }

    /// The connection as the system has it.
    pub(super) fn beneath(&self) -> Option<Unacked> {
        self.io.get_ref().beneath()
    }
}

impl<T: AsyncWrite + Unpin> VisitorIo<T> {
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.interim.is_empty() {
            let Some(waiting) = self.pulse.take_interim() else {
                return Poll::Ready(Ok(()));
            };
            self.interim = waiting.into();
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
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Ends + Unpin> AsyncWrite for VisitorIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_interim(cx))?;
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
        self.mind_the_end();
        let written = poll_write_pieces(Pin::new(&mut self.io), cx, slices);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        // It is flushed when all that there was is written.
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
