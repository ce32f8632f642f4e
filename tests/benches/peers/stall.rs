//! What visitors notice of a neighbour on the same tunnel: one who never reads, one whose app never answers, one who
//! fetches gigabytes. Requests come at a set pace, far below what the chain can do, so that a delay is the
//! neighbour's doing and not a full processor's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::http::Visitor;
use crate::load;
use crate::report::{Table, median, ratio, times};
use crate::setting::Setting;
use crate::transfer::{self, Direction};

pub(crate) fn measure(setting: &Setting) -> Result<()> {
    let time = Duration::from_secs(if setting.quick { 1 } else { 4 });
    let mut table = Table::new(&[
        "p99 of others on the one tunnel, µs",
        "alone",
        "beside a visitor who never reads",
        "beside an app that never answers",
        "beside a 1 GiB download",
        "beside a 1 GiB upload",
        "beside such a download elsewhere",
        "failed",
    ]);
    for (peer, chain) in setting.start_all("stall", 1)? {
        // What the processor alone makes of a download: the same one, through programs that these visitors do not use.
        let elsewhere = setting.start(peer, "stall-elsewhere", 1, None)?;
        let mut p99 = [const { Vec::new() }; NEIGHBOURS.len()];
        let mut failed = 0;
        for _ in 0..setting.rounds {
            for (neighbour, p99) in NEIGHBOURS.iter().zip(&mut p99) {
                let _present = neighbour.arrive(setting, chain.visitors, elsewhere.visitors)?;
                let seen = load::at_a_pace(chain.visitors, VISITORS, time, INTERVAL)?;
                p99.push(seen.p99);
                failed += seen.failed;
            }
        }
        let mut cells = vec![peer.name.clone()];
        for theirs in &p99 {
            let change = times(ratio(theirs, &p99[0], |p99| *p99));
            let p99 = median(theirs.iter().copied());
            cells.push(if p99.is_finite() {
                format!("{p99:.0} ({change})")
            } else {
                "none answered".to_owned()
            });
        }
        cells.push(failed.to_string());
        table.row(cells);
    }
    println!("{table}");
    Ok(())
}

enum Neighbour {
    None,
    NeverReads,
    NeverAnswered,
    Downloads,
    Uploads,
    DownloadsElsewhere,
}

const NEIGHBOURS: [Neighbour; 6] = [
    Neighbour::None,
    Neighbour::NeverReads,
    Neighbour::NeverAnswered,
    Neighbour::Downloads,
    Neighbour::Uploads,
    Neighbour::DownloadsElsewhere,
];

/// Keeps the neighbour there until dropped.
enum Present {
    Nobody,
    Connected {
        _visitor: Visitor,
    },
    Transfers {
        enough: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<()>>,
    },
}

impl Neighbour {
    fn arrive(
        &self,
        setting: &Setting,
        gateway: SocketAddr,
        elsewhere: SocketAddr,
    ) -> Result<Present> {
        let visitor = || {
            Visitor::connect(gateway, Duration::from_secs(10))
                .context("the neighbour cannot connect")
        };
        match self {
            Self::None => Ok(Present::Nobody),
            Self::NeverReads => {
                let mut visitor = visitor()?;
                visitor.send_get(&format!("/size/{GIB}"))?;
                visitor.wait_for_answer()?;
                Ok(Present::Connected { _visitor: visitor })
            }
            Self::NeverAnswered => {
                let mut visitor = visitor()?;
                visitor.send_get("/hold")?;
                Ok(Present::Connected { _visitor: visitor })
            }
            Self::Downloads => Ok(Present::transfer(setting, gateway, Direction::Download)),
            Self::Uploads => Ok(Present::transfer(setting, gateway, Direction::Upload)),
            Self::DownloadsElsewhere => {
                Ok(Present::transfer(setting, elsewhere, Direction::Download))
            }
        }
    }
}

impl Present {
    /// One transfer after the other.
    fn transfer(setting: &Setting, gateway: SocketAddr, direction: Direction) -> Self {
        let dir = setting.dir.clone();
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let thread = thread::spawn(move || {
            // One that fails shows in the others' failures as well.
            while !told.load(Ordering::Relaxed)
                && transfer::seconds(&dir, gateway, direction, GIB).is_ok()
            {}
        });
        Self::Transfers {
            enough,
            thread: Some(thread),
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Self::Transfers { enough, thread } = self {
            enough.store(true, Ordering::Relaxed);
            // Fails only where the thread panicked, which has printed why.
            let _ = thread.take().map(thread::JoinHandle::join);
        }
    }
}

const GIB: u64 = 1 << 30;
const VISITORS: usize = 8;
/// 800 requests per second in all.
const INTERVAL: Duration = Duration::from_millis(10);
