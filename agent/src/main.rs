//! `tidegate`: from the command line to the agent, and from its end to an exit status: 0, 64 for a mistake of the user's, 1
//! for what the system refused. Nothing is decided here that a test could not reach elsewhere.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use tidegate_agent::agent;
use tidegate_agent::cli::{Cli, Command, Tunnelling};
use tidegate_agent::config::Config;
use tidegate_shared::args::{self, USAGE, Variables};
use tidegate_shared::log;
use tikv_jemallocator::Jemalloc;

/// How long a slow reader of the log may keep a program that has nothing else to do.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A tunnel that idles keeps many small buffers for weeks, and a peak must be given back: jemalloc wastes less of the former
/// than the C library's allocator, and returns the latter by itself. Settings: `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let (cli, variables): (Cli, _) = match args::read("tidegate", std::env::args_os()) {
        Ok(told) => told,
        Err(status) => return status,
    };
    match cli.command {
        Command::Http(told) => run(&told.tunnelling, || Config::new(&told), &variables),
        Command::Tcp(told) => run(&told.tunnelling, || Config::tcp(&told), &variables),
    }
}

fn run(
    told: &Tunnelling,
    config: impl FnOnce() -> Result<Config, String>,
    variables: &Variables,
) -> ExitCode {
    let log = match log::init(told.log, &told.filter()) {
        Ok(log) => log,
        Err(mistake) => return complain(&variables.name_in(&mistake), USAGE),
    };
    let status = match config() {
        Ok(config) => agent::run(config, print).map_or_else(
            |error| complain(&error.to_string(), 1),
            |()| ExitCode::SUCCESS,
        ),
        Err(mistake) => complain(&variables.name_in(&mistake), USAGE),
    };
    log.flush(LAST_LINES);
    status
}

fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn complain(text: &str, status: u8) -> ExitCode {
    // Where not even that can be written, the exit status says what there is to say.
    let _unwritable = writeln!(io::stderr(), "tidegate: {text}");
    ExitCode::from(status)
}
