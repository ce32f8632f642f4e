//! Whether a server is there at the other end of a connection, decided on what was heard of it. Pure: the connection's driver asks
//! with the time in milliseconds, and does what it is told.
//!
//! Whatever comes is life: it answers the question as an answer to the PING would.
//!
//! A PING (RFC 9113 §6.7) goes out only while a request waits for the head of its answer and nothing comes, or since one has
//! given that up, and more and more seldom while that lasts: servers of gRPC end a connection after three in five minutes for which they see no reason.

/// A request that has waited so long on a connection that says nothing causes a PING. Milliseconds, as all of these.
const ASK_AFTER: u64 = 1000;

/// Each further PING of the same silence comes after so many times as long.
const MORE_SELDOM: u64 = 10;

/// A PING without an answer for so long puts the connection in doubt: new requests go on another one.
const DOUBT_AFTER: u64 = 500;

/// A PING without an answer for so long ends it. A server whose one thread computes answers late, and is not to lose what it
/// computes.
pub(super) const END_AFTER: u64 = 10_000;

/// What is seen of the connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    pub(super) now: u64,
    /// Octets that the server has sent.
    pub(super) heard: u64,
    /// Whether a request waits for the head of its answer.
    pub(super) waits: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing for now: all is well.
    Rest,
    /// To send a PING.
    Ask,
    /// The answer to a PING is overdue.
    Doubt,
    /// Nobody is there.
    End,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Pulse {
    heard: u64,
    heard_at: u64,
    waits_since: Option<u64>,
    asked_at: Option<u64>,
    /// How long a silence causes the next PING.
    ask_after: u64,
}

impl Pulse {
    /// Of a connection that has just been heard.
    pub(super) fn new(now: u64, heard: u64) -> Self {
        Self {
            heard,
            heard_at: now,
            waits_since: None,
            asked_at: None,
            ask_after: ASK_AFTER,
        }
    }

    /// Whether a PING is to be answered, and nothing has come since.
    pub(super) fn is_asking(&self) -> bool {
        self.asked_at.is_some()
    }

    /// A request waits at this moment. Should it give up before the server has said anything, that is still to be explained.
    pub(super) fn waits(&mut self, now: u64) {
        self.waits_since.get_or_insert(now);
    }

    /// Whether there is a silence to be explained.
    pub(super) fn is_curious(&self) -> bool {
        self.waits_since.is_some() || self.is_asking()
    }

    /// How long nothing has come.
    pub(super) fn silence(&self, now: u64) -> u64 {
        now.saturating_sub(self.heard_at)
    }

    /// A PING was handed to the connection; or an earlier one, behind which something else has come, still stands for it.
    pub(super) fn asked(&mut self, now: u64) {
        self.asked_at = Some(now);
    }

    /// It was answered, and these are all the octets that the server has sent.
    pub(super) fn answered(&mut self, now: u64, heard: u64) {
        self.asked_at = None;
        self.heard = heard;
        self.heard_at = now;
        self.ask_after = self.ask_after.saturating_mul(MORE_SELDOM);
    }

    /// What to do, by what is seen at the moment.
    pub(super) fn next(&mut self, sight: Sight) -> Step {
        let now = sight.now;
        if sight.heard != self.heard {
            self.heard = sight.heard;
            self.heard_at = now;
            self.asked_at = None;
            self.ask_after = ASK_AFTER;
        }
        if sight.waits {
            self.waits(now);
        } else if self.waits_since.is_some_and(|since| self.heard_at >= since) {
            self.waits_since = None;
        }
        if let Some(asked_at) = self.asked_at {
            return match now.saturating_sub(asked_at) {
                END_AFTER.. => Step::End,
                DOUBT_AFTER.. => Step::Doubt,
                _ => Step::Rest,
            };
        }
        let Some(since) = self.waits_since else {
            return Step::Rest;
        };
        if now.saturating_sub(since.max(self.heard_at)) >= self.ask_after {
            Step::Ask
        } else {
            Step::Rest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(now: u64, heard: u64, waits: bool) -> Sight {
        Sight { now, heard, waits }
    }

    #[test]
    fn a_server_that_is_gone_is_asked_doubted_and_given_up() {
        let mut pulse = Pulse::new(0, 9);
        assert_eq!(
            pulse.next(sight(5000, 9, false)),
            Step::Rest,
            "nobody waits"
        );
        assert_eq!(pulse.next(sight(5100, 9, true)), Step::Rest);
        assert_eq!(pulse.next(sight(6099, 9, true)), Step::Rest);
        assert_eq!(pulse.next(sight(6100, 9, true)), Step::Ask);
        pulse.asked(6100);
        assert_eq!(pulse.next(sight(6599, 9, true)), Step::Rest);
        assert_eq!(pulse.next(sight(6600, 9, true)), Step::Doubt);
        assert_eq!(pulse.next(sight(16_099, 9, false)), Step::Doubt);
        assert_eq!(pulse.next(sight(16_100, 9, false)), Step::End);
    }

    #[test]
    fn those_who_give_up_early_leave_the_question_open() {
        let mut pulse = Pulse::new(0, 9);
        pulse.waits(100);
        assert_eq!(pulse.next(sight(200, 9, false)), Step::Rest);
        assert_eq!(pulse.next(sight(1100, 9, false)), Step::Ask);
        pulse.asked(1100);
        assert_eq!(pulse.next(sight(1600, 9, false)), Step::Doubt);
        assert!(pulse.is_curious());
        pulse.answered(1700, 9);
        assert_eq!(pulse.next(sight(1800, 9, false)), Step::Rest);
        assert!(!pulse.is_curious(), "it is there");
        // Whoever was answered leaves none.
        pulse.waits(2000);
        assert_eq!(pulse.next(sight(2100, 10, false)), Step::Rest);
        assert!(!pulse.is_curious());
    }

    #[test]
    fn what_still_comes_is_proof_of_a_busy_server() {
        let mut pulse = Pulse::new(0, 0);
        assert_eq!(pulse.next(sight(1, 0, true)), Step::Rest);
        assert_eq!(pulse.next(sight(1001, 0, true)), Step::Ask);
        pulse.asked(1001);
        assert_eq!(pulse.next(sight(1501, 0, true)), Step::Doubt);
        assert_eq!(pulse.next(sight(1502, 1, true)), Step::Rest);
        assert!(!pulse.is_asking());
        // Another silence is another question, and counts from its own beginning.
        assert_eq!(pulse.next(sight(2501, 1, true)), Step::Rest);
        assert_eq!(pulse.next(sight(2502, 1, true)), Step::Ask);
        pulse.asked(2502);
        assert_eq!(pulse.next(sight(3002, 1, true)), Step::Doubt);
        assert_eq!(pulse.silence(3002), 1500);
        assert_eq!(pulse.next(sight(12_501, 1, true)), Step::Doubt);
        assert_eq!(pulse.next(sight(12_502, 1, true)), Step::End);
    }

    /// The answer to the request came, and none to the PING.
    #[test]
    fn nobody_is_given_up_for_a_ping_alone() {
        let mut pulse = Pulse::new(0, 0);
        assert_eq!(pulse.next(sight(1, 0, true)), Step::Rest);
        assert_eq!(pulse.next(sight(1001, 0, true)), Step::Ask);
        pulse.asked(1001);
        for now in (1250..60_000).step_by(250) {
            assert_eq!(pulse.next(sight(now, 1, false)), Step::Rest, "{now}");
        }
        assert!(!pulse.is_curious());
    }

    #[test]
    fn a_slow_answer_causes_few_pings() {
        let mut pulse = Pulse::new(0, 0);
        let mut asked = Vec::new();
        for now in (0..600_000).step_by(250) {
            if pulse.next(sight(now, 0, true)) == Step::Ask {
                pulse.asked(now);
                pulse.answered(now, 0);
                asked.push(now / 1000);
            }
        }
        assert_eq!(asked, [1, 11, 111]);
    }

    #[test]
    fn traffic_needs_no_ping() {
        let mut pulse = Pulse::new(0, 0);
        for now in (0..60_000).step_by(250) {
            assert_eq!(pulse.next(sight(now, now, true)), Step::Rest);
        }
    }
}
