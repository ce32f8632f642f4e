//! A visitor's HTTP/2 socket as `h2` sees it: what was read while the protocol was still open is replayed, and a field
//! block that was begun and not ended leaves a note. `h2` waits for its end for ever (RFC 9113 §4.3 lets it); the
//! connection's care does not. And `h2` reads for as long as there is something to read; here it pauses now and then.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tidegate_shared::clock;
use tidegate_shared::reversal::PREFACE;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Since when, by [`clock::now_ms`], a frame of a field block is unfinished; zero while none is.
#[derive(Debug, Default)]
pub(super) struct Unfinished(AtomicU64);

impl Unfinished {
    pub(super) fn since(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|since| *since != 0)
    }
}

/// Follows the frames of one direction. Pure.
#[derive(Debug)]
struct Blocks {
    /// Octets of the preface, then of the present frame, still to come.
    left: usize,
    head: [u8; 9],
    have: usize,
    in_block: bool,
    ends_block: bool,
    /// Frames begun since the last pause.
    frames: usize,
}

/// Frames after which a reader pauses, so that those who take what was read have a turn.
const FRAMES_IN_A_TURN: usize = 512;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

impl Blocks {
    fn new() -> Self {
        Self {
            left: PREFACE.len(),
            head: [0; 9],
            have: 0,
            in_block: false,
            ends_block: false,
            frames: 0,
        }
    }

    /// Whether something is unfinished after these octets: a field block, or a frame's head.
    fn pass(&mut self, mut octets: &[u8]) -> bool {
        while !octets.is_empty() {
            if self.left > 0 {
                let run = self.left.min(octets.len());
                self.left -= run;
                octets = &octets[run..];
                self.close();
                continue;
            }
            let run = (self.head.len() - self.have).min(octets.len());
            self.head[self.have..self.have + run].copy_from_slice(&octets[..run]);
            self.have += run;
            octets = &octets[run..];
            if self.have == self.head.len() {
                self.have = 0;
                self.frames += 1;
                self.left = usize::from(self.head[0]) << 16
                    | usize::from(self.head[1]) << 8
                    | usize::from(self.head[2]);
                if matches!(self.head[3], HEADERS | CONTINUATION) {
                    self.in_block = true;
                    self.ends_block = self.head[4] & END_HEADERS != 0;
                }
                self.close();
            }
        }
        self.in_block || self.have > 0
    }

    fn close(&mut self) {
        if self.left == 0 && self.ends_block {
            self.in_block = false;
            self.ends_block = false;
        }
    }
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct HeadsIo<T> {
    io: T,
    replay: Bytes,
    blocks: Blocks,
    unfinished: Arc<Unfinished>,
}

impl<T> HeadsIo<T> {
    pub(super) fn new(io: T, seen: Bytes) -> (Self, Arc<Unfinished>) {
        let unfinished = Arc::new(Unfinished::default());
        (
            Self {
                io,
                replay: seen,
                blocks: Blocks::new(),
                unfinished: Arc::clone(&unfinished),
            },
            unfinished,
        )
    }

    fn note(&mut self, octets: &[u8]) {
        if !self.blocks.pass(octets) {
            self.unfinished.0.store(0, Relaxed);
        } else if self.unfinished.since().is_none() {
            self.unfinished.0.store(clock::now_ms(), Relaxed);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HeadsIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.blocks.frames >= FRAMES_IN_A_TURN {
            this.blocks.frames = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        if this.replay.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        } else {
            let run = this.replay.len().min(buf.remaining());
            buf.put_slice(&this.replay[..run]);
            this.replay.advance(run);
        }
        this.note(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HeadsIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_unfinished_until_its_last_octet_at_every_cut() {
        let frame = |kind: u8, flags: u8, payload: &[u8]| {
            [
                &[
                    0,
                    0,
                    u8::try_from(payload.len()).unwrap(),
                    kind,
                    flags,
                    0,
                    0,
                    0,
                    1,
                ],
                payload,
            ]
            .concat()
        };
        let quiet = [PREFACE.to_vec(), frame(4, 0, &[]), frame(0, 0, b"body")].concat();
        let block = [frame(1, 0, b"abc"), frame(9, 0, b"de"), frame(9, 4, b"f")].concat();
        let wire = [quiet.clone(), block, frame(0, 1, b"")].concat();
        let end = wire.len() - 9;
        for cut in 0..=wire.len() {
            let mut blocks = Blocks::new();
            let first = blocks.pass(&wire[..cut]);
            if cut > quiet.len() && cut < end {
                assert!(first, "cut at {cut}");
            }
            assert!(
                !blocks.pass(&wire[cut..]),
                "finished after all, cut at {cut}"
            );
        }
    }
}
