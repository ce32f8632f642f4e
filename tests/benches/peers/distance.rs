//! One body over a long way between agent and gateway, against plain TCP over the same way: what windows cost.

use anyhow::Result;

use crate::chain::{Chain, Kind};
use crate::link::{self, Way};
use crate::report::{Table, median, ratio, times};
use crate::setting::Setting;
use crate::transfer::{self, Direction};

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let mib = if setting.quick { 1 } else { 16 };
    let way = Way::FAR;
    let plain = link::start(way, setting.app)?;
    // nginx has no tunnel, so nothing of it is to be learnt here.
    let peers = setting.peers.iter().filter(|peer| peer.kind != Kind::Nginx);
    let mut chains = Vec::new();
    for peer in peers {
        chains.push((peer, setting.start(peer, "distance", TUNNELS, Some(way))?));
    }
    for direction in Direction::BOTH {
        // Fresh connections, first use of each tunnel: reported on its own below.
        let mut first = vec![transfer::seconds(
            &setting.dir,
            plain,
            direction,
            mib << 20,
        )?];
        for (_, chain) in &chains {
            first.push(transfer::seconds(
                &setting.dir,
                chain.visitors,
                direction,
                mib << 20,
            )?);
        }
        let resident = memory(&chains)?;
        let mut samples: Vec<Vec<f64>> = first.iter().map(|_| Vec::new()).collect();
        for _ in 0..setting.rounds {
            let gateways =
                std::iter::once(plain).chain(chains.iter().map(|(_, chain)| chain.visitors));
            for (gateway, samples) in gateways.zip(&mut samples) {
                samples.push(
                    mib as f64 / transfer::seconds(&setting.dir, gateway, direction, mib << 20)?,
                );
            }
        }
        let title = format!(
            "one {mib} MiB {}, 100 ms round trip, 500 Mbit/s",
            direction.name()
        );
        let mut table = Table::new(&[
            &title,
            "MiB/s",
            "first MiB/s",
            "against plain TCP",
            "gateway MiB after",
            "agent MiB after",
        ]);
        let names =
            std::iter::once("plain TCP").chain(chains.iter().map(|(peer, _)| peer.name.as_str()));
        for (index, name) in names.enumerate() {
            let memory = |end: usize| {
                let bytes = index
                    .checked_sub(1)
                    .map(|chain| resident[chain][end] as f64 / f64::from(1 << 20));
                bytes.map_or_else(|| "–".to_owned(), |mib| format!("{mib:.1}"))
            };
            table.row(vec![
                name.to_owned(),
                format!("{:.1}", median(samples[index].iter().copied())),
                format!("{:.1}", mib as f64 / first[index]),
                times(ratio(&samples[index], &samples[0], |rate| *rate)),
                memory(0),
                memory(1),
            ]);
        }
        println!("{table}");
    }
    Ok(())
}

/// Resident memory of both ends of each chain.
fn memory<P>(chains: &[(P, Chain)]) -> Result<Vec<[u64; 2]>> {
    chains
        .iter()
        .map(|(_, chain)| Ok([chain.gateway.resident()?, chain.agent.resident()?]))
        .collect()
}

const TUNNELS: usize = 4;
