//! The watch over a tunnel's frames, fed any octets in any pieces: no panic; how they were cut changes neither what
//! passes, but for the frames in which DATA does, nor what is counted, nor which GOAWAY is reported; and no more is taken
//! out than is meant to go. The finder of frame boundaries likewise.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_shared::reversal::frames::{Boundaries, Counts, FrameWatch, Goaway};

fuzz_target!(|input: &[u8]| {
    // Input: how many pieces there are before the last, their lengths, then the octets of the wire.
    let (&count, rest) = input.split_first().unwrap_or((&0, &[]));
    let (lengths, wire) = rest.split_at(usize::from(count % 32).min(rest.len()));
    let pieces = cut(wire, lengths);
    for keep_goaway_from_h2 in [false, true] {
        let whole = watch(keep_goaway_from_h2, &[wire]);
        let octets: Vec<&[u8]> = wire.chunks(1).collect();
        // Nothing is joined that did not arrive together.
        let single = watch(keep_goaway_from_h2, &octets);
        assert_eq!(
            whole.joined(),
            watch(keep_goaway_from_h2, &pieces).joined(),
            "cut by {lengths:?}"
        );
        assert_eq!(whole.joined(), single.joined(), "octet by octet");
        if !keep_goaway_from_h2 {
            let gone = wire.len() - single.passed.len() - single.held.len();
            assert!(
                gone <= 9 * single.counts.empty as usize,
                "{gone} octets are gone"
            );
        }
    }
    let boundary_after = |pieces: &[&[u8]]| {
        let mut boundaries = Boundaries::default();
        pieces.iter().for_each(|piece| boundaries.passed(piece));
        boundaries.between_frames()
    };
    assert_eq!(boundary_after(&[wire]), boundary_after(&pieces));
});

#[derive(Clone, Debug, PartialEq)]
struct Watched {
    passed: Vec<u8>,
    held: Vec<u8>,
    counts: Counts,
    goaway: Option<Goaway>,
}

impl Watched {
    /// The same with every run of DATA that may be one frame as one: of one stream, without flags but for the last one's end.
    fn joined(&self) -> Self {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut rest = &self.passed[..];
        while let Some(head) = rest.first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let whole = rest.len() - 9 >= length;
            let (frame, behind) = rest.split_at(rest.len().min(9 + length));
            rest = behind;
            match frames.last_mut() {
                Some(last)
                    if whole
                        && length > 0
                        && last.len() > 9
                        && (last[3], last[4], head[3]) == (0, 0, 0)
                        && head[4] & !1 == 0
                        && last[5..9] == head[5..] =>
                {
                    last[4] = head[4];
                    last.extend_from_slice(&frame[9..]);
                }
                _ => frames.push(frame.to_vec()),
            }
        }
        // What a joined frame says of its length is not compared, only what it carries.
        for frame in &mut frames {
            if frame[3] == 0 && frame[4] & !1 == 0 {
                frame[..3].fill(0);
            }
        }
        frames.push(rest.to_vec());
        Self {
            passed: frames.concat(),
            ..self.clone()
        }
    }
}

/// Feeds a watch as the seam does: what it held back comes again, before what arrives next.
fn watch(keep_goaway_from_h2: bool, pieces: &[&[u8]]) -> Watched {
    let mut watch = FrameWatch::new(keep_goaway_from_h2);
    let mut passed = Vec::new();
    for piece in pieces {
        let mut octets = [watch.held(), piece].concat();
        let kept = watch.pass(&mut octets);
        passed.extend_from_slice(&octets[..kept]);
    }
    let held = watch.held().to_vec();
    assert!(held.len() < 9, "a whole head was held back");
    let counts = watch.counts();
    Watched {
        passed,
        held,
        counts,
        goaway: watch.take_goaway(),
    }
}

/// `wire` in pieces of the given lengths, and the rest in one.
fn cut<'a>(mut wire: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths {
        let (piece, rest) = wire.split_at(usize::from(*length).min(wire.len()));
        pieces.push(piece);
        wire = rest;
    }
    pieces.push(wire);
    pieces
}
