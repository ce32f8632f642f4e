//! Plain reverse proxying of small requests, one hop to servers that are dialled: CPU time per request, beside nginx
//! `proxy_pass` and HAProxy, with many visitors and with one. Each adds X-Forwarded-For.

use std::time::Duration;

use anyhow::Result;

use crate::relay::{Loaded, Mode, Relay};
use crate::report::{Table, times_and_spread};
use crate::setting::Setting;

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let time = Duration::from_secs(if setting.quick { 1 } else { 5 });
    let relays = Relay::start_all(setting, "plain", Mode::Http)?;
    for &visitors in setting.visitors() {
        let samples = setting.in_turns(&relays, |relay| relay.load(visitors, time))?;
        let s = if visitors == 1 { "" } else { "s" };
        let title = format!("one hop, 26-byte responses, {visitors} visitor{s}");
        let mut table = Table::new(&[
            &title,
            "CPU µs/req",
            "requests/s",
            "p50 µs",
            "failed",
            "our CPU",
            "our p50",
        ]);
        for (relay, theirs) in relays.iter().zip(&samples) {
            let mut row = vec![relay.name.clone()];
            row.extend(Loaded::cells(theirs));
            row.push(times_and_spread(&samples[0], theirs, |one| one.cpu));
            row.push(times_and_spread(&samples[0], theirs, |one| one.p50));
            table.row(row);
        }
        println!("{table}");
    }
    Ok(())
}
