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

/// Whether a character, printed as it is, would end a line somewhere, steer a terminal or turn the direction of what follows: what
/// Unicode calls controls, separators of lines and marks of direction (UAX #9 §2).
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// What [`steers`] escaped, for a text within a line of JSON: another way to write the same. `None` where nothing does.
pub fn in_json(json: &[u8]) -> Option<Vec<u8>> {
    // All of them are two octets and more; JSON has escaped the others.
    if json.is_ascii() {
        return None;
    }
    let text = std::str::from_utf8(json).ok()?;
    let steers = |c: char| !c.is_ascii() && steers(c);
    if !text.contains(steers) {
        return None;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    Some(safe.into_bytes())
}

/// A line of a log with its end, such that it is one line and no more: what else controls a terminal in it is escaped.
/// `None` where it is that already.
pub(crate) fn one_line(line: &[u8]) -> Option<Vec<u8>> {
    let within = line.strip_suffix(b"\n").unwrap_or(line);
    let is_odd = |octet: &u8| !octet.is_ascii() || octet.is_ascii_control() && *octet != b'\t';
    if !within.iter().any(is_odd) {
        return None;
    }
    let steers = |c: char| c != '\t' && steers(c);
    let mut safe = Vec::with_capacity(line.len() + 16);
    for chunk in within.utf8_chunks() {
        for c in chunk.valid().chars() {
            match u8::try_from(c) {
                Ok(octet) if octet.is_ascii_control() && steers(c) => {
                    safe.extend(octet.escape_ascii());
                }
                _ if steers(c) => safe.extend(c.escape_unicode().map(|c| c as u8)),
                _ => safe.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        safe.extend_from_slice(chunk.invalid());
    }
    if safe == within {
        return None;
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
    fn json_says_the_same_in_what_prints() {
        let text = "\u{2028}ü\u{202e}\u{85}\n";
        let json = serde_json::to_vec(text).unwrap();
        let safe = in_json(&json).unwrap();
        assert_eq!(safe, r#""\u2028ü\u202e\u0085\n""#.as_bytes());
        assert_eq!(serde_json::from_slice::<String>(&safe).unwrap(), text);
        assert_eq!(in_json("\"schön\"".as_bytes()), None);
        assert_eq!(in_json(b"\"x\""), None);
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
            one_line("ü\u{85}\u{2028}\u{202e}\u{200f}水\n".as_bytes()).as_deref(),
            Some("ü\\u{85}\\u{2028}\\u{202e}\\u{200f}水\n".as_bytes())
        );
        assert_eq!(
            one_line(b"\xff\x01\xff\n").as_deref(),
            Some(&b"\xff\\x01\xff\n"[..])
        );
        assert_eq!(
            one_line(b"one\r\n2026 forged\x1b[0m\x7f\n").as_deref(),
            Some(&b"one\\r\\n2026 forged\\x1b[0m\\x7f\n"[..])
        );
    }
}
