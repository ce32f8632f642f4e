//! What limits per source cost: the same gateway without any, and with rates of connections, requests and errors and a long
//! list of addresses that are not served, of which nothing ever takes effect. One hop, small requests, many turns of a second.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::Result;

use crate::chain::Kind;
use crate::relay::{Loaded, Mode, Relay};
use crate::report::{Table, times_and_middle_half};
use crate::setting::Setting;

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let time = Duration::from_secs(1);
    let ours = setting
        .peers
        .iter()
        .filter(|peer| peer.kind == Kind::Tidegate);
    let list = setting.dir.join("denied.txt");
    fs::write(&list, denied())?;
    let none = NONE.map(str::to_owned);
    let mut all = ALL.map(str::to_owned).to_vec();
    all.push(format!("--deny={}", list.display()));
    let mut relays = Vec::new();
    for peer in ours {
        for (name, more) in [
            ("no limits", &none[..]),
            ("every limit, 100,000 denied", &all),
        ] {
            let dir = format!("limits-{}", relays.len());
            let mut relay = Relay::start(setting, peer, &dir, Mode::Http, more)?;
            name.clone_into(&mut relay.name);
            relays.push(relay);
        }
    }
    for &visitors in setting.visitors() {
        let samples = setting.in_short_turns(&relays, |relay| relay.load(visitors, time))?;
        let s = if visitors == 1 { "" } else { "s" };
        let title = format!("limits per source, {visitors} visitor{s}");
        let mut table = Table::new(&[
            &title,
            "CPU µs/req",
            "requests/s",
            "p50 µs",
            "failed",
            "CPU by that without",
        ]);
        for (relay, samples_of) in relays.iter().zip(&samples) {
            let mut row = vec![relay.name.clone()];
            row.extend(Loaded::cells(samples_of));
            row.push(times_and_middle_half(samples_of, &samples[0], |one| {
                one.cpu
            }));
            table.row(row);
        }
        println!("{table}");
    }
    Ok(())
}

/// The limit on requests at once is the one that counts each request where none is set; connections always have theirs.
const NONE: [&str; 1] = ["--max-requests-per-source=0"];
/// Far beyond what comes.
const ALL: [&str; 3] = [
    "--connection-rate=1000000/1s",
    "--request-rate=1000000/1s",
    "--error-rate=1000000/60s",
];

/// Every other address, so that no two of them make one range, and none of this machine.
fn denied() -> String {
    (0..100_000_u32).fold(String::new(), |mut list, nth| {
        let [_, b, c, d] = (nth * 2).to_be_bytes();
        // A String takes all that it is given.
        let _ = writeln!(list, "10.{b}.{c}.{d}");
        list
    })
}
