//! So many of something within some time: the generic cell rate algorithm, which keeps one number for each source. Pure; whoever
//! counts keeps the number and brings the time.
//!
//! It is a bucket that holds `events` and is refilled evenly, all of it in `within`. The number is the moment at which the bucket
//! will be full again. Written out here and not taken from a crate (`governor`): the arithmetic is ten lines, and what those crates
//! bring beside it, a table of sources, is not bounded.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_shared::args;

/// See the module's head. Times are nanoseconds by [`tidegate_shared::clock::ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    events: u32,
    within: Duration,
    /// What one event takes out of the bucket, in time.
    each: u64,
}

/// The most events, and the longest time that they are counted over.
const MOST: u32 = 1_000_000_000;
const LONGEST: Duration = Duration::from_secs(86_400);
const SHORTEST: Duration = Duration::from_secs(1);

impl Rate {
    /// Both are bounded, so that no arithmetic here overflows.
    pub fn new(events: u32, within: Duration) -> Option<Self> {
        if !(1..=MOST).contains(&events) || !(SHORTEST..=LONGEST).contains(&within) {
            return None;
        }
        let each = u64::try_from(within.as_nanos()).ok()? / u64::from(events);
        Some(Self {
            events,
            within,
            each,
        })
    }

    /// How long it takes to fill an empty bucket.
    fn span(self) -> u64 {
        self.each * u64::from(self.events)
    }

    /// One more event at `now`: the number to keep, or in how many nanoseconds there is room for one.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn step(self, full_at: u64, now: u64) -> Result<u64, u64> {
        let next = full_at.max(now) + self.each;
        match next.saturating_sub(now + self.span()) {
            0 => Ok(next),
            wait => Err(wait),
        }
    }

    /// The same for a number that several threads count with.
    ///
    /// # Errors
    /// As [`Self::step`]; then the event does not count.
    pub fn take(self, full_at: &AtomicU64, now: u64) -> Result<(), u64> {
        let mut seen = full_at.load(Relaxed);
        loop {
            let next = self.step(seen, now)?;
            match full_at.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => seen = other,
            }
        }
    }

    /// Counts an event that nobody can prevent; one that finds the bucket empty leaves it so.
    pub fn spend(self, full_at: &AtomicU64, now: u64) {
        // Where there is no room, nothing is to be counted.
        let _empty = self.take(full_at, now);
    }

    /// In how many nanoseconds there is room for an event.
    ///
    /// # Errors
    /// The bucket is empty.
    pub fn look(self, full_at: &AtomicU64, now: u64) -> Result<(), u64> {
        self.step(full_at.load(Relaxed), now).map(|_next| ())
    }
}

/// `100/10s`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}s", self.events, self.within.as_secs_f64())
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a rate; write it like 100/10s: how many, within which time, from 1s to 1d"
            )
        };
        let (events, within) = text.split_once('/').ok_or_else(wrong)?;
        let events = events.trim().parse().map_err(|_error| wrong())?;
        let within = within.trim();
        // `100/s` says the same as `100/1s`.
        let within = if within.starts_with(|first: char| first.is_ascii_digit()) {
            args::duration(within)
        } else {
            args::duration(&format!("1{within}"))
        };
        Self::new(events, within.map_err(|_error| wrong())?).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same as a picture: what is in the bucket, in nanoseconds of refilling.
    struct Bucket {
        holds: u128,
        most: u128,
        looked: u64,
    }

    impl Bucket {
        fn full(rate: Rate, now: u64) -> Self {
            let most = u128::from(rate.each) * u128::from(rate.events);
            Self {
                holds: most,
                most,
                looked: now,
            }
        }

        fn take(&mut self, each: u64, now: u64) -> Result<(), u64> {
            self.holds = self
                .most
                .min(self.holds + u128::from(now.saturating_sub(self.looked)));
            self.looked = self.looked.max(now);
            match u128::from(each).checked_sub(self.holds) {
                None | Some(0) => {
                    self.holds -= u128::from(each);
                    Ok(())
                }
                Some(lacks) => Err(u64::try_from(lacks).unwrap_or(u64::MAX)),
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_a_bucket(
            events in 1_u32..200, seconds in 1_u64..100,
            pauses in prop::collection::vec(prop_oneof![Just(0_u64), 0_u64..2_000_000_000, 0_u64..100_000_000_000], 1..400),
        ) {
            let rate = Rate::new(events, Duration::from_secs(seconds)).unwrap();
            let full_at = AtomicU64::new(0);
            let mut now = 1;
            let mut bucket = Bucket::full(rate, now);
            for pause in pauses {
                now += pause;
                let room = rate.look(&full_at, now);
                let taken = rate.take(&full_at, now);
                prop_assert_eq!(taken, bucket.take(rate.each, now));
                prop_assert_eq!(room, taken);
                if let Err(wait) = taken {
                    // The wait is right to the nanosecond.
                    prop_assert!(rate.look(&full_at, now + wait).is_ok());
                    prop_assert!(rate.look(&full_at, now + wait - 1).is_err());
                }
            }
        }

        #[test]
        fn no_window_has_more_than_the_bucket_and_what_is_refilled(
            events in 1_u32..50, pauses in prop::collection::vec(0_u64..300_000_000, 1..500),
        ) {
            let rate = Rate::new(events, Duration::from_secs(1)).unwrap();
            let (full_at, mut now, mut passed) = (AtomicU64::new(0), 1_u64, Vec::new());
            for pause in pauses {
                now += pause;
                if rate.take(&full_at, now).is_ok() {
                    passed.push(now);
                }
            }
            for (at, began) in passed.iter().enumerate() {
                let within = passed[at..].iter().take_while(|then| **then - began < 1_000_000_000);
                prop_assert!(within.count() <= 2 * events as usize);
            }
        }
    }

    #[test]
    fn a_rate_is_written_as_it_is_read() {
        for (text, shown) in [
            ("100/10s", "100/10s"),
            ("5/s", "5/1s"),
            ("60/1m", "60/60s"),
            ("1/1500ms", "1/1.5s"),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), shown);
        }
        for wrong in [
            "",
            "100",
            "/1s",
            "0/1s",
            "-1/1s",
            "1/0",
            "1/10ms",
            "1/2d",
            "x/1s",
            "1/1s/1s",
            "2000000000/1s",
        ] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let rate = Rate::new(MOST, LONGEST).unwrap();
        let never = u64::MAX / 4;
        assert!(rate.step(never, never).is_ok());
        let rate = Rate::new(1, LONGEST).unwrap();
        assert_eq!(
            rate.step(never + 86_400_000_000_000, never),
            Err(86_400_000_000_000)
        );
    }
}
