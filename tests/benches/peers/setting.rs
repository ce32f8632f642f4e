//! What all measurements share: the app, the peers, the certificates, a folder that goes away at the end.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::chain::{Chain, Peer, Plan};
use crate::link::Way;
use crate::process::Running;
use crate::tidegate;

/// Short turns that take the time of a long one.
const SHORT: usize = 5;

/// Everything that stands before the first figure is taken.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) peers: Vec<Peer>,
    pub(crate) app: SocketAddr,
    /// How many rounds A B A B … count.
    pub(crate) rounds: usize,
    pub(crate) idle_tunnels: usize,
    /// Seconds in all: the figures mean nothing, that there are any does.
    pub(crate) quick: bool,
    /// For files of the moment.
    pub(crate) dir: PathBuf,
    certs: PathBuf,
    _app: Running,
    _folder: TempDir,
}

impl Setting {
    /// `programs` is where the release build of Tidegate is; the app is this program once more.
    pub(crate) fn prepare(
        programs: &Path,
        rounds: usize,
        idle_tunnels: usize,
        quick: bool,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-bench-")
            .tempdir()?;
        let dir = folder.path().to_path_buf();
        let certs = dir.join("certs");
        tidegate::make_certificates(programs, &certs)?;
        let mut app = Running::start(&dir, "app", &std::env::current_exe()?, &["app"])?;
        let printed = dir.join("app.out");
        let address = || {
            fs::read_to_string(&printed)
                .ok()
                .and_then(|line| line.trim().parse::<SocketAddr>().ok())
        };
        app.wait_until(
            "the app says where it listens",
            Duration::from_secs(10),
            || address().is_some(),
        )?;
        let address = address().context("the app took its address back")?;
        let peers = Peer::find_all(programs)?;
        Ok(Self {
            peers,
            app: address,
            rounds,
            idle_tunnels,
            quick,
            dir,
            certs,
            _app: app,
            _folder: folder,
        })
    }

    /// A chain of `peer` that serves.
    pub(crate) fn start(
        &self,
        peer: &Peer,
        purpose: &str,
        tunnels: usize,
        way: Option<Way>,
    ) -> Result<Chain> {
        let dir = self.dir.join(format!("{purpose}-{:?}", peer.kind));
        peer.start(Plan {
            dir: &dir,
            certs: &self.certs,
            app: self.app,
            tunnels,
            way,
        })
    }

    /// Takes a figure of each in turn, round by round. The first round fills caches and connections and does not count,
    /// unless all of it is to be quick; every other one goes backwards, so that no one always comes behind the same.
    pub(crate) fn in_turns<T, S>(
        &self,
        all: &[T],
        take: impl FnMut(&T) -> Result<S>,
    ) -> Result<Vec<Vec<S>>> {
        self.in_rounds(self.rounds, all, take)
    }

    /// The same in [`SHORT`] times as many rounds, for turns that are as much shorter: what disturbs the machine for a second or
    /// two falls on both of a pair, which a difference of one in a hundred needs.
    pub(crate) fn in_short_turns<T, S>(
        &self,
        all: &[T],
        take: impl FnMut(&T) -> Result<S>,
    ) -> Result<Vec<Vec<S>>> {
        self.in_rounds(self.rounds * SHORT, all, take)
    }

    fn in_rounds<T, S>(
        &self,
        rounds: usize,
        all: &[T],
        mut take: impl FnMut(&T) -> Result<S>,
    ) -> Result<Vec<Vec<S>>> {
        let mut samples: Vec<Vec<S>> = all.iter().map(|_| Vec::new()).collect();
        for round in usize::from(self.quick)..=rounds {
            let mut order: Vec<usize> = (0..all.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let sample = take(&all[which])?;
                if round > 0 {
                    samples[which].push(sample);
                }
            }
        }
        Ok(samples)
    }

    /// How many visitors at once there are to be: many, and one. One number does where all is to be quick.
    pub(crate) fn visitors(&self) -> &'static [usize] {
        if self.quick { &[64] } else { &[64, 1] }
    }

    /// A chain of each peer, Tidegate's first.
    pub(crate) fn start_all(&self, purpose: &str, tunnels: usize) -> Result<Vec<(&Peer, Chain)>> {
        self.peers
            .iter()
            .map(|peer| Ok((peer, self.start(peer, purpose, tunnels, None)?)))
            .collect()
    }
}
