//! `tidegated`: arguments → sockets → run.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tidegate_gateway::app::{App, Trouble};
use tidegate_gateway::config::{Cli, Command, Run};
use tidegate_gateway::list;
use tidegate_shared::signals::Asked;
use tidegate_shared::{args, log};
use tikv_jemallocator::Jemalloc;

/// A tunnel that idles keeps many small buffers for weeks, and a peak must be given back: jemalloc wastes less of the former
/// than the C library's allocator, and returns the latter by itself. Settings: `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let (cli, variables): (Cli, _) = match args::read("tidegated", std::env::args_os()) {
        Ok(told) => told,
        Err(status) => return status,
    };
    let outcome = match cli.command {
        Command::Run(run) => serve(&run),
        Command::Tunnels(asked) => {
            list::tunnels(asked.admin, asked.json).and_then(|text| say(&text))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            let (code, said) = match trouble {
                Trouble::Usage(mistake) => (args::USAGE, variables.name_in(&mistake)),
                Trouble::Ours(fault) => (1, fault),
            };
            writeln!(std::io::stderr(), "tidegated: {said}")
                .map_or(ExitCode::FAILURE, |()| ExitCode::from(code))
        }
    }
}

fn serve(run: &Run) -> Result<(), Trouble> {
    let sink = log::init(run.log, &run.log_level).map_err(Trouble::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::Ours(format!("the runtime could not be started: {error}")))?;
    let ended = runtime.block_on(async {
        let mut asked = Asked::listen();
        let app = App::bind(run, sink.clone())?;
        say(&format!("{}\n", app.addresses()))?;
        app.run(async || {
            asked.to_end().await;
        })
        .await;
        Ok(())
    });
    sink.flush(Duration::from_secs(1));
    ended
}

fn say(text: &str) -> Result<(), Trouble> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Trouble::Ours(format!("standard output cannot be written: {error}")))
}
