//! Whether a tunnel is alive, decided on what was heard of it. Pure: the tunnel's owner asks with the time in
//! milliseconds and does what it is told. The same rules hold at both ends.
//!
//! Two kinds of PING (RFC 9113 §6.7): a regular one, and a probe as soon as a request has waited on a connection that
//! has said nothing since. A probe that is not answered soon puts the tunnel in doubt, so that requests that can be
//! repeated go elsewhere; one that is not answered at all ends it.

use std::time::Duration;

/// How patient to be. All durations are counted from the moment a PING was written.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between regular PINGs.
    pub interval: Duration,
    /// A regular PING must be answered within this.
    pub answer: Duration,
    /// A request that has waited so long on a silent connection causes a probe.
    pub probe_after: Duration,
    /// A probe unanswered for so long puts the tunnel in doubt (or four round trips, if that is longer).
    pub doubt_after: Duration,
    /// A probe unanswered for so long ends the tunnel (or eight round trips).
    pub probe_answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            answer: Duration::from_secs(5),
            probe_after: Duration::from_millis(300),
            doubt_after: Duration::from_millis(300),
            probe_answer: Duration::from_secs(2),
        }
    }
}

/// What the owner sees of its connection when it asks.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub now: u64,
    /// When the peer's last octet arrived.
    pub heard: u64,
    /// Since when a request has waited for its response head, if one does.
    pub waiting_since: Option<u64>,
    /// Somebody has reason to doubt the peer (another tunnel of it went silent, the machine slept): probe at once.
    pub asked: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nothing until this moment, or until something changes.
    Wait { until: u64 },
    /// Send a PING and call [`Liveness::sent`].
    Ping { probe: bool },
    /// A probe is overdue: requests had better go elsewhere. Ask again at this moment.
    Doubt { until: u64 },
    /// The peer did not answer for so many milliseconds. The tunnel is over.
    GiveUp { silent_ms: u64 },
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    at: u64,
    probe: bool,
}

/// The state of one tunnel's liveness.
#[derive(Debug)]
pub struct Liveness {
    patience: Patience,
    outstanding: Option<Outstanding>,
    last: u64,
    /// Round trip in microseconds, smoothed (RFC 6298 §2's alpha); `None` until the first answer.
    rtt_us: Option<u64>,
}

/// Bytes that keep arriving prove that a peer is there although its answer queues behind them; not for ever.
const QUEUE_BEHIND_DATA: u64 = 6;

/// Probes on one connection are at least this far apart, so that slow apps do not turn into PING traffic.
const BETWEEN_PROBES_MS: u64 = 1000;

impl Liveness {
    /// Of a tunnel that begins at `now`: its first regular PING is due an interval later.
    pub fn new(patience: Patience, now: u64) -> Self {
        Self {
            patience,
            outstanding: None,
            last: now,
            rtt_us: None,
        }
    }

    /// A PING was handed to the connection.
    pub fn sent(&mut self, now: u64, probe: bool) {
        self.outstanding = Some(Outstanding { at: now, probe });
        self.last = now;
    }

    /// The outstanding PING was answered after `rtt`.
    pub fn answered(&mut self, rtt: Duration) {
        self.outstanding = None;
        let sample = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        self.rtt_us = Some(
            self.rtt_us
                .map_or(sample, |smoothed| (smoothed * 7 + sample) / 8),
        );
    }

    /// The smoothed round trip, once there is one.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt_us.map(Duration::from_micros)
    }

    /// Whether a PING is on its way.
    pub fn is_waiting(&self) -> bool {
        self.outstanding.is_some()
    }

    /// What to do, by what is seen at the moment.
    pub fn next(&self, sight: Sight) -> Move {
        match self.outstanding {
            Some(ping) => self.overdue(ping, sight),
            None => self.due(sight),
        }
    }

    fn due(&self, sight: Sight) -> Move {
        if sight.asked {
            return Move::Ping { probe: true };
        }
        let regular = self.last + ms(self.patience.interval);
        if sight.now >= regular {
            return Move::Ping {
                probe: sight.waiting_since.is_some(),
            };
        }
        let Some(since) = sight.waiting_since else {
            return Move::Wait { until: regular };
        };
        let silent_from = since.max(sight.heard);
        let probe =
            (silent_from + ms(self.patience.probe_after)).max(self.last + BETWEEN_PROBES_MS);
        if sight.now >= probe {
            Move::Ping { probe: true }
        } else {
            Move::Wait {
                until: probe.min(regular),
            }
        }
    }

    fn overdue(&self, ping: Outstanding, sight: Sight) -> Move {
        let round_trip = self.rtt_us.unwrap_or(0) / 1000;
        let answer = if ping.probe {
            ms(self.patience.probe_answer).max(8 * round_trip)
        } else {
            ms(self.patience.answer).max(8 * round_trip)
        };
        // What arrives after the PING was written shows a peer that is busy and not one that is gone.
        let from = sight
            .heard
            .max(ping.at)
            .min(ping.at + answer * QUEUE_BEHIND_DATA);
        let mut end = from + answer;
        let mut doubt = ping
            .probe
            .then(|| from + ms(self.patience.doubt_after).max(4 * round_trip));
        // A request that meets a regular PING on its way need not wait for a probe of its own, which would be answered behind
        // it: the PING is one from the moment at which a probe would have been sent.
        if !ping.probe
            && let Some(since) = sight.waiting_since
        {
            let probed = since.max(sight.heard).max(ping.at) + ms(self.patience.probe_after);
            doubt = Some(probed + ms(self.patience.doubt_after).max(4 * round_trip));
            end = end.min(probed + ms(self.patience.probe_answer).max(8 * round_trip));
        }
        match doubt {
            _ if sight.now >= end => Move::GiveUp {
                silent_ms: sight.now.saturating_sub(sight.heard.max(1)),
            },
            Some(at) if sight.now >= at => Move::Doubt { until: end },
            Some(at) => Move::Wait { until: at.min(end) },
            None => Move::Wait { until: end },
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(now: u64, heard: u64, waiting_since: Option<u64>) -> Sight {
        Sight {
            now,
            heard,
            waiting_since,
            asked: false,
        }
    }

    #[test]
    fn an_idle_tunnel_is_pinged_every_interval_and_given_up_when_it_does_not_answer() {
        let mut live = Liveness::new(Patience::default(), 0);
        assert_eq!(live.next(sight(1, 1, None)), Move::Wait { until: 5000 });
        assert_eq!(live.next(sight(5000, 1, None)), Move::Ping { probe: false });
        live.sent(5000, false);
        assert_eq!(
            live.next(sight(5001, 1, None)),
            Move::Wait { until: 10_000 }
        );
        assert!(matches!(
            live.next(sight(10_000, 1, None)),
            Move::GiveUp { silent_ms: 9_999 }
        ));
        live.answered(Duration::from_millis(3));
        assert_eq!(
            live.next(sight(10_000, 9_000, None)),
            Move::Ping { probe: false }
        );
    }

    #[test]
    fn a_waiting_request_causes_a_probe_then_doubt_then_the_end() {
        let mut live = Liveness::new(Patience::default(), 0);
        assert_eq!(
            live.next(sight(2000, 1999, Some(2000))),
            Move::Wait { until: 2300 }
        );
        assert_eq!(
            live.next(sight(2300, 1999, Some(2000))),
            Move::Ping { probe: true }
        );
        live.sent(2300, true);
        assert_eq!(
            live.next(sight(2301, 1999, Some(2000))),
            Move::Wait { until: 2600 }
        );
        assert_eq!(
            live.next(sight(2600, 1999, Some(2000))),
            Move::Doubt { until: 4300 }
        );
        assert!(matches!(
            live.next(sight(4300, 1999, Some(2000))),
            Move::GiveUp { .. }
        ));
    }

    #[test]
    fn a_regular_ping_on_its_way_is_as_good_as_a_probe() {
        let patience = Patience {
            answer: Duration::from_secs(30),
            ..Patience::default()
        };
        let mut live = Liveness::new(patience, 0);
        live.sent(5000, false);
        assert_eq!(
            live.next(sight(8000, 4000, None)),
            Move::Wait { until: 35_000 }
        );
        let waiting = |now| sight(now, 4000, Some(8000));
        assert_eq!(live.next(waiting(8000)), Move::Wait { until: 8600 });
        assert_eq!(live.next(waiting(8600)), Move::Doubt { until: 10_300 });
        assert_eq!(live.next(waiting(10_300)), Move::GiveUp { silent_ms: 6300 });
        assert_eq!(
            live.next(sight(10_300, 10_200, Some(8000))),
            Move::Wait { until: 10_800 },
            "octets still arrive"
        );
    }

    #[test]
    fn a_slow_app_on_a_live_tunnel_costs_one_probe_a_second() {
        let mut live = Liveness::new(Patience::default(), 0);
        live.sent(3000, true);
        live.answered(Duration::from_millis(1));
        assert_eq!(
            live.next(sight(3301, 3001, Some(2000))),
            Move::Wait { until: 4000 }
        );
        assert_eq!(
            live.next(sight(4000, 3001, Some(2000))),
            Move::Ping { probe: true }
        );
    }

    #[test]
    fn an_answer_that_queues_behind_data_is_waited_for_but_not_for_ever() {
        let mut live = Liveness::new(Patience::default(), 0);
        live.sent(5000, false);
        assert!(
            matches!(live.next(sight(11_000, 10_900, None)), Move::Wait { .. }),
            "octets still arrive"
        );
        let mut now = 11_000;
        while !matches!(live.next(sight(now, now, None)), Move::GiveUp { .. }) {
            now += 500;
            assert!(
                now < 60_000,
                "a peer that talks and never answers is held for ever"
            );
        }
    }

    #[test]
    fn doubt_scales_with_the_round_trip() {
        let mut live = Liveness::new(Patience::default(), 0);
        live.answered(Duration::from_millis(600));
        live.sent(1000, true);
        assert!(
            matches!(live.next(sight(2000, 1, Some(600))), Move::Wait { .. }),
            "a satellite link is not dead"
        );
        assert!(matches!(
            live.next(sight(3400, 1, Some(600))),
            Move::Doubt { .. }
        ));
    }

    #[test]
    fn being_asked_probes_at_once() {
        let live = Liveness::new(Patience::default(), 0);
        let asked = Sight {
            now: 10,
            heard: 9,
            waiting_since: None,
            asked: true,
        };
        assert_eq!(live.next(asked), Move::Ping { probe: true });
    }
}
