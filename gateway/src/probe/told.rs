//! What the first octets of an answer are, as far as they have come. Pure: the connection reads until it is told that more would
//! not tell more.

use tidegate_shared::proxy_header::SIGNATURE;
use tidegate_shared::reversal::Seen;

use super::verdict::Found;

/// What is read of an answer: enough to tell what it is.
pub(super) const GLANCE: usize = 64;

/// How much of HTTP/2 is read: what servers say before they acknowledge our SETTINGS is a few frames.
const FRAMES: usize = 4096;

/// What has come, and whether it is all that comes.
pub(super) struct Answer {
    pub(super) seen: Vec<u8>,
    pub(super) ended: bool,
}

/// What the first frames of an answer to the beginning of HTTP/2 say; `None` where it is not in HTTP/2, or while more could tell
/// more, unless this is the `end`.
///
/// A server may say its SETTINGS before it has read anything: only their acknowledgement shows that ours were understood
/// (RFC 9113 §6.5.3).
pub(super) fn began(seen: &[u8], end: bool) -> Option<Found> {
    if !is_http2(seen) {
        return None;
    }
    let mut rest = seen;
    while let Some(([high, mid, low, kind, flags, ..], after)) = rest.split_first_chunk::<9>() {
        match kind {
            4 if flags & 1 != 0 => return Some(Found::Http2),
            // GOAWAY.
            7 => return Some(Found::Http2Only),
            _ => {}
        }
        let length = u32::from_be_bytes([0, *high, *mid, *low]) as usize;
        match after.get(length..) {
            Some(next) => rest = next,
            None => break,
        }
    }
    (end || seen.len() >= FRAMES).then_some(Found::Http2Only)
}

/// Whether more would not tell more: a line is complete, or as long as what says the status.
pub(super) fn is_clear(seen: &[u8]) -> bool {
    let line = behind_empty_lines(seen);
    line.len() >= STATUS.len() || line.contains(&b'\n')
}

/// How an answer of HTTP/1 begins; each digit stands for any.
const STATUS: &[u8] = b"HTTP/1.1 200";

/// What an answer is to `question`, which came behind `header`.
pub(super) fn told(answer: &Answer, header: &[u8], question: &[u8]) -> Found {
    let seen = &answer.seen[..];
    if seen.is_empty() {
        return Found::Closed;
    }
    if is_http2(seen) {
        return Found::Http2Only;
    }
    let asked = [header, question].concat();
    if seen.len() >= STATUS.len() && (asked.starts_with(seen) || question.starts_with(seen)) {
        return Found::Other("what it was sent".to_owned());
    }
    // Version 2 of the PROXY header begins with such as well.
    if seen.starts_with(SIGNATURE) {
        return Found::Other(described(seen));
    }
    let line = behind_empty_lines(seen);
    let common = line.len().min(STATUS.len());
    let fits = line.iter().zip(STATUS).all(|(seen, due)| match due {
        b'0'..=b'9' => seen.is_ascii_digit(),
        due => seen == due,
    });
    let version = line.get(7).is_none_or(|minor| matches!(minor, b'0' | b'1'));
    let ends = line.get(STATUS.len()).is_none_or(u8::is_ascii_whitespace);
    if !fits || !version || !ends {
        return Found::Other(described(line));
    }
    let status = line.get(9..STATUS.len()).map(String::from_utf8_lossy);
    let status = status.and_then(|digits| digits.parse().ok());
    match status {
        Some(status @ 100..) => Found::Http(status),
        Some(_) => Found::Other(described(line)),
        None => Found::Unfinished {
            said: described(&line[..common]),
            closed: answer.ended,
        },
    }
}

/// What is no HTTP, by its name where it has one and else by its first words.
fn described(seen: &[u8]) -> String {
    const MOST: usize = 40;
    let line = seen.split(|octet| matches!(octet, b'\r' | b'\n')).next();
    let line = line.unwrap_or_default();
    let known = Seen::at_the_end(seen);
    match known {
        Seen::Http1Request
        | Seen::Http1Response
        | Seen::Unfinished { .. }
        | Seen::Unknown { .. } => {}
        known => return known.to_string(),
    }
    let is_text = |octet: &u8| octet.is_ascii_graphic() || *octet == b' ';
    if line.is_empty() || !line.iter().all(is_text) {
        return known.to_string();
    }
    let cut = if line.len() > MOST { " …" } else { "" };
    let words = String::from_utf8_lossy(&line[..line.len().min(MOST)]);
    format!("`{words}{cut}`")
}

/// An answer may begin with some (RFC 9112 §2.2 has it of requests, and clients are as kind).
fn behind_empty_lines(seen: &[u8]) -> &[u8] {
    let empty = seen
        .iter()
        .take_while(|octet| matches!(octet, b'\r' | b'\n'))
        .count();
    &seen[empty..]
}

/// Whether a server answers in HTTP/2: its first frame is SETTINGS (RFC 9113 §3.4), or where it likes nothing of what it got,
/// GOAWAY.
pub(super) fn is_http2(seen: &[u8]) -> bool {
    matches!(seen, [0, _, _, 4 | 7, 0, 0, 0, 0, 0, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(seen: &[u8], ended: bool) -> Found {
        let seen = seen.to_vec();
        told(
            &Answer { seen, ended },
            b"PROXY x\r\n",
            b"HEAD / HTTP/1.1\r\n",
        )
    }

    fn other(what: &str) -> Found {
        Found::Other(what.to_owned())
    }

    fn unfinished(said: &str, closed: bool) -> Found {
        let said = said.to_owned();
        Found::Unfinished { said, closed }
    }

    #[test]
    fn answers_are_told_apart() {
        for (seen, found) in [
            (&b""[..], Found::Closed),
            (b"HTTP/1.1 200 OK\r\n", Found::Http(200)),
            (b"HTTP/1.1 200", Found::Http(200)),
            (b"HTTP/1.1 200\r\n", Found::Http(200)),
            (b"\r\nHTTP/1.1 200 OK\r\n", Found::Http(200)),
            (b"HTTP/1.0 503 ", Found::Http(503)),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", Found::Http2Only),
            (b"\0\0\x08\x07\0\0\0\0\0\0\0\0", Found::Http2Only),
            (b"SSH-2.0-OpenSSH", other("an SSH greeting")),
            (b"\x15\x03\x01\0\x02\x02\x46", other("a TLS alert")),
            (b"HTTP/1.1 abc", other("`HTTP/1.1 abc`")),
            (b"HTTP/1.1 099 X", other("`HTTP/1.1 099 X`")),
            (b"HTTP/1.1 2000", other("`HTTP/1.1 2000`")),
            (b"HTTP/1.7 200 OK", other("`HTTP/1.7 200 OK`")),
            (b"HTTP/2 200 OK\r\n", other("`HTTP/2 200 OK`")),
            (b"http/1.1 200 OK", other("`http/1.1 200 OK`")),
            (b"ICY 200 OK\r\nicy-name: x", other("`ICY 200 OK`")),
            (b"RTSP/1.0 200 OK\r\n", other("`RTSP/1.0 200 OK`")),
            (b"220 mail ESMTP\r\n", other("`220 mail ESMTP`")),
            (b"-ERR\r\n", other("`-ERR`")),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11", other("a PROXY v2 header")),
            (b"PROXY x\r\nHEAD /", other("what it was sent")),
            (b"HEAD / HTTP/1.1\r\n", other("what it was sent")),
            (b"ICY \x1b[31m\r\n", other("an HTTP/1.1 request")),
            (
                b"\x01\x02\x03",
                other("octets that no known protocol begins with (01 02 03)"),
            ),
        ] {
            assert_eq!(say(seen, false), found, "{}", seen.escape_ascii());
        }
        let long = format!("{:?}", say(&[b'x'; 64], false));
        assert!(long.contains("xxx …`") && long.len() < 70, "{long}");
    }

    #[test]
    fn an_answer_in_pieces_is_waited_for_and_told_as_far_as_it_came() {
        let whole = b"HTTP/1.1 200 OK\r\n";
        for cut in 1..12 {
            assert!(!is_clear(&whole[..cut]), "{cut}");
            let said = format!("`{}`", String::from_utf8_lossy(&whole[..cut]));
            for closed in [false, true] {
                assert_eq!(say(&whole[..cut], closed), unfinished(&said, closed));
            }
        }
        assert!(is_clear(&whole[..12]));
        // A line says what it says.
        assert!(is_clear(b"-ERR\r\n") && !is_clear(b"\r\n"));
        assert_eq!(say(b"HTTP\r\n", false), other("`HTTP`"));
    }

    #[test]
    fn http2_is_understood_once_our_settings_are_acknowledged() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x80";
        let window = b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
        let acknowledged = b"\0\0\0\x04\x01\0\0\0\0";
        let away = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01";
        let [first, more] = [&settings[..], &window[..]].map(Vec::from);
        let begun = [first, more].concat();
        for (seen, end, found) in [
            (
                [&begun[..], acknowledged].concat(),
                false,
                Some(Found::Http2),
            ),
            ([&begun[..], away].concat(), false, Some(Found::Http2Only)),
            (away.to_vec(), false, Some(Found::Http2Only)),
            (begun.clone(), false, None),
            (begun[..12].to_vec(), false, None),
            (begun, true, Some(Found::Http2Only)),
            (b"HTTP/1.1 400 Bad".to_vec(), true, None),
            (Vec::new(), true, None),
        ] {
            assert_eq!(began(&seen, end), found, "{}", seen.escape_ascii());
        }
    }
}
