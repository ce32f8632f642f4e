//! A connection to an app, as its octets go: in clear text, over TLS, or through a Unix socket. Counts what the app has
//! taken, keeps what it says first, and acknowledges at once what more is due of. Opened by whoever knows where the app is.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::first::First;
use super::haste::Haste;
use crate::socket::{break_off, poll_write_pieces};
use crate::unacked;

/// See the module's head.
#[derive(Debug)]
pub struct Line {
    way: Way,
    haste: Arc<Haste>,
    taken: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    first: Arc<First>,
    /// Dropped with it.
    _held: Option<Held>,
}

struct Held(#[expect(dead_code, reason = "held to be dropped")] Box<dyn Send + Sync>);

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

#[derive(Debug)]
enum Way {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<Way> for Line {
    fn from(way: Way) -> Self {
        Self {
            way,
            haste: Arc::default(),
            taken: Arc::default(),
            heard: Arc::default(),
            first: Arc::default(),
            _held: None,
        }
    }
}

impl From<TcpStream> for Line {
    fn from(tcp: TcpStream) -> Self {
        Way::Tcp(tcp).into()
    }
}

impl From<UnixStream> for Line {
    fn from(unix: UnixStream) -> Self {
        Way::Unix(unix).into()
    }
}

impl From<TlsStream<TcpStream>> for Line {
    fn from(tls: TlsStream<TcpStream>) -> Self {
        Way::Tls(Box::new(tls)).into()
    }
}

impl Line {
    /// Keeps something for as long as the connection is there, such as a place among those that there may be.
    pub fn holding(mut self, held: impl Send + Sync + 'static) -> Self {
        self._held = Some(Held(Box::new(held)));
        self
    }

    /// What is to be acknowledged, and when.
    pub(super) fn haste(&self) -> Arc<Haste> {
        Arc::clone(&self.haste)
    }

    /// How many octets the app has taken.
    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    /// How many octets the app has sent.
    pub fn heard(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.heard)
    }

    /// What the app says first, kept by the connection itself.
    pub fn first(&self) -> Arc<First> {
        Arc::clone(&self.first)
    }

    /// Has it reset when it is dropped, so that the app sees it break off.
    pub fn close_abruptly(&self) {
        self.break_off(false);
    }

    /// Has it end, once it is dropped, on which something else has failed: as it was told to, if it was.
    pub fn break_off(&self, told: bool) {
        if let Some(tcp) = self.way.tcp() {
            break_off(tcp, told);
        }
    }

    /// Octets that the app has not acknowledged, where that is known.
    pub fn unacked(&self) -> Option<u64> {
        unacked::octets(self.way.tcp()?)
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(octets)) = &written {
            add(&self.taken, *octets);
        }
        written
    }
}

/// Counts what nobody else counts: others read it.
fn add(counter: &AtomicU64, octets: usize) {
    let before = counter.load(Relaxed);
    counter.store(before.wrapping_add(octets as u64), Relaxed);
}

impl Way {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().0),
        }
    }
}

macro_rules! whichever {
    ($way:expr, $io:ident => $call:expr) => {
        match $way {
            Way::Tcp($io) => $call,
            Way::Unix($io) => $call,
            Way::Tls($io) => $call,
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            way,
            haste,
            heard,
            first,
            ..
        } = self.get_mut();
        let before = buf.filled().len();
        let polled = whichever!(way, io => Pin::new(io).poll_read(cx, buf));
        if polled.is_pending() {
            if haste.is_mistaken(way.tcp()) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            haste.found_nothing(way.tcp());
        } else {
            match &polled {
                Poll::Ready(Ok(())) => first.heard(&buf.filled()[before..]),
                Poll::Ready(Err(error)) => first.failed(error),
                Poll::Pending => {}
            }
            let octets = buf.filled().len() - before;
            if octets > 0 {
                add(heard, octets);
                haste.heard();
            }
        }
        polled
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = whichever!(&mut this.way, io => Pin::new(io).poll_write(cx, octets));
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = whichever!(&mut this.way, io => poll_write_pieces(Pin::new(io), cx, slices));
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        whichever!(&self.way, io => io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(&mut self.get_mut().way, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(&mut self.get_mut().way, io => Pin::new(io).poll_shutdown(cx))
    }
}
