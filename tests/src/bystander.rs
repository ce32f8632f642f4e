//! A visitor who asks again and again while a test does something to somebody else, and must notice nothing of it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::eventually::{SOON, eventually};
use crate::site::HOST;
use crate::task::{Task, spawn};
use crate::visitors::http1::try_get;
use crate::world::World;

/// An answer that takes longer than this has been noticed, also on a loaded machine.
const NOTICED: Duration = Duration::from_secs(1);

/// Asks for one path of [`HOST`] until it is told to stop.
#[derive(Debug)]
pub struct Bystander {
    state: Arc<State>,
    task: Task,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    answered: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Bystander {
    /// Begins to ask for `path`, each time on a connection of its own, and expects 200 with `body`.
    #[must_use]
    pub fn watch(world: &World, path: &'static str, body: &'static str) -> Self {
        Self::watch_for(world, path, body, NOTICED)
    }

    /// As [`Bystander::watch`], with a patience of the test's own.
    #[must_use]
    pub fn watch_for(
        world: &World,
        path: &'static str,
        body: &'static str,
        patience: Duration,
    ) -> Self {
        let state = Arc::new(State::default());
        let (visitors, seen) = (world.visitors, Arc::clone(&state));
        let task = spawn(async move {
            while !seen.stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                let outcome = match try_get(visitors, HOST, path, SOON).await {
                    Ok(answer) if answer.cut.is_none() => {
                        format!("{} {}", answer.status(), answer.text())
                    }
                    Ok(answer) => format!("cut: {:?}", answer.cut),
                    Err(error) => error.to_string(),
                };
                let took = began.elapsed();
                if outcome == format!("200 {body}") && took <= patience {
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                } else {
                    let failure = format!("{outcome} after {took:?}");
                    seen.failures.lock().unwrap().push(failure);
                }
            }
        });
        Self { state, task }
    }

    /// Ends, and fails the test when an answer was wrong, or late, or when there was none at all.
    pub async fn noticed_nothing(self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let done = async || self.task.is_finished().then_some(());
        eventually(SOON, "the bystander's last request ends", done).await;
        let failures = self.state.failures.lock().unwrap();
        assert!(failures.is_empty(), "another visitor noticed: {failures:?}");
        assert!(self.state.answered.load(Ordering::Relaxed) > 0);
    }
}
