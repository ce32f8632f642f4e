//! The head of a request, as a client writes it and as a server reads it (RFC 9112 §3). Pure.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri, Version};
use httparse::{EMPTY_HEADER, ParserConfig, Status};

use super::fields::{self, Places, Search};

/// Fields for which there is room without asking for any.
const USUAL: usize = 100;

/// The longest target that a [`Uri`] holds.
const LONGEST_TARGET: usize = 65_534;

/// The head of a request, whose fields say how long its body is.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    pub method: &'a Method,
    /// In origin form, or `*` (RFC 9112 §3.2); `/` where there is none.
    pub target: Option<&'a PathAndQuery>,
    pub headers: &'a HeaderMap,
}

/// Writes a request's head in HTTP/1.1.
pub fn write(out: &mut BytesMut, head: Head<'_>) {
    // What most heads have room in.
    out.reserve(512);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let target = head.target.map_or("/", PathAndQuery::as_str);
    if target.starts_with('?') {
        // A path that is empty is none here (RFC 9112 §3.2.1).
        out.extend_from_slice(b"/");
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    fields::write(out, head.headers);
    out.extend_from_slice(b"\r\n");
}

/// Why what came is no head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Malformed,
    /// Its target is longer than any that is taken.
    TargetTooLong,
    /// It has too many octets, or too many fields.
    TooLarge,
}

/// The head of a request that has arrived. Boxed by whoever reads it, as it is handed on from hand to hand.
#[derive(Debug)]
pub struct Found {
    pub head: Request<()>,
    /// As it came.
    pub octets: Bytes,
    /// A line of it ended with LF alone.
    pub bare_line: bool,
}

/// Looks for the head of a request in what has arrived.
#[derive(Debug)]
pub struct Reader {
    search: Search,
    places: Places,
    /// The longest head, in octets, and how many fields one may have.
    longest: usize,
    most: usize,
}

impl Reader {
    pub fn new(longest: usize, most: usize) -> Self {
        Self {
            search: Search::default(),
            places: Places::new(),
            longest,
            most,
        }
    }

    /// Takes a head out of what has arrived, if all of it is here. Empty lines before it are ignored (RFC 9112 §2.2).
    ///
    /// # Errors
    /// Why it is none.
    pub fn next(&mut self, octets: &mut BytesMut) -> Result<Option<Box<Found>>, Flaw> {
        if !self.search.is_worth_parsing(octets) {
            return self.within_limit(octets);
        }
        let mut usual = [const { MaybeUninit::uninit() }; USUAL];
        let mut many = Vec::new();
        let mut parsed = httparse::Request::new(&mut []);
        let config = ParserConfig::default();
        let found = if self.most <= USUAL {
            let room = &mut usual[..self.most];
            config.parse_request_with_uninit_headers(&mut parsed, octets, room)
        } else {
            many.resize(self.most, EMPTY_HEADER);
            parsed = httparse::Request::new(&mut many);
            config.parse_request(&mut parsed, octets)
        };
        let length = match found {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return self.within_limit(octets),
            Err(httparse::Error::TooManyHeaders) => return Err(Flaw::TooLarge),
            Err(_) => return Err(Flaw::Malformed),
        };
        if length > self.longest {
            return Err(Flaw::TooLarge);
        }
        self.search.restart();
        let (method, target) = (parsed.method.unwrap_or(""), parsed.path.unwrap_or(""));
        if target.len() > LONGEST_TARGET {
            return Err(Flaw::TargetTooLong);
        }
        let version = match parsed.version {
            Some(0) => Version::HTTP_10,
            _ => Version::HTTP_11,
        };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_bad| Flaw::Malformed)?;
        let base = octets.as_ptr() as usize;
        let at = target.as_ptr() as usize - base;
        let target = at..at + target.len();
        fields::note(&mut self.places, parsed.headers, octets);
        let rest = octets;
        let octets = rest.split_to(length).freeze();
        let mut found = Box::new(Found {
            head: Request::new(()),
            bare_line: fields::has_bare_line(&self.places, &octets),
            octets,
        });
        let (head, octets) = (&mut found.head, &found.octets);
        *head.version_mut() = version;
        *head.method_mut() = method;
        match (
            Uri::from_maybe_shared(octets.slice(target)),
            fields::collect(&self.places, octets),
        ) {
            (Ok(uri), Ok(headers)) => {
                *head.uri_mut() = uri;
                *head.headers_mut() = headers;
                Ok(Some(found))
            }
            _ => {
                // Whoever says what is wrong is to see it.
                let mut whole = BytesMut::from(&octets[..]);
                whole.unsplit(std::mem::take(rest));
                *rest = whole;
                Err(Flaw::Malformed)
            }
        }
    }

    fn within_limit<T>(&self, octets: &[u8]) -> Result<Option<T>, Flaw> {
        if octets.len() >= self.longest {
            Err(Flaw::TooLarge)
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const LONGEST: usize = 4096;

    /// A head, and what was left behind it.
    type Found = (Request<()>, Vec<u8>);

    fn read(whole: &[u8], piece: usize, most: usize) -> Result<Option<Found>, Flaw> {
        let (mut reader, mut octets) = (Reader::new(LONGEST, most), BytesMut::new());
        let mut arriving = whole.chunks(piece);
        while let Some(piece) = arriving.next() {
            octets.extend_from_slice(piece);
            if let Some(found) = reader.next(&mut octets)? {
                octets.extend(arriving.flatten());
                return Ok(Some((found.head, octets.to_vec())));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_is_read_however_it_arrives() {
        let long = "x".repeat(600);
        let whole = format!(
            "\r\n\nBREW /a%2Fb//c?q=%20 HTTP/1.0\r\nHost: a.test\r\nb:\t2 \r\nEmpty:\r\nB: 3\r\nLong: {long}\r\n\r\nrest"
        );
        for most in [10, USUAL, USUAL + 1] {
            for piece in [1, 2, 3, 7, 100, 256, 10_000] {
                let (head, left) = read(whole.as_bytes(), piece, most).unwrap().unwrap();
                assert_eq!(
                    (head.method().as_str(), head.version()),
                    ("BREW", Version::HTTP_10)
                );
                assert_eq!(head.uri().to_string(), "/a%2Fb//c?q=%20");
                let of_b: Vec<_> = head.headers().get_all("b").iter().collect();
                assert_eq!(of_b, ["2", "3"]);
                for (name, value) in [("host", "a.test"), ("empty", ""), ("long", &long)] {
                    assert_eq!(head.headers()[name], value, "{name}");
                }
                assert_eq!(left, b"rest");
            }
        }
    }

    #[test]
    fn what_is_no_request_is_told_at_its_first_octets() {
        for said in [
            b"\x16\x03\x01\x02\0\x01".as_slice(),
            b"GET / HTTP/2\r\n",
            b"GET  / HTTP/1.1\r\n",
            b"GET / x HTTP/1.1\r\n",
            b"GET /\x00 HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nA b: c\r\n",
            b"GET / HTTP/1.1\r\nA : c\r\n",
            b"GET / HTTP/1.1\r\n: c\r\n",
            b"GET / HTTP/1.1\r\nA: \0\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n c\r\n",
            b"GET / HTTP/1.1\r\nA: b\rc\r\n",
        ] {
            for piece in [1, said.len()] {
                let flaw = read(said, piece, USUAL).unwrap_err();
                assert_eq!(flaw, Flaw::Malformed, "{:?}", String::from_utf8_lossy(said));
            }
        }
        let relative = b"GET no/scheme HTTP/1.1\r\n\r\n";
        assert_eq!(read(relative, 1, USUAL).unwrap_err(), Flaw::Malformed);
    }

    #[test]
    fn what_has_no_end_is_given_up() {
        let endless = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; LONGEST]].concat();
        let whole = [&endless[..], b"\r\n\r\n"].concat();
        for most in [3, USUAL + 1] {
            let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: 1\r\n".repeat(most + 1));
            for bad in [endless.as_slice(), &whole, many.as_bytes()] {
                assert_eq!(read(bad, 512, most).unwrap_err(), Flaw::TooLarge);
                assert_eq!(read(bad, bad.len(), most).unwrap_err(), Flaw::TooLarge);
            }
            let all = format!("GET / HTTP/1.1\r\n{}\r\n", "a: 1\r\n".repeat(most));
            assert!(read(all.as_bytes(), 512, most).unwrap().is_some());
        }
    }

    #[test]
    fn a_request_is_written_as_it_is() {
        let mut headers = HeaderMap::new();
        headers.append("host", "a.test".parse().unwrap());
        headers.append("x-a", "1".parse().unwrap());
        headers.append("x-a", HeaderValue::from_bytes(b"\xff").unwrap());
        let mut out = BytesMut::new();
        let method = Method::from_bytes(b"BREW").unwrap();
        let target = Uri::from_static("/a%2Fb//c?q=%20");
        let head = Head {
            method: &method,
            target: target.path_and_query(),
            headers: &headers,
        };
        write(&mut out, head);
        assert_eq!(
            &out[..],
            b"BREW /a%2Fb//c?q=%20 HTTP/1.1\r\nhost: a.test\r\nx-a: 1\r\nx-a: \xff\r\n\r\n"
        );
        for (target, written) in [
            ("*", "*"),
            ("http://a.test?x", "/?x"),
            ("http://a.test", "/"),
        ] {
            out.clear();
            let target = Uri::from_static(target);
            let head = Head {
                method: &Method::OPTIONS,
                target: target.path_and_query(),
                headers: &HeaderMap::new(),
            };
            write(&mut out, head);
            let written = format!("OPTIONS {written} HTTP/1.1\r\n\r\n");
            assert_eq!(&out[..], written.as_bytes());
        }
    }

    /// Octet for octet, without the empty lines in front.
    fn has_bare_line(head: &[u8]) -> bool {
        let begin = head.iter().position(|octet| !b"\r\n".contains(octet));
        let mut last = 0;
        head[begin.unwrap_or(0)..].iter().any(|octet| {
            let before = std::mem::replace(&mut last, *octet);
            *octet == b'\n' && before != b'\r'
        })
    }

    #[test]
    fn lines_that_end_with_lf_alone_are_seen() {
        for (head, bare) in [
            (&b"GET / HTTP/1.1\r\nA: b\r\n\r\n"[..], false),
            (b"\r\n\nGET / HTTP/1.1\r\n\r\n", false),
            (b"GET / HTTP/1.1\nA: b\r\n\r\n", true),
            (b"GET / HTTP/1.1\r\nA: b\nC:\r\n\r\n", true),
            (b"GET / HTTP/1.1\r\nA: b\n\r\n", true),
            (b"GET / HTTP/1.1\r\nA: b\r\n\n", true),
            (b"GET / HTTP/1.1\n\r\n", true),
            (b"GET / HTTP/1.1\r\n\n", true),
        ] {
            let found = Reader::new(LONGEST, USUAL).next(&mut BytesMut::from(head));
            let found = found.unwrap().unwrap();
            let text = String::from_utf8_lossy(head);
            assert_eq!(found.bare_line, bare, "{text:?}");
            assert_eq!(has_bare_line(head), bare, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn bare_lines_are_found_where_they_are(lines in proptest::collection::vec("[A-C]{1,2}:[ \t]{0,2}[a-c:]{0,2} ?\r?\n", 0..6), ends in "(\r?\n){0,2}GET / HTTP/1[.]1\r?\n", last in "\r?\n") {
            let whole = format!("{ends}{}{last}", lines.concat());
            let found = Reader::new(LONGEST, USUAL).next(&mut BytesMut::from(whole.as_bytes()));
            let found = found.unwrap().unwrap();
            prop_assert_eq!(&found.octets, whole.as_bytes());
            prop_assert_eq!(found.bare_line, has_bare_line(whole.as_bytes()));
        }

        #[test]
        fn nothing_makes_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..600), piece in 1..600_usize) {
            let whole = [b"GET / HTTP/1.1\r\n".as_slice(), &octets].concat();
            let _whatever = read(&whole, piece, USUAL);
            let _whatever = read(&octets, piece, USUAL);
        }
    }
}
