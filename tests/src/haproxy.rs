//! A real HAProxy with reverse HTTP at either end of a tunnel, where the machine has one.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};

use crate::eventually::{SOON, eventually};
use crate::program::Program;

/// What is printed when there is none.
const SKIPPED: &str = "skipped: no HAProxy with reverse HTTP (run tests/peers/haproxy.sh)";

/// A HAProxy that can be started: its path, and its version as `(major, minor)`.
#[derive(Debug, Clone)]
pub struct Installed {
    path: PathBuf,
    /// For features that came later than 2.9.
    pub version: (u32, u32),
}

/// [`installed`], or `None` and a printed reason why.
#[must_use]
pub fn available() -> Option<Installed> {
    let found = installed();
    if found.is_none() {
        eprintln!("{SKIPPED}");
    }
    found
}

/// The HAProxy named by `TIDEGATE_HAPROXY`, or the one that `tests/peers/haproxy.sh` fetched; at least 2.9.
///
/// # Panics
/// Where there is none although `TIDEGATE_REQUIRE_PEERS` is set, as `.ci/run` does: there a skipped test is a failure.
#[must_use]
pub fn installed() -> Option<Installed> {
    let found = find();
    assert!(
        found.is_some() || std::env::var_os("TIDEGATE_REQUIRE_PEERS").is_none(),
        "no HAProxy with reverse HTTP, though TIDEGATE_REQUIRE_PEERS is set (run tests/peers/haproxy.sh)"
    );
    found
}

fn find() -> Option<Installed> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.peers/haproxy/haproxy");
    let named = std::env::var_os("TIDEGATE_HAPROXY").map(PathBuf::from);
    let path = named.unwrap_or(fetched);
    let output = Command::new(&path).arg("-v").output().ok()?;
    let version = version(&String::from_utf8_lossy(&output.stdout))?;
    (version >= (2, 9)).then_some(Installed { path, version })
}

/// Reads `HAProxy version 3.0.11-1+deb13u3 2026/05/20 - …`.
fn version(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().nth(2)?;
    let mut parts = number.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    /// The process.
    pub program: Program,
    installed: Installed,
    config: PathBuf,
}

/// The ports of HAProxy in a gateway's place.
#[derive(Debug, Clone, Copy)]
pub struct GatewayPorts {
    /// Where visitors come, clear text.
    pub visitors: SocketAddr,
    /// Where agents dial, mTLS.
    pub tunnels: SocketAddr,
}

impl Haproxy {
    /// HAProxy as gateway (`wire.md` §1.8): `identity` is its certificate, agents must be of `ca`.
    pub async fn gateway(
        installed: &Installed,
        dir: &Path,
        identity: &Path,
        ca: &Path,
        ports: GatewayPorts,
    ) -> Self {
        Self::gateway_with(installed, dir, identity, ca, ports, "").await
    }

    /// As [`Haproxy::gateway`], with one more line for its visitors' frontend.
    pub async fn gateway_with(
        installed: &Installed,
        dir: &Path,
        identity: &Path,
        ca: &Path,
        ports: GatewayPorts,
        line: &str,
    ) -> Self {
        let (identity, ca) = (identity.display(), ca.display());
        let GatewayPorts { visitors, tunnels } = ports;
        let body = format!(
            "frontend priv\n\
             \x20   bind {tunnels} ssl crt {identity} verify required ca-file {ca} alpn h2\n\
             \x20   tcp-request session attach-srv be-rev/dev name ssl_c_s_dn(CN),lower\n\
             frontend pub\n\
             \x20   bind {visitors}\n\
             \x20   {line}\n\
             \x20   use_backend be-rev\n\
             backend be-rev\n\
             \x20   http-reuse always\n\
             \x20   server dev rhttp@ pool-conn-name req.hdr(host),field(1,:),lower pool-purge-delay 1h\n"
        );
        let started = Self::start(installed, dir, "haproxy-gateway", &body);
        for address in [visitors, tunnels] {
            started.listening(address).await;
        }
        started
    }

    /// HAProxy as agent (`wire.md` §1.8): dials `tunnels` with `identity` and forwards to `app`.
    #[must_use]
    pub fn agent(
        installed: &Installed,
        dir: &Path,
        identity: &Path,
        ca: &Path,
        tunnels: SocketAddr,
        app: SocketAddr,
    ) -> Self {
        let (identity, ca) = (identity.display(), ca.display());
        let body = format!(
            "frontend fe\n\
             \x20   bind \"rhttp@pre/srv\" nbconn 2\n\
             \x20   use_backend app\n\
             backend app\n\
             \x20   server a {app}\n\
             backend pre\n\
             \x20   server srv {tunnels} ssl crt {identity} verify required ca-file {ca} sni str(localhost) alpn h2\n"
        );
        Self::start(installed, dir, "haproxy-agent", &body)
    }

    /// HAProxy with a configuration of the test's own behind `global` and `defaults`.
    #[must_use]
    pub fn start(installed: &Installed, dir: &Path, name: &str, body: &str) -> Self {
        let config = dir.join(format!("{name}.cfg"));
        let head = "global\n\
                    \x20   expose-experimental-directives\n\
                    \x20   nbthread 1\n\
                    \x20   log stderr format raw local0\n\
                    defaults\n\
                    \x20   mode http\n\
                    \x20   timeout connect 3s\n\
                    \x20   timeout client 1h\n\
                    \x20   timeout server 1h\n\
                    \x20   timeout tunnel 1h\n";
        fs::write(&config, format!("{head}{body}")).unwrap();
        Self {
            program: run(installed, name, &config),
            installed: installed.clone(),
            config,
        }
    }

    /// Ends it (SIGTERM: at once) and starts it again with the same configuration.
    pub async fn restart(&mut self) {
        self.program.signal(Signal::TERM);
        self.program.ended(SOON).await;
        self.program = run(&self.installed, "haproxy", &self.config);
    }

    /// Waits until it listens on `address`.
    pub async fn listening(&self, address: SocketAddr) {
        eventually(SOON, "HAProxy listens", async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
    }
}

fn run(installed: &Installed, name: &str, config: &Path) -> Program {
    let args: Vec<OsString> = vec!["-db".into(), "-f".into(), config.into()];
    Program::start(name, &installed.path, &args)
}

/// Two addresses that are free, for a program that cannot take port 0. They lie below the range that the system gives out
/// by itself (`net.ipv4.ip_local_port_range`, 32768 and up), so that no connection of another test takes one meanwhile.
pub async fn free_ports() -> GatewayPorts {
    GatewayPorts {
        visitors: free_port().await,
        tunnels: free_port().await,
    }
}

async fn free_port() -> SocketAddr {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test processes that run side by side begin at different places.
    let begin = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let step = begin.wrapping_add(NEXT.fetch_add(1, Relaxed)) % COUNT;
        let port = FIRST + u16::try_from(step).unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener.local_addr().unwrap();
        }
    }
    panic!("none of {COUNT} ports from {FIRST} on is free")
}
