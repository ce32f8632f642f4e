//! What a tunnel costs that nobody uses: resident memory of each end with many, less that with one, per tunnel.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

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
    let mut table = Table::new(&[&title, "gateway KiB", "agent KiB", "all attached after s"]);
    // The others keep no idle tunnels, or not by number.
    for peer in setting
        .peers
        .iter()
        .filter(|peer| matches!(peer.kind, Kind::Tidegate | Kind::Haproxy))
    {
        let one = setting.start(peer, "idle-one", 1, None)?;
        let [gateway_with_one, agent_with_one] = settled(&one)?;
        drop(one);
        let began = Instant::now();
        let chain = setting.start(peer, "idle-many", many, None)?;
        while connections_to(chain.tunnels)? < many {
            let up = connections_to(chain.tunnels)?;
            ensure!(
                began.elapsed() < ATTACH,
                "{}: {up} of {many} tunnels are up after {ATTACH:?}",
                peer.name
            );
            thread::sleep(Duration::from_millis(20));
        }
        let attached = began.elapsed();
        let [gateway, agent] = settled(&chain)?;
        let each =
            |with: u64, without: u64| (with as f64 - without as f64) / 1024.0 / (many - 1) as f64;
        table.row(vec![
            peer.name.clone(),
            format!("{:.1}", each(gateway, gateway_with_one)),
            format!("{:.1}", each(agent, agent_with_one)),
            format!("{:.1}", attached.as_secs_f64()),
        ]);
    }
    println!("{table}");
    Ok(())
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

/// For all of them to be there: a handshake takes both ends about 2 ms.
const ATTACH: Duration = Duration::from_secs(300);
