//! How far ahead a peer may send on one stream. Pure: bytes and round trips in, a window out.
//!
//! A window smaller than the path's bandwidth-delay product starves one download (HAProxy at 100 ms: 0.6 MiB/s of 54); a
//! window that is always large lets every visitor who does not read cost that much. So a tunnel starts with [`BASE`],
//! gets what its round trip calls for as soon as that is known, grows while a whole window arrives within a round trip,
//! and falls back to [`BASE`] while unread data piles up or nothing flows.

use std::time::Duration;

/// What a stream may send ahead on a near or unknown path.
pub const BASE: u32 = 512 * 1024;

/// The most that a stream may send ahead, unless configured.
pub const MOST: u32 = 16 * 1024 * 1024;

/// What all streams of a tunnel may send ahead together.
pub const CONNECTION: u32 = 128 * 1024 * 1024;

/// Unread data at which streams fall back to [`BASE`], so that those who do not read cannot use up the connection.
const CROWDED: u64 = CONNECTION as u64 / 4;

/// How much longer the shortest round trip is believed to have become at each measurement, at least.
const CREEP: Duration = Duration::from_micros(1);

/// Nearer than this, [`BASE`] is more than any link needs, and a tunnel that is busy is no reason to let those who do not
/// read cost more.
const NEAR: Duration = Duration::from_millis(2);

/// The rate that a path is given credit for before it has shown what it can do: 1 Gbit/s.
const CREDIT_PER_MS: u64 = 125_000;

/// Round trips that must be known before a path counts as far: the shortest of these. One alone, taken while a machine is
/// busy with a burst of handshakes, would let every stuck visitor cost what only a far path calls for.
const SURE: u8 = 3;

/// The window of one tunnel.
#[derive(Debug)]
pub struct Window {
    most: u32,
    present: u32,
    /// Grown beyond what the round trip alone calls for.
    shown: u32,
    /// The shortest round trip of late: what the path takes when nothing queues on it.
    least: Option<Duration>,
    samples: u8,
    mark: u64,
}

impl Window {
    /// A window that starts with [`BASE`] and never exceeds `most` octets, nor falls below [`BASE`].
    pub fn new(most: u32) -> Self {
        Self {
            most: most.max(BASE),
            present: BASE,
            shown: BASE,
            least: None,
            samples: 0,
            mark: 0,
        }
    }

    /// What a stream may send ahead at the moment, in octets.
    pub fn present(&self) -> u32 {
        self.present
    }

    /// Whether enough round trips are known to tell how far the peer is. Until then every answered PING is followed by
    /// the next.
    pub fn is_sure(&self) -> bool {
        self.samples >= SURE
    }

    /// The count of DATA octets at the last measurement.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// A measurement begins: what arrives from here on counts.
    pub fn begin(&mut self, received: u64) {
        self.mark = received;
    }

    /// A round trip was measured, during which the count of DATA octets received went from its value at the last call to
    /// `received`; `unread` of them wait for somebody who does not take them. Returns a window to announce, if it
    /// changes.
    pub fn measured(&mut self, rtt: Duration, received: u64, unread: u64) -> Option<u32> {
        let arrived = received.saturating_sub(self.mark);
        self.mark = received;
        let rtt = self.least_with(rtt);
        self.samples = self.samples.saturating_add(1);
        if !self.is_sure() {
            return None;
        }
        let credit = u64::try_from(rtt.as_micros())
            .unwrap_or(u64::MAX / CREDIT_PER_MS)
            .saturating_mul(CREDIT_PER_MS)
            / 1000;
        if arrived == 0 || rtt < NEAR {
            self.shown = BASE;
        } else if arrived >= u64::from(self.present) / 3 * 2 {
            self.shown = self.present.saturating_mul(2);
        }
        let wanted = if unread > CROWDED {
            u64::from(BASE)
        } else {
            credit.max(u64::from(self.shown))
        };
        // Steps of a power of two: small changes of the round trip are no reason to send SETTINGS.
        let wanted = wanted
            .clamp(u64::from(BASE), u64::from(self.most))
            .next_power_of_two()
            .min(u64::from(self.most));
        let wanted = u32::try_from(wanted).unwrap_or(self.most);
        let shrink_little =
            wanted < self.present && wanted >= self.present / 2 && unread <= CROWDED;
        if wanted == self.present || shrink_little {
            return None;
        }
        self.present = wanted;
        Some(wanted)
    }

    /// Queues make round trips long, and a window made for those would make the queues longer. So the shortest counts; a
    /// path that has become longer is believed little by little.
    fn least_with(&mut self, sample: Duration) -> Duration {
        let least = self
            .least
            .map_or(sample, |least| sample.min(least + least / 128 + CREEP));
        self.least = Some(least);
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window whose path is known to take that long.
    fn at(rtt: Duration) -> Window {
        let mut window = Window::new(MOST);
        while !window.is_sure() {
            window.measured(rtt, 0, 0);
        }
        window
    }

    #[test]
    fn one_slow_answer_at_the_start_does_not_make_a_path_far() {
        let mut window = Window::new(MOST);
        for (rtt, sure) in [(40_000, false), (300, false), (25_000, true)] {
            assert_eq!(window.measured(Duration::from_micros(rtt), 0, 0), None);
            assert_eq!(window.is_sure(), sure);
        }
        assert_eq!(window.present(), BASE);
    }

    #[test]
    fn a_busy_machine_does_not_make_a_near_path_far() {
        let mut window = at(Duration::from_micros(100));
        let mut received = 0;
        for _ in 0..120 {
            received += u64::from(window.present());
            assert_eq!(
                window.measured(Duration::from_millis(40), received, 0),
                None
            );
        }
    }

    #[test]
    fn a_far_peer_gets_its_bandwidth_delay_product_before_it_sends() {
        let mut window = at(Duration::from_millis(100));
        assert!(
            u64::from(window.present()) >= 62_500 * 100,
            "500 Mbit/s at 100 ms is {} octets",
            62_500 * 100
        );
        assert_eq!(
            window.measured(Duration::from_millis(104), 0, 0),
            None,
            "a little jitter changes nothing"
        );
    }

    #[test]
    fn a_path_that_is_filled_gets_more_and_a_near_one_does_not_need_it() {
        for (rtt, expected) in [
            (Duration::from_micros(200), BASE),
            (Duration::from_millis(3), MOST),
        ] {
            let mut window = at(rtt);
            let mut received = 0;
            for _ in 0..10 {
                received += u64::from(window.present());
                window.measured(rtt, received, 0);
            }
            assert_eq!(window.present(), expected, "at {rtt:?}");
            let idle = window.measured(rtt, received, 0);
            assert_eq!(
                idle,
                (expected != BASE).then_some(BASE),
                "given back when idle"
            );
        }
    }

    #[test]
    fn those_who_do_not_read_cannot_use_up_the_connection() {
        let mut window = at(Duration::from_millis(100));
        assert_eq!(
            window.measured(Duration::from_millis(100), 1 << 26, CROWDED + 1),
            Some(BASE)
        );
    }
}
