//! How long what an upgrade has opened may be silent, and what the log says of a time that was over: which key says it, and how long
//! it is. Pure but for the watch that an answer keeps of itself.

use std::fmt;
use std::task::Context;
use std::time::Duration;

use tidegate_shared::idle::{Idle, Quiet, Silence};

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lasting {
    pub silence: Silence,
    /// A backend's own time is the one at any time.
    own: bool,
}

/// The key for what one side has closed.
const HALF_CLOSED: &str = "times.half_closed_timeout";

impl Lasting {
    /// What `[times]` says.
    pub fn new(silence: Silence) -> Self {
        Self {
            silence,
            own: false,
        }
    }

    /// The same for what goes to a backend, which may say another time.
    pub fn at(self, upgraded: Option<Duration>) -> Self {
        match upgraded {
            Some(most) => Self {
                silence: Silence {
                    most: Some(most),
                    ..self.silence
                },
                own: true,
            },
            None => self,
        }
    }

    /// Which key's time was over.
    pub(crate) fn key(self, quiet: Quiet, backend: Option<&str>) -> TimedOut {
        let key = match (quiet.half_closed, backend) {
            (true, _) => HALF_CLOSED.to_owned(),
            (false, Some(backend)) if self.own => format!("backends.{backend}.upgraded_timeout"),
            (false, _) => "times.upgraded_timeout".to_owned(),
        };
        TimedOut::new(key, quiet.within)
    }
}

/// Something that was waited for, for so long and no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimedOut {
    /// As the file has it, with its table.
    pub(crate) key: String,
    pub(crate) within: Duration,
}

impl TimedOut {
    pub(crate) fn new(key: String, within: Duration) -> Self {
        Self { key, within }
    }

    /// A visitor has closed its half, and no response has begun.
    pub(crate) fn half_closed(within: Option<Duration>) -> Self {
        Self::new(HALF_CLOSED.to_owned(), within.unwrap_or_default())
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = self.within;
        if within.subsec_nanos() == 0 {
            write!(f, "{}:{}s", self.key, within.as_secs())
        } else {
            write!(f, "{}:{}ms", self.key, within.as_millis())
        }
    }
}

/// Watches over what moves on an upgraded stream.
#[derive(Debug)]
pub(crate) struct Watch {
    idle: Idle,
    lasting: Lasting,
    before: (u64, u64),
}

impl Watch {
    /// `None` where it may be silent for ever.
    pub(crate) fn new(lasting: Lasting) -> Option<Box<Self>> {
        let idle = Idle::new(lasting.silence)?;
        Some(Box::new(Self {
            idle,
            lasting,
            before: (0, 0),
        }))
    }

    pub(crate) fn lasting(&self) -> Lasting {
        self.lasting
    }

    /// Whether it is silent for too long; `traffic` has gone each way by now, `ended` says that one side has said all, and `waits`
    /// how much of that the system has not brought to its end yet.
    pub(crate) fn is_over(
        &mut self,
        traffic: (u64, u64),
        ended: bool,
        waits: impl Fn() -> Option<u64>,
        cx: &mut Context<'_>,
    ) -> Option<Quiet> {
        let moved = std::mem::replace(&mut self.before, traffic) != traffic;
        self.idle.is_over(moved, ended, waits, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_was_over_has_its_key_and_its_length() {
        let lasting = Lasting::new(Silence {
            most: Some(Duration::from_secs(3600)),
            half_closed: Some(Duration::from_millis(1500)),
        });
        let quiet = |within, half_closed| Quiet {
            within,
            half_closed,
        };
        let whole = quiet(Duration::from_secs(3600), false);
        let said = |lasting: Lasting, quiet| lasting.key(quiet, Some("api")).to_string();
        assert_eq!(said(lasting, whole), "times.upgraded_timeout:3600s");
        assert_eq!(
            said(lasting.at(None), whole),
            "times.upgraded_timeout:3600s"
        );
        let own = lasting.at(Some(Duration::from_secs(9)));
        assert_eq!(own.silence.most, Some(Duration::from_secs(9)));
        assert_eq!(
            said(own, quiet(Duration::from_secs(9), false)),
            "backends.api.upgraded_timeout:9s"
        );
        assert_eq!(
            said(own, quiet(Duration::from_millis(1500), true)),
            "times.half_closed_timeout:1500ms"
        );
    }
}
