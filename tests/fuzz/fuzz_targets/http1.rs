//! HTTP/1's heads and chunks: whatever comes, a verdict without a panic, and one that does not depend on how the octets were cut
//! up; and what was read is written so that it is read as the same.

#![no_main]

use bytes::BytesMut;
use http::{HeaderMap, Version};
use libfuzzer_sys::fuzz_target;
use tidegate_shared::http1::request::{self, Head};
use tidegate_shared::http1::response;
use tidegate_shared::http1::{Content, Piece, Unreadable};

const LONGEST: usize = 4096;

/// A body that came in pieces of so many octets: content, trailers, and what was left behind it; nothing where it has no end.
fn content(octets: &[u8], piece: usize) -> Result<Option<(Vec<u8>, HeaderMap, usize)>, Unreadable> {
    let (mut content, mut here) = (Content::chunked(), BytesMut::new());
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    let mut arriving = octets.chunks(piece);
    loop {
        match content.next(&mut here)? {
            Piece::Data(data) => body.extend_from_slice(&data),
            Piece::Trailers(fields) => trailers = fields,
            Piece::End => {
                assert!(content.is_over() && content.least() == 0);
                let left = here.len() + arriving.map(<[u8]>::len).sum::<usize>();
                return Ok(Some((body, trailers, left)));
            }
            Piece::More => match arriving.next() {
                Some(piece) => here.extend_from_slice(piece),
                None => return Ok(None),
            },
        }
    }
}

fuzz_target!(|octets: &[u8]| {
    let Some((cut, octets)) = octets.split_first() else {
        return;
    };
    let piece = usize::from(*cut).max(1);

    let whole = content(octets, octets.len().max(1));
    let cut_up = content(octets, piece);
    match (&whole, &cut_up) {
        (Ok(whole), Ok(cut_up)) => assert_eq!(whole, cut_up),
        (whole, cut_up) => assert_eq!(whole.is_err(), cut_up.is_err(), "{whole:?} {cut_up:?}"),
    }

    let mut at_once = BytesMut::from(octets);
    let at_once = request::Reader::new(LONGEST, 100).next(&mut at_once);
    let (mut reader, mut here) = (request::Reader::new(LONGEST, 100), BytesMut::new());
    let mut found = Ok(None);
    for piece in octets.chunks(piece) {
        here.extend_from_slice(piece);
        found = reader.next(&mut here);
        if !matches!(found, Ok(None)) {
            break;
        }
    }
    // What is wrong is sometimes seen when more has come.
    if let (Ok(Some(at_once)), Ok(Some(cut_up))) = (&at_once, &found) {
        assert_eq!(at_once.bare_line, cut_up.bare_line);
        let (at_once, cut_up) = (&at_once.head, &cut_up.head);
        assert_eq!(at_once.headers(), cut_up.headers());
        assert_eq!((at_once.method(), at_once.uri()), (cut_up.method(), cut_up.uri()));
    } else {
        assert!(!matches!((&at_once, &found), (Ok(Some(_)), Ok(None))));
    }
    if let Ok(Some(found)) = at_once {
        assert!(found.octets.len() <= LONGEST);
        let head = found.head;
        let mut written = BytesMut::new();
        let (method, target, headers) = (head.method(), head.uri().path_and_query(), head.headers());
        let again = Head {
            method,
            target,
            headers,
        };
        request::write(&mut written, again);
        let read = request::Reader::new(2 * LONGEST, 100).next(&mut written);
        let Ok(Some(read)) = read else {
            panic!("what was written is read");
        };
        let read = read.head;
        assert!(written.is_empty());
        assert_eq!((read.method(), read.headers()), (head.method(), head.headers()));
        assert_eq!(read.uri().path_and_query(), head.uri().path_and_query().or(read.uri().path_and_query()));
    }

    let mut here = BytesMut::from(octets);
    if let Ok(Some(head)) = response::Reader::default().next(&mut here) {
        let mut written = BytesMut::new();
        response::write(&mut written, Version::HTTP_11, head.status(), head.headers());
        written.extend_from_slice(b"\r\n");
        let read = response::Reader::default().next(&mut written);
        let read = read.expect("no flaw").expect("a whole head");
        assert_eq!((read.status(), read.headers()), (head.status(), head.headers()));
        assert!(written.is_empty());
    }
});
