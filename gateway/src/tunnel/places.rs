//! How many requests a tunnel may carry at once: what its agent allows (RFC 9113 §5.1.2), which may change at any time, and
//! no more than the operator does. Pure.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// See the module's head.
#[derive(Debug)]
pub struct Places {
    most: usize,
    limit: AtomicUsize,
}

impl Places {
    /// `most` by the operator's will; by the agent's what its first SETTINGS say.
    pub(crate) fn new(most: u32, announced: Option<u32>) -> Self {
        let limit = announced.unwrap_or(u32::MAX).min(most);
        Self {
            most: most as usize,
            limit: AtomicUsize::new(limit as usize),
        }
    }

    /// Requests at once.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    /// The agent allows so many from here on. Whether there is room that was not there before.
    pub(crate) fn allow(&self, announced: usize) -> bool {
        let limit = announced.min(self.most);
        self.limit.swap(limit, Relaxed) < limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_limit_holds_and_more_room_is_told() {
        assert_eq!(Places::new(256, None).limit(), 256);
        assert_eq!(Places::new(256, Some(1000)).limit(), 256);
        let places = Places::new(256, Some(100));
        assert_eq!(places.limit(), 100);
        assert!(!places.allow(0));
        assert_eq!(places.limit(), 0);
        assert!(places.allow(usize::MAX));
        assert_eq!(places.limit(), 256);
        assert!(!places.allow(256));
    }
}
