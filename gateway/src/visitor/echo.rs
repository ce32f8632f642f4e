//! Whether a visitor over HTTP/2 is still there: he is pinged now and then while something is open (RFC 9113 §6.7). An answer is
//! as late as he is with what was written before the PING, which may be megabytes of an answer that he reads slowly; so what comes
//! from him, and what he takes, are as good as one.

use std::task::Context;
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

/// So often he is pinged, and for so long he may give no sign.
const PING_EVERY: Duration = Duration::from_secs(30);

/// What a connection has seen of its visitor. Neither gets less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Octets that have come from him.
    pub(super) came: u64,
    /// Octets that he has taken, as far as the system knows.
    pub(super) taken: u64,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Echo {
    ping: Option<PingPong>,
    last: Instant,
    waits: Option<Waits>,
}

/// For the answer to a PING.
#[derive(Clone, Copy, Debug)]
struct Waits {
    /// For the answer, or for another sign after the last one.
    since: Instant,
    signs: Signs,
}

impl Waits {
    /// Whether he has given no sign for too long. `signs` are asked for where it may be so.
    fn in_vain(&mut self, now: Instant, signs: impl Fn() -> Signs) -> bool {
        if now.saturating_duration_since(self.since) < PING_EVERY {
            return false;
        }
        let (before, seen) = (self.signs, signs());
        let more = seen.came > before.came || seen.taken > before.taken;
        self.signs = Signs {
            came: seen.came.max(before.came),
            taken: seen.taken.max(before.taken),
        };
        self.since = now;
        !more
    }
}

impl Echo {
    /// Of a connection that begins; `None` for one that cannot be pinged.
    pub(super) fn new(ping: Option<PingPong>) -> Self {
        Self {
            ping,
            last: Instant::now(),
            waits: None,
        }
    }

    /// Takes note of an answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.waits.is_some()
            && let Some(ping) = &mut self.ping
            && ping.poll_pong(cx).is_ready()
        {
            self.waits = None;
        }
    }

    /// Whether he must be taken for gone; pings him where that is due.
    pub(super) fn is_lost(&mut self, signs: impl Fn() -> Signs) -> bool {
        let now = Instant::now();
        if let Some(waits) = &mut self.waits {
            return waits.in_vain(now, signs);
        }
        if now.saturating_duration_since(self.last) >= PING_EVERY
            && let Some(ping) = &mut self.ping
            && ping.send_ping(Ping::opaque()).is_ok()
        {
            self.last = now;
            self.waits = Some(Waits {
                since: now,
                signs: signs(),
            });
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_or_sends_something_is_there_and_who_does_neither_for_thirty_seconds_is_not() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let of = |came, taken| move || Signs { came, taken };
        let mut waits = Waits {
            since: began,
            signs: of(100, 5_000)(),
        };
        assert!(!waits.in_vain(at(29), of(100, 5_000)), "not yet");
        assert!(!waits.in_vain(at(30), of(100, 5_001)), "he takes");
        assert!(!waits.in_vain(at(59), of(100, 5_001)));
        assert!(!waits.in_vain(at(60), of(113, 5_001)), "he sends");
        assert!(!waits.in_vain(at(90), of(113, 9_000)));
        // What is taken is an estimate: more that waits in the system is no sign.
        assert!(waits.in_vain(at(120), of(113, 8_000)));
        assert!(
            waits.in_vain(at(150), of(113, 9_000)),
            "no more than before"
        );
    }
}
