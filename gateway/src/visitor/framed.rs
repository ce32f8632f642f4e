//! How long the content of an HTTP/1 request is, and which statements of that are refused; and what else a head's octets tell.
//! Pure.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Version};
use tidegate_shared::glance::Glance;
use tidegate_shared::http1::request::Flaw;
use tidegate_shared::http1::{Content, LONGEST};

use crate::failure::Failure;
use crate::smuggling::Form;

/// What follows a head (RFC 9112 §6.3). Lengths that agree are refused like others: nobody needs two, and HTTP/2 takes none.
///
/// # Errors
/// It cannot be told from it where the next request begins.
pub(super) fn content_of(head: &Request<()>, glance: Glance) -> Result<Content, Flaw> {
    if !glance.has(Glance::TRANSFER_ENCODING | Glance::CONTENT_LENGTH) {
        return Ok(Content::NONE);
    }
    if let Some(coding) = head.headers().get_all(TRANSFER_ENCODING).iter().next_back() {
        let last = coding.as_bytes().rsplit(|octet| *octet == b',').next();
        let chunked = last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        if head.version() == Version::HTTP_10 || !chunked {
            return Err(Flaw::Malformed);
        }
        return Ok(Content::chunked());
    }
    let mut lengths = head.headers().get_all(CONTENT_LENGTH).iter();
    let one = lengths
        .next()
        .map(|value| length(value).ok_or(Flaw::Malformed));
    if lengths.next().is_some() {
        return Err(Flaw::Malformed);
    }
    Ok(one.transpose()?.map_or(Content::NONE, Content::Length))
}

/// One number, of digits alone.
fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|octet| octet.is_ascii_digit());
    let length = is_number.then(|| digits.parse().ok()).flatten();
    length.filter(|length| *length <= LONGEST)
}

/// `Transfer-Encoding` with `Content-Length` beside it, and several `Transfer-Encoding`, are how requests are smuggled
/// (RFC 9112 §6.1, §11.2), and neither is needed. Nor is a line that ends with LF alone, which whoever is in front of us may have
/// taken for a part of a field's value; a recipient may refuse it (RFC 9112 §2.2).
pub(super) fn check_framing(
    headers: &HeaderMap,
    bare_line: bool,
    glance: Glance,
) -> Result<(), (Failure, Form)> {
    if bare_line {
        return Err((Failure::Malformed, Form::BareLineFeed));
    }
    if !glance.has(Glance::TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    let form = if codings.next().is_some() {
        Form::SeveralCodings
    } else if headers.contains_key(CONTENT_LENGTH) {
        Form::LengthAndCoding
    } else if !chunked {
        Form::OtherCoding
    } else {
        return Ok(());
    };
    Err((Failure::AmbiguousFraming, form))
}

/// Whether this head, which came so, asks about everything that there is: an OPTIONS whose target has a host, and neither path
/// nor query. For whoever passes it on last that is `*` (RFC 9112 §3.2.4).
pub(super) fn is_about_all(head: &Request<()>, octets: &[u8]) -> bool {
    if *head.method() != Method::OPTIONS || head.uri().scheme().is_none() {
        return false;
    }
    // A path that is empty reads as `/` in what was made of it.
    let line = begun(octets)
        .split(|octet| matches!(octet, b'\r' | b'\n'))
        .next();
    let target = line.and_then(|line| line.split(|octet| *octet == b' ').nth(1));
    let whole = target.and_then(|target| target.split(|octet| *octet == b'#').next());
    whole.is_some_and(|target| {
        let slashes = target.iter().filter(|octet| **octet == b'/').count();
        slashes == b"//".len() && !target.contains(&b'?')
    })
}

/// Whether what arrived of a head states its body's length in more ways than one (RFC 9112 §6.1, §6.3).
pub(super) fn is_ambiguous(head: &[u8]) -> bool {
    let is_of = |line: &[u8], name: &[u8]| {
        line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name)
    };
    let lines = begun(head).split(|octet| *octet == b'\n').skip(1);
    let fields = lines.take_while(|line| !matches!(line, [] | [b'\r']));
    let states = |line: &&[u8]| is_of(line, b"content-length") || is_of(line, b"transfer-encoding");
    fields.filter(states).count() > 1
}

/// Without the empty lines before it (RFC 9112 §2.2).
pub(super) fn begun(head: &[u8]) -> &[u8] {
    let empty = head
        .iter()
        .take_while(|octet| matches!(octet, b'\r' | b'\n'));
    &head[empty.count()..]
}

/// The first line of what arrived of a head, or its beginning.
pub(super) fn first_line(head: &[u8]) -> &[u8] {
    let head = begun(head);
    let line = head.split(|octet| matches!(octet, b'\r' | b'\n')).next();
    let line = line.unwrap_or(head);
    &line[..line.len().min(120)]
}

/// Whether the first line alone is so long, or longer.
pub(super) fn first_line_takes(head: &[u8], most: usize) -> bool {
    let head = begun(head);
    let line = head.iter().position(|octet| *octet == b'\n');
    line.unwrap_or(head.len()) >= most
}

pub(super) fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn head_octets(headers: &HeaderMap) -> usize {
    // Names, values and the map's own entry; what it costs to hold, not what it was on the wire.
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 64)
        .sum::<usize>()
        + 512
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, fields: &[(&'static str, &str)]) -> Request<()> {
        let mut head = Request::new(());
        *head.version_mut() = version;
        for (name, value) in fields {
            head.headers_mut().append(*name, value.parse().unwrap());
        }
        head
    }

    fn read(version: Version, fields: &[(&'static str, &str)]) -> Result<(String, usize), Flaw> {
        let head = head(version, fields);
        let glance = Glance::of(head.headers());
        let content = content_of(&head, glance)?;
        let lengths = head.headers().get_all(CONTENT_LENGTH).iter().count();
        Ok((format!("{content:?}"), lengths))
    }

    #[test]
    fn a_host_without_a_path_asks_about_all() {
        for (method, target, about_all) in [
            (Method::OPTIONS, "http://a.test", true),
            (Method::OPTIONS, "https://a.test:8443", true),
            (Method::OPTIONS, "http://a.test#top", true),
            (Method::OPTIONS, "http://a.test/", false),
            (Method::OPTIONS, "http://a.test?x", false),
            (Method::OPTIONS, "http://a.test/x", false),
            (Method::OPTIONS, "/", false),
            (Method::OPTIONS, "*", false),
            (Method::OPTIONS, "a.test", false),
            (Method::GET, "http://a.test", false),
        ] {
            let octets = format!("\r\n{method} {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
            let mut head = Request::new(());
            *head.method_mut() = method;
            *head.uri_mut() = target.parse().unwrap();
            assert_eq!(
                is_about_all(&head, octets.as_bytes()),
                about_all,
                "{target}"
            );
        }
    }

    #[test]
    fn what_follows_is_as_the_head_says() {
        let (length, coding) = ("content-length", "transfer-encoding");
        for (fields, expected, lengths) in [
            (&[][..], "Length(0)", 0),
            (&[(length, "7")], "Length(7)", 1),
            (&[(length, "007")], "Length(7)", 1),
            (
                &[(length, "9223372036854775807")],
                "Length(9223372036854775807)",
                1,
            ),
            (&[(coding, "Chunked")], "Chunks", 0),
            (&[(coding, "gzip, chunked")], "Chunks", 0),
            (&[(length, "7"), (coding, "chunked")], "Chunks", 1),
        ] {
            let (read, left) = read(Version::HTTP_11, fields).unwrap();
            assert!(read.starts_with(expected), "{fields:?}: {read}");
            assert_eq!(left, lengths, "{fields:?}");
        }
        let twice = [(length, "7"), (length, "7")];
        assert_eq!(read(Version::HTTP_11, &twice), Err(Flaw::Malformed));
    }

    #[test]
    fn the_first_line_is_found() {
        assert_eq!(first_line(b"\n\r\nGET / H"), b"GET / H");
        assert_eq!(first_line(b"GET / HTTP/1.1\r\nA: b"), b"GET / HTTP/1.1");
        assert_eq!(first_line(&[b'a'; 500]).len(), 120);
        assert!(first_line_takes(&[b'a'; 500], 500));
        assert!(!first_line_takes(b"GET /\r\naaaaaaaaaaaa", 10));
    }

    #[test]
    fn two_statements_of_a_length_are_seen() {
        for (fields, ambiguous) in [
            ("", false),
            ("Content-Length: 1\r\n", false),
            ("content-length:1\r\nTRANSFER-ENCODING: x\r\n", true),
            ("Content-Length: 1\nContent-Length: 1\n", true),
            ("Content-Length : 1\r\nTransfer-Encoding: x\r\n", false),
            ("A: Content-Length: 1\r\nTransfer-Encoding: x\r\n", false),
            ("Content-Length: 1\r\n\r\nContent-Length: 1", false),
        ] {
            let head = format!("\r\nGET / HTTP/1.1\r\n{fields}");
            assert_eq!(is_ambiguous(head.as_bytes()), ambiguous, "{fields:?}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let (length, coding) = ("content-length", "transfer-encoding");
        for fields in [
            &[(length, "7"), (length, "8")][..],
            &[(length, "7"), (length, "7"), (length, "8")],
            &[(length, "7, 7")],
            &[(length, "")],
            &[(length, "+7")],
            &[(length, "-7")],
            &[(length, "7 ;")],
            &[(length, "9223372036854775808")],
            &[(length, "18446744073709551616")],
            &[(coding, "identity")],
            &[(coding, "chunked, gzip")],
            &[(coding, "chunked"), (coding, "identity")],
            &[(coding, "xchunked")],
        ] {
            assert_eq!(
                read(Version::HTTP_11, fields),
                Err(Flaw::Malformed),
                "{fields:?}"
            );
        }
        assert_eq!(
            read(Version::HTTP_10, &[(coding, "chunked")]),
            Err(Flaw::Malformed)
        );
    }
}
