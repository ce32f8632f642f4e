//! What an agent sends beyond what it was asked for. Pure: counts in, a verdict out.

/// Control frames a second that no honest agent reaches, and for how long.
const CONTROL_PER_SECOND: u64 = 1000;
const FLOOD_FOR: u64 = 5;

/// What an agent sends beyond what it was asked for, second by second.
#[derive(Debug, Default)]
pub(super) struct Flood {
    /// When the present second began, by [`tidegate_shared::clock::now_ms`].
    second: u64,
    /// Seconds in a row in which there was too much.
    full: u64,
    /// What had arrived by then: control frames, HEADERS, and WINDOW_UPDATEs that nothing justifies.
    control: u64,
    heads: u64,
    unjustified: u64,
    /// Requests that had been sent by then, and those that were open.
    sent: u64,
    open: u64,
}

/// What is known of a tunnel when this is looked at: what has arrived of frames, what was sent, and what waits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrived {
    /// Frames that say nothing.
    pub(super) control: u64,
    /// HEADERS.
    pub(super) heads: u64,
    /// WINDOW_UPDATEs.
    pub(super) updates: u64,
    /// Octets that were sent on the tunnel.
    pub(super) octets: u64,
    /// Requests that were sent.
    pub(super) sent: u64,
    /// And those that are open.
    pub(super) open: u64,
}

/// HEADERS that every request justifies in each second in which it is open or sent: its answer, its trailers, and some
/// interim responses. What is beyond is a control frame like any other.
const HEADS_PER_REQUEST: u64 = 4;

/// Octets that justify a WINDOW_UPDATE, whenever it comes: the least frame with something to read has ten, and may be answered by
/// one for its stream and one for the connection.
const OCTETS_PER_UPDATE: u64 = 5;

impl Flood {
    /// From this moment on, by [`tidegate_shared::clock::now_ms`].
    pub(super) fn since(now: u64) -> Self {
        Self {
            second: now,
            ..Self::default()
        }
    }

    /// Whether there has been too much for too long.
    pub(super) fn is_on(&mut self, now: u64, seen: Arrived) -> bool {
        let elapsed = now.saturating_sub(self.second);
        if elapsed < 1000 {
            return false;
        }
        let asked = seen.sent.saturating_sub(self.sent) + self.open;
        let heads = (seen.heads - self.heads).saturating_sub(asked * HEADS_PER_REQUEST);
        let unjustified = seen.updates.saturating_sub(seen.octets / OCTETS_PER_UPDATE);
        let updates = unjustified.saturating_sub(self.unjustified);
        let rate = (seen.control - self.control + heads + updates) * 1000 / elapsed;
        let full = if rate > CONTROL_PER_SECOND {
            self.full + elapsed / 1000
        } else {
            0
        };
        *self = Self {
            second: now,
            full,
            control: seen.control,
            heads: seen.heads,
            unjustified,
            sent: seen.sent,
            open: seen.open,
        };
        full >= FLOOD_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second at a tunnel on which so much arrives every second, and says in which second it is a flood.
    fn flooded_after(each: Arrived) -> Option<u64> {
        let mut flood = Flood::default();
        let after = |second| Arrived {
            control: each.control * second,
            heads: each.heads * second,
            updates: each.updates * second,
            octets: each.octets * second,
            sent: each.sent * second,
            open: each.open,
        };
        (1..20).find(|second| flood.is_on(second * 1000, after(*second)))
    }

    #[test]
    fn heads_that_no_request_justifies_are_a_flood() {
        let answers = Arrived {
            heads: 40_000,
            sent: 20_000,
            ..Arrived::default()
        };
        assert_eq!(flooded_after(answers), None, "20,000 answers with trailers");
        let hints = Arrived {
            heads: 2000,
            open: 500,
            ..Arrived::default()
        };
        assert_eq!(flooded_after(hints), None, "some hints for 500 who wait");
        let one = Arrived {
            heads: 2000,
            open: 1,
            ..Arrived::default()
        };
        assert_eq!(
            flooded_after(one),
            Some(FLOOD_FOR),
            "2,000 for one who waits"
        );
        let pings = Arrived {
            control: CONTROL_PER_SECOND + 1,
            ..Arrived::default()
        };
        assert_eq!(flooded_after(pings), Some(FLOOD_FOR));
    }

    #[test]
    fn windows_that_nothing_was_sent_for_are_a_flood() {
        let each_frame_twice = Arrived {
            updates: 200_000,
            octets: 1_000_000,
            ..Arrived::default()
        };
        assert_eq!(flooded_after(each_frame_twice), None);
        let for_nothing = Arrived {
            updates: 2000,
            octets: 100,
            ..Arrived::default()
        };
        assert_eq!(flooded_after(for_nothing), Some(FLOOD_FOR));
        let mut late = Flood::default();
        let all_sent = Arrived {
            octets: 1_000_000,
            ..Arrived::default()
        };
        let on_in = (1..20).find(|second| {
            let updates = second * 10_000;
            late.is_on(
                second * 1000,
                Arrived {
                    updates,
                    ..all_sent
                },
            )
        });
        assert_eq!(on_in, None, "for what was sent a while ago");
    }
}
