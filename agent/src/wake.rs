//! Notices that the machine slept or that this process was stopped: what was true of the network before is then in doubt.
//! Pure: the clocks are read by `agent`, which has every tunnel asked.

use std::time::{Duration, Instant, SystemTime};

/// How often to look.
pub const EVERY: Duration = Duration::from_secs(1);

/// A difference beyond this is no jitter.
const JUMP: Duration = Duration::from_secs(2);

/// The two clocks at the last look. The monotonic one stands still while the machine sleeps, and neither does while the
/// process is stopped.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    wall: SystemTime,
    monotonic: Instant,
}

impl Watch {
    /// The first look.
    pub const fn new(wall: SystemTime, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// To be called every [`EVERY`]. Returns for how long nothing ran, if that was too long.
    pub fn look(&mut self, wall: SystemTime, monotonic: Instant) -> Option<Duration> {
        let ran = monotonic.saturating_duration_since(self.monotonic);
        // A wall clock that was set back tells nothing.
        let passed = wall.duration_since(self.wall).unwrap_or(ran);
        *self = Self { wall, monotonic };
        let longest = ran.max(passed);
        let slept = longest > ran + JUMP || ran > EVERY + JUMP;
        slept.then(|| longest.saturating_sub(EVERY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_stop_are_noticed_and_jitter_is_not() {
        let (wall, monotonic) = (SystemTime::now(), Instant::now());
        let mut watch = Watch::new(wall, monotonic);
        let seconds = Duration::from_secs_f64;
        assert_eq!(
            watch.look(wall + seconds(1.4), monotonic + seconds(1.4)),
            None
        );
        assert_eq!(
            watch.look(wall + seconds(62.4), monotonic + seconds(2.4)),
            Some(seconds(60.0)),
            "the machine slept"
        );
        assert_eq!(
            watch.look(wall + seconds(73.4), monotonic + seconds(13.4)),
            Some(seconds(10.0)),
            "the process was stopped"
        );
        assert_eq!(
            watch.look(wall + seconds(10.0), monotonic + seconds(14.4)),
            None,
            "the clock was set back"
        );
        assert_eq!(
            watch.look(wall + seconds(11.0), monotonic + seconds(15.4)),
            None
        );
    }
}
