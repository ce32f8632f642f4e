//! `tidegated set` and `tidegated get`: ask a running gateway through its control socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tidegate_shared::args::some_time;

use super::talk::{Answer, Asked, Change, Order, Place, Row, Which};
use crate::app::Trouble;
use crate::list::columns;

const PATIENCE: Duration = Duration::from_secs(15);

/// Longest answer that is read, in octets.
const LONGEST: u64 = 64 * 1024 * 1024;

/// Which gateway is asked.
#[derive(Debug, Args)]
pub struct Whom {
    /// The gateway's control socket (its --control).
    #[arg(long, value_name = "PATH", env = "TIDEGATE_CONTROL")]
    pub control: Option<PathBuf>,
    /// The gateway's configuration file, whose `control` says where its socket is.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// What to show.
#[derive(Debug, Args)]
pub struct Get {
    /// A backend, or one of its servers as BACKEND/SERVER; all of them unless given.
    #[arg(value_name = "WHICH")]
    pub which: Option<Which>,
    /// Print JSON, one object per server in a list.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub whom: Whom,
}

/// What is to hold.
#[derive(Debug, Args)]
pub struct Set {
    /// The server, as `tidegated get` lists it.
    #[arg(value_name = "BACKEND/SERVER")]
    pub place: Place,
    /// drain: no new requests. maintenance: nor checks, and connections that rest are closed. weight=N: another share,
    /// 0 to 256; weight=declared: its own again. ready: neither drained nor in maintenance.
    #[arg(value_name = "CHANGE")]
    pub change: Change,
    /// Take it back after this; until somebody does unless given.
    #[arg(long = "for", value_name = "TIME", value_parser = some_time)]
    pub within: Option<Duration>,
    /// Why, for the log, the state file and whoever looks.
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
    #[command(flatten)]
    pub whom: Whom,
}

/// The table of servers.
///
/// # Errors
/// Where there is no gateway, or no such server.
pub fn get(asked: &Get, control: &Path) -> Result<String, Trouble> {
    let which = asked.which.clone().unwrap_or_default();
    match ask(control, &Asked::Get(which))? {
        Answer::Servers(rows) if asked.json => serde_json::to_string(&rows)
            .map(|text| text + "\n")
            .map_err(|error| Trouble::Ours(error.to_string())),
        Answer::Servers(rows) => Ok(table(&rows)),
        other => Err(refused(other)),
    }
}

/// Has a server drained, or whatever else was asked. The value is what holds.
///
/// # Errors
/// Where there is no gateway, or no such server; and where it holds and could not be saved.
pub fn set(asked: &Set, control: &Path) -> Result<String, Trouble> {
    if matches!(asked.change, Change::Ready | Change::Weight(None)) && asked.within.is_some() {
        return Err(Trouble::Usage(
            "what is declared holds for ever; leave --for out".to_owned(),
        ));
    }
    let who = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|who| !who.is_empty()));
    let order = Order {
        place: asked.place.clone(),
        change: asked.change,
        seconds: asked.within.map(|within| within.as_secs().max(1)),
        why: asked.why.clone(),
        who,
    };
    match ask(control, &Asked::Set(order))? {
        Answer::Done {
            said,
            unsaved: None,
        } => Ok(said + "\n"),
        Answer::Done {
            said,
            unsaved: Some(why),
        } => Err(Trouble::Ours(format!(
            "{said}; but it is not in the state file and ends with the gateway: {why}"
        ))),
        other => Err(refused(other)),
    }
}

fn refused(answer: Answer) -> Trouble {
    match answer {
        Answer::Refused(why) => Trouble::Usage(why),
        Answer::Servers(_) | Answer::Done { .. } => Trouble::Ours(
            "the gateway answered something else than what was asked; is it of the same version?"
                .to_owned(),
        ),
    }
}

fn ask(control: &Path, asked: &Asked) -> Result<Answer, Trouble> {
    let shown = control.display();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => Trouble::Usage(format!(
            "{shown} may be used by root and by the user that runs the gateway: {error}"
        )),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Trouble::Ours(format!(
            "what listens at {shown} has not answered within {PATIENCE:?}"
        )),
        _ => Trouble::Ours(format!(
            "no gateway answers at {shown}: {error}; start it with --control {shown}, or say --control here with its socket"
        )),
    };
    let strange = |error: serde_json::Error| {
        Trouble::Ours(format!(
            "what answers at {shown} is no gateway's control socket: {error}"
        ))
    };
    let mut stream = UnixStream::connect(control).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut question = serde_json::to_vec(asked).map_err(strange)?;
    question.push(b'\n');
    stream.write_all(&question).map_err(failed)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(LONGEST))
        .read_until(b'\n', &mut answer)
        .map_err(failed)?;
    serde_json::from_slice(&answer).map_err(strange)
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "there are no backends\n".to_owned();
    }
    let titles = [
        "BACKEND/SERVER",
        "ADDRESS",
        "STATE",
        "WEIGHT",
        "IN FLIGHT",
        "CONNECTIONS",
        "REQUESTS",
        "WHY",
    ];
    let mut lines = vec![titles.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let notes = row.mode.iter().chain(&row.weighed);
        let notes = notes.map(ToString::to_string);
        let why: Vec<String> = row.fault.clone().into_iter().chain(notes).collect();
        [
            format!("{}/{}", row.backend, row.server),
            row.address.clone(),
            state(row),
            weight(row),
            row.in_flight.to_string(),
            row.connections.to_string(),
            row.requests.to_string(),
            why.join("; "),
        ]
    }));
    columns(&lines)
}

/// Whether it is used, in words.
fn state(row: &Row) -> String {
    let mut state = row.state.clone();
    if row.backup {
        state.push_str(", backup");
    }
    if let Some(priority) = row.priority {
        state.push_str(&format!(", priority {priority}"));
    }
    state
}

/// Its weight: what is asked, of what is declared; while it starts slowly, what it gets of that.
fn weight(row: &Row) -> String {
    let whole = if row.weight == row.declared_weight {
        row.weight.to_string()
    } else {
        format!("{} of {}", row.weight, row.declared_weight)
    };
    let effective = row.effective_weight;
    if effective == 0.0 || effective == f64::from(row.weight) {
        return whole;
    }
    format!("{effective:.2} of {whole}")
}
