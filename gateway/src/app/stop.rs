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
    let requests = intake.metrics.failures(Failure::Draining);
    match cut(requests, intake.metrics.tcp.all_cut()) {
        None => info!("stopped after {took:?}"),
        Some(cut) => warn!("stopped after {took:?}; {cut}"),
    }
}

/// What did not come to its end, in words.
fn cut(requests: u64, connections: u64) -> Option<String> {
    let requests = (requests > 0).then(|| format!("requests in flight that were cut: {requests}"));
    let connections =
        (connections > 0).then(|| format!("connections in TCP mode that were cut: {connections}"));
    let parts: Vec<String> = requests.into_iter().chain(connections).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn what_was_cut_is_told_by_kind() {
        for (requests, connections, said) in [
            (0, 0, None),
            (2, 0, Some("requests in flight that were cut: 2")),
            (0, 3, Some("connections in TCP mode that were cut: 3")),
            (
                2,
                3,
                Some(
                    "requests in flight that were cut: 2; connections in TCP mode that were cut: 3",
                ),
            ),
        ] {
            assert_eq!(cut(requests, connections).as_deref(), said);
        }
    }
}
