//! Octets passed on in TCP mode, one hop: CPU time per GiB and rate, beside nginx `stream` and HAProxy `mode tcp`, with one
//! large body and with four at once.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use crate::relay::{Mode, Relay};
use crate::report::{Table, median, times_and_spread};
use crate::setting::Setting;
use crate::transfer::{self, Direction};

struct Sample {
    mib_per_second: f64,
    cpu_per_gib: f64,
}

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let mib = if setting.quick { 32 } else { MIB };
    let relays = Relay::start_all(setting, "tcp", Mode::Tcp)?;
    for direction in Direction::BOTH {
        for at_once in [1, 4] {
            let samples = setting.in_turns(&relays, |relay| {
                let (before, began) = (relay.cpu()?, Instant::now());
                together(setting, relay.visitors, direction, at_once, mib << 20)?;
                let (spent, seconds) = (relay.cpu()? - before, began.elapsed().as_secs_f64());
                Ok(Sample {
                    mib_per_second: mib as f64 / seconds,
                    cpu_per_gib: spent.as_secs_f64() * 1024.0 / mib as f64,
                })
            })?;
            let name = direction.name();
            let title = match at_once {
                1 => format!("TCP mode, one {mib} MiB {name}"),
                _ => format!("TCP mode, {at_once} {name}s at once, {mib} MiB in all"),
            };
            let mut table = Table::new(&[&title, "MiB/s", "CPU s/GiB", "our rate", "our CPU"]);
            for (relay, theirs) in relays.iter().zip(&samples) {
                let middle = |figure: fn(&Sample) -> f64| median(theirs.iter().map(figure));
                table.row(vec![
                    relay.name.clone(),
                    format!("{:.0}", middle(|one| one.mib_per_second)),
                    format!("{:.3}", middle(|one| one.cpu_per_gib)),
                    times_and_spread(&samples[0], theirs, |one| one.mib_per_second),
                    times_and_spread(&samples[0], theirs, |one| one.cpu_per_gib),
                ]);
            }
            println!("{table}");
        }
    }
    Ok(())
}

/// Moves `bytes` in equal parts at once, and returns when the last one has arrived.
fn together(
    setting: &Setting,
    to: SocketAddr,
    direction: Direction,
    at_once: u64,
    bytes: u64,
) -> Result<()> {
    thread::scope(|scope| {
        let part = || transfer::seconds(&setting.dir, to, direction, bytes / at_once);
        let parts: Vec<_> = (0..at_once).map(|_| scope.spawn(part)).collect();
        parts.into_iter().try_for_each(|part| {
            let moved = part.join().map_err(|_| anyhow!("a transfer panicked"))?;
            moved.map(drop)
        })
    })
}

/// As much as makes the hundredths of a second in which /proc counts small against it.
const MIB: u64 = 2048;
