//! What an operator is told of something that may happen a thousand times a second: at once, and then once a minute with a
//! count. Pure. Used where visitors, whoever they are, can cause a line.

use std::time::{Duration, Instant};

/// What goes wrong again and again is said at once, and then at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Keeps count of what is not said.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    said: Option<Instant>,
    times: u64,
}

impl Complaint {
    /// It went wrong once more. How often it has since it was said, if it is to be said.
    pub(crate) fn due(&mut self, now: Instant) -> Option<u64> {
        self.times += 1;
        let quiet = |said: Instant| now.saturating_duration_since(said) < COMPLAIN_EVERY;
        if self.said.is_some_and(quiet) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_a_minute_that_counts_it() {
        let began = Instant::now();
        let mut complaint = Complaint::default();
        assert_eq!(complaint.due(began), Some(1));
        for millis in 1..=1000 {
            assert_eq!(complaint.due(began + Duration::from_millis(millis)), None);
        }
        assert_eq!(complaint.due(began + COMPLAIN_EVERY), Some(1001));
    }
}
