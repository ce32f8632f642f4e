//! What came before the first request of a visitor's connection, and how long it took: told once, in that request's line. Called by
//! `visitor`, which takes the times, and by `exchange`, whose connection it is.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::line;

/// How long what comes before requests took, as far as there was any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// From when the connection was accepted to the end of its PROXY header.
    pub header: Option<Duration>,
    /// From there to the end of TLS's handshake.
    pub tls: Option<Duration>,
}

/// The same until it is told.
#[derive(Debug, Default)]
pub struct Untold {
    opening: Opening,
    untold: AtomicBool,
}

impl Untold {
    pub fn new(opening: Opening) -> Self {
        Self {
            opening,
            untold: AtomicBool::new(opening != Opening::default()),
        }
    }

    /// For the first who asks, where there is anything to tell.
    pub(crate) fn take(&self) -> Option<Opening> {
        let is_first = self.untold.load(Relaxed) && self.untold.swap(false, Relaxed);
        is_first.then_some(self.opening)
    }
}

impl Opening {
    /// As the line for people has them.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        for (name, time) in [(&b" header="[..], self.header), (b" tls=", self.tls)] {
            if let Some(time) = time {
                out.extend_from_slice(name);
                line::milliseconds(time, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_where_there_is_something_to_tell() {
        let opening = Opening {
            header: None,
            tls: Some(Duration::ZERO),
        };
        let untold = Untold::new(opening);
        assert_eq!((untold.take(), untold.take()), (Some(opening), None));
        assert_eq!(Untold::new(Opening::default()).take(), None);
    }
}
