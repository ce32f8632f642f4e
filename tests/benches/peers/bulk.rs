//! Large bodies, one at a time: rate, and CPU time of both ends per GiB.

use anyhow::Result;

use crate::report::{Table, median, ratio, times};
use crate::setting::Setting;
use crate::transfer::{self, Direction};

struct Sample {
    mib_per_second: f64,
    cpu_per_gib: f64,
}

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let mib = if setting.quick { 32 } else { 256 };
    let chains = setting.start_all("bulk", TUNNELS)?;
    for direction in Direction::BOTH {
        let mut samples: Vec<Vec<Sample>> = chains.iter().map(|_| Vec::new()).collect();
        for round in 0..=setting.rounds {
            for ((_, chain), samples) in chains.iter().zip(&mut samples) {
                let before = chain.cpu()?;
                let seconds =
                    transfer::seconds(&setting.dir, chain.visitors, direction, mib << 20)?;
                let after = chain.cpu()?;
                let cpu = (after[0] - before[0] + after[1] - before[1]).as_secs_f64();
                // The first round opens windows and fills pools, and does not count.
                if round > 0 {
                    samples.push(Sample {
                        mib_per_second: mib as f64 / seconds,
                        cpu_per_gib: cpu * 1024.0 / mib as f64,
                    });
                }
            }
        }
        let title = format!("one {mib} MiB {}", direction.name());
        let mut table = Table::new(&[
            &title,
            "MiB/s",
            "CPU s/GiB, both ends",
            "our rate",
            "our CPU",
        ]);
        for ((peer, _), theirs) in chains.iter().zip(&samples) {
            table.row(vec![
                peer.name.clone(),
                format!(
                    "{:.0}",
                    median(theirs.iter().map(|sample| sample.mib_per_second))
                ),
                format!(
                    "{:.2}",
                    median(theirs.iter().map(|sample| sample.cpu_per_gib))
                ),
                times(ratio(&samples[0], theirs, |sample| sample.mib_per_second)),
                times(ratio(&samples[0], theirs, |sample| sample.cpu_per_gib)),
            ]);
        }
        println!("{table}");
    }
    Ok(())
}

const TUNNELS: usize = 4;
