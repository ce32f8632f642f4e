//! The chunked coding (RFC 9112 §7.1), read strictly: every line of it ends with CRLF and neither octet is
//! anywhere else, as a bare one is where two readers part. What it costs is bounded: whoever decorates
//! chunks is given up. Pure.

use bytes::{Buf, BytesMut};
use http::HeaderMap;

use super::content::Piece;
use super::{Unreadable, fields};

/// The longest line that states a chunk's size, with what extends it.
const LINE: usize = 4 * 1024;

/// What extends the sizes of one answer's chunks (RFC 9112 §7.1.1), in octets, and nobody reads.
const EXTENSIONS: usize = 16 * 1024;

/// The longest trailer section.
const TRAILERS: usize = 64 * 1024;

/// Where in a body its reader is.
#[derive(Debug)]
pub struct Chunks {
    state: State,
    extensions: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Before the line that states a chunk's size.
    Size,
    /// So many octets of a chunk are still to come.
    Chunk(u64),
    /// Before the end of line behind a chunk.
    ChunkEnd,
    /// In the trailers, of which the line that begins here has no end up to there.
    Trailers {
        line: usize,
        searched: usize,
    },
    Over,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Size,
            extensions: 0,
        }
    }

    /// Whether all of it was taken.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// The least that is still to come.
    pub(super) const fn least(&self) -> u64 {
        match self.state {
            State::Chunk(left) => left,
            State::Size | State::ChunkEnd | State::Trailers { .. } => 1,
            State::Over => 0,
        }
    }

    /// Takes what comes next out of what has arrived.
    ///
    /// # Errors
    /// What of it is no chunked body.
    pub(super) fn next(&mut self, octets: &mut BytesMut) -> Result<Piece, Unreadable> {
        loop {
            match self.state {
                State::Size => {
                    let Some((line, size)) = size(octets)? else {
                        return Ok(Piece::More);
                    };
                    self.extensions += line.saturating_sub(16);
                    if self.extensions > EXTENSIONS {
                        return Err("its chunks have more than 16 KiB of extensions");
                    }
                    octets.advance(line);
                    self.state = match size {
                        0 => State::Trailers {
                            line: 0,
                            searched: 0,
                        },
                        size => State::Chunk(size),
                    };
                }
                State::Chunk(left) => {
                    if octets.is_empty() {
                        return Ok(Piece::More);
                    }
                    let here =
                        usize::try_from(left).map_or(octets.len(), |left| left.min(octets.len()));
                    let data = octets.split_to(here).freeze();
                    self.state = match left - here as u64 {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                    return Ok(Piece::Data(data));
                }
                State::ChunkEnd => {
                    match &octets[..octets.len().min(2)] {
                        b"\r\n" => {}
                        b"" | b"\r" => return Ok(Piece::More),
                        _ => return Err("a chunk is longer than it says"),
                    }
                    octets.advance(2);
                    self.state = State::Size;
                }
                State::Trailers {
                    mut line,
                    mut searched,
                } => {
                    let trailers = trailers(octets, &mut line, &mut searched)?;
                    let Some(trailers) = trailers else {
                        self.state = State::Trailers { line, searched };
                        return Ok(Piece::More);
                    };
                    self.state = State::Over;
                    if !trailers.is_empty() {
                        return Ok(Piece::Trailers(trailers));
                    }
                }
                State::Over => return Ok(Piece::End),
            }
        }
    }
}

/// The line that states a chunk's size, if all of it is here: how long the line is, and the chunk.
fn size(octets: &[u8]) -> Result<Option<(usize, u64)>, Unreadable> {
    let mut size: u64 = 0;
    let mut at = 0;
    while let Some(digit) = octets
        .get(at)
        .and_then(|octet| char::from(*octet).to_digit(16))
    {
        if size > u64::MAX >> 4 {
            return Err("a chunk has no size that can be counted");
        }
        size = size << 4 | u64::from(digit);
        at += 1;
    }
    let space = octets[at..].iter();
    let space = space
        .take_while(|octet| matches!(octet, b' ' | b'\t'))
        .count();
    let Some(behind) = octets.get(at + space) else {
        return whole_within_limit(octets);
    };
    if at == 0 || !matches!(behind, b'\r' | b';') {
        return Err("a chunk's size is no hexadecimal number");
    }
    let Some(end) = octets[at..]
        .iter()
        .position(|octet| matches!(octet, b'\r' | b'\n'))
    else {
        return whole_within_limit(octets);
    };
    match &octets[at + end..] {
        [b'\r'] => whole_within_limit(octets),
        [b'\r', b'\n', ..] if at + end <= LINE => Ok(Some((at + end + 2, size))),
        [b'\r', b'\n', ..] => Err(TOO_LONG),
        _ => Err("the line of a chunk's size ends with CR or LF alone"),
    }
}

const TOO_LONG: &str = "the line of a chunk's size has more than 4 KiB";

/// A line whose end is not here yet.
const fn whole_within_limit(line: &[u8]) -> Result<Option<(usize, u64)>, Unreadable> {
    if line.len() > LINE {
        Err(TOO_LONG)
    } else {
        Ok(None)
    }
}

/// What follows the last chunk, if all of it is here. The search for its end goes on at `searched`, in the line that begins at
/// `line`.
fn trailers(
    octets: &mut BytesMut,
    line: &mut usize,
    searched: &mut usize,
) -> Result<Option<HeaderMap>, Unreadable> {
    while let Some(length) = octets[*searched..].iter().position(|octet| *octet == b'\n') {
        let end = *searched + length;
        if end == *line || octets[end - 1] != b'\r' {
            return Err("a line of its trailers ends with LF alone");
        }
        if end > TRAILERS {
            break;
        }
        if end == *line + 1 {
            let section = octets.split_to(end + 1).freeze();
            return fields::trailers(&section).map(Some);
        }
        *line = end + 1;
        *searched = *line;
    }
    *searched = octets.len();
    if octets.len() > TRAILERS {
        return Err("its trailers have more than 64 KiB");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body's content, its trailers, and what was left behind it.
    type Found = (Vec<u8>, HeaderMap, Vec<u8>);

    /// All of a body that arrives in pieces of so many octets at most.
    fn read(whole: &[u8], piece: usize) -> Result<Option<Found>, Unreadable> {
        let mut chunks = Chunks::new();
        let (mut octets, mut content) = (BytesMut::new(), Vec::new());
        let mut trailers = HeaderMap::new();
        let mut arriving = whole.chunks(piece);
        loop {
            match chunks.next(&mut octets)? {
                Piece::Data(data) => content.extend_from_slice(&data),
                Piece::Trailers(fields) => trailers = fields,
                Piece::End => {
                    octets.extend(arriving.flatten());
                    return Ok(Some((content, trailers, octets.to_vec())));
                }
                Piece::More => match arriving.next() {
                    Some(piece) => octets.extend_from_slice(piece),
                    None => return Ok(None),
                },
            }
        }
    }

    #[test]
    fn content_and_trailers_come_out_however_they_arrive() {
        let whole = b"4\r\nwiki\r\n00A ; why=\"not\"\r\n0123456789\r\n0\r\nA: 1\r\nb:2\r\n\r\nHTTP";
        for piece in 1..=whole.len() {
            let (content, trailers, left) = read(whole, piece).unwrap().unwrap();
            assert_eq!(content, b"wiki0123456789");
            assert_eq!(
                (&trailers["a"], &trailers["b"]),
                (&"1".parse().unwrap(), &"2".parse().unwrap())
            );
            assert_eq!(left, b"HTTP");
        }
        assert_eq!(
            read(b"0\r\n\r\n", 1),
            Ok(Some((vec![], HeaderMap::new(), vec![])))
        );
    }

    #[test]
    fn every_prefix_of_it_asks_for_more() {
        let whole = b"2;x=y\r\nab\r\n0\r\nA: 1\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end], 3), Ok(None), "{end}");
        }
    }

    #[test]
    fn what_two_readers_may_read_in_two_ways_is_not_read() {
        let long_line = [b"1;".as_slice(), &[b'a'; LINE], b"\r\n"].concat();
        let decorated = [b"1;".as_slice(), &[b'a'; 900], b"\r\na\r\n"]
            .concat()
            .repeat(20);
        let trailers = [b"0\r\nA: ".as_slice(), &[b'a'; TRAILERS], b"\r\n\r\n"].concat();
        for bad in [
            b"\r\n".as_slice(),
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n",
            b"0x1\r\na\r\n",
            b"5 5\r\nhello\r\n",
            b" 1\r\na\r\n",
            b"1_0\r\n",
            b"1\na\n",
            b"1\ra\r\n",
            b"1;a\nb\r\n",
            b"1\r\nab\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nA: 1\n\r\n",
            b"0\r\nA: 1\r\n\n",
            b"0\r\nA b: 1\r\n\r\n",
            b"0\r\nA: 1\r\n folded\r\n\r\n",
            b"10000000000000000\r\n",
            &long_line,
            &decorated,
            &trailers,
        ] {
            let said = String::from_utf8_lossy(&bad[..bad.len().min(20)]).into_owned();
            assert!(read(bad, bad.len()).is_err(), "{said:?}");
            assert!(read(bad, 1).is_err(), "{said:?} octet by octet");
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_was_written(content in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..8), piece in 1..64_usize) {
            let mut whole = Vec::new();
            for chunk in &content {
                whole.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                whole.extend_from_slice(chunk);
                whole.extend_from_slice(b"\r\n");
            }
            whole.extend_from_slice(b"0\r\n\r\n");
            let (read, _, left) = read(&whole, piece).unwrap().unwrap();
            prop_assert_eq!(read, content.concat());
            prop_assert!(left.is_empty());
        }

        #[test]
        fn nothing_makes_it_panic(octets in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'2'), Just(b';'), any::<u8>()], 0..200), piece in 1..64_usize) {
            let _whatever = read(&octets, piece);
        }
    }
}
