//! An ear at a visitor's HTTP/2 socket, beneath `h2`: a field block that was begun and not ended leaves a note. `h2` waits for
//! its end for ever (RFC 9113 §4.3 lets it); the connection's care does not. And `h2` reads for as long as there is something to
//! read; here it pauses now and then. What is asked, and what `h2` refuses by itself, is noted in the ledger.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_shared::reversal::PREFACE;
use tidegate_shared::tap::{Ear, Tap, beginning};
use tidegate_shared::unacked::Unacked;

use super::ahead::Ahead;
use super::ledger::{Ledger, Written};

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
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
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

    /// Whether something is unfinished after these octets: a field block, or a frame's head. Tells what they begin.
    fn pass(&mut self, mut octets: &[u8], ledger: &Ledger) -> bool {
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
                match self.head[3] {
                    HEADERS => ledger.head_came(number(&self.head[5..])),
                    RST_STREAM => ledger.reset_came(),
                    _ => {}
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

/// A number that begins here, without the bit that HTTP/2 reserves in streams' numbers.
fn number(octets: &[u8]) -> u32 {
    octets
        .first_chunk::<4>()
        .map_or(0, |octets| u32::from_be_bytes(*octets) & 0x7fff_ffff)
}

/// Follows the frames that are written. Pure.
#[derive(Debug)]
struct Frames {
    /// The present frame's head and the first octets of its payload, as far as they say something.
    kept: [u8; KEPT],
    have: usize,
    want: usize,
    /// Octets of the payload still to come, behind those that are kept.
    left: usize,
}

const HEAD: usize = 9;

/// A GOAWAY's head, its two numbers, and as much of its debug data as `h2` writes.
const KEPT: usize = HEAD + 8 + 32;

impl Frames {
    fn new() -> Self {
        Self {
            kept: [0; KEPT],
            have: 0,
            want: HEAD,
            left: 0,
        }
    }

    fn pass(&mut self, mut octets: &[u8], ledger: &Ledger) {
        while !octets.is_empty() {
            if self.have == self.want {
                let run = self.left.min(octets.len());
                self.left -= run;
                octets = &octets[run..];
                if self.left == 0 {
                    (self.have, self.want) = (0, HEAD);
                }
                continue;
            }
            let run = (self.want - self.have).min(octets.len());
            self.kept[self.have..self.have + run].copy_from_slice(&octets[..run]);
            self.have += run;
            octets = &octets[run..];
            if self.have == HEAD {
                let length = number(&[0, self.kept[0], self.kept[1], self.kept[2]]) as usize;
                let kept = match self.kept[3] {
                    RST_STREAM | GOAWAY => length.min(KEPT - HEAD),
                    _ => 0,
                };
                self.want = HEAD + kept;
                self.left = length - kept;
            }
            if self.have == self.want {
                self.tell(ledger);
            }
        }
    }

    fn tell(&self, ledger: &Ledger) {
        let (head, payload) = self.kept[..self.have].split_at(HEAD);
        let stream = number(&head[5..]);
        match head[3] {
            HEADERS => ledger.wrote(Written::Headers(stream)),
            RST_STREAM => ledger.wrote(Written::Reset(stream, number(payload))),
            GOAWAY if payload.len() >= 8 => {
                let (last, code) = (number(payload), number(&payload[4..]));
                ledger.wrote(Written::Goaway(last, code, &payload[8..]));
            }
            _ => {}
        }
    }
}

/// Notes what passes in the ledger.
#[derive(Debug)]
pub(super) struct Heads {
    blocks: Blocks,
    frames: Frames,
    ledger: Arc<Ledger>,
}

/// Follows a connection of which this was `seen` already. `beneath` is the connection as the system has it.
pub(super) fn follow<T>(
    io: T,
    seen: Bytes,
    beneath: Option<Unacked>,
) -> (Tap<Ahead<T>, Heads>, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::over(beneath));
    let heads = Heads {
        blocks: Blocks::new(),
        frames: Frames::new(),
        ledger: Arc::clone(&ledger),
    };
    (Tap::new(Ahead::new(io, seen), heads), ledger)
}

impl Ear for Heads {
    fn heard(&mut self, octets: &[u8]) {
        self.ledger.came(octets.len());
        let unfinished = self.blocks.pass(octets, &self.ledger);
        self.ledger.is_unfinished(unfinished);
    }

    fn said(&mut self, pieces: &[IoSlice<'_>], octets: usize) {
        self.ledger.went(octets);
        for octets in beginning(pieces, octets) {
            self.frames.pass(octets, &self.ledger);
        }
    }

    fn is_due_to_pause(&mut self) -> bool {
        let due = self.blocks.frames >= FRAMES_IN_A_TURN;
        if due {
            self.blocks.frames = 0;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

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
            let ledger = Ledger::default();
            let first = blocks.pass(&wire[..cut], &ledger);
            if cut > quiet.len() && cut < end {
                assert!(first, "cut at {cut}");
            }
            assert!(
                !blocks.pass(&wire[cut..], &ledger),
                "finished after all, cut at {cut}"
            );
            let gone = Failure::VisitorGone;
            assert_eq!(ledger.take_rest(Some(gone)), [gone], "cut at {cut}");
        }
    }

    #[test]
    fn what_is_written_is_told_at_every_cut() {
        let frame = |kind: u8, stream: u8, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            [&[0, 0, length, kind, 0, 0, 0, 0, stream], payload].concat()
        };
        let goaway = [&[0, 0, 0, 7, 0, 0, 0, 11], &b"too_many_resets"[..]].concat();
        let wire = [
            frame(0, 1, b"body"),
            frame(RST_STREAM, 3, &[0, 0, 0, 1]),
            frame(4, 0, b""),
            frame(RST_STREAM, 5, &[0, 0, 0, 7]),
            frame(HEADERS, 7, b"431"),
            frame(GOAWAY, 0, &goaway),
        ]
        .concat();
        for cut in 0..=wire.len() {
            let (mut frames, ledger) = (Frames::new(), Ledger::default());
            for stream in [1, 3, 5, 7, 9] {
                ledger.head_came(stream);
            }
            ledger.handed(1);
            frames.pass(&wire[..cut], &ledger);
            frames.pass(&wire[cut..], &ledger);
            let refused = [Failure::Malformed, Failure::Limit, Failure::HeadTooLarge];
            assert_eq!(ledger.take_refused(), refused, "cut at {cut}");
            assert_eq!(
                ledger.take_rest(None),
                [Failure::TooManyCancelled],
                "cut at {cut}"
            );
        }
    }
}
