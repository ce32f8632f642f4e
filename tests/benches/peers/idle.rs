//! What a tunnel costs that nobody uses: resident memory of each end with many, less that with one, per tunnel.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::chain::{Chain, Kind};
use crate::process::connections_to;
use crate::report::Table;
use crate::setting::Setting;

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let many = if setting.quick {
        50
    } else {
        setting.idle_tunnels
    };
    let title = format!("{many} idle tunnels, memory of each");
    let mut table = Table::new(&[&title, "attached", "after s", "gateway KiB", "agent KiB"]);
    // The others keep no idle tunnels, or not by number.
    for peer in setting
        .peers
        .iter()
        .filter(|peer| matches!(peer.kind, Kind::Tidegate | Kind::Haproxy))
    {
        let one = setting.start(peer, "idle-one", 1, None)?;
        let [gateway_with_one, agent_with_one] = settled(&one)?;
        drop(one);
        let chain = setting.start(peer, "idle-many", many, None)?;
        let (attached, seconds) = attach(&chain, many)?;
        let [gateway, agent] = settled(&chain)?;
        let each = |with: u64, without: u64| {
            (with as f64 - without as f64) / 1024.0 / attached.saturating_sub(1).max(1) as f64
        };
        table.row(vec![
            peer.name.clone(),
            attached.to_string(),
            format!("{seconds:.1}"),
            format!("{:.1}", each(gateway, gateway_with_one)),
            format!("{:.1}", each(agent, agent_with_one)),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// How many tunnels there are once all `many` are, or once no further one has come for a while, and when that was, in
/// seconds from the call.
fn attach(chain: &Chain, many: usize) -> Result<(usize, f64)> {
    let began = Instant::now();
    let mut last = (connections_to(chain.tunnels)?, began);
    while last.0 < many && last.1.elapsed() < NO_MORE {
        thread::sleep(Duration::from_millis(20));
        let attached = connections_to(chain.tunnels)?;
        if attached > last.0 {
            last = (attached, Instant::now());
        }
    }
    Ok((last.0, last.1.duration_since(began).as_secs_f64()))
}

/// Resident memory of both ends once neither has changed for a second, or has not come to rest in half a minute.
fn settled(chain: &Chain) -> Result<[u64; 2]> {
    let read = || -> Result<[u64; 2]> { Ok([chain.gateway.resident()?, chain.agent.resident()?]) };
    let mut last = read()?;
    for _ in 0..30 {
        thread::sleep(Duration::from_secs(1));
        let next = read()?;
        if next == last {
            break;
        }
        last = next;
    }
    Ok(last)
}

/// A peer that has stood still for so long has as many tunnels as it takes.
const NO_MORE: Duration = Duration::from_secs(15);
