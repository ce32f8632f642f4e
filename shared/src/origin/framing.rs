//! How long an app's answer is, of what its head says in several ways. What is left unsettled here would reach the visitor as another length, or as another content. Pure; called once per answer.

use std::io;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode, Version};

use crate::glance::Glance;
use crate::http1::{Content, LONGEST, Unreadable};

/// Leaves one statement of the length at most, and says what follows.
///
/// # Errors
/// As [`settle`].
pub(super) fn content(
    asked: &Method,
    answer: &mut Response<()>,
    glance: Glance,
) -> Result<Content, Unreadable> {
    let length = settle(answer, glance)?;
    let status = answer.status();
    if *asked == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Ok(Content::NONE);
    }
    if glance.has(Glance::TRANSFER_ENCODING) {
        return Ok(Content::chunked());
    }
    match length {
        Some(length) if length <= LONGEST => Ok(Content::Length(length)),
        Some(_) => Err(NO_LENGTH),
        None => Ok(Content::ToEnd),
    }
}

/// The connection has ended before the content has.
pub(super) fn cut_short() -> io::Error {
    let why = "the connection ended before all of the answer had come";
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

const NO_LENGTH: Unreadable =
    "its answer has a Content-Length that is no length, or several that differ (RFC 9112 §6.3)";

/// Leaves one statement of the length at most, and says what it is.
///
/// # Errors
/// Where there are two that need not agree, and where the body is coded in a way that nobody asked for: an answer whose
/// end is guessed may be another's (RFC 9112 §6.3 and §11.2).
fn settle(response: &mut Response<()>, glance: Glance) -> Result<Option<u64>, Unreadable> {
    if glance.has(Glance::TRANSFER_ENCODING) {
        if response.version() == Version::HTTP_10 {
            return Err(
                "its answer in HTTP/1.0 has a Transfer-Encoding, which that version has not (RFC 9112 §6.1)",
            );
        }
        return coded(response.headers()).map(|()| None);
    }
    if !glance.has(Glance::CONTENT_LENGTH) {
        return Ok(None);
    }
    let status = response.status();
    let headers = response.headers_mut();
    if status == StatusCode::NO_CONTENT {
        // It must not be there (RFC 9110 §8.6), and there is nothing that it could measure.
        headers.remove(CONTENT_LENGTH);
        return Ok(None);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if let (Some(one), None) = (lengths.next(), lengths.next())
        && let Some(length) = number(one.as_bytes())
    {
        return Ok(Some(length));
    }
    let one = agreed(headers).ok_or(NO_LENGTH)?;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(one));
    Ok(Some(one))
}

/// `chunked` once, and no length beside it. `TE` offers nothing else, so an app that codes a body otherwise has misread it.
fn coded(headers: &HeaderMap) -> Result<(), Unreadable> {
    if headers.contains_key(CONTENT_LENGTH) {
        return Err(
            "its answer has both Content-Length and Transfer-Encoding, of which one may be wrong (RFC 9112 §6.3)",
        );
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings
        .next()
        .is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() {
        Ok(())
    } else {
        Err(
            "its answer has a Transfer-Encoding other than `chunked`, which is all that it was offered (RFC 9112 §7.4)",
        )
    }
}

/// The length that all members of all fields state.
fn agreed(headers: &HeaderMap) -> Option<u64> {
    let mut one = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for member in value.as_bytes().split(|octet| *octet == b',') {
            let length = number(member.trim_ascii())?;
            if *one.get_or_insert(length) != length {
                return None;
            }
        }
    }
    one
}

/// A length of digits alone.
fn number(octets: &[u8]) -> Option<u64> {
    // `parse` takes a sign, which no length has.
    let digits = octets.iter().all(u8::is_ascii_digit);
    let text = digits.then(|| str::from_utf8(octets).ok()).flatten()?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, fields: &[(&str, &str)]) -> Response<()> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        response.body(()).unwrap()
    }

    fn settled(answer: &mut Response<()>) -> Result<Option<u64>, Unreadable> {
        let glance = Glance::of(answer.headers());
        settle(answer, glance)
    }

    fn following(asked: &Method, answer: &mut Response<()>) -> Result<Content, Unreadable> {
        let glance = Glance::of(answer.headers());
        content(asked, answer, glance)
    }

    #[test]
    fn one_length_is_left_or_none() {
        let length = "content-length";
        for (status, fields, expected) in [
            (200, &[][..], None),
            (200, &[("transfer-encoding", "CHUNKED")], None),
            (200, &[(length, "007")], Some("007")),
            (200, &[(length, "7, 7"), (length, "7")], Some("7")),
            (204, &[(length, "7")], None),
            (304, &[(length, "7")], Some("7")),
        ] {
            let mut answer = answer(status, fields);
            let said = settled(&mut answer).unwrap();
            let expected_length = expected.map(|length: &str| length.parse().unwrap());
            assert_eq!(said, expected_length, "{status} {fields:?}");
            let left: Vec<_> = answer.headers().get_all(CONTENT_LENGTH).iter().collect();
            assert_eq!(left, Vec::from_iter(expected), "{status} {fields:?}");
        }
    }

    #[test]
    fn what_follows_is_as_the_head_says() {
        let length = "content-length";
        let chunked = [("transfer-encoding", "chunked")];
        for (asked, status, fields, expected) in [
            (Method::GET, 200, &[][..], "ToEnd"),
            (Method::GET, 200, &chunked, "Chunks"),
            (Method::GET, 200, &[(length, "7")], "Length(7)"),
            (Method::GET, 404, &[(length, "0, 0")], "Length(0)"),
            (Method::HEAD, 200, &[(length, "7")], "Length(0)"),
            (Method::HEAD, 200, &chunked, "Length(0)"),
            (Method::GET, 204, &chunked, "Length(0)"),
            (Method::GET, 304, &[(length, "7")], "Length(0)"),
        ] {
            let read = following(&asked, &mut answer(status, fields)).unwrap();
            let read = format!("{read:?}");
            assert!(
                read.starts_with(expected),
                "{asked} {status} {fields:?}: {read}"
            );
        }
        let mut beyond = answer(200, &[(length, "9223372036854775808")]);
        assert_eq!(following(&Method::GET, &mut beyond).unwrap_err(), NO_LENGTH);
        let mut old = answer(200, &chunked);
        *old.version_mut() = Version::HTTP_10;
        assert!(following(&Method::GET, &mut old).is_err());
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_read() {
        let (length, coding) = ("content-length", "transfer-encoding");
        for fields in [
            &[(length, "7"), (coding, "chunked")][..],
            &[(coding, "gzip, chunked")],
            &[(coding, "identity")],
            &[(coding, "chunked"), (coding, "chunked")],
            &[(length, "7, 8")],
            &[(length, "7"), (length, "8")],
            &[(length, "")],
            &[(length, "-1")],
            &[(length, "7,")],
            &[(length, "99999999999999999999, 99999999999999999999")],
        ] {
            assert!(settled(&mut answer(200, fields)).is_err(), "{fields:?}");
        }
    }
}
