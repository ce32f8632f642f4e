//! Tidegate at both ends, or as the one hop, by its defaults: access log and metrics on.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::chain::{Addresses, Kind, Peer, Plan, Programs};
use crate::http::NAME;
use crate::process::{Running, output};
use crate::relay::{Hop, Mode};

/// The name in the gateway's certificate, which agents check.
pub(crate) const GATEWAY: &str = "gateway.test";

pub(crate) fn find(programs: &Path) -> Result<Option<Peer>> {
    let programs = Programs {
        gateway: programs.join("tidegated"),
        agent: programs.join("tidegate"),
    };
    let version = output(&programs.gateway, &["--version"])?;
    let version = version.split_whitespace().last().unwrap_or_default();
    let name = format!("Tidegate {version}");
    Ok(Some(Peer {
        kind: Kind::Tidegate,
        program: name.clone(),
        name,
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
    fs::rename(dir.join(format!("{GATEWAY}.pem")), dir.join("gateway.pem"))?;
    fs::rename(dir.join(format!("{NAME}.pem")), dir.join("agent.pem"))?;
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

/// The gateway alone, which dials the app.
pub(crate) fn relay(program: &Path, hop: Hop<'_>) -> Result<Vec<Running>> {
    let Hop { visitors, app, .. } = hop;
    let listener = format!("admin = \"127.0.0.1:0\"\n[listeners.web]\naddress = \"{visitors}\"\n");
    let target = match hop.mode {
        Mode::Http => {
            format!("[[routes]]\nbackend = \"app\"\n[backends.app.servers]\none = \"{app}\"\n")
        }
        Mode::Tcp => format!("mode = \"tcp\"\nservers = [\"{app}\"]\n"),
    };
    let config = hop.dir.join("gateway.toml");
    fs::write(&config, listener + &target)?;
    let mut args = vec!["run".into(), "--config".into(), config.into_os_string()];
    args.extend(hop.more.iter().map(OsString::from));
    Ok(vec![Running::start(hop.dir, "gateway", program, &args)?])
}
