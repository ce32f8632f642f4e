//! Those who are held for a while because they are beyond a limit: no more of them than a bound, as each costs a descriptor. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// See the module's head.
#[derive(Debug)]
pub struct Pit {
    held: Arc<AtomicUsize>,
    most: usize,
}

/// One of them, until dropped.
#[derive(Debug)]
pub struct Held(Arc<AtomicUsize>);

impl Pit {
    /// For so many.
    pub fn new(most: usize) -> Self {
        Self {
            held: Arc::default(),
            most,
        }
    }

    /// A place, if there is one.
    pub fn enter(&self) -> Option<Held> {
        if self.held.fetch_add(1, Relaxed) < self.most {
            return Some(Held(Arc::clone(&self.held)));
        }
        self.held.fetch_sub(1, Relaxed);
        None
    }

    /// How many are held at this moment.
    pub fn count(&self) -> usize {
        // One who finds no place is counted for a moment.
        self.held.load(Relaxed).min(self.most)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_given_back() {
        let pit = Pit::new(2);
        let (one, two) = (pit.enter().unwrap(), pit.enter().unwrap());
        assert!(pit.enter().is_none());
        assert_eq!(pit.count(), 2);
        drop((one, two));
        assert_eq!(pit.count(), 0);
        assert!(pit.enter().is_some());
    }
}
