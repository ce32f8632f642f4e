//! Moments as people and machines read them: RFC 3339, UTC, milliseconds where a log wants them. Pure. A moment before 1970
//! is told as the first of that year: nothing that is logged has one.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `2026-11-20 14:03:22 UTC`.
pub fn utc(moment: SystemTime) -> String {
    let (date, time) = parts(moment);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        date.0, date.1, date.2, time.0, time.1, time.2
    )
}

/// `2026-11-20T14:03:22.123Z`, appended.
pub fn stamp(moment: SystemTime, out: &mut Vec<u8>) {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != Some(since.as_secs()) {
            *known = Some(since.as_secs());
            text.clear();
            write_second(moment, text);
        }
        out.extend_from_slice(text);
    });
    out.push(b'.');
    padded(u64::from(since.subsec_millis()), 3, out);
    out.push(b'Z');
}

thread_local! {
    /// The second that was written last, and its text: at full load thousands of lines share it.
    static SECOND: RefCell<(Option<u64>, Vec<u8>)> = const { RefCell::new((None, Vec::new())) };
}

fn write_second(moment: SystemTime, out: &mut Vec<u8>) {
    let (date, time) = parts(moment);
    for (value, digits, before) in [
        (date.0, 4, b"".as_slice()),
        (date.1, 2, b"-".as_slice()),
        (date.2, 2, b"-".as_slice()),
        (time.0, 2, b"T".as_slice()),
        (time.1, 2, b":".as_slice()),
        (time.2, 2, b":".as_slice()),
    ] {
        out.extend_from_slice(before);
        padded(value, digits, out);
    }
}

/// A number in as many decimal digits as are asked for, zeros before it.
pub fn padded(value: u64, digits: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + digits, b'0');
    let mut left = value;
    for place in out[start..].iter_mut().rev() {
        // A remainder of ten is a digit.
        *place = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

type Triple = (u64, u64, u64);

/// Days to a date by the proleptic Gregorian calendar, counted in eras of 400 years that begin on a first of March, so
/// that a leap day is the last of its year.
fn parts(moment: SystemTime) -> (Triple, Triple) {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = since.as_secs();
    let (day, clock) = (seconds / 86_400, seconds % 86_400);
    let days = day + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (
        (year, month, day_of_month),
        (clock / 3600, clock / 60 % 60, clock % 60),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_709_251_199), "2024-02-29 23:59:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
        let mut out = Vec::new();
        stamp(
            UNIX_EPOCH + Duration::from_millis(1_795_183_402_123),
            &mut out,
        );
        assert_eq!(String::from_utf8(out).unwrap(), "2026-11-20T14:03:22.123Z");
    }
}
