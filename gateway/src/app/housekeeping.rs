//! What is looked at now and then for as long as the gateway runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_shared::drain::Drain;
use tidegate_shared::signals::Hangup;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::certificates::Certificates;
use crate::config::Loaded;
use crate::pool::Pool;
use crate::rates::Watch;

/// Files that change and names that nobody remembers.
pub(super) async fn housekeeping(
    mut certificates: Certificates,
    pool: Arc<Pool>,
    watch: Arc<Watch>,
    loaded: Option<Loaded>,
    mut hangup: Hangup,
    drain: Drain,
) {
    let mut ticks = interval(Duration::from_secs(10));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forgotten = Instant::now();
    loop {
        tokio::select! {
            () = drain.finishing() => return,
            _ = ticks.tick() => {}
            () = hangup.recv() => {
                let (watch, loaded) = (Arc::clone(&watch), loaded.clone());
                // A list may be long, and the disk slow.
                let _looked = spawn_blocking(move || {
                    if let Some(changed) = loaded.and_then(|loaded| loaded.changed()) {
                        warn!("SIGHUP: {changed}; certificates and lists of sources alone are read again");
                    }
                    info!("SIGHUP: looking at the files of certificates and of sources");
                    watch.lists.look();
                })
                .await;
            }
        }
        certificates.look();
        if forgotten.elapsed() >= Duration::from_secs(60) {
            forgotten = Instant::now();
            pool.forget();
        }
    }
}
