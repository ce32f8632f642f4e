//! Two nginx in a row, plain `proxy_pass` in clear text with keep-alive towards the next: what two ordinary hops cost; or one
//! of them. Each is one process, whose figures are the whole of it; access log on, as by its defaults.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use tidegate_tests::nginx::stream_module;

use crate::chain::{Addresses, Kind, Peer, Plan, Programs};
use crate::process::{Running, cores, find as find_program, output};
use crate::relay::{Hop, Mode};

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
    let program = format!("nginx {version}");
    Some(Peer {
        kind: Kind::Nginx,
        name: format!("{program} ×2, no TLS"),
        program,
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
        let body = http(&dir, &listen.to_string(), next);
        run(plan.dir, name, &dir, program, &body)
    };
    let gateway = hop("gateway", &programs.gateway, at.visitors, at.dialled)?;
    let agent = hop("agent", &programs.agent, at.tunnels, plan.app)?;
    Ok((gateway, agent))
}

/// One hop: a process for each core, which share the port as workers do with `reuseport`.
pub(crate) fn relay(program: &Path, hop: Hop<'_>) -> Result<Vec<Running>> {
    let listen = format!("{} reuseport", hop.visitors);
    (0..cores())
        .map(|which| {
            let name = format!("relay-{which}");
            let dir = hop.dir.join(&name);
            let body = match hop.mode {
                Mode::Http => http(&dir, &listen, hop.app),
                Mode::Tcp => stream(program, &listen, hop.app),
            };
            run(hop.dir, &name, &dir, program, &body)
        })
        .collect()
}

/// Whether it passes on octets too.
pub(crate) fn has_stream(program: &Path) -> bool {
    stream_module(program).is_some()
}

/// Starts one process; `dir` is its own, in that of the whole.
fn run(whole: &Path, name: &str, dir: &Path, program: &Path, body: &str) -> Result<Running> {
    fs::create_dir_all(dir)?;
    let config = dir.join("nginx.conf");
    let dir_text = dir.display();
    let text = format!(
        "daemon off;
master_process off;
pid {dir_text}/pid;
error_log {dir_text}/error.log;
{body}events {{ worker_connections 4096; }}
"
    );
    fs::write(&config, text)?;
    let args = ["-c".into(), config, "-p".into(), dir.to_owned()];
    Running::start(whole, name, program, &args)
}

fn stream(program: &Path, listen: &str, next: SocketAddr) -> String {
    let load = stream_module(program).unwrap_or_default();
    format!("{load}stream {{ server {{ listen {listen}; proxy_pass {next}; }} }}\n")
}

fn http(dir: &Path, listen: &str, next: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "http {{
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
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
"
    )
}
