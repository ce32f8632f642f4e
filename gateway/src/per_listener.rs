//! Something that each listener has one of, by the listener's name: counters, which the metrics page shows of all of them.

use std::sync::{Arc, Mutex, PoisonError};

/// See the module's head. In the order in which they were first asked for.
#[derive(Debug, Default)]
pub struct PerListener<T>(Mutex<Vec<(Arc<str>, Arc<T>)>>);

impl<T: Default> PerListener<T> {
    /// A listener's own.
    pub fn of(&self, listener: &Arc<str>) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, own)) = all.iter().find(|(name, _)| name == listener) {
            return Arc::clone(own);
        }
        let own = Arc::<T>::default();
        all.push((Arc::clone(listener), Arc::clone(&own)));
        own
    }

    /// All of them.
    pub fn all(&self) -> Vec<(Arc<str>, Arc<T>)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn a_listener_has_one_and_the_first_that_asked_is_shown_first() {
        let counters = PerListener::<AtomicU32>::default();
        for (name, by) in [("web", 1), ("pg", 2), ("web", 4)] {
            counters.of(&name.into()).fetch_add(by, Relaxed);
        }
        let all = counters.all().into_iter();
        let shown = all.map(|(name, count)| (name.to_string(), count.load(Relaxed)));
        assert!(shown.eq([("web".to_owned(), 5), ("pg".to_owned(), 2)]));
    }
}
