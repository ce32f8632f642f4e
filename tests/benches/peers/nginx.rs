//! Two nginx in a row, plain `proxy_pass` in clear text with keep-alive towards the next: what two ordinary hops cost.
//! One process each, so that its figures are the whole of it; access log on, as by its defaults.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;

use crate::chain::{Addresses, Kind, Peer, Plan, Programs};
use crate::process::{Running, find as find_program, output};

pub(crate) fn find() -> Option<Peer> {
    let program = find_program("nginx")?;
    let text = output(&program, &["-v"]).ok()?;
    let version = text
        .trim()
        .rsplit('/')
        .next()?
        .split(' ')
        .next()?
        .to_owned();
    let programs = Programs {
        gateway: program.clone(),
        agent: program,
    };
    Some(Peer {
        kind: Kind::Nginx,
        name: format!("nginx {version} ×2, no TLS"),
        programs,
    })
}

pub(crate) fn start(
    programs: &Programs,
    plan: Plan<'_>,
    at: Addresses,
) -> Result<(Running, Running)> {
    let hop = |name: &str, program: &Path, listen: SocketAddr, next: SocketAddr| {
        let dir = plan.dir.join(name);
        fs::create_dir_all(&dir)?;
        let config = dir.join("nginx.conf");
        fs::write(&config, config_text(&dir, listen, next))?;
        Running::start(
            plan.dir,
            name,
            program,
            &["-c".into(), config, "-p".into(), dir],
        )
    };
    let gateway = hop("gateway", &programs.gateway, at.visitors, at.dialled)?;
    let agent = hop("agent", &programs.agent, at.tunnels, plan.app)?;
    Ok((gateway, agent))
}

fn config_text(dir: &Path, listen: SocketAddr, next: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
master_process off;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {dir}/access.log;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    upstream next {{ server {next}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://next;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"
    )
}
