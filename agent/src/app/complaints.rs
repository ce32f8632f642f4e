//! What the app gets wrong, for the agent's log: of each kind the first one at once, and the same again once a minute with a
//! count; and whether it is there, as often as a reader can follow. Pure; `App` writes the lines.

use std::sync::{Mutex, PoisonError};

/// Between two lines of one kind.
const AGAIN_MS: u64 = 60_000;

/// What was said, by kind. There are as many kinds as reasons for having no answer.
#[derive(Debug, Default)]
pub(super) struct Complaints(Mutex<Vec<Said>>);

#[derive(Debug)]
struct Said {
    kind: &'static str,
    at: u64,
    /// How many came since.
    more: u64,
}

impl Complaints {
    /// One more of this kind. Returns how many have not been told of, where a line is due.
    pub(super) fn due(&self, kind: &'static str, now: u64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(said) = all.iter_mut().find(|said| said.kind == kind) else {
            all.push(Said {
                kind,
                at: now,
                more: 0,
            });
            return Some(0);
        };
        if now < said.at + AGAIN_MS {
            said.more += 1;
            return None;
        }
        said.at = now;
        Some(std::mem::take(&mut said.more))
    }
}

/// So many changes of [`Reach`] are told at once, and beyond them one in so long.
const AT_ONCE: u64 = 2;
const ONE_IN_MS: u64 = 10_000;

/// Whether the app can be reached, and what the log has said of it.
#[derive(Debug, Default)]
pub(super) struct Reach(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    /// Why it cannot be reached; `None` while it can.
    down: Option<String>,
    told_down: bool,
    /// Lines that time has not made up for, and from when on it does.
    lines: u64,
    since: u64,
    /// Changes since the last line.
    changes: u64,
}

/// A line that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    /// Why the app cannot be reached; `None` when it answers again.
    pub(super) down: Option<String>,
    /// How often that has changed since the last line, this time not counted.
    pub(super) untold: u64,
}

impl Reach {
    /// An attempt to reach the app has failed for this, or not at all.
    pub(super) fn heard(&self, down: Option<&str>, now: u64) -> Option<News> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.down.is_some() != down.is_some() {
            heard.changes += 1;
            heard.down = down.map(str::to_owned);
        }
        heard.due(now)
    }

    /// What has waited to be told.
    pub(super) fn due(&self, now: u64) -> Option<News> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(now)
    }
}

impl Heard {
    fn due(&mut self, now: u64) -> Option<News> {
        let made_up = now.saturating_sub(self.since) / ONE_IN_MS;
        self.lines = self.lines.saturating_sub(made_up);
        self.since = match self.lines {
            0 => now,
            _ => self.since + made_up * ONE_IN_MS,
        };
        if self.down.is_some() == self.told_down || self.lines >= AT_ONCE {
            return None;
        }
        self.told_down = self.down.is_some();
        self.lines += 1;
        Some(News {
            down: self.down.clone(),
            untold: std::mem::take(&mut self.changes).saturating_sub(1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_that_comes_and_goes_is_told_of_twice_and_then_now_and_then() {
        let reach = Reach::default();
        let news = |down: Option<&str>, untold| {
            let down = down.map(str::to_owned);
            Some(News { down, untold })
        };
        assert_eq!(reach.heard(None, 0), None, "nothing else was expected");
        assert_eq!(reach.heard(Some("a"), 1), news(Some("a"), 0));
        assert_eq!(reach.heard(Some("a"), 2), None);
        assert_eq!(reach.heard(None, 3), news(None, 0));
        for now in 4..1_004 {
            let down = (now % 2 == 0).then_some("b");
            assert_eq!(reach.heard(down, now), None, "{now}");
        }
        assert_eq!(reach.heard(Some("c"), 1_004), None);
        assert_eq!(reach.due(10_000), None);
        assert_eq!(reach.due(10_001), news(Some("c"), 1_000));
        assert_eq!(reach.heard(None, 10_002), None, "once in ten seconds");
        assert_eq!(reach.due(20_001), news(None, 0));
        assert_eq!(reach.heard(Some("d"), 90_000), news(Some("d"), 0));
        assert_eq!(reach.heard(None, 90_001), news(None, 0), "as at first");
    }

    #[test]
    fn each_kind_is_told_at_once_and_counted_for_a_minute() {
        let complaints = Complaints::default();
        assert_eq!(complaints.due("closed", 5), Some(0));
        for now in 6..16 {
            assert_eq!(complaints.due("closed", now), None);
        }
        assert_eq!(complaints.due("slow", 16), Some(0), "another kind");
        assert_eq!(complaints.due("closed", 60_005), Some(10));
        assert_eq!(complaints.due("closed", 60_006), None);
    }
}
