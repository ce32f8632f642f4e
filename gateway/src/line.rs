//! Pieces of a log line, appended without the machinery of `format!`. Pure.

use std::time::Duration;

use tidegate_shared::text;

/// A number in decimal.
pub(crate) fn number(mut value: u64, out: &mut Vec<u8>) {
    if value < 10 {
        return out.push(b'0' + value as u8);
    }
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        // A remainder of ten is a digit.
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Eight hexadecimal digits.
pub(crate) fn hex(value: u32, out: &mut Vec<u8>) {
    for shift in (0..8).rev() {
        out.push(b"0123456789abcdef"[(value >> (shift * 4) & 0xf) as usize]);
    }
}

/// Milliseconds to the microsecond: `12.345`.
pub(crate) fn milliseconds(time: Duration, out: &mut Vec<u8>) {
    // Most parts of a request take no time at all.
    if time.is_zero() {
        return out.extend_from_slice(b"0.000");
    }
    let whole = time.as_secs().saturating_mul(1000);
    let us = time.subsec_micros();
    number(whole.saturating_add(u64::from(us / 1000)), out);
    // A remainder of ten is a digit.
    let digit = |of: u32| b'0' + (of % 10) as u8;
    out.extend_from_slice(&[b'.', digit(us / 100), digit(us / 10), digit(us)]);
}

/// Text that somebody else chose, such that it stays on its line and within its quotes.
pub(crate) fn plain(text: &str, out: &mut Vec<u8>) {
    if text
        .bytes()
        .all(|octet| octet.is_ascii_graphic() && octet != b'"' && octet != b'\\')
    {
        return out.extend_from_slice(text.as_bytes());
    }
    for part in text.chars() {
        match part {
            '"' | '\\' => {
                out.push(b'\\');
                out.push(part as u8);
            }
            part if text::steers(part) => {
                out.extend(part.escape_default().map(|octet| octet as u8))
            }
            part => out.extend_from_slice(part.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_format_would_have_it() {
        for value in [0, 7, 10, 999, 1000, 123_456_789, u64::MAX] {
            assert_eq!(text(|out| number(value, out)), value.to_string());
        }
        assert_eq!(text(|out| hex(0xab, out)), "000000ab");
        assert_eq!(
            text(|out| milliseconds(Duration::from_micros(12_045), out)),
            "12.045"
        );
        assert_eq!(text(|out| plain("/a?b=1", out)), "/a?b=1");
        assert_eq!(
            text(|out| plain("a\"\n\u{1b}[31mü", out)),
            "a\\\"\\n\\u{1b}[31mü"
        );
        assert_eq!(
            text(|out| plain("/\u{2028}\u{202e}\u{85}水", out)),
            "/\\u{2028}\\u{202e}\\u{85}水"
        );
    }
}
