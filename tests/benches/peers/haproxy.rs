//! HAProxy with reverse HTTP at both ends, over mTLS, with `http-reuse always` (without it: 503 under load) and without
//! the idle purge that would close its tunnels. No access log. As many threads as its default gives it, a thread per
//! core, but not more than tunnels: a tunnel in use serves its own thread alone, the visitors of another get a 503.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::chain::{Addresses, Kind, Peer, Plan, Programs};
use crate::process::{Running, cores, find as find_program, output};
use crate::relay::{Hop, Mode};
use crate::tidegate::GATEWAY;

/// `TIDEGATE_HAPROXY`, the folder that `tests/peers/haproxy.sh` is told of in the README, or the one on PATH; only if
/// it is recent enough for names of tunnels (3.0).
pub(crate) fn find() -> Option<Peer> {
    let fetched = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../.peers/haproxy/haproxy"
    ));
    let named = std::env::var_os("TIDEGATE_HAPROXY").map(PathBuf::from);
    named
        .into_iter()
        .chain([fetched])
        .chain(find_program("haproxy"))
        .find_map(|program| {
            let text = output(&program, &["-v"]).ok()?;
            let version = text
                .split_whitespace()
                .nth(2)?
                .split('-')
                .next()?
                .to_owned();
            let major: u32 = version.split('.').next()?.parse().ok()?;
            let programs = Programs {
                gateway: program.clone(),
                agent: program,
            };
            let name = format!("HAProxy {version}");
            (major >= 3).then(|| Peer {
                kind: Kind::Haproxy,
                program: name.clone(),
                name,
                programs,
            })
        })
}

pub(crate) fn start(
    programs: &Programs,
    plan: Plan<'_>,
    at: Addresses,
) -> Result<(Running, Running)> {
    let gateway = plan.dir.join("gateway.cfg");
    let agent = plan.dir.join("agent.cfg");
    fs::write(&gateway, gateway_config(plan, at))?;
    fs::write(&agent, agent_config(plan, at))?;
    Ok((
        Running::start(plan.dir, "gateway", &programs.gateway, &args(gateway))?,
        Running::start(plan.dir, "agent", &programs.agent, &args(agent))?,
    ))
}

/// One HAProxy, without reverse HTTP; a thread per core, as by its defaults.
pub(crate) fn relay(program: &Path, hop: Hop<'_>) -> Result<Vec<Running>> {
    let config = hop.dir.join("relay.cfg");
    fs::write(&config, relay_config(hop))?;
    let running = Running::start(hop.dir, "relay", program, &args(config))?;
    Ok(vec![running])
}

fn args(config: PathBuf) -> [PathBuf; 3] {
    ["-db".into(), "-f".into(), config]
}

fn relay_config(hop: Hop<'_>) -> String {
    let Hop { visitors, app, .. } = hop;
    let mode = match hop.mode {
        Mode::Http => "mode http\n    http-reuse always\n    option forwardfor",
        Mode::Tcp => "mode tcp",
    };
    let (threads, more) = (cores(), hop.more.join("\n    "));
    format!(
        "global
    nbthread {threads}
defaults
    {mode}
    {more}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
frontend visitors
    bind {visitors}
    default_backend app
backend app
    server app {app}
"
    )
}

fn gateway_config(plan: Plan<'_>, at: Addresses) -> String {
    let Addresses {
        visitors, tunnels, ..
    } = at;
    let (certs, common) = (plan.certs.display(), common(plan));
    format!(
        "{common}
frontend tunnels
    bind {tunnels} ssl crt {certs}/gateway.pem verify required ca-file {certs}/ca.crt alpn h2
    tcp-request session attach-srv reversed/agent name ssl_c_s_dn(CN),lower
frontend visitors
    bind {visitors}
    use_backend reversed
backend reversed
    server agent rhttp@ pool-conn-name req.hdr(host),field(1,:),lower pool-purge-delay 1h
"
    )
}

fn agent_config(plan: Plan<'_>, at: Addresses) -> String {
    let Addresses { dialled, .. } = at;
    let Plan { app, tunnels, .. } = plan;
    let (certs, common) = (plan.certs.display(), common(plan));
    format!(
        "{common}
frontend tunnels
    bind rhttp@gateways/gateway nbconn {tunnels}
    use_backend app
backend app
    server app {app}
backend gateways
    server gateway {dialled} ssl crt {certs}/agent.pem verify required ca-file {certs}/ca.crt sni str({GATEWAY}) alpn h2
"
    )
}

fn common(plan: Plan<'_>) -> String {
    let threads = cores().min(plan.tunnels);
    format!(
        "global
    expose-experimental-directives
    nbthread {threads}
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"
    )
}
