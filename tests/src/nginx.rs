//! A real nginx in an app's place, where the machine has one.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpStream;

use crate::eventually::{SOON, eventually};
use crate::program::Program;

/// An nginx that listens there, with `listen` behind the address, and answers with whom a PROXY header named; `None` and a
/// printed reason where there is no nginx.
pub async fn nginx(dir: &Path, at: SocketAddr, listen: &str) -> Option<Program> {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into()])
        .map(|dir| dir.join("nginx"))
        .find(|path| path.is_file());
    let Some(path) = path else {
        eprintln!("skipped: no nginx");
        return None;
    };
    let here = dir.join(format!("nginx-{}", at.port()));
    fs::create_dir_all(&here).unwrap();
    let config = here.join("nginx.conf");
    let temps = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temps = temps.map(|name| format!("{name}_temp_path {}/{name};\n", here.display()));
    let text = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ }}\n\
         http {{ access_log off; {temps}\
         server {{ listen {at}{listen};\n\
         location / {{ return 200 \"$proxy_protocol_addr:$proxy_protocol_port\"; }} }} }}\n",
        dir = here.display(),
        temps = temps.concat(),
    );
    fs::write(&config, text).unwrap();
    let words: Vec<OsString> = vec!["-p".into(), here.into(), "-c".into(), config.into()];
    let program = Program::start("nginx", &path, &words);
    eventually(SOON, "nginx listens", async || {
        TcpStream::connect(at).await.ok()
    })
    .await;
    Some(program)
}
