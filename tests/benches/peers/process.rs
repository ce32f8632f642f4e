//! Programs that a measurement starts: logs to a file, CPU time and memory from /proc, an end by their own pid.
//! Every peer and the app are started here and nowhere else, so that nothing outlives the benchmark.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// A program in the background; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `program` with `args`; what it prints goes to `NAME.out` and `NAME.err` in `dir`.
    pub(crate) fn start<A: AsRef<OsStr>>(
        dir: &Path,
        name: &str,
        program: &Path,
        args: &[A],
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.err"));
        let child = tied_to_us(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(dir.join(format!("{name}.out")))?)
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}; is it an executable file?",
                    program.display()
                )
            })?;
        Ok(Self { child, log })
    }

    /// User and system time of all its threads so far, those that have ended among them (proc_pid_stat(5)).
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = self.proc("stat")?;
        // The second field, the program's name, is in brackets and may hold anything, spaces too.
        let (_, fields) = stat
            .rsplit_once(") ")
            .context("/proc/PID/stat has no bracketed name")?;
        let ticks = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()?;
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = self.proc("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS in /proc/PID/status")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Asks again and again until `ready` says yes. Fails after `limit`, or as soon as the program has ended,
    /// with the end of its log.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let began = Instant::now();
        while !ready() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || began.elapsed() > limit {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let tail = log.lines().rev().take(12).collect::<Vec<_>>();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                let state = ended.map_or_else(
                    || format!("after {limit:?}"),
                    |status| format!("it ended: {status}"),
                );
                bail!(
                    "{what}: not so, {state}; its log {} ends:\n{tail}",
                    self.log.display()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn proc(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path)
            .with_context(|| format!("{path}: the program has ended; see {}", self.log.display()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for a program that has already ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command for `program`, which the kernel kills when this process dies, however it dies (`setpriv` of
/// util-linux becomes the program, so the pid is the program's). Without `setpriv`, only `Drop` ends it.
fn tied_to_us(program: &Path) -> Command {
    let mut command = match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    // What the caller has exported for programs of its own would change what is measured.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// A program by its name on PATH, or among the system's, which an ordinary user's PATH may not name.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Runs a program to its end and gives back what it printed, on both outputs. A failure shows all of it.
pub(crate) fn output<A: AsRef<OsStr>>(program: &Path, args: &[A]) -> Result<String> {
    let done = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    ensure!(
        done.status.success(),
        "{} failed ({}):\n{text}",
        program.display(),
        done.status
    );
    Ok(text)
}

/// A loopback address that was free a moment ago, for programs that must be told theirs in a file.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// How many cores there are, and so how many threads or processes programs take by their defaults.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// How many established TCP connections have `local` as their own end (proc_net(5): state 01).
pub(crate) fn connections_to(local: SocketAddr) -> Result<usize> {
    let port = format!(":{:04X}", local.port());
    let table = fs::read_to_string("/proc/net/tcp")
        .context("/proc/net/tcp: idle tunnels are counted there")?;
    let peer_of = |line: &'_ str| {
        let mut fields = line.split_whitespace().skip(1);
        let (own, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
        (own.ends_with(&port) && state == "01").then(|| peer.to_owned())
    };
    // A table that changes while it is read shows some connections twice.
    let peers: HashSet<String> = table.lines().filter_map(peer_of).collect();
    Ok(peers.len())
}

/// USER_HZ, the unit of times in /proc: 100 on every Linux that Rust's tier 1 and 2 targets run on.
const TICKS_PER_SECOND: u64 = 100;
