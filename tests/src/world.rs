//! The world of a test: a directory, a CA, a running gateway, and agents started when the test wants them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;
use tempfile::TempDir;

use crate::eventually::{SOON, eventually};
use crate::netns::Netns;
use crate::options::metric::HELD;
use crate::peers::Peer;
use crate::peers::agent::RawAgent;
use crate::pki::Pki;
use crate::program::{Program, built};
use crate::visitors::http1::{Answer, Visitor, get};

/// The names that the gateway's visitor certificates cover.
pub const VISITOR_NAMES: [&str; 2] = ["blog.test", "shop.test"];

/// A gateway and everything around it. Dropping it ends all of it.
#[derive(Debug)]
pub struct World {
    /// The gateway's process.
    pub gateway: Program,
    /// The CA that gateway and agents trust.
    pub pki: Pki,
    /// Clear-text visitors.
    pub visitors: SocketAddr,
    /// TLS visitors.
    pub visitors_tls: SocketAddr,
    /// Agents.
    pub tunnels: SocketAddr,
    /// Metrics and health.
    pub admin: SocketAddr,
    command: GatewayCommand,
    dir: TempDir,
}

/// How a test wants its gateway.
#[derive(Debug, Clone)]
pub struct Builder {
    options: Vec<OsString>,
    tunnels: String,
    limits: Vec<OsString>,
    identity: Option<(PathBuf, PathBuf)>,
    config: Option<String>,
}

#[derive(Debug)]
struct GatewayCommand {
    wrapper: Vec<OsString>,
    options: Vec<OsString>,
}

impl Builder {
    /// Adds an option, and its value if it is not empty.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push(name.into());
        if !value.is_empty() {
            self.options.push(value.into());
        }
        self
    }

    /// Listens for agents there and not on loopback.
    #[must_use]
    pub fn tunnels(mut self, address: &str) -> Self {
        address.clone_into(&mut self.tunnels);
        self
    }

    /// Uses a certificate and a CA that the test has made otherwise.
    #[must_use]
    pub fn identity(mut self, identity: PathBuf, ca: PathBuf) -> Self {
        self.identity = Some((identity, ca));
        self
    }

    /// Gives the gateway a configuration file with this text, beside the options.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Runs the gateway under `prlimit` with these arguments.
    #[must_use]
    pub fn prlimit(mut self, limit: &str) -> Self {
        self.limits = vec!["prlimit".into(), limit.into()];
        self
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start(self) -> World {
        let dir = tempfile::Builder::new()
            .prefix("tidegate-e2e-")
            .tempdir()
            .unwrap();
        let pki = Pki::create(dir.path(), "ca");
        let (identity, ca) = self.identity.unwrap_or_else(|| {
            let names = ["localhost", "gateway.test", "127.0.0.1"];
            (pki.server(&names), pki.ca_file("ca"))
        });
        let mut options: Vec<OsString> = vec!["run".into()];
        options.extend([
            "--identity".into(),
            identity.into(),
            "--ca".into(),
            ca.into(),
        ]);
        for name in VISITOR_NAMES {
            options.extend(["--visitors-cert".into(), pki.server(&[name]).into()]);
        }
        options.extend(self.options);
        if let Some(text) = self.config {
            let file = dir.path().join("gateway.toml");
            std::fs::write(&file, text).unwrap();
            options.extend(["--config".into(), file.into()]);
        }
        let command = GatewayCommand {
            wrapper: self.limits,
            options,
        };
        let any = "127.0.0.1:0".to_owned();
        let gateway = command.start([&any, &any, &self.tunnels, &any]).await;
        let address = |kind| {
            gateway
                .address(kind)
                .unwrap_or_else(|| panic!("no line `{kind} ADDRESS` on stdout"))
        };
        World {
            visitors: address("visitors"),
            visitors_tls: address("visitors-tls"),
            tunnels: address("tunnels"),
            admin: address("admin"),
            gateway,
            pki,
            command,
            dir,
        }
    }
}

impl GatewayCommand {
    /// Starts the gateway on visitors, TLS visitors, tunnels and admin addresses, in this order.
    async fn start(&self, addresses: [&str; 4]) -> Program {
        let mut gateway = self.launch(addresses);
        gateway.ready().await;
        gateway
    }

    /// The same, and waits for nothing.
    fn launch(&self, addresses: [&str; 4]) -> Program {
        let mut words = self.wrapper.clone();
        words.push(built("tidegated").into());
        words.extend(self.options.iter().cloned());
        let names = ["--visitors", "--visitors-tls", "--tunnels", "--admin"];
        for (name, address) in names.iter().zip(addresses) {
            words.extend([name.into(), address.into()]);
        }
        Program::start("tidegated", Path::new(&words[0]), &words[1..])
    }
}

impl World {
    /// A world with the gateway's defaults.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A world with a gateway of the test's own making.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            options: Vec::new(),
            tunnels: "127.0.0.1:0".to_owned(),
            limits: Vec::new(),
            identity: None,
            config: None,
        }
    }

    /// A directory for files of the test.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the gateway again, on the addresses that it had. The former one must have ended.
    pub async fn restart_gateway(&mut self) {
        let addresses = [self.visitors, self.visitors_tls, self.tunnels, self.admin];
        let addresses = addresses.map(|address| address.to_string());
        self.gateway = self
            .command
            .start(addresses.each_ref().map(String::as_str))
            .await;
    }

    /// Starts another gateway with the same words, at the addresses of the one that runs, and waits for nothing.
    #[must_use]
    pub fn launch_successor(&self) -> Program {
        let addresses = [self.visitors, self.visitors_tls, self.tunnels, self.admin];
        let addresses = addresses.map(|address| address.to_string());
        self.command
            .launch(addresses.each_ref().map(String::as_str))
    }

    /// Starts `tidegate http TARGET` with a certificate for `name`, and waits until its tunnels are up and filed.
    pub async fn agent(&self, name: &str, target: &str) -> Program {
        self.agent_with(name, target, &[]).await
    }

    /// As [`World::agent`], with more options.
    pub async fn agent_with(&self, name: &str, target: &str, options: &[&str]) -> Program {
        let before = self.filed(name).await;
        let mut agent = self.launch_agent(&self.pki.agent(&[name]), target, options);
        agent.ready().await;
        self.wait_more_than(before, name).await;
        agent
    }

    /// As [`World::agent`], of `tidegate tcp TARGET`, with more options.
    pub async fn tcp_agent(&self, name: &str, target: &str, options: &[&str]) -> Program {
        let before = self.filed(name).await;
        let gateway = format!("localhost:{}", self.tunnels.port());
        let (identity, ca) = (self.pki.agent(&[name]), self.pki.ca_file("ca"));
        let mut agent = launch_tcp_agent(&gateway, &identity, &ca, target, options);
        agent.ready().await;
        self.wait_more_than(before, name).await;
        agent
    }

    /// A tunnel by hand with a certificate for `name`, when it is filed.
    pub async fn raw_agent(&self, name: &str) -> Peer {
        let before = self.filed(name).await;
        let identity = self.pki.agent(&[name]);
        let peer = RawAgent::dial(self.tunnels, &self.pki, &identity).await;
        self.wait_more_than(before, name).await;
        peer
    }

    async fn wait_more_than(&self, before: usize, name: &str) {
        let what = format!("a tunnel of {name} is filed");
        eventually(SOON, &what, async || {
            (self.filed(name).await > before).then_some(())
        })
        .await;
    }

    /// Starts `tidegate http TARGET` with an identity file, and waits for nothing.
    #[must_use]
    pub fn launch_agent(&self, identity: &Path, target: &str, options: &[&str]) -> Program {
        let gateway = format!("localhost:{}", self.tunnels.port());
        launch_agent(
            &[],
            &gateway,
            identity,
            &self.pki.ca_file("ca"),
            target,
            options,
        )
    }

    /// As [`World::agent`], inside a network namespace, dialing the host's end of its cable.
    pub async fn agent_inside(&self, netns: &Netns, name: &str, target: &str) -> Program {
        let gateway = format!("{}:{}", netns.host, self.tunnels.port());
        let options = ["--server-name", "localhost"];
        let (identity, ca) = (self.pki.agent(&[name]), self.pki.ca_file("ca"));
        let mut agent = launch_agent(&netns.prefix(), &gateway, &identity, &ca, target, &options);
        agent.ready().await;
        agent
    }

    /// A clear-text visitor.
    pub async fn visitor(&self) -> Visitor {
        Visitor::connect(self.visitors).await
    }

    /// One GET in clear text.
    pub async fn get(&self, host: &str, path: &str) -> Answer {
        get(self.visitors, host, path).await
    }

    /// The TLS configuration of a visitor that offers `alpn`.
    #[must_use]
    pub fn visitor_tls(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.pki.client(None, alpn)
    }

    /// How many tunnels are filed under `name`.
    pub async fn filed(&self, name: &str) -> usize {
        let listed = self.listed().await;
        listed
            .iter()
            .filter(|tunnel| names_of(tunnel).iter().any(|filed| filed == name))
            .count()
    }

    /// How many streams are open on the tunnels of `name`.
    pub async fn streams(&self, name: &str) -> u64 {
        let listed = self.listed().await;
        let of_name = listed
            .iter()
            .filter(|tunnel| names_of(tunnel).iter().any(|filed| filed == name));
        of_name
            .map(|tunnel| tunnel["streams"].as_u64().unwrap())
            .sum()
    }

    /// Waits until exactly `count` tunnels are filed under `name`.
    pub async fn wait_filed(&self, name: &str, count: usize, limit: Duration) {
        let what = format!("{count} tunnels are filed under {name}");
        eventually(limit, &what, async || {
            (self.filed(name).await == count).then_some(())
        })
        .await;
    }

    /// Waits until the gateway holds exactly `count` requests for an agent to come.
    pub async fn wait_held(&self, count: u32) {
        let what = format!("{count} requests are held");
        eventually(SOON, &what, async || {
            let held = self.metrics().await.sum(HELD, &[]);
            (held == f64::from(count)).then_some(())
        })
        .await;
    }

    /// What the admin page lists: one object per tunnel.
    pub async fn listed(&self) -> Vec<Value> {
        let answer = get(self.admin, "localhost", "/tunnels").await;
        assert_eq!(answer.status(), 200, "/tunnels");
        match serde_json::from_slice(&answer.body) {
            Ok(Value::Array(tunnels)) => tunnels,
            other => panic!("/tunnels is an array: {other:?}"),
        }
    }

    /// The metrics as they are at the moment.
    pub async fn metrics(&self) -> Metrics {
        let answer = get(self.admin, "localhost", "/metrics").await;
        assert_eq!(answer.status(), 200, "/metrics");
        Metrics::parse(&answer.text())
    }

    /// The path of a file of this test's directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Starts `tidegate http TARGET`; `wrapper` are words to put before the command.
#[must_use]
pub fn launch_agent(
    wrapper: &[OsString],
    gateway: &str,
    identity: &Path,
    ca: &Path,
    target: &str,
    options: &[&str],
) -> Program {
    launch(wrapper, "http", gateway, identity, ca, target, options)
}

/// Starts `tidegate tcp TARGET`.
#[must_use]
pub fn launch_tcp_agent(
    gateway: &str,
    identity: &Path,
    ca: &Path,
    target: &str,
    options: &[&str],
) -> Program {
    launch(&[], "tcp", gateway, identity, ca, target, options)
}

fn launch(
    wrapper: &[OsString],
    command: &str,
    gateway: &str,
    identity: &Path,
    ca: &Path,
    target: &str,
    options: &[&str],
) -> Program {
    let mut words = wrapper.to_vec();
    words.push(built("tidegate").into());
    words.extend([command, target, "--gateway", gateway].map(OsString::from));
    words.extend([
        "--identity".into(),
        identity.into(),
        "--ca".into(),
        ca.into(),
    ]);
    words.extend(options.iter().map(OsString::from));
    Program::start("tidegate", Path::new(&words[0]), &words[1..])
}

/// The names that a listed tunnel is filed under.
#[must_use]
pub fn names_of(tunnel: &Value) -> Vec<String> {
    let names = tunnel["names"].as_array();
    let names = names.unwrap_or_else(|| panic!("a listed tunnel has `names`: {tunnel}"));
    names
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// A page of Prometheus metrics.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn parse(page: &str) -> Self {
        let lines = page
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Self(samples.collect())
    }

    /// The sum over every series of `metric` whose labels contain all of `labels` (`name="value"`).
    #[must_use]
    pub fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        let matching = self.0.iter().filter(|(series, _)| {
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            name == metric && labels.iter().all(|label| rest.contains(label))
        });
        matching.map(|(_, value)| value).sum()
    }

    /// Every series and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0
            .iter()
            .map(|(series, value)| (series.as_str(), *value))
    }
}
