//! `tidegated`: words → configuration → sockets → run.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tidegate_gateway::app::{App, Trouble};
use tidegate_gateway::config::{Cli, Command, Config, Problem, Shown};
use tidegate_gateway::intent::ask::{self, Whom};
use tidegate_gateway::{list, probe};
use tidegate_shared::args::{self, Variables};
use tidegate_shared::log;
use tidegate_shared::signals::Asked;
use tikv_jemallocator::Jemalloc;

/// A tunnel that idles keeps many small buffers for weeks, and a peak must be given back: jemalloc wastes less of the former
/// than the C library's allocator, and returns the latter by itself. Settings: `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    let (cli, variables): (Cli, _) = match args::read("tidegated", words.clone()) {
        Ok(told) => told,
        Err(status) => return status,
    };
    let outcome =
        match cli.command {
            Command::Run(run) => configured(Config::examine(&run, &words), &variables)
                .and_then(|config| serve(&config)),
            Command::Check(run) => configured(Config::examine(&run, &words), &variables)
                .and_then(|config| check(&config)),
            Command::Config(Shown { effective, run }) => {
                configured(Config::load(&run, &words), &variables)
                    .and_then(|config| say(&config.to_text(effective)))
            }
            Command::Tunnels(asked) => {
                list::tunnels(asked.admin, asked.json).and_then(|text| say(&text))
            }
            Command::Get(asked) => control_of(&asked.whom)
                .and_then(|control| ask::get(&asked, &control))
                .and_then(|text| say(&text)),
            Command::Set(asked) => control_of(&asked.whom)
                .and_then(|control| ask::set(&asked, &control))
                .and_then(|text| say(&text)),
            Command::Probe(asked) => {
                match probe::probe(&asked).and_then(|found| say(&found.text).map(|()| found.any)) {
                    Ok(true) => Ok(()),
                    Ok(false) => return ExitCode::FAILURE,
                    Err(trouble) => Err(trouble),
                }
            }
        };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => complain(&trouble, &variables),
    }
}

/// Where the gateway is asked that `whom` means.
fn control_of(whom: &Whom) -> Result<PathBuf, Trouble> {
    if let Some(control) = &whom.control {
        return Ok(control.clone());
    }
    let Some(file) = &whom.config else {
        return Err(Trouble::Usage(
            "which gateway? Say --control PATH, its control socket, or --config FILE, its configuration with `control`".to_owned(),
        ));
    };
    let control = Config::control_of(file).map_err(Trouble::Config)?;
    control.ok_or_else(|| {
        Trouble::Usage(format!(
            "{} has no `control`, the socket at which its gateway would answer; add it, or say --control PATH here",
            file.display()
        ))
    })
}

/// What is wrong with the configuration names the variables that it comes from.
fn configured(
    read: Result<Config, Vec<Problem>>,
    variables: &Variables,
) -> Result<Config, Trouble> {
    read.map_err(|mut problems| {
        for problem in problems.iter_mut().filter(|problem| problem.spot.is_none()) {
            let whole = variables.name_in(&problem.to_string());
            *problem = Problem::plain(whole);
        }
        Trouble::Config(problems)
    })
}

/// One line for each mistake.
fn complain(trouble: &Trouble, variables: &Variables) -> ExitCode {
    let (code, said) = match trouble {
        Trouble::Usage(mistake) => (args::USAGE, variables.name_in(mistake)),
        Trouble::Config(_) => (args::USAGE, trouble.to_string()),
        Trouble::Ours(fault) => (1, fault.clone()),
    };
    let mut out = std::io::stderr();
    for line in said.lines() {
        // Where not even that can be written, the exit status says what there is to say.
        if writeln!(out, "tidegated: {line}").is_err() {
            break;
        }
    }
    ExitCode::from(code)
}

/// Says that all is fine, and what of it is not advised.
fn check(config: &Config) -> Result<(), Trouble> {
    let mut text = String::new();
    for advice in config.advice() {
        text.push_str(&format!("advice: {advice}\n"));
    }
    let (listeners, routes) = (
        config.listeners.len(),
        config.routes.len() + config.passed.len(),
    );
    let backends = config.backends.len();
    say(&format!(
        "{text}ok: {listeners} for visitors, {routes} routes, {backends} backends\n"
    ))
}

fn serve(config: &Config) -> Result<(), Trouble> {
    let sink = log::init(config.run.log, &config.run.log_level).map_err(Trouble::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::Ours(format!("the runtime could not be started: {error}")))?;
    let ended = runtime.block_on(async {
        let mut asked = Asked::listen();
        let app = Box::pin(App::bind(config, sink.clone())).await?;
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
