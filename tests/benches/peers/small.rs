//! Small requests: CPU time of each end per request, requests per second, and the time of the middle answer, with
//! many visitors and with one.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load;
use crate::report::{Table, median, ratio, times};
use crate::setting::Setting;

/// What one load on one peer showed.
struct Sample {
    gateway: f64,
    agent: f64,
    per_second: f64,
    p50: f64,
    failed: u64,
}

impl Sample {
    fn cpu(&self) -> f64 {
        self.gateway + self.agent
    }
}

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let time = Duration::from_secs(if setting.quick { 1 } else { 5 });
    let chains = setting.start_all("small", TUNNELS)?;
    for visitors in [64, 1] {
        let mut samples: Vec<Vec<Sample>> = chains.iter().map(|_| Vec::new()).collect();
        for round in 0..=setting.rounds {
            for ((_, chain), samples) in chains.iter().zip(&mut samples) {
                let before = chain.cpu()?;
                let seen = load::as_fast_as_it_goes(chain.visitors, visitors, time)?;
                let after = chain.cpu()?;
                ensure!(
                    seen.requests > 0,
                    "no request was answered at {}",
                    chain.visitors
                );
                let each = |end: usize| {
                    (after[end] - before[end]).as_secs_f64() * 1e6 / seen.requests as f64
                };
                // The first round fills caches and connections, and does not count.
                if round > 0 {
                    samples.push(Sample {
                        gateway: each(0),
                        agent: each(1),
                        per_second: seen.requests as f64 / seen.seconds,
                        p50: seen.p50,
                        failed: seen.failed,
                    });
                }
            }
        }
        let s = if visitors == 1 { "" } else { "s" };
        let title = format!("26-byte responses, {visitors} visitor{s}");
        let mut table = Table::new(&[
            &title,
            "gateway µs/req",
            "agent µs/req",
            "both",
            "requests/s",
            "p50 µs",
            "failed",
            "our CPU",
            "our p50",
        ]);
        for ((peer, _), theirs) in chains.iter().zip(&samples) {
            let middle = |figure: fn(&Sample) -> f64| median(theirs.iter().map(figure));
            table.row(vec![
                peer.name.clone(),
                format!("{:.1}", middle(|sample| sample.gateway)),
                format!("{:.1}", middle(|sample| sample.agent)),
                format!("{:.1}", middle(Sample::cpu)),
                format!("{:.0}", middle(|sample| sample.per_second)),
                format!("{:.0}", middle(|sample| sample.p50)),
                theirs
                    .iter()
                    .map(|sample| sample.failed)
                    .sum::<u64>()
                    .to_string(),
                times(ratio(&samples[0], theirs, Sample::cpu)),
                times(ratio(&samples[0], theirs, |sample| sample.p50)),
            ]);
        }
        println!("{table}");
    }
    Ok(())
}

const TUNNELS: usize = 4;
