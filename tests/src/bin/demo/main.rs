//! `demo [TARGET]`: a gateway, an agent and, without TARGET, an app, in one process on loopback, so that a browser or curl
//! can see a request go through a reversed tunnel a moment after the build. Everything is started by the programs' own
//! doors; nothing here is a shortcut past one. Not for production: names, ports and certificates last as long as it runs.

mod app; // what visitors see where no TARGET is given

mod args; // the command line

mod certificates; // made at the start, removed at the end

mod echo; // WebSocket frames sent back

mod first; // the first request, before anybody is told that it works

mod stage; // gateway, agent and app: up, down

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tidegate_gateway::app::Trouble;
use tidegate_shared::args::{USAGE, answer};
use tidegate_shared::log::{self, Format};

use crate::args::Args;
use crate::stage::Ending;

/// How long a slow reader of the log may keep a program that has nothing else to do.
const LAST_LINES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(asked) => return answer("demo", &asked),
    };
    let (code, trouble) = match run(&args) {
        Ok(Ending::Drained) => return ExitCode::SUCCESS,
        // What a shell reports for a program that Ctrl-C ended.
        Ok(Ending::Hurried) => return ExitCode::from(130),
        Err(trouble @ (Trouble::Usage(_) | Trouble::Config(_))) => (USAGE, trouble),
        Err(trouble @ Trouble::Ours(_)) => (1, trouble),
    };
    // Where not even that can be written, the exit status says what there is to say.
    let _unwritable = writeln!(std::io::stderr(), "demo: {trouble}");
    ExitCode::from(code)
}

fn run(args: &Args) -> Result<Ending, Trouble> {
    let sink = log::init(Format::Human, &args.log_level).map_err(Trouble::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::Ours(format!("the runtime could not be started: {error}")))?;
    let ended = runtime.block_on(Box::pin(stage::run(args, &sink)));
    // A name that is still being resolved is no reason to stay.
    runtime.shutdown_background();
    sink.flush(LAST_LINES);
    ended
}
