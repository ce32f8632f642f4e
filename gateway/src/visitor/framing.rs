//! Where each message of an HTTP/1 connection begins and ends, and how often its head states a length: read along with
//! hyper's parser, which forgets a `Content-Length` beside a `Transfer-Encoding`, and knows better than any look at one head
//! what is a head: the first of a segment, one behind a body, one that came while another request was in hand. Pure.

use std::collections::VecDeque;
use std::ops::Range;

/// Octets of heads that are kept: the longest head that `--max-head` can allow. Behind a longer one nothing is known.
const KEPT: usize = 1024 * 1024;

/// Room that is kept for the next head; what a large one took is given back.
const ROOM: usize = 16 * 1024;

/// What a head says of its body's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    /// Fields named `Content-Length`.
    pub(crate) lengths: usize,
    /// Fields named `Transfer-Encoding`.
    pub(crate) codings: usize,
}

impl Stated {
    /// Whether two readers may see two different lengths (RFC 9112 §6.1, §6.3).
    pub(crate) fn is_ambiguous(self) -> bool {
        self.lengths + self.codings > 1
    }
}

/// See the module's head. Its owner feeds it every octet that arrives, and takes a head whenever the parser has one.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    /// Heads that are complete and not taken, and the one that is arriving.
    kept: Vec<u8>,
    complete: VecDeque<(Range<usize>, Stated)>,
    /// Where the head that is arriving begins, and its last line.
    head: usize,
    line: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many octets of a body are still to come.
    Body(u64),
    /// In the line that states a chunk's size; `None` once something other than its digits was seen.
    Size { size: u64, digits: bool },
    /// So many octets of a chunk are still to come.
    Chunk(u64),
    /// At the line's end behind a chunk.
    ChunkEnd,
    /// In a trailer line of so many octets, or in the empty one that ends them.
    Trailers { line: usize },
    /// What is no HTTP came, or a head beyond all limits: where the next message begins cannot be told.
    Lost,
}

impl Framing {
    /// Octets arrived, in this order.
    pub(crate) fn feed(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let taken = match self.state {
                State::Head => self.head(octets),
                State::Body(left) => {
                    let (taken, left) = skip(octets, left);
                    self.state = left.map_or(State::Head, State::Body);
                    taken
                }
                State::Chunk(left) => {
                    let (taken, left) = skip(octets, left);
                    self.state = left.map_or(State::ChunkEnd, State::Chunk);
                    taken
                }
                State::Size { size, digits } => {
                    self.state = of_size(size, digits, octets[0]);
                    1
                }
                State::ChunkEnd => {
                    self.state = match octets[0] {
                        b'\r' => State::ChunkEnd,
                        b'\n' => State::SIZE,
                        _ => State::Lost,
                    };
                    1
                }
                State::Trailers { line } => {
                    self.state = match (octets[0], line) {
                        (b'\n', 0) => State::Head,
                        (b'\n', _) => State::Trailers { line: 0 },
                        (b'\r', _) => State::Trailers { line },
                        _ => State::Trailers { line: line + 1 },
                    };
                    1
                }
                State::Lost => return,
            };
            octets = &octets[taken..];
        }
    }

    /// The parser has a head: what it states; `None` where that is not known.
    pub(crate) fn take(&mut self) -> Option<Stated> {
        let (_, stated) = self.complete.pop_front()?;
        if self.complete.is_empty() {
            // Only the one that is arriving is left, if any.
            self.kept.drain(..self.head);
            self.line -= self.head;
            self.head = 0;
            self.kept.shrink_to(ROOM);
        }
        Some(stated)
    }

    /// What the head that the parser stands before states, as far as it has arrived.
    pub(crate) fn stated(&self) -> Stated {
        match self.complete.front() {
            Some((_, stated)) => *stated,
            None => stated(self.next()),
        }
    }

    /// The head that the parser stands before, as far as it has arrived.
    pub(crate) fn next(&self) -> &[u8] {
        match self.complete.front() {
            Some((head, _)) => &self.kept[head.clone()],
            None => &self.kept[self.head..],
        }
    }

    /// Takes octets of a head, to its end at most. How many.
    fn head(&mut self, octets: &[u8]) -> usize {
        let mut taken = 0;
        while taken < octets.len() {
            let rest = &octets[taken..];
            let end = rest.iter().position(|octet| *octet == b'\n');
            let piece = &rest[..end.map_or(rest.len(), |end| end + 1)];
            taken += piece.len();
            if self.kept.len() + piece.len() > KEPT {
                self.state = State::Lost;
                return octets.len();
            }
            self.kept.extend_from_slice(piece);
            if end.is_none() {
                break;
            }
            let is_empty = matches!(&self.kept[self.line..], b"\n" | b"\r\n");
            let is_first = self.line == self.head;
            self.line = self.kept.len();
            if is_empty && is_first {
                // A robust server ignores empty lines before a request (RFC 9112 §2.2), as hyper does.
                self.kept.truncate(self.head);
                self.line = self.head;
            } else if is_empty {
                self.end_head();
                break;
            }
        }
        taken
    }

    fn end_head(&mut self) {
        let head = &self.kept[self.head..];
        let stated = stated(head);
        self.state = if stated.codings > 0 {
            State::SIZE
        } else {
            match length(head) {
                None | Some(Ok(0)) => State::Head,
                Some(Ok(length)) => State::Body(length),
                Some(Err(NoLength)) => State::Lost,
            }
        };
        self.complete
            .push_back((self.head..self.kept.len(), stated));
        self.head = self.kept.len();
        self.line = self.head;
    }
}

impl State {
    const SIZE: Self = Self::Size {
        size: 0,
        digits: true,
    };
}

/// Of a run of so many octets, how many are here; and how many are left, if any.
fn skip(octets: &[u8], run: u64) -> (usize, Option<u64>) {
    let taken = usize::try_from(run).map_or(octets.len(), |run| run.min(octets.len()));
    let left = run - taken as u64;
    (taken, (left > 0).then_some(left))
}

/// One more octet of a chunk's size line (RFC 9112 §7.1). What hyper refuses there ends the connection; here it only must not
/// be taken for another size.
fn of_size(size: u64, digits: bool, octet: u8) -> State {
    match (octet, digits) {
        (b'\n', _) if size == 0 => State::Trailers { line: 0 },
        (b'\n', _) => State::Chunk(size),
        (_, false) => State::Size { size, digits },
        (octet, true) => match char::from(octet).to_digit(16) {
            Some(_) if size > u64::MAX >> 4 => State::Lost,
            Some(digit) => State::Size {
                size: size << 4 | u64::from(digit),
                digits,
            },
            None => State::Size {
                size,
                digits: false,
            },
        },
    }
}

/// The fields of a head: the lines behind its first that are not empty.
fn fields(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|octet| *octet == b'\n')
        .skip(1)
        .take_while(|line| !matches!(line, [] | [b'\r']))
}

fn is_of(field: &[u8], name: &[u8]) -> bool {
    field.len() > name.len()
        && field[name.len()] == b':'
        && field[..name.len()].eq_ignore_ascii_case(name)
}

const LENGTH: &[u8] = b"content-length";
const CODING: &[u8] = b"transfer-encoding";

fn stated(head: &[u8]) -> Stated {
    let mut stated = Stated::default();
    for field in fields(head) {
        stated.lengths += usize::from(is_of(field, LENGTH));
        stated.codings += usize::from(is_of(field, CODING));
    }
    stated
}

/// A length that is none.
struct NoLength;

/// The body's length as the first such field states it; the parser refuses others that differ.
fn length(head: &[u8]) -> Option<Result<u64, NoLength>> {
    let field = fields(head).find(|field| is_of(field, LENGTH))?;
    let value = field[LENGTH.len() + 1..].trim_ascii();
    let is_number = value.iter().all(u8::is_ascii_digit);
    Some(
        std::str::from_utf8(value)
            .ok()
            .filter(|_| is_number)
            .and_then(|value| value.parse().ok())
            .ok_or(NoLength),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLAIN: Stated = Stated {
        lengths: 0,
        codings: 0,
    };
    const SIZED: Stated = Stated {
        lengths: 1,
        codings: 0,
    };
    const CHUNKED: Stated = Stated {
        lengths: 0,
        codings: 1,
    };
    const BOTH: Stated = Stated {
        lengths: 1,
        codings: 1,
    };

    /// Messages, and what their heads state.
    const MESSAGES: [(&str, Stated); 8] = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", PLAIN),
        ("\r\n\nGET /b HTTP/1.1\nHost: a\n\n", PLAIN),
        (
            "POST / HTTP/1.1\r\nContent-Length: 21\r\n\r\nGET / HTTP/1.1\r\nA: b\r\n",
            SIZED,
        ),
        ("PUT / HTTP/1.1\r\ncontent-LENGTH:0\r\n\r\n", SIZED),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            CHUNKED,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1A;x=\"y\"\r\n0\r\n\r\nContent-Length: 3\r\n\r\n\r\n2\r\nab\r\n00\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n",
            CHUNKED,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 6\r\nTRANSFER-encoding: chunked\r\n\r\n0\r\n\r\n",
            BOTH,
        ),
        (
            "POST / HTTP/1.1\r\nX: Content-Length: 9\r\nX-Content-Length: 9\r\n\r\n",
            PLAIN,
        ),
    ];

    proptest! {
        #[test]
        fn every_head_is_found_however_the_octets_come(
            picks in prop::collection::vec(0..MESSAGES.len(), 1..12),
            cuts in prop::collection::vec(1_usize..40, 1..40),
            ahead in 0_usize..4,
        ) {
            let wire: String = picks.iter().map(|pick| MESSAGES[*pick].0).collect();
            let (mut framing, mut found) = (Framing::default(), Vec::new());
            let mut rest = wire.as_bytes();
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*cut));
                framing.feed(piece);
                // A parser may be behind by some messages.
                while framing.complete.len() > ahead {
                    found.extend(framing.take());
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            while let Some(stated) = framing.take() {
                found.push(stated);
            }
            let expected: Vec<Stated> = picks.iter().map(|pick| MESSAGES[*pick].1).collect();
            prop_assert_eq!(found, expected);
            prop_assert!(framing.kept.is_empty() && framing.next().is_empty());
        }

        #[test]
        fn nothing_that_comes_is_too_much(octets in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut framing = Framing::default();
            framing.feed(&octets);
            while framing.take().is_some() {}
            framing.feed(&octets);
        }
    }

    #[test]
    fn a_head_that_is_arriving_can_be_looked_at() {
        let mut framing = Framing::default();
        framing.feed(b"\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Len");
        assert_eq!(
            framing.next(),
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Len"
        );
        assert_eq!(framing.stated(), SIZED);
        framing.feed(b"gth: 2\r\n\r\n");
        assert!(framing.stated().is_ambiguous());
        framing.feed(b"xGET / HTTP/1.1\r\n");
        assert!(framing.take().is_some_and(Stated::is_ambiguous));
        assert_eq!(framing.next(), b"GET / HTTP/1.1\r\n");
    }

    #[test]
    fn behind_what_is_no_http_nothing_is_known() {
        for garbage in [
            "POST / HTTP/1.1\r\nContent-Length: five\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n",
        ] {
            let mut framing = Framing::default();
            framing.feed(garbage.as_bytes());
            framing.feed(b"\r\nGET / HTTP/1.1\r\n\r\n");
            assert!(framing.take().is_some(), "{garbage}");
            assert_eq!(framing.take(), None, "{garbage}");
        }
        let mut framing = Framing::default();
        framing.feed(&vec![b'a'; KEPT + 1]);
        framing.feed(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(framing.take(), None);
        assert!(framing.kept.len() <= KEPT);
    }
}
