//! How old a certificate is, when its file is looked at again, and when its age is worth a line in a log. Pure; gateway and
//! agent look, and write the lines.

use std::time::{Duration, SystemTime};

use crate::peer::{self, Refusal};

/// A certificate is about to expire in the last part of its life.
const LAST_PART: u32 = 5;

/// How often it is said that a certificate is about to expire; in its last day and afterwards, [`OFTEN`].
const DAILY: Duration = Duration::from_secs(86_400);

/// How often a thing is said that keeps connections from coming up, or is about to.
const OFTEN: Duration = Duration::from_secs(600);

/// How often a certificate's file is looked at, at least.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its first moment.
    pub from: SystemTime,
    /// Its last.
    pub until: SystemTime,
}

/// What there is to say about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Nothing.
    Good,
    /// Not valid before so much time has passed.
    Early(Duration),
    /// So much of its life is left, which is little.
    Late(Duration),
    /// It is over.
    Expired,
}

impl Life {
    /// Reads it from a certificate.
    ///
    /// # Errors
    /// It cannot be parsed.
    pub fn of(der: &[u8]) -> Result<Self, Refusal> {
        let facts = peer::facts(&peer::parse(der)?);
        Ok(Self {
            from: facts.not_before,
            until: facts.not_after,
        })
    }

    /// At this time.
    #[must_use]
    pub fn age(&self, at: SystemTime) -> Age {
        if let Ok(early) = self.from.duration_since(at)
            && !early.is_zero()
        {
            return Age::Early(early);
        }
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        match self.until.duration_since(at) {
            Err(_) => Age::Expired,
            Ok(left) if left < whole / LAST_PART => Age::Late(left),
            Ok(_) => Age::Good,
        }
    }

    /// When to look at its file again: often enough to catch a renewal while there is time.
    #[must_use]
    pub fn look_again(&self, at: SystemTime) -> Duration {
        let left = self.until.duration_since(at).unwrap_or(LOOK_EVERY);
        (left / 4).clamp(Duration::from_secs(1), LOOK_EVERY)
    }
}

/// What has been said about one certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said(Option<(Age, SystemTime)>);

impl Said {
    /// Whether something is to be said of this age. It is remembered as said.
    pub fn is_due(&mut self, age: Age, at: SystemTime) -> bool {
        let every = match age {
            Age::Late(left) if left > DAILY => DAILY,
            _ => OFTEN,
        };
        let same = |said: Age| std::mem::discriminant(&said) == std::mem::discriminant(&age);
        if let Some((said, when)) = self.0
            && same(said)
            && at.duration_since(when).unwrap_or_default() < every
        {
            return false;
        }
        self.0 = Some((age, at));
        age != Age::Good
    }
}

/// A length of time as a sentence says it.
#[must_use]
pub fn in_words(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} minutes", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} hours", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = DAILY;

    #[test]
    fn a_certificate_is_early_then_good_then_late_in_its_last_fifth() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let life = Life {
            from,
            until: from + Duration::from_secs(100),
        };
        let at = |second| from + Duration::from_secs(second);
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(990);
        assert_eq!(life.age(early), Age::Early(Duration::from_secs(10)));
        assert_eq!(life.age(at(0)), Age::Good);
        assert_eq!(life.age(at(79)), Age::Good);
        assert_eq!(life.age(at(81)), Age::Late(Duration::from_secs(19)));
        assert_eq!(life.age(at(101)), Age::Expired);
        assert_eq!(life.look_again(at(0)), LOOK_EVERY);
        assert_eq!(life.look_again(at(80)), Duration::from_secs(5));
        assert_eq!(life.look_again(at(99)), Duration::from_secs(1));
        assert_eq!(
            life.look_again(at(500)),
            Duration::from_millis(2_500),
            "an expired one is looked at often"
        );
    }

    #[test]
    fn what_is_due_in_weeks_is_said_daily_and_what_is_due_today_often() {
        let start = SystemTime::UNIX_EPOCH;
        for (age, every) in [
            (Age::Late(30 * DAY), DAILY),
            (Age::Late(DAY / 2), OFTEN),
            (Age::Expired, OFTEN),
            (Age::Early(DAY), OFTEN),
        ] {
            let mut said = Said::default();
            assert!(said.is_due(age, start), "{age:?}");
            assert!(!said.is_due(age, start + every - Duration::from_secs(1)));
            assert!(said.is_due(age, start + every), "{age:?}");
        }
        let mut said = Said::default();
        assert!(!said.is_due(Age::Good, start));
        assert!(
            said.is_due(Age::Late(DAY), start),
            "a change is said at once"
        );
        assert!(said.is_due(Age::Expired, start));
    }
}
