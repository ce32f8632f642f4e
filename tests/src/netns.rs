//! A network namespace with one cable to the host, made by a test, in which packets can be dropped without a word:
//! the half-open TCP connection of a pulled cable or of a NAT that forgot. Needs root, `ip` and `nft`.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace, removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    /// The host's end of the cable.
    pub host: Ipv4Addr,
    /// The namespace's end of the cable.
    pub inside: Ipv4Addr,
}

static MADE: AtomicU32 = AtomicU32::new(0);

impl Netns {
    /// A namespace, or `None` and a printed reason where this machine cannot make one.
    #[must_use]
    pub fn available() -> Option<Self> {
        match Self::create() {
            Ok(made) => Some(made),
            Err(why) => {
                eprintln!("skipped: {why}");
                None
            }
        }
    }

    /// Makes a namespace and its cable.
    ///
    /// # Errors
    /// Why this machine cannot: the text to print after `skipped: `.
    pub fn create() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let id = std::process::id();
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        // A /30 of 10.231.0.0/16 per namespace: process and count choose one of its 16,384.
        let slot = (id.wrapping_mul(8).wrapping_add(count)) % 16_384;
        let base = u32::from(Ipv4Addr::new(10, 231, 0, 0)) + slot * 4;
        let made = Self {
            name: format!("tg{id}-{count}"),
            host: Ipv4Addr::from(base + 1),
            inside: Ipv4Addr::from(base + 2),
        };
        made.build()
            .map_err(|why| format!("cannot make a network namespace: {why}"))?;
        Ok(made)
    }

    fn build(&self) -> Result<(), String> {
        let (outer, inner) = (self.cable('h'), self.cable('n'));
        let name = &self.name;
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add {outer} type veth peer name {inner} netns {name}"
        ))?;
        ip(&format!("addr add {}/30 dev {outer}", self.host))?;
        ip(&format!("link set {outer} up"))?;
        ip(&format!(
            "-n {name} addr add {}/30 dev {inner}",
            self.inside
        ))?;
        ip(&format!("-n {name} link set {inner} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        for chain in ["input", "output"] {
            self.nft(&["add", "table", "inet", "cable"])?;
            let hook = format!("{{ type filter hook {chain} priority 0; policy accept; }}");
            self.nft(&["add", "chain", "inet", "cable", chain, &hook])?;
        }
        Ok(())
    }

    /// The words to put before a command that is to run inside.
    #[must_use]
    pub fn prefix(&self) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.name]
            .map(OsString::from)
            .to_vec()
    }

    /// From here on every packet on the cable is lost, and nobody is told. What stays inside still flows.
    pub fn drop_packets(&self) {
        let inner = self.cable('n');
        self.nft(&[
            "add", "rule", "inet", "cable", "input", "iifname", &inner, "drop",
        ])
        .unwrap();
        self.nft(&[
            "add", "rule", "inet", "cable", "output", "oifname", &inner, "drop",
        ])
        .unwrap();
    }

    /// Ends [`Netns::drop_packets`].
    pub fn heal(&self) {
        self.nft(&["flush", "table", "inet", "cable"]).unwrap();
    }

    /// The namespace's end loses its address and has another one from here on, as after a change of networks. The host's
    /// end is still reached.
    pub fn change_address(&mut self) {
        let (outer, inner) = (self.cable('h'), self.cable('n'));
        let (name, old, host) = (&self.name, self.inside, self.host);
        let fresh = Ipv4Addr::from(u32::from(old) ^ (1 << 16));
        for words in [
            format!("-n {name} addr del {old}/30 dev {inner}"),
            format!("-n {name} addr add {fresh}/32 dev {inner}"),
            format!("-n {name} route add {host}/32 dev {inner}"),
            format!("route add {fresh}/32 dev {outer}"),
        ] {
            ip(&words).unwrap();
        }
        self.inside = fresh;
    }

    fn cable(&self, end: char) -> String {
        format!("{}{end}", self.name)
    }

    fn nft(&self, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, "nft"])
            .args(args);
        outcome(&mut command)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Removing the namespace removes both ends of the cable.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(args: &str) -> Result<(), String> {
    outcome(Command::new("ip").args(args.split(' ')))
}

fn outcome(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => {
            let why = String::from_utf8_lossy(&stderr).trim().to_owned();
            Err(format!("{command:?}: {why}"))
        }
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}
