//! What became of a server's requests: counted, told of, and held against it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidegate_shared::clock;
use tracing::{info, warn};

use super::super::check::Found;
use super::super::fitness::{Change, Fitness};
use super::{Server, What};

impl Server {
    /// It has answered.
    pub(in crate::backend) fn answered(&self) {
        if self.blemished.load(Relaxed) {
            let now = clock::now_ms();
            let change = self.with_fitness(|fitness| fitness.answered(now));
            if change.is_some() {
                self.slow_start.begin(now);
            }
            self.tell(change, "");
        }
    }

    /// A request has failed on it, for this.
    pub(in crate::backend) fn failed(&self, what: What, why: &str) {
        self.count(what, why);
        let now = clock::now_ms();
        let of_reach = what == What::Unreachable;
        let change = self.with_fitness(|fitness| fitness.failed(now, of_reach, &self.terms));
        if self.is_out() {
            why.clone_into(&mut self.fault());
        }
        self.tell(change, why);
    }

    /// It was checked where requests reach it, and found like this; so many in a row that pass show that it is there.
    pub(in crate::backend) fn was_checked(&self, found: Found, rise: u32) {
        if !self.blemished.load(Relaxed) {
            return;
        }
        let now = clock::now_ms();
        let change = self.with_fitness(|fitness| fitness.checked(now, found, rise));
        if change.is_some() {
            self.slow_start.begin(now);
            self.room.changed();
        }
        self.tell(change, "");
    }

    /// An operator says that it is fit. Whether it was left out.
    pub(crate) fn pardon(&self) -> bool {
        let was_out = self.with_fitness(Fitness::pardon);
        if was_out {
            self.slow_start.begin(clock::now_ms());
            self.room.changed();
        }
        was_out
    }

    /// Why it is left out, and for how long.
    pub(super) fn left_out_for(&self) -> Option<String> {
        let until = self.out_until.load(Relaxed);
        let left = until.checked_sub(clock::now_ms())?;
        let left = Duration::from_millis(left).as_secs_f64();
        Some(format!(
            "its {}s failed, the last one for this: {}; it is tried again in {left:.1} s",
            self.served(),
            self.fault()
        ))
    }

    /// What it is asked for: of one that visitors reach in TCP mode, connections.
    fn served(&self) -> &'static str {
        if self.carrying.load(Relaxed) {
            "connection"
        } else {
            "request"
        }
    }

    fn fault(&self) -> MutexGuard<'_, String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something went wrong that says nothing of the next request.
    pub(in crate::backend) fn count(&self, what: What, why: &str) {
        self.counts.failures[what as usize].inc();
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(times) = complaints[what as usize].due(Instant::now()) else {
            return;
        };
        drop(complaints);
        let (backend, name, address) = (&self.backend, &self.name, self.address());
        let often = match times {
            1 => String::new(),
            _ => format!(" ({times} times since this was last said)"),
        };
        let said = match what {
            What::Unreachable => "cannot be reached",
            What::Closed => "closed the connection without an answer",
            What::Timeout => "has not answered in time",
            What::Invalid => "did not answer in HTTP as it should be",
            What::Cut => "broke off its answer",
            What::Stalled => "stopped in the middle of its answer",
        };
        warn!(
            said.what = what.label(),
            said.backend = %backend,
            said.server = %name,
            said.address = %address,
            said.why = %why,
            said.times = times,
            "backend {backend}: server {name} ({address}) {said}: {why}{often}"
        );
    }

    /// Nothing more has come of an answer for as long as it may take, so that it is given up.
    pub(in crate::backend) fn stopped(&self) {
        let within = self.terms.inactivity.unwrap_or_default();
        let why = format!(
            "nothing more of it came for {within:?} (inactivity_timeout), and it was cut off"
        );
        self.count(What::Stalled, &why);
    }

    pub(super) fn with_fitness<T>(&self, change: impl FnOnce(&mut Fitness) -> T) -> T {
        let mut fitness = self.fitness();
        let changed = change(&mut fitness);
        self.out_until.store(fitness.out_until(), Relaxed);
        self.blemished.store(fitness.is_blemished(), Relaxed);
        changed
    }

    fn fitness(&self) -> MutexGuard<'_, Fitness> {
        self.fitness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: Option<Change>, why: &str) {
        let Some(change) = change else { return };
        let Some(times) = self.absences.due(change, clock::ns(Instant::now())) else {
            return;
        };
        let again = match times {
            1 => String::new(),
            _ => format!(" ({times} times since this was last said)"),
        };
        let (backend, name, address) = (&self.backend, &self.name, self.address());
        let of = self.served();
        let often = |failures| match failures {
            1 => format!("a {of} failed, for this"),
            _ => format!("{failures} {of}s in a row failed, the last one for this"),
        };
        match change {
            Change::Out { for_ms, failures } => warn!(
                said.what = "left-out",
                said.backend = %backend,
                said.server = %name,
                said.address = %address,
                said.why = %why,
                said.failures = failures,
                said.for_ms = for_ms,
                said.times = times,
                "backend {backend}: server {name} ({address}) is left out for {:?}{}: {}: {why}{again}",
                Duration::from_millis(for_ms),
                if u128::from(for_ms) < self.terms.eject_most.as_millis() {
                    ", and longer if it stays so"
                } else {
                    ""
                },
                often(failures)
            ),
            Change::Back { after_ms } => info!(
                said.what = "back",
                said.backend = %backend,
                said.server = %name,
                said.address = %address,
                said.after_ms = after_ms,
                "backend {backend}: server {name} ({address}) answers again, after {:?}",
                Duration::from_millis(after_ms)
            ),
            Change::InReach { passed, after_ms } => info!(
                said.what = "back",
                said.backend = %backend,
                said.server = %name,
                said.address = %address,
                said.passed = passed,
                said.after_ms = after_ms,
                "backend {backend}: server {name} ({address}) is no longer left out, after {:?}: {}",
                Duration::from_millis(after_ms),
                match passed {
                    1 => "a check passed".to_owned(),
                    _ => format!("{passed} checks in a row passed"),
                }
            ),
        }
    }
}
