//! The command line of `tidegate-certs`: what it is told, and what it says. Others script against it: options, file names and
//! exit codes stay. The work is `ca`'s, `store`'s and `show`'s. Called by `main`.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{ArgGroup, Parser, Subcommand};
use thiserror::Error;
use tidegate_shared::args;
use tidegate_shared::tls::TlsFault;

use crate::ca::{AUTHORITY_VALIDITY, Authority, Bundle, CaFault, Subject, Validity};
use crate::store::{self, StoreFault};
use crate::{peer, show};

/// Exit code for a fault of ours or of the machine's.
const OUR_FAULT: u8 = 1;

/// Makes and shows the certificates that Tidegate's gateways and agents know each other by.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate-certs",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a private authority: DIR/ca.crt for everyone, DIR/ca.key for nobody else.
    Init {
        /// Where the authority is to live; created if missing. An existing authority is never overwritten.
        #[arg(long, value_name = "DIR", env = "TIDEGATE_CERTS_DIR")]
        dir: PathBuf,
    },
    /// Issue an identity: DIR/NAME.pem, certificate then key, after the first name. Issuing again renews it.
    #[command(group(ArgGroup::new("whose").required(true).args(["gateway", "agent"])))]
    Issue {
        /// Where the authority lives, and the identity is written to.
        #[arg(long, value_name = "DIR", env = "TIDEGATE_CERTS_DIR")]
        dir: PathBuf,
        /// For a gateway: the names and IP addresses that agents dial it by, separated by commas.
        #[arg(
            long,
            value_name = "NAME[,NAME|IP…]",
            value_delimiter = ',',
            env = "TIDEGATE_CERTS_GATEWAY"
        )]
        gateway: Vec<String>,
        /// For an agent: the host names that it serves, separated by commas; *.example.com serves all one label below.
        #[arg(
            long,
            value_name = "NAME[,NAME…]",
            value_delimiter = ',',
            env = "TIDEGATE_CERTS_AGENT"
        )]
        agent: Vec<String>,
        /// How many days the identity is valid; never longer than the authority.
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500), env = "TIDEGATE_CERTS_DAYS")]
        days: u32,
    },
    /// Tell what the certificates in a PEM file say, and what the gateway would file them under.
    Show {
        /// The file: an identity, a certificate, or an authority's.
        #[arg(value_name = "FILE", env = "TIDEGATE_CERTS_FILE")]
        file: PathBuf,
    },
}

/// Runs the program with `args`, its own name included, and prints what there is to say.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (args, variables): (Args, _) = match args::read("tidegate-certs", args) {
        Ok(told) => told,
        Err(status) => return status,
    };
    let outcome = execute(&args.command);
    match outcome {
        Ok(text) => print(&text),
        Err(fault) => {
            // Where stderr is closed nobody can be told.
            let _ = writeln!(
                io::stderr(),
                "tidegate-certs: {}",
                variables.name_in(&fault.to_string())
            );
            ExitCode::from(if fault.is_users() {
                args::USAGE
            } else {
                OUR_FAULT
            })
        }
    }
}

fn execute(command: &Command) -> Result<String, CliFault> {
    match command {
        Command::Init { dir } => init(dir),
        Command::Issue {
            dir,
            gateway,
            agent,
            days,
        } => issue(dir, gateway, agent, *days),
        Command::Show { file } => Ok(show::describe(file, SystemTime::now())?),
    }
}

fn init(dir: &Path) -> Result<String, CliFault> {
    let authority = store::init(dir, Validity::lasting(AUTHORITY_VALIDITY))?;
    Ok(format!(
        "wrote {} (give it to gateways and agents as --ca) and {} (keep it to yourself), valid until {}\n",
        dir.join(store::CA_CERTIFICATE).display(),
        dir.join(store::CA_KEY).display(),
        show::date(authority.not_after()),
    ))
}

fn issue(dir: &Path, gateway: &[String], agent: &[String], days: u32) -> Result<String, CliFault> {
    let authority = store::open(dir)?;
    let validity = Validity::days(days);
    let (kind, subject, bundle) = match gateway.first() {
        Some(first) => {
            let subject = Subject::dns_or_address(first)?;
            (
                "gateway",
                subject,
                authority.issue_gateway(gateway, validity)?,
            )
        }
        None => {
            // clap demands one of the two; an empty name is told as such.
            let first = agent.first().map_or("", String::as_str);
            (
                "agent",
                Subject::dns(first)?,
                authority.issue_agent(agent, validity)?,
            )
        }
    };
    let before = store::names(&dir.join(store::file_name(&subject)));
    let path = store::write_identity(dir, &subject, &bundle)?;
    let lost = lost(before, &store::names(&path));
    let mut text = format!(
        "wrote {} for the {kind} {subject}, valid until {}\n",
        path.display(),
        show::date(bundle.not_after())
    );
    for note in lost.into_iter().chain(notes(kind, &authority, &bundle)) {
        text.push_str("note: ");
        text.push_str(&note);
        text.push('\n');
    }
    Ok(text)
}

/// What to say of the names that an identity had before it was issued again, and has no longer.
fn lost(mut before: Vec<String>, after: &[String]) -> Option<String> {
    before.retain(|name| !after.contains(name));
    (!before.is_empty()).then(|| {
        format!(
            "the identity that it replaces also had {}; to keep what is missing, issue it again with all its names",
            before.join(", ")
        )
    })
}

fn notes(kind: &str, authority: &Authority, bundle: &Bundle) -> Vec<String> {
    let mut notes = Vec::new();
    if bundle.clamped() {
        notes.push(format!(
            "it ends with the authority, {}, and earlier than asked",
            show::date(authority.not_after())
        ));
    }
    let wildcards = peer::PeerCertificate::read(bundle.leaf(), true)
        .is_ok_and(|read| read.names.iter().any(|name| name.is_wildcard()));
    if kind == "agent" && wildcards {
        notes
            .push("it holds a wildcard: the gateway accepts it only with --allow-wildcards".into());
    }
    notes
}

/// A reader who has seen enough (`show … | head`) is no fault.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(io::stderr(), "tidegate-certs: cannot write to stdout: {e}");
            ExitCode::from(OUR_FAULT)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Why the program ends with another code than 0.
#[derive(Debug, Error)]
enum CliFault {
    #[error(transparent)]
    Store(#[from] StoreFault),
    #[error(transparent)]
    Tls(#[from] TlsFault),
}

impl From<CaFault> for CliFault {
    fn from(fault: CaFault) -> Self {
        Self::Store(fault.into())
    }
}

impl CliFault {
    fn is_users(&self) -> bool {
        match self {
            Self::Store(fault) => fault.is_users(),
            Self::Tls(TlsFault::Read { source, .. }) => store::is_users(source.kind()),
            Self::Tls(fault) => !matches!(fault, TlsFault::Build(_)),
        }
    }
}
