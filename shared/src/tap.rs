//! A stream with an ear at it: all passes as it is, and the ear is told. For whoever counts or follows what a library reads and
//! writes by itself. Whoever puts something in or takes something out is no ear, but a stream of its own, as `seam` is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::socket::poll_write_pieces;

/// Is told what passes.
pub trait Ear {
    /// Whether small pieces that are written together leave as one: worth it right above a socket, and a copy too many elsewhere.
    const JOINS: bool = false;

    /// These octets were read; none at the end.
    fn heard(&mut self, octets: &[u8]);

    /// Of these pieces so many octets were written.
    fn said(&mut self, pieces: &[IoSlice<'_>], octets: usize);

    /// Whether whoever reads is to pause here, once, so that others have a turn.
    fn is_due_to_pause(&mut self) -> bool {
        false
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Tap<S, E> {
    stream: S,
    ear: E,
}

impl<S, E> Tap<S, E> {
    pub const fn new(stream: S, ear: E) -> Self {
        Self { stream, ear }
    }

    pub const fn stream(&self) -> &S {
        &self.stream
    }

    pub const fn ear(&self) -> &E {
        &self.ear
    }
}

/// What so many octets of these pieces are, piece by piece.
pub fn beginning<'a>(
    pieces: &'a [IoSlice<'_>],
    mut octets: usize,
) -> impl Iterator<Item = &'a [u8]> {
    pieces.iter().map(move |piece| {
        let run = octets.min(piece.len());
        octets -= run;
        &piece[..run]
    })
}

impl<S: AsyncRead + Unpin, E: Ear + Unpin> AsyncRead for Tap<S, E> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ear.is_due_to_pause() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.ear.heard(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin, E: Ear + Unpin> AsyncWrite for Tap<S, E> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, octets))?;
        this.ear.said(&[IoSlice::new(octets)], written);
        Poll::Ready(Ok(written))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let stream = Pin::new(&mut this.stream);
        let written = ready!(if E::JOINS {
            poll_write_pieces(stream, cx, pieces)
        } else {
            stream.poll_write_vectored(cx, pieces)
        })?;
        this.ear.said(pieces, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Writes down what it is told, and asks for one pause less than these.
    #[derive(Default)]
    struct Notes {
        heard: Vec<u8>,
        said: Vec<u8>,
        pauses: usize,
    }

    impl Ear for Notes {
        fn heard(&mut self, octets: &[u8]) {
            self.heard.extend_from_slice(octets);
        }

        fn said(&mut self, pieces: &[IoSlice<'_>], octets: usize) {
            self.said.extend(beginning(pieces, octets).flatten());
        }

        fn is_due_to_pause(&mut self) -> bool {
            self.pauses = self.pauses.saturating_sub(1);
            self.pauses > 0
        }
    }

    #[tokio::test]
    async fn what_passes_is_told_and_nothing_else() {
        for room in 1..=12 {
            let (near, mut far) = duplex(room);
            let notes = Notes {
                pauses: 3,
                ..Notes::default()
            };
            let mut tap = Tap::new(near, notes);
            let pieces = [
                IoSlice::new(b"abc"),
                IoSlice::new(b""),
                IoSlice::new(b"defg"),
            ];
            let written = poll_fn(|cx| Pin::new(&mut tap).poll_write_vectored(cx, &pieces)).await;
            let written = written.unwrap();
            let mut taken = vec![0; written];
            far.read_exact(&mut taken).await.unwrap();
            assert_eq!(tap.ear().said, taken, "room for {room}");
            far.write_all(&b"hijklmnopqrs"[..room]).await.unwrap();
            drop(far);
            let mut read = Vec::new();
            tap.read_to_end(&mut read).await.unwrap();
            assert_eq!(read.len(), room);
            assert_eq!(tap.ear().heard, read, "room for {room}");
            assert_eq!(tap.ear().pauses, 0);
            // Nobody takes it any more.
            assert!(tap.write(b"late").await.is_err());
            assert_eq!(tap.ear().said, taken, "room for {room}");
        }
    }
}
