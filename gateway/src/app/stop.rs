//! The end of a gateway that was asked to: first those in hand, then the tunnels.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::failure::Failure;
use crate::tunnel::accept::Intake;
use crate::visitor::Reception;

/// Answers the visitors in hand, `within` at most or until somebody is in a hurry, then lets the tunnels go.
pub(super) async fn stop(
    reception: &Reception,
    intake: &Intake,
    within: Duration,
    mut asked: impl AsyncFnMut(),
) {
    let began = Instant::now();
    info!("stopping: visitors in hand are answered, for {within:?} at most");
    let mut hurried = false;
    let hurry = async {
        asked().await;
        hurried = true;
        warn!("asked to stop a second time: what is in flight is cut");
    };
    reception.drain.finish_politely(within, hurry).await;
    let left = if hurried {
        Duration::from_millis(100)
    } else {
        within
            .saturating_sub(began.elapsed())
            .max(Duration::from_secs(1))
    };
    tokio::select! {
        _left = intake.drain.finish(left) => {}
        () = asked() => {}
    }
    let took = began.elapsed();
    match intake.metrics.failures(Failure::Draining) {
        0 => info!("stopped after {took:?}"),
        cut => warn!("stopped after {took:?}; requests in flight that were cut: {cut}"),
    }
}
