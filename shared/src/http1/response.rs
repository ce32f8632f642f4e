//! The head of an answer, as a server writes it and as a client reads it (RFC 9112 §4). Pure.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{HeaderMap, Response, StatusCode, Version};
use httparse::{ParserConfig, Status};

use super::Unreadable;
use super::fields::{self, Places, Search};

/// The longest head (`reliability` asks for 64 KiB).
const LONGEST: usize = 64 * 1024;

/// The most fields that a head has.
const MOST: usize = 100;

const TOO_LARGE: Unreadable = "its head has more than 64 KiB, or more than 100 fields";

/// Writes an answer's status line, in this version, and fields; neither those that say how long it is nor the line that ends them.
pub fn write(out: &mut BytesMut, version: Version, status: StatusCode, headers: &HeaderMap) {
    // What most heads have room in.
    out.reserve(512);
    let version: &[u8] = if version == Version::HTTP_10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    };
    out.extend_from_slice(version);
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
    fields::write(out, headers);
}

/// Writes one more field.
pub fn write_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    fields::write_one(out, name, value);
}

/// Looks for the head of an answer in what has arrived.
#[derive(Debug, Default)]
pub struct Reader {
    search: Search,
    places: Places,
}

impl Reader {
    /// Takes a head out of what has arrived, if all of it is here.
    ///
    /// # Errors
    /// What of it is no HTTP/1.
    pub fn next(&mut self, octets: &mut BytesMut) -> Result<Option<Response<()>>, Unreadable> {
        if !self.search.is_worth_parsing(octets) {
            return within_limit(octets);
        }
        let mut room = [const { MaybeUninit::uninit() }; MOST];
        let mut parsed = httparse::Response::new(&mut []);
        let config = ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut parsed, octets, &mut room)
        {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return within_limit(octets),
            Err(error) => return Err(why(error)),
        };
        if length > LONGEST {
            return Err(TOO_LARGE);
        }
        self.search.restart();
        let mut head = Response::new(());
        *head.version_mut() = match parsed.version {
            Some(0) => Version::HTTP_10,
            _ => Version::HTTP_11,
        };
        *head.status_mut() = parsed
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or("its answer has no status that there is")?;
        fields::note(&mut self.places, parsed.headers, octets);
        let octets = octets.split_to(length).freeze();
        *head.headers_mut() = fields::collect(&self.places, &octets)?;
        Ok(Some(head))
    }
}

fn within_limit(octets: &[u8]) -> Result<Option<Response<()>>, Unreadable> {
    if octets.len() >= LONGEST {
        Err(TOO_LARGE)
    } else {
        Ok(None)
    }
}

const fn why(error: httparse::Error) -> Unreadable {
    match error {
        httparse::Error::TooManyHeaders => TOO_LARGE,
        httparse::Error::Version => "it does not answer with an HTTP version of 1.0 or 1.1",
        httparse::Error::Status => "its answer's status line is none (RFC 9112 §4)",
        httparse::Error::HeaderName => "the name of a field of its answer is none (RFC 9112 §5)",
        httparse::Error::HeaderValue => "the value of a field of its answer is none (RFC 9112 §5)",
        httparse::Error::NewLine | httparse::Error::Token => {
            "its answer's head has octets that none may have (RFC 9112 §2.2)"
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A head, and what was left behind it.
    type Found = (Response<()>, Vec<u8>);

    fn read(whole: &[u8], piece: usize) -> Result<Option<Found>, Unreadable> {
        let (mut reader, mut octets) = (Reader::default(), BytesMut::new());
        let mut arriving = whole.chunks(piece);
        while let Some(piece) = arriving.next() {
            octets.extend_from_slice(piece);
            if let Some(head) = reader.next(&mut octets)? {
                octets.extend(arriving.flatten());
                return Ok(Some((head, octets.to_vec())));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_is_read_however_it_arrives() {
        let long = "x".repeat(600);
        let whole = format!(
            "HTTP/1.0 299 So it is\r\nA: 1\r\nb:\t2 \r\nEmpty:\r\na: 3\r\nLong: {long}\nLast: 4\r\n\r\nrest"
        );
        for piece in [1, 2, 3, 7, 100, 256, 10_000] {
            let (head, left) = read(whole.as_bytes(), piece).unwrap().unwrap();
            assert_eq!(
                (head.status().as_u16(), head.version()),
                (299, Version::HTTP_10)
            );
            let of_a: Vec<_> = head.headers().get_all("a").iter().collect();
            assert_eq!(of_a, ["1", "3"]);
            for (name, value) in [("b", "2"), ("empty", ""), ("long", &long), ("last", "4")] {
                assert_eq!(head.headers()[name], value, "{name}");
            }
            assert_eq!(left, b"rest");
        }
    }

    #[test]
    fn what_is_no_http_is_told_at_its_first_octets() {
        for (said, expected) in [
            (b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(), "HTTP version"),
            (b"\x15\x03\x01\0\x02\x02\x0a", "HTTP version"),
            (b"HTTP/2 200\r\n", "HTTP version"),
            (b"HTTP/1.1 2000 OK\r\n", "status line"),
            (b"HTTP/1.1 200 OK\r\nA b: c\r\n", "name of a field"),
            (b"HTTP/1.1 200 OK\r\nA : c\r\n", "name of a field"),
            (b"HTTP/1.1 200 OK\r\nA: \0\r\n", "value of a field"),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n", "field"),
        ] {
            for piece in [1, said.len()] {
                let why = read(said, piece).unwrap_err();
                assert!(
                    why.contains(expected),
                    "{why}: {:?}",
                    String::from_utf8_lossy(said)
                );
            }
        }
    }

    #[test]
    fn what_has_no_end_is_given_up() {
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &[b'a'; LONGEST]].concat();
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: 1\r\n".repeat(MOST + 1));
        for bad in [endless.as_slice(), many.as_bytes()] {
            assert_eq!(read(bad, 4096).unwrap_err(), TOO_LARGE);
        }
        let most = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: 1\r\n".repeat(MOST));
        assert!(read(most.as_bytes(), 4096).unwrap().is_some());
    }

    #[test]
    fn an_answer_is_written_as_it_is() {
        let mut answer = Response::new(());
        answer.headers_mut().append("x-a", "1".parse().unwrap());
        let mut out = BytesMut::new();
        write(
            &mut out,
            Version::HTTP_11,
            answer.status(),
            answer.headers(),
        );
        let odd = StatusCode::from_u16(299).unwrap();
        write(&mut out, Version::HTTP_10, odd, &HeaderMap::new());
        assert_eq!(&out[..], b"HTTP/1.1 200 OK\r\nx-a: 1\r\nHTTP/1.0 299 \r\n");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..600), piece in 1..600_usize) {
            let whole = [b"HTTP/1.1 200 \r\n".as_slice(), &octets].concat();
            let _whatever = read(&whole, piece);
            let _whatever = read(&octets, piece);
        }
    }
}
