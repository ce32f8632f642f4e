//! What is measured: a visitor's side, a way, the app's side. One chain per peer, all started in the same manner, so
//! that a measurement need not know whose it has.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::http;
use crate::link::{self, Way};
use crate::process::{self, Running};
use crate::{haproxy, nginx, rathole, tidegate};

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tidegate,
    Haproxy,
    Rathole,
    /// Two ordinary reverse proxies in a row, in clear text: no tunnel, but as many hops.
    Nginx,
}

/// A peer that is on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// With its version, as it says it, and what there is to say of the chain.
    pub(crate) name: String,
    /// The program alone, with its version.
    pub(crate) program: String,
    pub(crate) programs: Programs,
}

/// Where a peer's two ends are; the same file twice for most.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) agent: PathBuf,
}

/// What a chain is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// A folder of the chain's own, for configuration and logs.
    pub(crate) dir: &'a Path,
    /// `ca.crt`, `gateway.pem` and `agent.pem`.
    pub(crate) certs: &'a Path,
    pub(crate) app: SocketAddr,
    /// How many the agent keeps; means nothing to rathole and nginx.
    pub(crate) tunnels: usize,
    /// What lies between agent and gateway, if not nothing.
    pub(crate) way: Option<Way>,
}

/// A chain that serves.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) visitors: SocketAddr,
    /// The gateway's end of the tunnels.
    pub(crate) tunnels: SocketAddr,
    pub(crate) gateway: Running,
    pub(crate) agent: Running,
}

/// The addresses of a chain about to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) visitors: SocketAddr,
    /// Where the gateway listens for agents.
    pub(crate) tunnels: SocketAddr,
    /// Where the agent dials: the same, or the near end of the link to it.
    pub(crate) dialled: SocketAddr,
}

impl Peer {
    /// All that are found, Tidegate first; `programs` is the folder of its release build.
    pub(crate) fn find_all(programs: &Path) -> Result<Vec<Self>> {
        let found = [
            tidegate::find(programs)?,
            haproxy::find(),
            rathole::find(),
            nginx::find(),
        ];
        Ok(found.into_iter().flatten().collect())
    }

    /// Starts both ends and returns once a visitor is served.
    pub(crate) fn start(&self, plan: Plan<'_>) -> Result<Chain> {
        std::fs::create_dir_all(plan.dir)?;
        let tunnels = process::free_address()?;
        let dialled = plan
            .way
            .map_or(Ok(tunnels), |way| link::start(way, tunnels))?;
        let addresses = Addresses {
            visitors: process::free_address()?,
            tunnels,
            dialled,
        };
        let start = match self.kind {
            Kind::Tidegate => tidegate::start,
            Kind::Haproxy => haproxy::start,
            Kind::Rathole => rathole::start,
            Kind::Nginx => nginx::start,
        };
        let (gateway, agent) = start(&self.programs, plan, addresses)?;
        let mut chain = Chain {
            visitors: addresses.visitors,
            tunnels,
            gateway,
            agent,
        };
        let what = format!("{} serves a visitor at {}", self.name, addresses.visitors);
        chain
            .agent
            .wait_until(&what, START, || http::serves(addresses.visitors))?;
        Ok(chain)
    }
}

impl Chain {
    /// CPU time of gateway and agent so far.
    pub(crate) fn cpu(&self) -> Result<[Duration; 2]> {
        Ok([self.gateway.cpu()?, self.agent.cpu()?])
    }
}

const START: Duration = Duration::from_secs(30);
