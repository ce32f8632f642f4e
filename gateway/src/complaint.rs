//! What an operator is told of something that may happen a thousand times a second: at once, and then once a minute with a
//! count. Pure. Used where visitors, whoever they are, can cause a line.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
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
        Some(self.say(now))
    }

    fn say(&mut self, now: Instant) -> u64 {
        self.said = Some(now);
        std::mem::take(&mut self.times)
    }
}

/// What goes wrong for several reasons, each of which is said once a minute: none hides another. No more of them are told apart
/// than this.
const REASONS: usize = 32;

/// See [`REASONS`]. Reasons are words of ours, never of those who cause them.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<Vec<(&'static str, Complaint)>>);

impl Complaints {
    /// It went wrong once more, for this reason. How often it has for this one since that was said, if it is to be said.
    pub(crate) fn due(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().position(|(known, _)| *known == reason);
        let place = known.unwrap_or_else(|| {
            if all.len() < REASONS {
                all.push((reason, Complaint::default()));
            }
            all.len() - 1
        });
        all[place].1.due(now)
    }
}

/// So many are named in a line of their own each.
const NAMED: usize = 8;

/// Who has not come for so long makes room for another to be named.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// So many addresses are told apart between two lines.
const TOLD_APART: usize = 64;

/// The same where somebody does it, and each has to be mended for himself: the first few are named at once, each in a line of
/// his own, and whoever comes later or again stands in the line of the minute.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    complaint: Complaint,
    /// Who has had a line, and when he came last.
    named: Vec<(IpAddr, Instant)>,
    /// Who has come since the last line.
    since: Vec<IpAddr>,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// How often it happened since it was said.
    pub(crate) times: u64,
    /// By whom else since then: the first of them, and how many more there are.
    pub(crate) also: Option<String>,
}

impl Roll {
    /// It went wrong once more, by `who`. What is to be said of it, if anything is.
    pub(crate) fn due(&mut self, who: IpAddr, now: Instant) -> Option<Due> {
        let told = if self.is_new(who, now) {
            self.complaint.times += 1;
            Some(self.complaint.say(now))
        } else {
            self.complaint.due(now)
        };
        let Some(times) = told else {
            if self.since.len() < TOLD_APART && !self.since.contains(&who) {
                self.since.push(who);
            }
            return None;
        };
        let mut others = std::mem::take(&mut self.since);
        let all_known = others.len() < TOLD_APART;
        others.retain(|other| *other != who);
        Some(Due {
            times,
            also: listed(&others, all_known),
        })
    }

    /// Whether he is to be named in a line of his own.
    fn is_new(&mut self, who: IpAddr, now: Instant) -> bool {
        if let Some((_, last)) = self.named.iter_mut().find(|(known, _)| *known == who) {
            *last = now;
            return false;
        }
        if self.named.len() >= NAMED {
            let gone = |last: Instant| now.saturating_duration_since(last) >= FORGOTTEN_AFTER;
            let Some(place) = self.named.iter().position(|(_, last)| gone(*last)) else {
                return false;
            };
            self.named.swap_remove(place);
        }
        self.named.push((who, now));
        true
    }
}

/// `192.0.2.1, 192.0.2.2 and 7 others`
fn listed(others: &[IpAddr], all_known: bool) -> Option<String> {
    if others.is_empty() {
        return None;
    }
    let names: Vec<String> = others.iter().take(NAMED).map(IpAddr::to_string).collect();
    let names = names.join(", ");
    let rest = others.len().saturating_sub(NAMED);
    Some(match (rest, all_known) {
        (0, _) => names,
        (1, _) => format!("{names} and one other"),
        (rest, true) => format!("{names} and {rest} others"),
        (rest, false) => format!("{names} and {rest} others at least"),
    })
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

    #[test]
    fn each_reason_has_its_line_and_they_are_bounded() {
        let began = Instant::now();
        let complaints = Complaints::default();
        for reason in ["not-tls", "alpn-mismatch"] {
            assert_eq!(complaints.due(reason, began), Some(1), "{reason}");
            assert_eq!(complaints.due(reason, began), None, "{reason}");
        }
        let later = began + COMPLAIN_EVERY;
        assert_eq!(complaints.due("alpn-mismatch", later), Some(2));
        assert_eq!(complaints.due("not-tls", later), Some(2));
        for number in 0..100 {
            complaints.due(Box::leak(number.to_string().into_boxed_str()), began);
        }
        assert_eq!(complaints.0.lock().unwrap().len(), REASONS);
    }

    fn from(host: u8) -> IpAddr {
        [192, 0, 2, host].into()
    }

    fn due(times: u64, also: Option<&str>) -> Option<Due> {
        let also = also.map(str::to_owned);
        Some(Due { times, also })
    }

    #[test]
    fn the_first_few_are_named_each_and_all_others_together() {
        let began = Instant::now();
        let mut roll = Roll::default();
        for host in 1..=8 {
            assert_eq!(roll.due(from(host), began), due(1, None));
        }
        assert_eq!(roll.due(from(9), began), None);
        // By whom it was done again before the next had his line stands there.
        let mut roll = Roll::default();
        assert_eq!(roll.due(from(1), began), due(1, None));
        assert_eq!(roll.due(from(1), began), None);
        assert_eq!(roll.due(from(2), began), due(2, Some("192.0.2.1")));
        for host in 3..=8 {
            assert_eq!(roll.due(from(host), began), due(1, None));
        }
        for host in 9..=255 {
            assert_eq!(roll.due(from(host), began), None);
        }
        assert!(roll.since.len() <= TOLD_APART && roll.named.len() <= NAMED);
        let names = "192.0.2.9, 192.0.2.10, 192.0.2.11, 192.0.2.12, 192.0.2.13, 192.0.2.14, 192.0.2.15, 192.0.2.16";
        let also = format!("{names} and 56 others at least");
        let later = began + COMPLAIN_EVERY;
        assert_eq!(roll.due(from(1), later), due(248, Some(&also)));
        assert_eq!(roll.due(from(20), later), None);
        assert_eq!(roll.due(from(2), later), None);
        let later = later + COMPLAIN_EVERY;
        let also = Some("192.0.2.20, 192.0.2.2");
        assert_eq!(roll.due(from(1), later), due(3, also));
        // Who has been mended makes room.
        let later = later + FORGOTTEN_AFTER;
        assert_eq!(roll.due(from(99), later), due(1, None));
        assert!(roll.named.len() <= NAMED);
    }
}
