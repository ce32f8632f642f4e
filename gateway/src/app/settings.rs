//! What the configuration says, as those want it who go by it: how many there may be, how long things may take, and what is
//! written down.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_shared::drain::Drain;
use tidegate_shared::log::Sink;
use tidegate_shared::reversal::Marks;
use tidegate_shared::reversal::io::Terms;
use tracing::{info, warn};

use crate::access::Access;
use crate::complaint::Complaints;
use crate::config::{Config, Run};
use crate::exchange::Gateway;
use crate::forward::Policy;
use crate::lasting::Lasting;
use crate::listen::{self, Crowd};
use crate::metrics::{Ids, Metrics};
use crate::pool::{self, Pool};
use crate::tunnel::accept::Intake;
use crate::tunnel::drive::Care;
use crate::visitor::{self, Reception, pulse};

pub(super) fn crowd(config: &Config, descriptors: u64, each: u64) -> Arc<Crowd> {
    let room = listen::affordable(descriptors, each);
    let asked = config.run.limits.max_visitors;
    let most = asked.min(usize::try_from(room).unwrap_or(usize::MAX));
    let scarce = most < asked;
    if scarce {
        let named = config.sources.named("max_visitors", "--max-visitors");
        let text = format!("{descriptors} descriptors leave room for {most} visitors' connections");
        // Somebody counts on what he has set; the default is as many as may be.
        if config.sources.is_set("max_visitors") {
            warn!(
                "{text}, and {named} says {asked}: raise the hard limit of open files (LimitNOFILE, ulimit -Hn), or lower {named}"
            );
        } else {
            info!("{text} ({named} {asked})");
        }
    }
    let because = if scarce {
        "of the descriptors that this process may have: LimitNOFILE, ulimit -n"
    } else {
        "--max-visitors"
    };
    Crowd::new(most, because)
}

pub(super) fn pool_limits(run: &Run) -> pool::Limits {
    pool::Limits {
        tunnels: run.limits.max_tunnels,
        tunnels_per_name: run.limits.tunnels_per_name(),
        tunnels_per_source: run.limits.tunnels_per_source(),
        held: run.limits.max_held,
        held_per_name: run.limits.held_per_name(),
        held_octets: usize::try_from(run.limits.max_held_octets).unwrap_or(usize::MAX),
        hold: if run.limits.holds() {
            run.patience.hold
        } else {
            Duration::ZERO
        },
    }
}

pub(super) fn reception(
    run: &Run,
    pool: &Arc<Pool>,
    metrics: &Arc<Metrics>,
    sink: &Sink,
) -> Reception {
    let written = (!run.no_access_log).then(|| sink.clone());
    // Tells runs apart; where two start in one second on one machine, their processes differ.
    let started = SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let run_id = u32::try_from(started & 0xffff_ffff).unwrap_or_default()
        ^ std::process::id().rotate_left(20);
    let access = Access::new(written, run.log, Arc::clone(metrics), run_id);
    let gateway = Gateway {
        pool: Arc::clone(pool),
        metrics: Arc::clone(metrics),
        access: Arc::new(access),
        policy: Policy {
            x_forwarded: !run.no_x_forwarded,
            forwarded: !run.no_forwarded,
            via: !run.no_via,
            trusted: run.trust.clone(),
        },
        max_body: run.limits.body(),
        lasting: Lasting::new(run.patience.silence()),
        has_tunnels: run.tunnels.is_some() || run.tunnels_clear.is_some(),
    };
    Reception {
        gateway: Arc::new(gateway),
        unshaken: Complaints::default(),
        limits: visitor::Limits {
            patience: pulse::Patience {
                head: run.patience.head_timeout,
                idle: run.patience.idle_timeout,
                stall: run.patience.stall_timeout,
                body_rate: run.patience.body_rate,
                half_closed: run.patience.half_closed(),
            },
            tls: run.patience.tls_timeout,
            head: run.limits.max_head,
            fields: run.limits.max_fields,
            streams: run.limits.max_streams,
            response: Some(run.patience.response_timeout).filter(|time| !time.is_zero()),
        },
        drain: Drain::new(),
    }
}

pub(super) fn intake(config: &Config, pool: &Arc<Pool>, metrics: &Arc<Metrics>) -> Intake {
    let run = &config.run;
    Intake {
        pool: Arc::clone(pool),
        metrics: Arc::clone(metrics),
        terms: Terms {
            settle_within: run.patience.settle_timeout,
            max_streams: run.limits.max_tunnel_streams,
            marks: Marks::VISITOR,
            ..Terms::default()
        },
        care: Care {
            patience: run.patience.liveness(),
            window_most: run.limits.window_max,
            grace: run.patience.drain,
        },
        handshake_within: run.patience.tls_timeout,
        wildcards: run.allow_wildcards,
        names: config.names.as_ref().map(|names| Arc::clone(&names.value)),
        drain: Drain::new(),
        ids: Ids::default(),
    }
}
