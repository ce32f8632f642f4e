//! A message on its way out: its head, and its body as that comes. What is taken of the body goes out before more is taken,
//! small pieces together.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use tokio::io::AsyncWrite;

use super::fields;

/// Shorter pieces of a body are copied behind what is written with them; longer ones are written from where they are.
const SMALL: usize = 1024;

/// As much of small pieces as goes out at once.
const TOGETHER: usize = 16 * 1024;

const LINE_END: &[u8] = b"\r\n";
const LAST: &[u8] = b"\r\n0\r\n\r\n";

/// See the module's head.
#[derive(Debug)]
pub struct Sending<B> {
    /// To be written first: heads, framing and small pieces.
    out: BytesMut,
    /// Behind it: a large piece of the body.
    piece: Bytes,
    /// Behind that: what ends a chunk.
    tail: &'static [u8],
    /// `None` once all of it was taken, or nobody wants more of it.
    body: Option<B>,
    length: Length,
    /// Written, and perhaps still with TLS.
    unflushed: bool,
}

/// How the body's end is told.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// So many octets are still to come.
    Left(u64),
    /// Trailers go out where whoever reads them takes them.
    Chunked { trailers: bool },
    /// By the connection's end.
    ToEnd,
}

/// Why a message cannot go on.
#[derive(Debug)]
pub enum Stuck<E> {
    /// The peer's end takes no more.
    Line(io::Error),
    /// The body broke off.
    Body(E),
    /// The body is not as long as its head says.
    Length,
}

impl<B> Default for Sending<B> {
    fn default() -> Self {
        Self {
            out: BytesMut::new(),
            piece: Bytes::new(),
            tail: b"",
            body: None,
            length: Length::Left(0),
            unflushed: false,
        }
    }
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Where a head is to be written, behind what is there.
    pub const fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// The body that follows.
    pub fn body(&mut self, body: B, length: Length) {
        self.length = length;
        self.body = Some(body);
    }

    /// The body, if not all of it was taken: for whoever moves what it depends on while the peer takes nothing.
    pub const fn body_left(&mut self) -> Option<&mut B> {
        self.body.as_mut()
    }

    /// Whether nothing of a message is left to be sent.
    pub fn is_done(&self) -> bool {
        self.body.is_none() && self.is_written() && !self.unflushed
    }

    /// The rest of the message is nobody's.
    pub fn give_up(&mut self) {
        *self = Self::default();
    }

    /// Sends what there is. Ready when all of the message is on the wire.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub fn poll<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<Result<(), Stuck<B::Error>>>
    where
        T: AsyncWrite + Unpin,
    {
        loop {
            self.gather(cx)?;
            if self.is_written() {
                if self.unflushed {
                    ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Stuck::Line)?;
                    self.unflushed = false;
                }
                return if self.body.is_none() {
                    Poll::Ready(Ok(()))
                } else {
                    Poll::Pending
                };
            }
            ready!(self.write(cx, io))?;
        }
    }

    /// Whether nothing waits to be written; more of the body may come.
    pub fn is_written(&self) -> bool {
        self.out.is_empty() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Takes from the body what is there, as long as it goes out together.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Stuck<B::Error>> {
        while self.piece.is_empty()
            && self.tail.is_empty()
            && self.out.len() < TOGETHER
            && let Some(body) = &mut self.body
        {
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(frame)) => frame.map_err(Stuck::Body)?,
                Poll::Ready(None) => return self.end(None),
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => self.add(data)?,
                Err(frame) => self.end(frame.into_trailers().ok().as_ref())?,
            }
        }
        Ok(())
    }

    fn add(&mut self, data: Bytes) -> Result<(), Stuck<B::Error>> {
        let ended = self.body.as_ref().is_none_or(B::is_end_stream);
        let tail = match &mut self.length {
            Length::Left(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Stuck::Length)?;
                if ended && *left > 0 {
                    return Err(Stuck::Length);
                }
                b""
            }
            Length::Chunked { .. } => {
                fields::write_size(&mut self.out, data.len());
                if ended { LAST } else { LINE_END }
            }
            Length::ToEnd => b"",
        };
        if ended {
            self.body = None;
        }
        if data.len() < SMALL {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        } else {
            self.piece = data;
            self.tail = tail;
        }
        Ok(())
    }

    /// Trailers have no place behind a body whose length was told.
    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), Stuck<B::Error>> {
        self.body = None;
        // Whoever flushes learns that this was all, also where nothing is written any more.
        self.unflushed = true;
        match self.length {
            Length::Left(0) | Length::ToEnd => {}
            Length::Left(_) => return Err(Stuck::Length),
            Length::Chunked { trailers: taken } => {
                self.out.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers.filter(|_| taken) {
                    fields::write(&mut self.out, trailers);
                }
                self.out.extend_from_slice(LINE_END);
            }
        }
        Ok(())
    }

    fn write<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<Result<(), Stuck<B::Error>>>
    where
        T: AsyncWrite + Unpin,
    {
        let io = Pin::new(io);
        let written = if self.piece.is_empty() && self.tail.is_empty() {
            io.poll_write(cx, &self.out)
        } else {
            let slices = [&self.out[..], &self.piece[..], self.tail].map(IoSlice::new);
            io.poll_write_vectored(cx, &slices)
        };
        let mut written = match ready!(written) {
            Ok(0) => return Poll::Ready(Err(Stuck::Line(io::ErrorKind::WriteZero.into()))),
            Err(error) => return Poll::Ready(Err(Stuck::Line(error))),
            Ok(written) => written,
        };
        self.unflushed = true;
        let of_out = written.min(self.out.len());
        self.out.advance(of_out);
        written -= of_out;
        let of_piece = written.min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = &self.tail[written - of_piece..];
        if self.piece.is_empty() {
            self.piece = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::Frames;

    /// A peer that takes so many octets at once, and counts how often it was offered some.
    struct Peer {
        taken: Vec<u8>,
        at_once: usize,
        offers: usize,
        flushes: usize,
    }

    impl Peer {
        fn taking(at_once: usize) -> Self {
            Self {
                taken: Vec::new(),
                at_once,
                offers: 0,
                flushes: 0,
            }
        }
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            octets: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = octets.len().min(self.at_once);
            self.taken.extend_from_slice(&octets[..taken]);
            self.offers += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn send(body: Frames, length: Length, peer: &mut Peer) -> Result<(), Stuck<&'static str>> {
        let mut sending = Sending::default();
        sending.out().extend_from_slice(b"head ");
        sending.body(body, length);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(sent) = sending.poll(&mut cx, peer) else {
            panic!("nobody is waited for");
        };
        assert_eq!(sent.is_ok(), sending.is_done());
        sent
    }

    #[test]
    fn small_pieces_go_out_together_with_the_head_and_the_end() {
        let mut peer = Peer::taking(usize::MAX);
        let trailers = Length::Chunked { trailers: true };
        let body = Frames::of(&[b"wiki", b"", b"pedia"]).trailer("x-sum", "1");
        send(body, trailers, &mut peer).unwrap();
        assert_eq!(
            String::from_utf8(peer.taken).unwrap(),
            "head 4\r\nwiki\r\n5\r\npedia\r\n0\r\nx-sum: 1\r\n\r\n"
        );
        assert_eq!(peer.offers, 1);
        // One who does not take trailers has none, and behind a length there are none.
        for (length, expected) in [
            (
                Length::Chunked { trailers: false },
                "head 1\r\na\r\n0\r\n\r\n",
            ),
            (Length::Left(1), "head a"),
            (Length::ToEnd, "head a"),
        ] {
            let mut peer = Peer::taking(usize::MAX);
            let body = Frames::of(&[b"a"]).trailer("x-sum", "1");
            send(body, length, &mut peer).unwrap();
            assert_eq!(String::from_utf8(peer.taken).unwrap(), expected);
        }
    }

    #[test]
    fn a_body_that_is_not_as_it_should_be_is_told() {
        let mut peer = Peer::taking(usize::MAX);
        for pieces in [&[b"ab".as_slice()][..], &[b"ab", b"cd"], &[]] {
            let sent = send(Frames::of(pieces), Length::Left(3), &mut peer);
            assert!(matches!(sent, Err(Stuck::Length)), "{pieces:?}: {sent:?}");
        }
        let broken = Frames::of(&[b"ab"]).failing("it broke off");
        let sent = send(broken, Length::ToEnd, &mut peer);
        assert!(matches!(sent, Err(Stuck::Body("it broke off"))));
        let sent = send(Frames::of(&[b"ab"]), Length::ToEnd, &mut Peer::taking(0));
        assert!(matches!(sent, Err(Stuck::Line(_))));
    }

    /// One octet, and at some later time the end.
    struct Late(u8);

    impl Body for Late {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            self.0 += 1;
            match self.0 {
                1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a"))))),
                2 | 3 => Poll::Pending,
                _ => Poll::Ready(None),
            }
        }
    }

    #[test]
    fn the_end_is_flushed_also_where_nothing_is_left_to_write() {
        let mut peer = Peer::taking(usize::MAX);
        let mut sending = Sending::default();
        sending.body(Late(0), Length::ToEnd);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(sending.poll(&mut cx, &mut peer).is_pending());
        assert_eq!((peer.offers, peer.flushes), (1, 1));
        assert!(sending.poll(&mut cx, &mut peer).is_ready());
        assert_eq!((peer.offers, peer.flushes), (1, 2));
    }

    proptest! {
        #[test]
        fn what_goes_out_does_not_depend_on_how_it_is_taken(
            sizes in proptest::collection::vec(1..3000_usize, 0..8),
            at_once in 1..4000_usize,
            chunked: bool,
        ) {
            let pieces: Vec<Vec<u8>> = (0_u8..).zip(&sizes).map(|(octet, size)| vec![octet; *size]).collect();
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let whole = pieces.concat();
            let length = if chunked {
                Length::Chunked { trailers: false }
            } else {
                Length::Left(whole.len() as u64)
            };
            let (mut slow, mut fast) = (Peer::taking(at_once), Peer::taking(usize::MAX));
            send(Frames::of(&slices), length, &mut slow).unwrap();
            send(Frames::of(&slices), length, &mut fast).unwrap();
            prop_assert_eq!(&slow.taken, &fast.taken);
            if !chunked {
                prop_assert_eq!(&slow.taken[5..], &whole[..]);
            }
        }
    }
}
