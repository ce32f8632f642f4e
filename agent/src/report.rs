//! When a failure is worth a line: the first one at once, the same again once a minute with a count, and one line when it is
//! over. Pure; the lines are written by `reconcile` for a name and by `post` for an address. All times in milliseconds.

use crate::dial::{Failure, Layer};

/// Between two lines about the same failure.
const AGAIN_MS: u64 = 60_000;

/// What was said about one gateway address.
#[derive(Debug, Default)]
pub struct Report {
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    layer: Layer,
    text: String,
    at: u64,
    since: u64,
    /// Failures since the last line.
    more: u64,
    /// Failures in all.
    all: u64,
}

impl Report {
    /// One more failure. Returns what to log, if anything.
    pub fn failed(&mut self, now: u64, failure: &Failure) -> Option<String> {
        let layer = failure.layer.as_str();
        match &mut self.said {
            Some(said) if said.layer == failure.layer && said.text == failure.text => {
                said.more += 1;
                said.all += 1;
                if now < said.at + AGAIN_MS {
                    return None;
                }
                let more = std::mem::take(&mut said.more);
                said.at = now;
                Some(format!(
                    "[{layer}] {} ({more} more attempts since the last such line)",
                    failure.text
                ))
            }
            _ => {
                let (since, all) = self
                    .said
                    .take()
                    .map_or((now, 0), |said| (said.since, said.all));
                self.said = Some(Said {
                    layer: failure.layer,
                    text: failure.text.clone(),
                    at: now,
                    since,
                    more: 0,
                    all: all + 1,
                });
                Some(format!("[{layer}] {}", failure.text))
            }
        }
    }

    /// It works (again). Returns what to log, if there was a failure before.
    pub fn works(&mut self, now: u64) -> Option<String> {
        let said = self.said.take()?;
        let seconds = now.saturating_sub(said.since) / 1000;
        Some(format!(
            "up again after {} failed attempts in {seconds} s",
            said.all
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted_and_said_once_a_minute() {
        let mut report = Report::default();
        let refused = Failure::refused("no");
        assert_eq!(report.works(1), None);
        assert_eq!(
            report.failed(1, &refused).as_deref(),
            Some("[refused-by-gateway] refused by the gateway: no")
        );
        for at in 1..60 {
            assert_eq!(report.failed(at * 1000, &refused), None);
        }
        let line = report.failed(60_001, &refused).unwrap();
        assert!(line.contains("60 more attempts"), "{line}");
        let other = Failure::refused("other");
        assert!(
            report.failed(60_002, &other).is_some(),
            "another reason is told at once"
        );
        assert_eq!(
            report.works(65_000).as_deref(),
            Some("up again after 62 failed attempts in 64 s")
        );
        assert_eq!(report.works(65_000), None);
    }
}
