//! Tidegate at both ends, by its defaults: access log and metrics on.

use std::path::Path;

use anyhow::Result;

use crate::chain::{Addresses, Kind, Peer, Plan, Programs};
use crate::http::NAME;
use crate::process::{Running, output};

/// The name in the gateway's certificate, which agents check.
pub(crate) const GATEWAY: &str = "gateway.test";

pub(crate) fn find(programs: &Path) -> Result<Option<Peer>> {
    let programs = Programs {
        gateway: programs.join("tidegated"),
        agent: programs.join("tidegate"),
    };
    let version = output(&programs.gateway, &["--version"])?;
    let version = version.split_whitespace().last().unwrap_or_default();
    Ok(Some(Peer {
        kind: Kind::Tidegate,
        name: format!("Tidegate {version}"),
        programs,
    }))
}

/// A certificate authority in `dir`, and a certificate for each end, which the other peers use as well.
pub(crate) fn make_certificates(programs: &Path, dir: &Path) -> Result<()> {
    let certs = programs.join("tidegate-certs");
    let dir_arg = dir.display().to_string();
    output(&certs, &["init", "--dir", &dir_arg])?;
    output(
        &certs,
        &[
            "issue",
            "--dir",
            &dir_arg,
            "--gateway",
            &format!("{GATEWAY},127.0.0.1"),
        ],
    )?;
    output(&certs, &["issue", "--dir", &dir_arg, "--agent", NAME])?;
    std::fs::rename(dir.join(format!("{GATEWAY}.pem")), dir.join("gateway.pem"))?;
    std::fs::rename(dir.join(format!("{NAME}.pem")), dir.join("agent.pem"))?;
    Ok(())
}

pub(crate) fn start(
    programs: &Programs,
    plan: Plan<'_>,
    at: Addresses,
) -> Result<(Running, Running)> {
    let cert = |file: &str| plan.certs.join(file).display().to_string();
    let gateway = [
        "run".to_owned(),
        format!("--visitors={}", at.visitors),
        format!("--tunnels={}", at.tunnels),
        format!("--identity={}", cert("gateway.pem")),
        format!("--ca={}", cert("ca.crt")),
        "--admin=127.0.0.1:0".to_owned(),
    ];
    let agent = [
        "http".to_owned(),
        plan.app.to_string(),
        format!("--gateway={}", at.dialled),
        format!("--server-name={GATEWAY}"),
        format!("--identity={}", cert("agent.pem")),
        format!("--ca={}", cert("ca.crt")),
        format!("--tunnels={}", plan.tunnels),
    ];
    Ok((
        Running::start(plan.dir, "gateway", &programs.gateway, &gateway)?,
        Running::start(plan.dir, "agent", &programs.agent, &agent)?,
    ))
}
