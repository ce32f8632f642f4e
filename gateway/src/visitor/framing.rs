//! Where each message of an HTTP/1 connection begins and ends, and how often its head states a length: read along with
//! hyper's parser, which forgets a `Content-Length` beside a `Transfer-Encoding`, and knows better than any look at one head
//! what is a head: the first of a segment, one behind a body, one that came while another request was in hand. And stricter
//! than it: a bare CR or LF in chunked framing or trailers is where two readers part, so nothing behind one is read. Pure.

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
    /// A line ended with LF alone. It may be taken for a line's end (RFC 9112 §2.2), and by another reader for a part of it.
    pub(crate) bare: bool,
    /// There is a field named `Upgrade`.
    pub(crate) upgrades: bool,
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
    /// A line of the head that is arriving ended with LF alone.
    bare: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many octets of a body are still to come.
    Body(u64),
    /// In the line that states a chunk's size: what it says so far, whether its digits go on, and whether CR was its last octet.
    Size { size: u64, digits: bool, cr: bool },
    /// So many octets of a chunk are still to come.
    Chunk(u64),
    /// At the line's end behind a chunk, of which CR was seen or not.
    ChunkEnd { cr: bool },
    /// In a trailer line, or in the empty one that ends them.
    Trailers { empty: bool, cr: bool },
    /// Behind the head of a request that asks for a change of protocol: what comes next is HTTP only if that is refused.
    Behind,
    /// A chunked body is none from here on.
    Malformed,
    /// What is no HTTP came, or a head beyond all limits: where the next message begins cannot be told.
    Lost,
}

impl Framing {
    /// Octets arrived, in this order. Returns how many of them the parser is to have: all, unless they are malformed from
    /// there on or what they are is not settled. The others come again, if at all.
    pub(crate) fn feed(&mut self, octets: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(next) = octets.get(taken) {
            let rest = &octets[taken..];
            taken += match self.state {
                State::Head => self.head(rest),
                State::Body(left) => {
                    let (taken, left) = skip(rest, left);
                    self.state = left.map_or(State::Head, State::Body);
                    taken
                }
                State::Chunk(left) => {
                    let (taken, left) = skip(rest, left);
                    self.state = left.map_or(State::ChunkEnd { cr: false }, State::Chunk);
                    taken
                }
                State::Lost => rest.len(),
                State::Behind | State::Malformed => break,
                state => {
                    self.state = behind(state, *next);
                    usize::from(self.state != State::Malformed)
                }
            };
        }
        taken
    }

    /// Whether a chunked body has broken off into something else.
    pub(crate) fn is_malformed(&self) -> bool {
        self.state == State::Malformed
    }

    /// The request in hand is answered: if it asked for a change of protocol, it is not to have it.
    pub(crate) fn settle(&mut self) {
        // Unless that one is still waiting behind the one in hand.
        if self.state == State::Behind && self.complete.is_empty() {
            self.state = State::Head;
        }
    }

    /// The least that is still to come of the body of the request in hand; `None` where all of it came, or its head is not
    /// taken yet.
    pub(crate) fn owed(&self) -> Option<u64> {
        let least = match self.state {
            State::Body(left) | State::Chunk(left) => left,
            State::Size { .. } | State::ChunkEnd { .. } | State::Trailers { .. } => 1,
            State::Head | State::Behind | State::Malformed | State::Lost => return None,
        };
        self.complete.is_empty().then_some(least)
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
            let line = &self.kept[self.line..];
            let is_empty = matches!(line, b"\n" | b"\r\n");
            let is_bare = !line.ends_with(b"\r\n");
            let is_first = self.line == self.head;
            self.line = self.kept.len();
            if is_empty && is_first {
                // A robust server ignores empty lines before a request (RFC 9112 §2.2), as hyper does.
                self.kept.truncate(self.head);
                self.line = self.head;
                continue;
            }
            self.bare |= is_bare;
            if is_empty {
                self.end_head();
                break;
            }
        }
        taken
    }

    fn end_head(&mut self) {
        let head = &self.kept[self.head..];
        let stated = Stated {
            bare: std::mem::take(&mut self.bare),
            ..stated(head)
        };
        self.state = if stated.codings > 0 {
            State::SIZE
        } else {
            match length(head) {
                None | Some(Ok(0)) if stated.upgrades => State::Behind,
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
    const TRAILERS: Self = Self::Trailers {
        empty: true,
        cr: false,
    };

    const SIZE: Self = Self::Size {
        size: 0,
        digits: true,
        cr: false,
    };
}

/// Of a run of so many octets, how many are here; and how many are left, if any.
fn skip(octets: &[u8], run: u64) -> (usize, Option<u64>) {
    let taken = usize::try_from(run).map_or(octets.len(), |run| run.min(octets.len()));
    let left = run - taken as u64;
    (taken, (left > 0).then_some(left))
}

/// One more octet of what frames the chunks (RFC 9112 §7.1), where every line ends with CRLF and neither octet is anywhere
/// else. What else hyper refuses there ends the connection; here it only must not be taken for something different.
fn behind(state: State, octet: u8) -> State {
    match (state, octet) {
        (
            State::Size {
                size: 0, cr: true, ..
            },
            b'\n',
        ) => State::TRAILERS,
        (State::Size { size, cr: true, .. }, b'\n') => State::Chunk(size),
        (State::ChunkEnd { cr: true }, b'\n') => State::SIZE,
        (
            State::Trailers {
                empty: true,
                cr: true,
            },
            b'\n',
        ) => State::Head,
        (State::Trailers { cr: true, .. }, b'\n') => State::TRAILERS,
        (
            State::Size {
                size, cr: false, ..
            },
            b'\r',
        ) => State::Size {
            size,
            digits: false,
            cr: true,
        },
        (State::ChunkEnd { cr: false }, b'\r') => State::ChunkEnd { cr: true },
        (State::Trailers { empty, cr: false }, b'\r') => State::Trailers { empty, cr: true },
        (_, b'\r' | b'\n') => State::Malformed,
        (
            State::Size {
                size,
                digits,
                cr: false,
            },
            octet,
        ) => of_size(size, digits, octet),
        (State::Trailers { cr: false, .. }, _) => State::Trailers {
            empty: false,
            cr: false,
        },
        _ => State::Malformed,
    }
}

/// One more octet of a chunk's size, or of what follows it on its line.
fn of_size(size: u64, digits: bool, octet: u8) -> State {
    let digit = digits.then(|| char::from(octet).to_digit(16)).flatten();
    match digit {
        Some(_) if size > u64::MAX >> 4 => State::Malformed,
        Some(digit) => State::Size {
            size: size << 4 | u64::from(digit),
            digits,
            cr: false,
        },
        None => State::Size {
            size,
            digits: false,
            cr: false,
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
const UPGRADE: &[u8] = b"upgrade";

fn stated(head: &[u8]) -> Stated {
    let mut stated = Stated::default();
    for field in fields(head) {
        stated.lengths += usize::from(is_of(field, LENGTH));
        stated.codings += usize::from(is_of(field, CODING));
        stated.upgrades |= is_of(field, UPGRADE);
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
        bare: false,
        upgrades: false,
    };
    const SIZED: Stated = Stated {
        lengths: 1,
        codings: 0,
        ..PLAIN
    };
    const CHUNKED: Stated = Stated {
        lengths: 0,
        codings: 1,
        ..PLAIN
    };
    const BARE: Stated = Stated {
        bare: true,
        ..PLAIN
    };
    const BOTH: Stated = Stated {
        lengths: 1,
        codings: 1,
        ..PLAIN
    };

    /// Messages, and what their heads state.
    const MESSAGES: [(&str, Stated); 8] = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", PLAIN),
        ("\r\n\nGET /b HTTP/1.1\nHost: a\n\n", BARE),
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
            assert_eq!(framing.owed(), None, "{garbage}");
        }
        let mut framing = Framing::default();
        framing.feed(&vec![b'a'; KEPT + 1]);
        framing.feed(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(framing.take(), None);
        assert!(framing.kept.len() <= KEPT);
    }

    const POST: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn chunks_are_read_to_the_first_bare_octet_of_a_line_end() {
        for (good, bad) in [
            ("0", "\n\r\n"),
            ("0\r\n", "\n"),
            ("0\r\nX: y", "\n\r\n"),
            ("0\r\nX: y", "\n\n"),
            ("0\r\nX: y\r\n", "\n"),
            ("0\r\nX: y\r", "Z\r\n\r\n"),
            ("0\r\nX: y\r", "\r\n\r\n"),
            ("1", "\na\r\n0\r\n\r\n"),
            ("1;x\r", "y\r\n"),
            ("1;x", "\ny\r\n"),
            ("1\r\na", "\n0\r\n\r\n"),
            ("1\r\na\r", "\r\n0\r\n\r\n"),
            ("1\r\na", "b\r\n"),
        ] {
            for cut in 0..good.len() {
                let mut framing = Framing::default();
                let (before, behind) = good.split_at(cut);
                let head = format!("{POST}{before}");
                assert_eq!(framing.feed(head.as_bytes()), head.len());
                let rest = format!("{behind}{bad}GET / HTTP/1.1\r\n\r\n");
                assert_eq!(
                    framing.feed(rest.as_bytes()),
                    behind.len(),
                    "{good:?} {bad:?}"
                );
                assert!(framing.is_malformed());
                assert_eq!(framing.feed(b"0\r\n\r\n"), 0);
                assert!(framing.take().is_some() && framing.take().is_none());
            }
        }
    }

    #[test]
    fn what_a_visitor_owes_is_what_is_left_of_the_body_in_hand() {
        let mut framing = Framing::default();
        framing.feed(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nfour");
        assert_eq!(framing.owed(), None, "nobody has the head yet");
        assert_eq!(framing.take(), Some(SIZED));
        assert_eq!(framing.owed(), Some(5));
        framing.feed(b"nines");
        assert_eq!(framing.owed(), None);
        framing.feed(format!("{POST}6\r\nab").as_bytes());
        framing.take();
        assert_eq!(framing.owed(), Some(4));
        framing.feed(b"cdef\r\n0\r\nX: y\r\n");
        assert_eq!(framing.owed(), Some(1));
        framing.feed(b"\r\n");
        assert_eq!(framing.owed(), None);
    }

    #[test]
    fn what_is_behind_an_upgrade_waits_until_it_is_known_what_it_is() {
        const ASKING: &[u8] = b"GET /ws HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let mut framing = Framing::default();
        framing.feed(b"GET / HTTP/1.1\r\n\r\n");
        let both = [ASKING, b"\x81\n\n"].concat();
        assert_eq!(framing.feed(&both), ASKING.len());
        assert_eq!(framing.take(), Some(PLAIN));
        framing.settle();
        assert_eq!(
            framing.feed(b"\n"),
            0,
            "the first request has been answered"
        );
        assert!(framing.take().is_some_and(|stated| stated.upgrades));
        framing.settle();
        assert_eq!(framing.feed(ASKING), ASKING.len());
        let sized = b"POST / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nok";
        framing.take();
        framing.settle();
        assert_eq!(
            framing.feed(sized),
            sized.len(),
            "a body may not be upgraded"
        );
    }
}
