//! One hop and no tunnel: a program between visitors and the app, as a reverse proxy or passing on octets. All of them are
//! started in the same manner, so that a measurement need not know whose it has.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::chain::{Kind, Peer};
use crate::load;
use crate::process::{self, Running};
use crate::setting::Setting;
use crate::{haproxy, http, nginx, tidegate};

/// What it makes of the octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Requests, each for itself, over connections to the app that are kept.
    Http,
    /// None of its business.
    Tcp,
}

/// What one hop is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hop<'a> {
    /// A folder of its own, for configuration and logs.
    pub(crate) dir: &'a Path,
    pub(crate) mode: Mode,
    pub(crate) visitors: SocketAddr,
    pub(crate) app: SocketAddr,
    /// What else it is told: options of `tidegated run`, or lines of HAProxy's defaults.
    pub(crate) more: &'a [String],
}

/// A hop that serves.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) name: String,
    pub(crate) visitors: SocketAddr,
    processes: Vec<Running>,
}

impl Relay {
    /// One of each peer that can be one, Tidegate's first. Of requests HAProxy keeps no log, so there is a Tidegate without as
    /// well; of octets there is a HAProxy with `splice`.
    pub(crate) fn start_all(setting: &Setting, purpose: &str, mode: Mode) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for peer in &setting.peers {
            let fit = match peer.kind {
                Kind::Tidegate | Kind::Haproxy => true,
                Kind::Nginx => mode == Mode::Http || nginx::has_stream(&peer.programs.gateway),
                // It has two ends and a tunnel, always.
                Kind::Rathole => false,
            };
            if fit {
                let dir = format!("{purpose}-{:?}", peer.kind);
                all.push(Self::start(setting, peer, &dir, mode, &[])?);
            }
            let variant = match (peer.kind, mode) {
                (Kind::Tidegate, Mode::Http) => Some(("no access log", "--no-access-log")),
                (Kind::Haproxy, Mode::Tcp) => Some(("splice-auto", "option splice-auto")),
                _ => None,
            };
            if let Some((name, more)) = variant {
                let dir = format!("{purpose}-{:?}-variant", peer.kind);
                let mut relay = Self::start(setting, peer, &dir, mode, &[more.to_owned()])?;
                relay.name = format!("{}, {name}", relay.name);
                all.push(relay);
            }
        }
        Ok(all)
    }

    /// Starts one, in a folder of that name, and returns once a visitor is served.
    pub(crate) fn start(
        setting: &Setting,
        peer: &Peer,
        dir: &str,
        mode: Mode,
        more: &[String],
    ) -> Result<Self> {
        let dir = setting.dir.join(dir);
        std::fs::create_dir_all(&dir)?;
        let visitors = process::free_address()?;
        let hop = Hop {
            dir: &dir,
            mode,
            visitors,
            app: setting.app,
            more,
        };
        let program = &peer.programs.gateway;
        let mut processes = match peer.kind {
            Kind::Tidegate => tidegate::relay(program, hop)?,
            Kind::Haproxy => haproxy::relay(program, hop)?,
            Kind::Nginx => nginx::relay(program, hop)?,
            Kind::Rathole => Vec::new(),
        };
        ensure!(!processes.is_empty(), "{} is no relay", peer.name);
        let what = format!("{} serves a visitor at {visitors}", peer.program);
        for process in &mut processes {
            process.wait_until(&what, START, || http::serves(visitors))?;
        }
        Ok(Self {
            name: peer.program.clone(),
            visitors,
            processes,
        })
    }

    /// CPU time of all its processes so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.processes.iter().map(Running::cpu).sum()
    }

    /// So many visitors for so long.
    pub(crate) fn load(&self, visitors: usize, time: Duration) -> Result<Loaded> {
        let before = self.cpu()?;
        let seen = load::as_fast_as_it_goes(self.visitors, visitors, time)?;
        let spent = self.cpu()? - before;
        ensure!(
            seen.requests > 0,
            "no request was answered at {}",
            self.visitors
        );
        Ok(Loaded {
            cpu: spent.as_secs_f64() * 1e6 / seen.requests as f64,
            per_second: seen.requests as f64 / seen.seconds,
            p50: seen.p50,
            failed: seen.failed,
        })
    }
}

/// What one load on one hop showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loaded {
    /// Microseconds of CPU time per request.
    pub(crate) cpu: f64,
    pub(crate) per_second: f64,
    /// Microseconds, of the middle answer.
    pub(crate) p50: f64,
    pub(crate) failed: u64,
}

impl Loaded {
    /// The cells that every table of loads has: CPU, requests, p50, failures.
    pub(crate) fn cells(samples: &[Self]) -> Vec<String> {
        let middle = |figure: fn(&Self) -> f64| crate::report::median(samples.iter().map(figure));
        let failed: u64 = samples.iter().map(|sample| sample.failed).sum();
        vec![
            format!("{:.1}", middle(|sample| sample.cpu)),
            format!("{:.0}", middle(|sample| sample.per_second)),
            format!("{:.0}", middle(|sample| sample.p50)),
            failed.to_string(),
        ]
    }
}

const START: Duration = Duration::from_secs(30);
