//! rathole at both ends, over TLS: a tunnel for bytes, which reads no HTTP and makes a TLS connection per visitor.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::chain::{Addresses, Kind, Peer, Plan, Programs};
use crate::process::{Running, find as find_program, output};
use crate::tidegate::GATEWAY;

/// `TIDEGATE_RATHOLE`, or the one on PATH; only with `openssl` beside it, which packs the certificate as it wants it.
pub(crate) fn find() -> Option<Peer> {
    find_program("openssl")?;
    let program = std::env::var_os("TIDEGATE_RATHOLE")
        .map(PathBuf::from)
        .or_else(|| find_program("rathole"))?;
    let text = output(&program, &["--version"]).ok()?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("Build Version:"))
        .unwrap_or_default()
        .trim()
        .to_owned();
    let programs = Programs {
        gateway: program.clone(),
        agent: program,
    };
    let name = format!("rathole {version}");
    Some(Peer {
        kind: Kind::Rathole,
        program: name.clone(),
        name,
        programs,
    })
}

pub(crate) fn start(
    programs: &Programs,
    plan: Plan<'_>,
    at: Addresses,
) -> Result<(Running, Running)> {
    let identity = plan.dir.join("gateway.p12");
    let pem = plan.certs.join("gateway.pem").display().to_string();
    let openssl = find_program("openssl").unwrap_or_default();
    let out = identity.display().to_string();
    let export = [
        "pkcs12",
        "-export",
        "-passout",
        "pass:bench",
        "-in",
        &pem,
        "-out",
        &out,
    ];
    output(&openssl, &export)?;

    let Addresses {
        visitors,
        tunnels,
        dialled,
    } = at;
    let gateway = plan.dir.join("gateway.toml");
    let agent = plan.dir.join("agent.toml");
    fs::write(
        &gateway,
        format!(
            r#"[server]
bind_addr = "{tunnels}"
default_token = "bench"
[server.transport]
type = "tls"
[server.transport.tls]
pkcs12 = "{out}"
pkcs12_password = "bench"
[server.services.app]
bind_addr = "{visitors}"
"#
        ),
    )?;
    fs::write(
        &agent,
        format!(
            r#"[client]
remote_addr = "{dialled}"
default_token = "bench"
[client.transport]
type = "tls"
[client.transport.tls]
trusted_root = "{}"
hostname = "{GATEWAY}"
[client.services.app]
local_addr = "{}"
"#,
            plan.certs.join("ca.crt").display(),
            plan.app,
        ),
    )?;
    Ok((
        Running::start(
            plan.dir,
            "gateway",
            &programs.gateway,
            &["--server".into(), gateway],
        )?,
        Running::start(
            plan.dir,
            "agent",
            &programs.agent,
            &["--client".into(), agent],
        )?,
    ))
}
