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

/// `2026-11-20T14:03:22Z`, as [`read`] takes it.
pub fn second(moment: SystemTime) -> String {
    let mut text = Vec::new();
    write_second(moment, &mut text);
    text.push(b'Z');
    String::from_utf8_lossy(&text).into_owned()
}

/// A moment from what [`second`] writes, and from nothing else.
pub fn read(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, of_minute) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // The way back of `parts`.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_year = (153 * month + 2) / 5 + day - 1;
    let of_era = (year % 400) * 365 + (year % 400) / 4 - (year % 400) / 100 + of_year;
    let days = ((year / 400) * 146_097 + of_era).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + of_minute;
    let moment = UNIX_EPOCH + Duration::from_secs(seconds);
    // A day, an hour or a sign that does not exist comes out as something else.
    (second(moment) == text).then_some(moment)
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
fn padded(value: u64, digits: usize, out: &mut Vec<u8>) {
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
    fn what_is_written_is_read_back_and_nothing_else() {
        for seconds in [
            0,
            951_782_399,
            951_782_400,
            1_709_251_199,
            4_107_542_400,
            253_402_300_799,
        ] {
            let moment = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(read(&second(moment)), Some(moment), "{seconds}");
        }
        for text in [
            "",
            "2026-11-20",
            "2026-11-20T14:03:22",
            "2026-11-20 14:03:22Z",
            "2026-02-30T00:00:00Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T14:60:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "+026-11-20T14:03:22Z",
            "2026-11-20T14:03:22Zx",
            "2026-11-2\u{e9}T14:03:2Z",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

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
