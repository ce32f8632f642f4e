//! A program under test as a child process: the addresses it prints, the lines it logs, signals, and its exit.
//!
//! The contract: on stdout one line `KIND ADDRESS` per bound address and then `ready`; the log on stderr.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::eventually::{SOON, eventually};

/// A running child process; killed when dropped. If the test fails, its log is printed.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    pid: Pid,
    stdout: Lines,
    stderr: Lines,
    log_is_read: Arc<AtomicBool>,
    log_reader: Option<JoinHandle<()>>,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// The path of one of the workspace's programs: beside the test executable's directory, where cargo puts both.
///
/// Fails the test with a sentence when the program has not been built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let profile = here
        .ancestors()
        .find(|dir| dir.join("deps").is_dir())
        .unwrap_or_else(|| panic!("{} is not below a cargo profile directory", here.display()));
    let path = profile.join(name);
    assert!(
        path.is_file(),
        "the program {name} is not at {}: run `cargo build --workspace`, or `cargo test --workspace`, which builds it",
        path.display()
    );
    path
}

impl Program {
    /// Starts `path`; `name` is how the test calls it in messages.
    #[must_use]
    pub fn start(name: &str, path: &Path, args: &[OsString]) -> Self {
        Self::spawn(name, Command::new(path).args(args))
    }

    /// Starts a prepared command (in a namespace, with other limits).
    #[must_use]
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        let (stdout_end, stdout_pipe) = std::io::pipe().unwrap();
        let (stderr_end, stderr_pipe) = std::io::pipe().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout_pipe)
            .stderr(stderr_pipe)
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        // The command holds the pipes' other ends: without this the readers would never see the program's end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let log_is_read = Arc::new(AtomicBool::new(true));
        collect(
            stdout_end,
            Arc::clone(&stdout),
            Arc::new(AtomicBool::new(true)),
        );
        let log_reader = collect(stderr_end, Arc::clone(&stderr), Arc::clone(&log_is_read));
        Self {
            name: name.to_owned(),
            child,
            pid,
            stdout,
            stderr,
            log_is_read,
            log_reader: Some(log_reader),
        }
    }

    /// Waits until it has said `ready`; fails the test when it exits first or is not ready soon.
    pub async fn ready(&mut self) {
        let what = format!("{} says `ready` on stdout", self.name);
        eventually(SOON, &what, async || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended before it was ready: {status}", self.name);
            }
            self.printed()
                .iter()
                .any(|line| line == "ready")
                .then_some(())
        })
        .await;
    }

    /// The address that it printed for `kind` (`visitors`, `visitors-tls`, `tunnels`, `admin`).
    #[must_use]
    pub fn address(&self, kind: &str) -> Option<SocketAddr> {
        self.printed().iter().find_map(|line| {
            let (word, address) = line.split_once(' ')?;
            (word == kind).then(|| address.trim().parse().unwrap())
        })
    }

    /// What it has printed on stdout so far, by line.
    #[must_use]
    pub fn printed(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    /// What it has logged so far, by line.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// The logged lines that contain every one of `words`.
    #[must_use]
    pub fn logged(&self, words: &[&str]) -> Vec<String> {
        let lines = self.stderr.lock().unwrap();
        let matching = lines
            .iter()
            .filter(|line| words.iter().all(|word| line.contains(word)));
        matching.cloned().collect()
    }

    /// Whether some logged line contains `text`.
    #[must_use]
    pub fn log_contains(&self, text: &str) -> bool {
        !self.logged(&[text]).is_empty()
    }

    /// Waits for a logged line that contains every one of `words`, and returns it.
    pub async fn wait_log(&self, words: &[&str]) -> String {
        let what = format!("{} logs a line with {words:?}", self.name);
        eventually(SOON, &what, async || self.logged(words).pop()).await
    }

    /// From the next line on nobody reads its log: the pipe fills up and stays open.
    pub fn stop_reading_log(&self) {
        self.log_is_read.store(false, Ordering::Relaxed);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Stops it where it is (SIGSTOP): its sockets stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen program continue.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end; fails the test when that takes longer than `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        match timeout(limit, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("{} has not ended within {limit:?}", self.name),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its resident memory in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let value = line.unwrap().split_whitespace().nth(1).unwrap();
        value.parse().unwrap()
    }

    /// CPU time that it has used, user and system (resolution 10 ms).
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The command's name, in brackets, may contain spaces: fields are counted after it (proc(5)).
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// How many file descriptors it has open.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid.as_raw_nonzero()))
            .unwrap()
            .count()
    }

    fn proc_file(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid.as_raw_nonzero())).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if thread::panicking() {
            // Its last words are often the ones that matter, and the programs gather lines for 5 ms.
            thread::sleep(Duration::from_millis(50));
            let killed = self.child.start_kill();
            if killed.is_ok() && self.log_is_read.load(Ordering::Relaxed) {
                let _ = self.log_reader.take().map(JoinHandle::join);
            }
            let log = self.stderr.lock().unwrap();
            eprintln!(
                "--- log of {} ({} lines; of its requests the last)",
                self.name,
                log.len()
            );
            let is_request =
                |line: &&String| line.contains(" access ") || line.contains("\"access\"");
            let requests = log.iter().filter(is_request).count();
            let mut skip = requests.saturating_sub(12);
            for line in log.iter() {
                if is_request(&line) && skip > 0 {
                    skip -= 1;
                } else {
                    eprintln!("{}: {line}", self.name);
                }
            }
        }
    }
}

/// What a program that ran to its end said.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

/// Runs a program to its end; fails the test when that takes longer than [`SOON`].
pub async fn run(path: &Path, args: &[OsString]) -> Finished {
    let mut command = Command::new(path);
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(SOON, command.output()).await {
        Ok(output) => output.unwrap(),
        Err(_) => panic!("{} {args:?} has not ended within {SOON:?}", path.display()),
    };
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn collect(from: PipeReader, into: Lines, is_read: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        while lines
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            into.lock().unwrap().push(text);
            line.clear();
            while !is_read.load(Ordering::Relaxed) {
                thread::park();
            }
        }
    })
}
