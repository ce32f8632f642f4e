//! Text that a peer chose, on its way to a log line or a page: it stays on its line, steers no terminal, and is not long.
//! Pure. Called wherever something is quoted that a gateway, an agent or a certificate has said.

/// Most characters that are quoted of what a peer said.
const MOST: usize = 200;

/// What a peer said, for people to read. Whatever does not print (control characters, ends of lines, marks that turn the
/// direction of what follows them) is escaped, and what is beyond 200 characters is left out.
pub fn quoted(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    let mut shown = String::with_capacity(text.len().min(MOST));
    for (at, c) in text.chars().enumerate() {
        if at == MOST {
            shown.push('…');
            break;
        }
        // `escape_debug` knows what prints; but quotation marks are no harm, and read better as they are.
        if matches!(c, ' '..='~') {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown
}

/// A line of a log with its end, such that it is one line and no more: what else controls a terminal in it is escaped.
/// `None` where it is that already.
pub(crate) fn one_line(line: &[u8]) -> Option<Vec<u8>> {
    let within = line.strip_suffix(b"\n").unwrap_or(line);
    let steers = |octet: &u8| octet.is_ascii_control() && *octet != b'\t';
    if !within.iter().any(steers) {
        return None;
    }
    let mut safe = Vec::with_capacity(line.len() + 16);
    for octet in within {
        if steers(octet) {
            safe.extend(octet.escape_ascii());
        } else {
            safe.push(*octet);
        }
    }
    safe.extend_from_slice(&line[within.len()..]);
    Some(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_said_stays_on_its_line() {
        assert_eq!(quoted(b"no such \"name\" \\"), "no such \"name\" \\");
        assert_eq!(quoted("schön, 水".as_bytes()), "schön, 水");
        assert_eq!(
            quoted("a\r\nb\u{1b}[31m\0\u{85}\u{202e}\u{2028}".as_bytes()),
            "a\\r\\nb\\u{1b}[31m\\0\\u{85}\\u{202e}\\u{2028}"
        );
        assert_eq!(quoted(b"\xff."), "\u{fffd}.");
    }

    #[test]
    fn what_a_peer_said_is_not_long() {
        assert_eq!(quoted(&[b'x'; MOST]), "x".repeat(MOST));
        assert_eq!(quoted(&[b'\n'; 9_000]), format!("{}…", "\\n".repeat(MOST)));
    }

    #[test]
    fn a_line_of_a_log_is_one_line() {
        assert_eq!(one_line(b"one\ttwo \xc3\xbc\n"), None);
        assert_eq!(one_line(b""), None);
        assert_eq!(
            one_line(b"one\r\n2026 forged\x1b[0m\x7f\n").as_deref(),
            Some(&b"one\\r\\n2026 forged\\x1b[0m\\x7f\n"[..])
        );
    }
}
