//! Watches the frames of a tunnel go by, in place and without a copy, and takes out the few that must not reach `h2`:
//! empty DATA (of which `h2` forgives a hundred in a connection's whole life) and, at the agent, GOAWAY (which means "dial
//! another one first", or "you are refused, because …"). Small DATA that arrives together becomes one frame, for `h2` keeps
//! every unread frame apart, at some 250 octets each. Pure: the seam feeds it, the tunnel's owner reads its counts.

/// What went by since the connection was reversed. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Octets of DATA payload, padding included: what flow control counts (RFC 9113 §6.9).
    pub data: u64,
    /// PING, SETTINGS, PRIORITY, RST_STREAM and unknown frames, and empty DATA: what costs us work and says nothing.
    pub control: u64,
    /// HEADERS: at the gateway those of answers, of trailers, and of interim responses, of which there may be any number.
    pub heads: u64,
    /// WINDOW_UPDATE: what is sent justifies some (RFC 9113 §6.9).
    pub updates: u64,
    /// DATA without payload and without END_STREAM; taken out.
    pub empty: u64,
    /// The same, but with padding, which flow control counts, so that it had to be let through.
    pub padded_empty: u64,
}

/// A GOAWAY that arrived (RFC 9113 §6.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goaway {
    pub last_stream: u32,
    pub code: u32,
    /// At most [`DEBUG_KEPT`] octets of the debug data.
    pub debug: Vec<u8>,
}

/// How much of a GOAWAY's debug data is kept.
pub const DEBUG_KEPT: usize = 256;

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// DATA with fewer octets is joined to what came right before it on its stream.
const SMALL: usize = 256;

/// What joined DATA carries at most: with its head, what a reader has room for at once.
const JOINED: usize = 16 * 1024 - HEAD;

/// A scanner for one direction of one connection, started at a frame boundary.
#[derive(Debug, Default)]
pub struct FrameWatch {
    /// Octets of the present frame's payload still to come.
    left: usize,
    dropping: bool,
    /// The first octets of a head of which the rest has not arrived; not yet passed on.
    held: [u8; HEAD],
    holding: usize,
    /// A GOAWAY being read: its payload so far.
    reading: Option<Vec<u8>>,
    goaway: Option<Goaway>,
    keep_goaway_from_h2: bool,
    counts: Counts,
    passed: u64,
}

impl FrameWatch {
    /// With `keep_goaway_from_h2`, a GOAWAY is reported by [`Self::take_goaway`] and taken out: what follows from it is
    /// the owner's to decide. One with more debug data than is kept goes through all the same.
    pub fn new(keep_goaway_from_h2: bool) -> Self {
        Self {
            keep_goaway_from_h2,
            ..Self::default()
        }
    }

    /// Octets that were held back because a frame's head was cut, to be put before what arrives next. Fewer than nine.
    pub fn held(&self) -> &[u8] {
        &self.held[..self.holding]
    }

    /// Looks at `octets`, which must begin with [`Self::held`], edits them in place, and returns how many remain at the
    /// front, to be passed on.
    pub fn pass(&mut self, octets: &mut [u8]) -> usize {
        self.holding = 0;
        let (mut at, mut kept) = (0, 0);
        // Where the last frame that was kept begins, if another may be joined to it.
        let mut open: Option<usize> = None;
        while at < octets.len() {
            if self.left > 0 {
                let run = self.left.min(octets.len() - at);
                self.payload(&octets[at..at + run]);
                if !self.dropping {
                    octets.copy_within(at..at + run, kept);
                    kept += run;
                }
                self.left -= run;
                at += run;
                continue;
            }
            let Some(head) = octets[at..].first_chunk::<HEAD>().copied() else {
                self.holding = octets.len() - at;
                self.held[..self.holding].copy_from_slice(&octets[at..]);
                break;
            };
            self.head(head);
            let whole = self.left <= octets.len() - at - HEAD;
            if whole && open.is_some_and(|open| join(&mut octets[open..kept], head)) {
                if head[4] & END_STREAM != 0 {
                    open = None;
                }
            } else if !self.dropping {
                octets.copy_within(at..at + HEAD, kept);
                let joinable = whole && self.left > 0 && head[3] == DATA && head[4] == 0;
                open = joinable.then_some(kept);
                kept += HEAD;
                self.passed += 1;
            }
            at += HEAD;
        }
        kept
    }

    /// What went by so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Frames that were passed on, as they were passed on.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// The first GOAWAY that arrived whole, once.
    pub fn take_goaway(&mut self) -> Option<Goaway> {
        self.goaway.take()
    }

    fn head(&mut self, head: [u8; HEAD]) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        self.left = length;
        self.dropping = false;
        match kind {
            DATA => {
                self.counts.data += length as u64;
                if flags & END_STREAM == 0 {
                    if length == 0 {
                        self.counts.empty += 1;
                        self.counts.control += 1;
                        // A stream of zero is an error that `h2` must see; everything else about an empty frame is moot.
                        self.dropping = head[5..] != [0; 4] && flags & PADDED == 0;
                    } else if flags & PADDED != 0 && length <= 256 {
                        // Padding fills the frame if its first octet says so; that octet may not be here yet. A peer
                        // that pads so much that 256 octets could be all padding is counted as if they were.
                        self.counts.padded_empty += 1;
                    }
                }
            }
            GOAWAY if length >= 8 => {
                self.reading = Some(Vec::with_capacity(length.min(8 + DEBUG_KEPT)))
            }
            HEADERS => self.counts.heads += 1,
            WINDOW_UPDATE => self.counts.updates += 1,
            // It follows from HEADERS.
            CONTINUATION => {}
            _ => self.counts.control += 1,
        }
        if kind == GOAWAY && self.keep_goaway_from_h2 {
            self.dropping = (8..=8 + DEBUG_KEPT).contains(&length);
        }
    }

    fn payload(&mut self, run: &[u8]) {
        let ends = run.len() == self.left;
        let Some(read) = &mut self.reading else {
            return;
        };
        let room = (8 + DEBUG_KEPT).saturating_sub(read.len());
        read.extend_from_slice(&run[..run.len().min(room)]);
        if !ends {
            return;
        }
        let read = self.reading.take().unwrap_or_default();
        if let (Some(last), Some(code)) = (
            read.first_chunk::<4>(),
            read.get(4..8).and_then(<[u8]>::first_chunk::<4>),
        ) {
            self.goaway.get_or_insert_with(|| Goaway {
                last_stream: u32::from_be_bytes(*last) & 0x7fff_ffff,
                code: u32::from_be_bytes(*code),
                debug: read[8..].to_vec(),
            });
        }
    }
}

/// Has `frame`, which is whole, take in the payload that follows, if that is small DATA of the same stream. Only its head
/// is written; whether the payload is all there the caller knows.
fn join(frame: &mut [u8], next: [u8; HEAD]) -> bool {
    let added = usize::from(next[0]) << 16 | usize::from(next[1]) << 8 | usize::from(next[2]);
    let has = frame.len() - HEAD;
    let fits = (1..SMALL).contains(&added) && has + added <= JOINED;
    if !fits || next[3] != DATA || next[4] & !END_STREAM != 0 || frame[5..HEAD] != next[5..] {
        return false;
    }
    // Below 16,384 by `JOINED`.
    let [high, low] = u16::try_from(has + added).unwrap_or(u16::MAX).to_be_bytes();
    frame[..3].copy_from_slice(&[0, high, low]);
    frame[4] = next[4];
    true
}

/// Finds the boundaries between the frames that we write, so that a frame of our own can be put between two of them.
#[derive(Debug, Default)]
pub struct Boundaries {
    frames: u64,
    left: usize,
    head: [u8; HEAD],
    have: usize,
}

impl Boundaries {
    /// Takes note of octets that went out.
    pub fn passed(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.left > 0 {
                let run = self.left.min(octets.len());
                self.left -= run;
                octets = &octets[run..];
                continue;
            }
            let run = (HEAD - self.have).min(octets.len());
            self.head[self.have..self.have + run].copy_from_slice(&octets[..run]);
            self.have += run;
            octets = &octets[run..];
            if self.have == HEAD {
                self.have = 0;
                self.frames += 1;
                self.left = usize::from(self.head[0]) << 16
                    | usize::from(self.head[1]) << 8
                    | usize::from(self.head[2]);
            }
        }
    }

    /// Frames begun so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Whether the last octet that went out ended a frame.
    pub fn between_frames(&self) -> bool {
        self.left == 0 && self.have == 0
    }
}

/// A GOAWAY frame as octets (RFC 9113 §6.8). `debug` is cut at [`DEBUG_KEPT`].
pub fn goaway(last_stream: u32, code: u32, debug: &str) -> Vec<u8> {
    let debug = &debug.as_bytes()[..debug.len().min(DEBUG_KEPT)];
    let length = u16::try_from(8 + debug.len()).unwrap_or(8).to_be_bytes();
    let mut frame = vec![0, length[0], length[1], GOAWAY, 0, 0, 0, 0, 0];
    frame.extend((last_stream & 0x7fff_ffff).to_be_bytes());
    frame.extend(code.to_be_bytes());
    frame.extend(debug);
    frame
}

/// An empty SETTINGS frame (RFC 9113 §6.5): the first frame of a gateway that is about to refuse.
pub const NO_SETTINGS: [u8; HEAD] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

pub(crate) fn kind_name(kind: u8) -> &'static str {
    match kind {
        0 => "DATA",
        1 => "HEADERS",
        2 => "PRIORITY",
        3 => "RST_STREAM",
        4 => "SETTINGS",
        5 => "PUSH_PROMISE",
        6 => "PING",
        7 => "GOAWAY",
        8 => "WINDOW_UPDATE",
        9 => "CONTINUATION",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut wire = vec![length[1], length[2], length[3], kind, flags];
        wire.extend(stream.to_be_bytes());
        wire.extend(payload);
        wire
    }

    /// Feeds `wire` in the given pieces, as the seam does, and returns what reaches `h2`.
    fn feed(watch: &mut FrameWatch, wire: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut from = 0;
        for to in cuts.iter().copied().chain([wire.len()]) {
            let mut piece = watch.held().to_vec();
            piece.extend(&wire[from..to.max(from)]);
            let kept = watch.pass(&mut piece);
            out.extend(&piece[..kept]);
            from = to.max(from);
        }
        out
    }

    #[test]
    fn empty_data_is_taken_out_and_the_last_one_is_not() {
        let wire = [
            frame(1, 4, 1, b"\x88"),
            frame(0, 0, 1, b""),
            frame(0, 0, 1, b"abc"),
            frame(0, 0, 1, b""),
            frame(8, 0, 0, &[0, 0, 0, 1]),
            frame(0, 1, 1, b""),
        ]
        .concat();
        let mut watch = FrameWatch::new(false);
        let out = feed(&mut watch, &wire, &[]);
        assert_eq!(
            out,
            [
                frame(1, 4, 1, b"\x88"),
                frame(0, 0, 1, b"abc"),
                frame(8, 0, 0, &[0, 0, 0, 1]),
                frame(0, 1, 1, b"")
            ]
            .concat()
        );
        assert_eq!(
            watch.counts(),
            Counts {
                data: 3,
                control: 2,
                heads: 1,
                updates: 1,
                empty: 2,
                padded_empty: 0
            }
        );
    }

    #[test]
    fn a_friendly_goaway_is_reported_and_kept_from_h2_at_the_agent_only() {
        let wire = [
            goaway(0x7fff_ffff, 0, "a fresh tunnel, please"),
            frame(6, 0, 0, &[1; 8]),
        ]
        .concat();
        for keep in [true, false] {
            let mut watch = FrameWatch::new(keep);
            let out = feed(&mut watch, &wire, &[3, 12, 20]);
            assert_eq!(
                out,
                if keep {
                    frame(6, 0, 0, &[1; 8])
                } else {
                    wire.clone()
                }
            );
            let seen = watch.take_goaway().unwrap();
            assert_eq!((seen.last_stream, seen.code), (0x7fff_ffff, 0));
            assert_eq!(seen.debug, b"a fresh tunnel, please");
        }
    }

    /// What `h2` makes of a wire: frames, DATA of one stream joined however it was cut, and what is not a whole frame.
    fn understood(mut wire: &[u8]) -> Vec<Vec<u8>> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        while let Some(head) = wire.first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let Some(payload) = wire.get(HEAD..HEAD + length) else {
                break;
            };
            let joins = |last: &&mut Vec<u8>| {
                last[3..5] == [DATA, 0]
                    && last.len() > HEAD
                    && length > 0
                    && head[3] == DATA
                    && head[4] & !END_STREAM == 0
                    && last[5..HEAD] == head[5..]
            };
            match frames.last_mut().filter(joins) {
                Some(last) => {
                    last[4] = head[4];
                    last.extend(payload);
                    let length = u32::try_from(last.len() - HEAD).unwrap().to_be_bytes();
                    last[..3].copy_from_slice(&length[1..]);
                }
                None => frames.push([head, payload].concat()),
            }
            wire = &wire[HEAD + length..];
        }
        frames.push(wire.to_vec());
        frames
    }

    #[test]
    fn small_data_that_arrives_together_is_one_frame() {
        let mut wire = frame(1, 4, 1, b"\x88");
        (0..5000).for_each(|_| wire.extend(frame(0, 0, 1, b"t")));
        wire.extend(frame(0, 1, 1, b"!"));
        let out = feed(&mut FrameWatch::new(false), &wire, &[]);
        let mut body = vec![b't'; 5000];
        body.push(b'!');
        assert_eq!(
            out,
            [frame(1, 4, 1, b"\x88"), frame(0, 1, 1, &body)].concat()
        );
    }

    #[test]
    fn data_is_joined_to_its_own_stream_and_only_when_it_is_whole() {
        let apart = [
            [
                frame(0, 0, 1, b"a"),
                frame(0, 0, 3, b"b"),
                frame(0, 0, 1, b"c"),
            ]
            .concat(),
            [
                frame(0, 0, 1, b"a"),
                frame(6, 0, 0, &[1; 8]),
                frame(0, 0, 1, b"b"),
            ]
            .concat(),
            [frame(0, 1, 1, b"a"), frame(0, 0, 1, b"b")].concat(),
            [frame(0, 0, 1, b"a"), frame(0, PADDED, 1, b"\0b")].concat(),
            [frame(0, 0, 1, b"a"), frame(0, 0, 1, &[b'b'; SMALL])].concat(),
        ];
        for wire in apart {
            assert_eq!(feed(&mut FrameWatch::new(false), &wire, &[]), wire);
        }
        // What is here goes on at once, though the rest of the next frame is not.
        let wire = [frame(0, 0, 1, b"a"), frame(0, 0, 1, b"bcd")].concat();
        let mut piece = wire[..HEAD + 1 + HEAD + 2].to_vec();
        let mut watch = FrameWatch::new(false);
        let kept = watch.pass(&mut piece);
        assert_eq!(piece[..kept], wire[..kept]);
        assert_eq!(kept, piece.len());
    }

    #[test]
    fn joined_data_is_no_longer_than_a_frame_may_be() {
        let one = frame(0, 0, 1, &[7; SMALL - 1]);
        let out = feed(&mut FrameWatch::new(false), &one.repeat(1000), &[]);
        let mut wire = out.as_slice();
        let mut total = 0;
        while !wire.is_empty() {
            let length = usize::from(wire[1]) << 8 | usize::from(wire[2]);
            assert!(wire[0] == 0 && length <= JOINED, "{length}");
            total += length;
            wire = &wire[HEAD + length..];
        }
        assert_eq!(total, 1000 * (SMALL - 1));
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        (
            prop_oneof![0u8..11, Just(DATA)],
            prop_oneof![any::<u8>(), Just(0), Just(END_STREAM)],
            prop_oneof![0u32..9, Just(1)],
            prop::collection::vec(any::<u8>(), 0..40),
        )
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
    }

    proptest! {
        #[test]
        fn the_split_does_not_matter(
            frames in prop::collection::vec(any_frame(), 0..12),
            mut cuts in prop::collection::vec(0usize..500, 0..20),
            agent: bool,
            torn in 0usize..30,
        ) {
            let mut wire = frames.concat();
            wire.truncate(wire.len().saturating_sub(torn));
            cuts.sort_unstable();
            let cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(wire.len())).collect();
            let (mut whole, mut split) = (FrameWatch::new(agent), FrameWatch::new(agent));
            let (whole_out, split_out) = (feed(&mut whole, &wire, &[]), feed(&mut split, &wire, &cuts));
            prop_assert_eq!(understood(&whole_out), understood(&split_out));
            prop_assert_eq!(whole.counts(), split.counts());
            prop_assert_eq!(whole.held(), split.held());
            prop_assert_eq!(whole.take_goaway(), split.take_goaway());
        }

        #[test]
        fn boundaries_are_where_frames_end(frames in prop::collection::vec(any_frame(), 1..12), cut in 0usize..500) {
            let ends: Vec<usize> = frames.iter().scan(0, |sum, f| { *sum += f.len(); Some(*sum) }).collect();
            let wire = frames.concat();
            let cut = cut.min(wire.len());
            let mut seen = Boundaries::default();
            seen.passed(&wire[..cut / 2]);
            seen.passed(&wire[cut / 2..cut]);
            prop_assert_eq!(seen.between_frames(), cut == 0 || ends.contains(&cut));
        }
    }
}
