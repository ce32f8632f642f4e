//! The socket as `h2` sees it: what was read before the reversal is replayed, a preface is put before the first write or
//! taken away from it, our marks are put into the first SETTINGS, frames are watched as they pass, and a frame of our own can
//! be put between two of `h2`'s.
//!
//! Everything else goes straight through, vectored writes included: `h2` picks its copy threshold from
//! `is_write_vectored`.

mod wire; // what others may know of it

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock;
use crate::reversal::frames::{Boundaries, FrameWatch};
use crate::reversal::{End, Marking, Marks, PREFACE, Seen, Step, opening};
use crate::tap::beginning;
pub use wire::Wire;

/// How the HTTP/2 preface is dealt with on the way out and in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// At the gateway: `h2::client` writes a preface that must not go out.
    SwallowPreface,
    /// At the agent: `h2::server` wants to read a preface, and writes none though the agent must.
    BothPrefaces,
}

/// See the module's head.
#[derive(Debug)]
pub struct Seam<T> {
    io: T,
    wire: Arc<Wire>,
    watch: FrameWatch,
    written: Boundaries,
    /// To be read before anything from `io`.
    replay: Bytes,
    /// At the agent, what has arrived of the gateway's SETTINGS, until they are whole.
    opening: Option<BytesMut>,
    /// Octets that `h2` will write and that stay here.
    swallow: usize,
    /// Goes out before what `h2` writes.
    first: Bytes,
    /// Until `h2`'s SETTINGS are on their way; `None` where they are not to be marked.
    marking: Option<Marking>,
    /// A frame of our own on its way out, between two of `h2`'s.
    ours: Bytes,
    /// Frames that had been read at the last pause.
    paused_at: u64,
}

/// Frames after which a reader pauses. `h2` reads for as long as there is something to read and keeps what it has read,
/// field blocks without bound; a pause is a turn for those who take it.
const FRAMES_IN_A_TURN: u64 = 1024;

impl<T> Seam<T> {
    /// `seen` is what was read already, from a frame boundary on; `marks` is said to the peer in our SETTINGS.
    pub fn new(io: T, opening: Opening, seen: Bytes, marks: Marks) -> (Self, Arc<Wire>) {
        let wire = Arc::new(Wire::default());
        wire.heard.store(clock::now_ms(), Relaxed);
        let gateway = opening == Opening::SwallowPreface;
        let mut watch = FrameWatch::new(!gateway);
        let mut seen = Vec::from(seen);
        let kept = watch.pass(&mut seen);
        seen.truncate(kept);
        let replay = if gateway {
            seen
        } else {
            [PREFACE.as_slice(), &seen].concat()
        };
        let seam = Self {
            io,
            wire: Arc::clone(&wire),
            watch,
            written: Boundaries::default(),
            replay: replay.into(),
            opening: (!gateway).then(BytesMut::new),
            swallow: if gateway { PREFACE.len() } else { 0 },
            first: if gateway {
                Bytes::new()
            } else {
                Bytes::from_static(PREFACE)
            },
            marking: Marking::of(marks),
            ours: Bytes::new(),
            paused_at: 0,
        };
        (seam, wire)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Seam<T> {
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
        if this.opening.is_some() {
            return this.poll_opening(cx, buf);
        }
        if this.is_due_to_pause() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let start = buf.filled().len();
        loop {
            let held = this.watch.held().len();
            if held > 0 {
                if buf.remaining() <= held {
                    // `h2` reads into whatever room its buffer has left, which may be less than what is held back.
                    ready!(this.poll_aside(cx))?;
                    let run = this.replay.len().min(buf.remaining());
                    buf.put_slice(&this.replay.split_to(run));
                    return Poll::Ready(Ok(()));
                }
                buf.put_slice(this.watch.held());
            }
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(Ok(())) => {}
                unfinished => {
                    buf.set_filled(start);
                    return unfinished;
                }
            }
            let arrived = buf.filled().len() - start - held;
            if arrived == 0 {
                buf.set_filled(start);
                return Poll::Ready(self.at_the_end());
            }
            this.heard(arrived);
            let kept = this.watch.pass(&mut buf.filled_mut()[start..]);
            buf.set_filled(start + kept);
            this.note();
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncRead + Unpin> Seam<T> {
    /// Reads into `replay`, which is empty, while a head is held back: the peer's end is an error here.
    fn poll_aside(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut piece = [0; 1024];
            let mut piece = ReadBuf::new(&mut piece);
            piece.put_slice(self.watch.held());
            let held = piece.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
            let arrived = piece.filled().len() - held;
            if arrived == 0 {
                return Poll::Ready(self.at_the_end());
            }
            self.heard(arrived);
            let kept = self.watch.pass(piece.filled_mut());
            self.note();
            if kept > 0 {
                self.replay = Bytes::copy_from_slice(&piece.filled()[..kept]);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The peer's end is an end between frames; inside a head, of which `h2` has seen nothing, it is a tear.
    fn at_the_end(&self) -> io::Result<()> {
        if self.watch.held().is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn heard(&self, arrived: usize) {
        self.wire.heard.store(clock::now_ms(), Relaxed);
        self.wire.received.fetch_add(arrived as u64, Relaxed);
    }

    /// Reads until the gateway's SETTINGS are whole; nothing else than SETTINGS reaches `h2` first.
    fn poll_opening(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut seen) = self.opening.take() else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match opening(End::Agent, &seen) {
                Step::Settled { settings, .. } => {
                    let _first = self.wire.settled.set(settings);
                    self.wire.heard.store(clock::now_ms(), Relaxed);
                    let kept = self.watch.pass(&mut seen);
                    seen.truncate(kept);
                    self.note();
                    self.replay = seen.freeze();
                    return Pin::new(self).poll_read(cx, buf);
                }
                Step::Refuse(fault) => {
                    let text = fault.to_string();
                    let _first = self.wire.refused.set(fault);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Step::More(_) => {}
            }
            let mut piece = [0; 1024];
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut self.io).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if piece.filled().is_empty() => {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(())) => {
                    seen.extend_from_slice(piece.filled());
                    *self
                        .wire
                        .opening
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Seen::at_the_end(&seen);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.opening = Some(seen);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<T> Seam<T> {
    /// Whether so many frames have been read that others are to have a turn; once for each so many.
    fn is_due_to_pause(&mut self) -> bool {
        let passed = self.watch.passed();
        let due = passed - self.paused_at >= FRAMES_IN_A_TURN;
        if due {
            self.paused_at = passed;
        }
        due
    }

    fn note(&mut self) {
        let counts = self.watch.counts();
        self.wire.data.store(counts.data, Relaxed);
        self.wire.control.store(counts.control, Relaxed);
        self.wire.heads.store(counts.heads, Relaxed);
        self.wire.updates.store(counts.updates, Relaxed);
        self.wire.padded_empty.store(counts.padded_empty, Relaxed);
        if let Some(goaway) = self.watch.take_goaway() {
            // Only the first one counts; a later one can only say less.
            let _first = self.wire.goaway.set(goaway);
        }
    }
}

impl<T: AsyncWrite + Unpin> Seam<T> {
    /// Sends what goes out before `h2`'s next octet: the preface, or a frame of ours if one is due here.
    fn poll_ours(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.first.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.first))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.first.advance(n);
        }
        // Never before `h2`'s SETTINGS, which must come first (RFC 9113 §3.4).
        if self.ours.is_empty() && self.written.frames() > 0 && self.written.between_frames() {
            let mut inject = self
                .wire
                .inject
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(frame) = inject.frame.take() {
                self.ours = frame;
            } else if !inject
                .writer
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                inject.writer = Some(cx.waker().clone());
            }
        }
        while !self.ours.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.ours))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.ours.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn swallowed(&mut self, octets: &[u8]) -> io::Result<usize> {
        let run = self.swallow.min(octets.len());
        let from = PREFACE.len() - self.swallow;
        if octets[..run] != PREFACE[from..from + run] {
            return Err(io::Error::other("h2 did not write a preface first"));
        }
        self.swallow -= run;
        Ok(run)
    }

    /// Keeps what `h2` writes until its SETTINGS are whole, and has them sent with our marks.
    fn marked(&mut self, mut marking: Marking, octets: &[u8]) -> io::Result<usize> {
        let taken = marking.take(octets).map_err(io::Error::other)?;
        self.written.passed(&octets[..taken]);
        self.wire.sent.fetch_add(taken as u64, Relaxed);
        match marking.marked() {
            Ok(settings) => self.first = [&self.first, settings.as_slice()].concat().into(),
            Err(unfinished) => self.marking = Some(unfinished),
        }
        Ok(taken)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Seam<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.swallow > 0 {
            return Poll::Ready(this.swallowed(octets));
        }
        if let Some(marking) = this.marking.take() {
            return Poll::Ready(this.marked(marking, octets));
        }
        ready!(this.poll_ours(cx))?;
        let n = ready!(Pin::new(&mut this.io).poll_write(cx, octets))?;
        this.written.passed(&octets[..n]);
        this.wire.sent.fetch_add(n as u64, Relaxed);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.swallow > 0 || this.marking.is_some() {
            let first = slices
                .iter()
                .find(|slice| !slice.is_empty())
                .map_or(&[][..], |slice| slice);
            return Pin::new(this).poll_write(cx, first);
        }
        ready!(this.poll_ours(cx))?;
        let n = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        for octets in beginning(slices, n) {
            this.written.passed(octets);
        }
        this.wire.sent.fetch_add(n as u64, Relaxed);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // A preface alone would go out as a segment of its own; `h2` always has SETTINGS to send with it.
        if this.first.len() != PREFACE.len() {
            ready!(this.poll_ours(cx))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A frame of `length` octets on stream 1.
    fn frame(kind: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, 0, 0, 0, 0, 1];
        frame.resize(9 + usize::from(length), kind);
        frame
    }

    #[tokio::test]
    async fn heads_cut_anywhere_come_through_buffers_of_any_size() {
        // An empty DATA frame, which stays here, between frames that go on.
        let wire = [frame(1, 3), frame(0, 0), frame(0, 2), frame(8, 4)].concat();
        let expected = [frame(1, 3), frame(0, 2), frame(8, 4)].concat();
        for cut in 1..wire.len() {
            for room in 1..=10 {
                let (near, mut far) = tokio::io::duplex(64);
                let (mut seam, shared) =
                    Seam::new(near, Opening::SwallowPreface, Bytes::new(), Marks::NONE);
                let (first, second) = wire.split_at(cut);
                far.write_all(first).await.unwrap();
                let mut seen = Vec::new();
                let mut buffer = vec![0; room];
                // What has arrived so far is read as far as it goes, so that the next read meets a head that is cut.
                while let Ok(read) =
                    tokio::time::timeout(std::time::Duration::ZERO, seam.read(&mut buffer)).await
                {
                    seen.extend_from_slice(&buffer[..read.unwrap()]);
                }
                far.write_all(second).await.unwrap();
                drop(far);
                loop {
                    match seam.read(&mut buffer).await.unwrap() {
                        0 => break,
                        read => seen.extend_from_slice(&buffer[..read]),
                    }
                }
                assert_eq!(seen, expected, "cut at {cut}, room for {room}");
                assert_eq!(shared.octets().0, wire.len() as u64);
            }
        }
    }

    #[tokio::test]
    async fn marks_go_into_the_first_settings_however_they_are_written() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        let then = frame(8, 4);
        let mark = [0xf7, 0x44, 0x54, 0x47, 0, 1];
        let marked = [&[0, 0, 12], &settings[3..], &mark].concat();
        for (opening, before) in [
            (Opening::SwallowPreface, PREFACE.as_slice()),
            (Opening::BothPrefaces, &[]),
        ] {
            let written = [before, &settings, &then].concat();
            let mut expected = [marked.as_slice(), &then].concat();
            if opening == Opening::BothPrefaces {
                expected.splice(0..0, *PREFACE);
            }
            for piece in 1..=written.len() {
                let (near, mut far) = tokio::io::duplex(256);
                let (mut seam, wire) = Seam::new(near, opening, Bytes::new(), Marks::VISITOR);
                for octets in written.chunks(piece) {
                    seam.write_all(octets).await.unwrap();
                    seam.flush().await.unwrap();
                }
                wire.inject(frame(6, 8));
                seam.flush().await.unwrap();
                drop(seam);
                let mut sent = Vec::new();
                far.read_to_end(&mut sent).await.unwrap();
                let whole = [expected.as_slice(), &frame(6, 8)].concat();
                assert_eq!(sent, whole, "{opening:?}, {piece} at a time");
            }
        }
    }

    #[tokio::test]
    async fn an_end_inside_a_head_is_a_tear() {
        let wire = [frame(1, 3), frame(8, 4)].concat();
        let whole = frame(1, 3).len();
        for end in whole..whole + 9 {
            for room in [1, 4, 64] {
                let (near, mut far) = tokio::io::duplex(64);
                let (mut seam, _) =
                    Seam::new(near, Opening::SwallowPreface, Bytes::new(), Marks::NONE);
                far.write_all(&wire[..end]).await.unwrap();
                drop(far);
                let mut buffer = vec![0; room];
                let mut seen = 0;
                let ended = loop {
                    match seam.read(&mut buffer).await {
                        Ok(0) => break None,
                        Ok(read) => seen += read,
                        Err(error) => break Some(error.kind()),
                    }
                };
                assert_eq!(seen, whole, "cut at {end}, room for {room}");
                let tear = (end > whole).then_some(io::ErrorKind::UnexpectedEof);
                assert_eq!(ended, tear, "cut at {end}, room for {room}");
            }
        }
    }
}
