//! What the app gets wrong, for the agent's log: of each kind the first one at once, and the same again once a minute with a
//! count. Pure; `App` writes the lines.

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

#[cfg(test)]
mod tests {
    use super::*;

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
