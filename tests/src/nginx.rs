//! A real nginx, in an app's place or in a balancer's, where the machine has one.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::net::TcpStream;

use crate::eventually::{SOON, eventually};
use crate::program::Program;

/// An nginx that listens there, with `listen` behind the address, and answers with whom a PROXY header named; `None` and a
/// printed reason where there is no nginx.
///
/// # Panics
/// Where there is none although `TIDEGATE_REQUIRE_PEERS` is set, as `.ci/run` does: there a skipped test is a failure.
pub async fn nginx(dir: &Path, at: SocketAddr, listen: &str) -> Option<Program> {
    let path = found()?;
    let here = place(dir, at);
    let temps = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temps = temps.map(|name| format!("{name}_temp_path {}/{name};\n", here.display()));
    let body = format!(
        "http {{ access_log off; {temps}\
         server {{ listen {at}{listen};\n\
         location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }} }}\n",
        temps = temps.concat(),
    );
    Some(start(&path, &here, at, &body).await)
}

/// The same with its stream module: one server that listens there and does what `body` says (`proxy_pass …;`, `return …;`).
/// `None` and a printed reason where either is missing.
///
/// # Panics
/// As [`nginx`].
pub async fn stream(dir: &Path, at: SocketAddr, listen: &str, body: &str) -> Option<Program> {
    let path = found()?;
    let load = or_skipped(stream_module(&path), "nginx with its stream module")?;
    let body = format!("{load}stream {{ server {{ listen {at}{listen};\n{body}\n}} }}\n");
    Some(start(&path, &place(dir, at), at, &body).await)
}

/// Its own folder.
fn place(dir: &Path, at: SocketAddr) -> PathBuf {
    dir.join(format!("nginx-{}", at.port()))
}

async fn start(path: &Path, here: &Path, at: SocketAddr, body: &str) -> Program {
    fs::create_dir_all(here).unwrap();
    let config = here.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
         {body}events {{ }}\n",
        dir = here.display(),
    );
    fs::write(&config, text).unwrap();
    let words: Vec<OsString> = vec!["-p".into(), here.into(), "-c".into(), config.into()];
    let program = Program::start("nginx", path, &words);
    eventually(SOON, "nginx listens", async || {
        TcpStream::connect(at).await.ok()
    })
    .await;
    program
}

fn found() -> Option<PathBuf> {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into()])
        .map(|dir| dir.join("nginx"))
        .find(|path| path.is_file());
    or_skipped(path, "nginx")
}

/// What stands first in a configuration with `stream`: the directive that loads the module, or nothing where it is built in.
/// `nginx -V` says which, and where modules are; `None` where there is none.
#[must_use]
pub fn stream_module(path: &Path) -> Option<String> {
    let output = Command::new(path).arg("-V").output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let mut words = text.split_whitespace();
    if words.clone().any(|word| word == "--with-stream") {
        return Some(String::new());
    }
    let folder = words.find_map(|word| word.strip_prefix("--modules-path="))?;
    let module = Path::new(folder).join("ngx_stream_module.so");
    module
        .is_file()
        .then(|| format!("load_module {};\n", module.display()))
}

fn or_skipped<T>(part: Option<T>, what: &str) -> Option<T> {
    const HOW: &str = "apt-get install nginx libnginx-mod-stream";
    if part.is_none() {
        assert!(
            std::env::var_os("TIDEGATE_REQUIRE_PEERS").is_none(),
            "no {what}, though TIDEGATE_REQUIRE_PEERS is set ({HOW})"
        );
        eprintln!("skipped: no {what} ({HOW})");
    }
    part
}
