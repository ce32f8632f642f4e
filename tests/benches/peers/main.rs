//! Tidegate beside every peer that this machine has, on the same app, in turns; prints tables with ratios.
//!
//!     cargo bench -p tidegate-tests --bench peers                       all of it, about 40 minutes
//!     cargo bench -p tidegate-tests --bench peers -- --only small,bulk  some of it
//!     cargo bench -p tidegate-tests --bench peers -- --quick            a minute: does it still run?
//!
//! Builds Tidegate's own programs first. HAProxy: `tests/peers/haproxy.sh .peers/haproxy`; rathole: on PATH, or in
//! `TIDEGATE_RATHOLE`; nginx (its stream module among it), wrk, curl: on PATH. Whatever is missing is left out, and the head of the output says so.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the tables are what this program is for"
)]

mod app;
mod bulk;
mod chain;
mod distance;
mod haproxy;
mod http;
mod idle;
mod limits;
mod link;
mod load;
mod nginx;
mod plain;
mod process;
mod rathole;
mod relay;
mod report;
mod setting;
mod small;
mod stall;
mod tcp;
mod tidegate;
mod transfer;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::setting::Setting;

/// Measures Tidegate beside the peers that are found.
#[derive(Debug, Parser)]
struct Options {
    /// Which tables; all unless said
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Rounds that count, each with one measurement of every peer
    #[arg(long, value_name = "N", default_value_t = 5)]
    pairs: usize,
    /// Tunnels in the idle table
    #[arg(long, value_name = "N", default_value_t = 1000)]
    idle_tunnels: usize,
    /// One short round of everything: shows that it runs, its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Measure the programs in this folder, and build none
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Given by `cargo bench` to every benchmark; has no meaning here
    #[arg(long, hide = true)]
    bench: bool,
    /// `app`: be the app behind the chains
    #[arg(hide = true)]
    role: Option<Role>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Small,
    Bulk,
    Distance,
    Idle,
    Stall,
    Plain,
    Limits,
    Tcp,
}

impl Part {
    fn measure(self, setting: &Setting) -> Result<()> {
        match self {
            Self::Small => small::measure(setting),
            Self::Bulk => bulk::measure(setting),
            Self::Distance => distance::measure(setting),
            Self::Idle => idle::measure(setting),
            Self::Stall => stall::measure(setting),
            Self::Plain => plain::measure(setting),
            Self::Limits => limits::measure(setting),
            Self::Tcp => tcp::measure(setting),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    App,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    if options.role.is_some() {
        return app::serve();
    }
    let programs = options.programs.map_or_else(build, Ok)?;
    let rounds = if options.quick {
        1
    } else {
        options.pairs.max(1)
    };
    ensure!(
        options.idle_tunnels > 1,
        "--idle-tunnels: at least 2, since what one costs is taken off"
    );
    let setting = Setting::prepare(&programs, rounds, options.idle_tunnels, options.quick)?;
    print_head(&setting)?;
    for part in Part::value_variants() {
        if options.only.is_empty() || options.only.contains(part) {
            part.measure(&setting)
                .with_context(|| format!("the table '{part:?}' could not be made"))?;
        }
    }
    Ok(())
}

/// Builds Tidegate's programs as released, and gives the folder that they are in: the one above this program's own.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // All of the workspace, as `cargo build --release` does, so that libraries are built once, with the same features.
    let built = Command::new(cargo)
        .args(["build", "--release", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("cargo cannot be started; run this by `cargo bench`")?;
    ensure!(built.success(), "Tidegate's programs do not build");
    let own = std::env::current_exe()?;
    let release = own
        .parent()
        .and_then(Path::parent)
        .context("this program lies outside a target folder")?;
    Ok(release.to_path_buf())
}

/// Date, machine and peers: without them a figure is worth nothing.
fn print_head(setting: &Setting) -> Result<()> {
    let line = |program: &str, args: &[&str]| {
        process::find(program)
            .and_then(|program| process::output(&program, args).ok())
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_else(|| "unknown".to_owned())
    };
    let cores = process::cores();
    let names: Vec<&str> = setting
        .peers
        .iter()
        .map(|peer| peer.name.as_str())
        .collect();
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    println!(
        "Measured on {} with Linux {} on {cores} cores,",
        line("date", &["-u", "+%Y-%m-%d"]),
        line("uname", &["-r"])
    );
    println!(
        "commit {}: {}.",
        line("git", &["describe", "--always", "--dirty"]),
        names.join(", ")
    );
    println!(
        "Load by {}. {} in turns, loopback; each ratio is ours by theirs within a round, median over the rounds; in brackets, where there are any, the least and the most.",
        load::tool(),
        if setting.rounds == 1 {
            "1 round".to_owned()
        } else {
            format!("{} rounds", setting.rounds)
        },
    );
    println!(
        "Command: `cargo bench -p tidegate-tests --bench peers -- {}`\n",
        args.join(" ")
    );
    Ok(())
}
