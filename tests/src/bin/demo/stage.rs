//! The demo's life: certificates, gateway, app and agent up, one request through them all, the lines that say what to open,
//! and everything down again at the first signal.

use std::io::{self, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::time::Duration;

use tidegate_agent::agent::Agent;
use tidegate_agent::config::Config;
use tidegate_agent::target::{Place, Speaks, Target};
use tidegate_gateway::app::{App as Gateway, Trouble};
use tidegate_shared::drain::Drain;
use tidegate_shared::log::Sink;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::app::{App, Facts};
use crate::args::{Args, NAME, USUAL};
use crate::certificates::Certificates;
use crate::first::{self, Answer};

/// For the tunnels to come up. On one machine they need a tenth of a second.
const UP_WITHIN: Duration = Duration::from_secs(15);

/// For what the own app has in hand at the end.
const APP_DRAIN: Duration = Duration::from_secs(1);

/// How the demo ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Asked once; what was in flight is finished.
    Drained,
    /// Asked twice.
    Hurried,
}

/// Where the gateway listens, port 0 resolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    pub(crate) visitors: SocketAddr,
    pub(crate) tunnels: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// Runs the demo until Ctrl-C or SIGTERM.
///
/// # Errors
/// What does not come up, and what to do about it.
pub(crate) async fn run(args: &Args, sink: &Sink) -> Result<Ending, Trouble> {
    let mut signals = Signals::new().map_err(|error| ours("signals", &error))?;
    if let Some(target) = &args.target {
        first::reach(target).await.map_err(|error| {
            Trouble::Usage(format!(
                "no app can be reached at TARGET {target}: {error}; start it first, or leave TARGET out"
            ))
        })?;
    }
    let certificates = Certificates::make()?;
    let (gateway, note) = gateway(args, &certificates, sink).await?;
    let ports = Ports::of(&gateway)?;
    let drain = Drain::new();
    let own = match args.target {
        Some(_) => None,
        None => Some(own_app(ports, &drain).await?),
    };
    let target = match (&args.target, own) {
        (Some(target), _) => target.clone(),
        (None, own) => Target {
            place: Place::Here(own.map_or(0, |at| at.port())),
            speaks: Speaks::Http,
        },
    };
    let told = Args::agent(&target, ports.tunnels, &certificates)?;
    let config = Config::new(&told).map_err(Trouble::Usage)?;
    let agent = Agent::start(config).map_err(|error| ours("the agent", &error))?;

    let (up, over) = (Notify::new(), Notify::new());
    let attend = |line: &str| {
        if line == "ready" {
            up.notify_one();
        }
        Ok(())
    };
    let mut serving = pin!(async {
        let finish = async {
            over.notified().await;
            drain.finish(APP_DRAIN).await
        };
        // A second signal ends the demo as a whole.
        let mut once = Some(drain.finishing());
        let asked = async move || match once.take() {
            Some(finishing) => finishing.await,
            None => std::future::pending().await,
        };
        let (gateway, agent) = (gateway.run(asked), agent.run(attend));
        tokio::join!(Box::pin(gateway), Box::pin(agent), finish).1
    });
    let mut opening = pin!(async {
        timeout(UP_WITHIN, up.notified()).await.map_err(|_| {
            Trouble::Ours(format!(
                "the agent has no tunnels after {UP_WITHIN:?}; --log-level info shows why"
            ))
        })?;
        works(args, ports).await?;
        say(&lines(args, ports, own, told.tunnelling.tunnels, note))
            .map_err(|error| ours("output", &error))
    });
    let (mut opened, mut asked) = (false, false);
    loop {
        tokio::select! {
            ended = &mut serving => {
                return ended.map(|()| Ending::Drained).map_err(|error| ours("the agent", &error));
            }
            outcome = &mut opening, if !opened && !asked => {
                outcome?;
                opened = true;
            }
            () = signals.next() => {
                if asked {
                    return Ok(Ending::Hurried);
                }
                asked = true;
                over.notify_one();
            }
        }
    }
}

/// Opens the gateway; where nobody said which port, another one if the usual is taken, with a line that says so.
async fn gateway(
    args: &Args,
    certificates: &Certificates,
    sink: &Sink,
) -> Result<(Gateway, Option<String>), Trouble> {
    let open = async |at| {
        let config = args.gateway(at, certificates)?;
        Box::pin(Gateway::bind(&config, sink.clone())).await
    };
    if let Some(at) = args.visitors {
        return Ok((open(at).await?, None));
    }
    // Browsers try [::1] first: whoever has the port there would get our visitors.
    let elsewhere = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), USUAL.port());
    let in_use = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let taken = [USUAL, elsewhere]
        .into_iter()
        .any(|at| TcpListener::bind(at).is_err_and(in_use));
    if !taken {
        return Ok((open(USUAL).await?, None));
    }
    let note = format!(
        "port {} is taken, so this is another one (--visitors chooses)",
        USUAL.port()
    );
    let gateway = open(SocketAddr::new(USUAL.ip(), 0)).await?;
    Ok((gateway, Some(note)))
}

async fn own_app(ports: Ports, drain: &Drain) -> Result<SocketAddr, Trouble> {
    let app = App::bind().await.map_err(|error| ours("the app", &error))?;
    let at = app.address().map_err(|error| ours("the app", &error))?;
    let _waited_for = drain.spawn(app.serve(Facts { ports, app: at }, drain.clone()));
    Ok(at)
}

/// One visitor's request, before others are invited.
async fn works(args: &Args, ports: Ports) -> Result<(), Trouble> {
    let answer = first::ask(ports.visitors)
        .await
        .map_err(|error| ours("the first request", &error))?;
    match (answer, &args.target) {
        (Answer::Apps, _) | (Answer::None, Some(_)) => Ok(()),
        (Answer::None, None) => Err(Trouble::Ours(
            "the demo's own app does not answer; --log-level info shows why".into(),
        )),
        (Answer::Failed { reason, text }, Some(target)) if reason.starts_with("app-") => {
            Err(Trouble::Usage(format!(
                "the app at TARGET {target} is there, but no request gets through ({reason}): {text}"
            )))
        }
        (Answer::Failed { reason, text }, _) => Err(Trouble::Ours(format!(
            "the first request failed ({reason}): {text}"
        ))),
    }
}

fn lines(
    args: &Args,
    ports: Ports,
    own: Option<SocketAddr>,
    tunnels: u16,
    note: Option<String>,
) -> String {
    let url = format!("http://{NAME}:{}/", ports.visitors.port());
    let app = match (&args.target, own) {
        (Some(target), _) => format!("yours, at {target}"),
        (None, own) => format!(
            "its own, at http://{}/",
            own.map(|at| at.to_string()).unwrap_or_default()
        ),
    };
    let note = note.map(|note| format!("            {note}\n"));
    format!(
        "Tidegate demo: visitor -> gateway -> tunnel -> agent -> app, all on this machine\n\n\
         \x20 open      {url}\n{note}\
         \x20 or        curl {url}\n\n\
         \x20 gateway   visitors {visitors}, tunnels {of_tunnels}, metrics http://{admin}/metrics\n\
         \x20 agent     {NAME}, {tunnels} tunnels\n\
         \x20 app       {app}\n\n\
         Ctrl-C ends it.\n\
         ready\n",
        note = note.unwrap_or_default(),
        visitors = ports.visitors,
        of_tunnels = ports.tunnels,
        admin = ports.admin,
    )
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn ours(what: &str, error: &io::Error) -> Trouble {
    Trouble::Ours(format!("{what}: {error}"))
}

impl Ports {
    /// Reads what the gateway prints.
    fn of(gateway: &Gateway) -> Result<Self, Trouble> {
        let printed = gateway.addresses().to_string();
        let find = |what: &str| {
            printed
                .lines()
                .find_map(|line| line.strip_prefix(what)?.trim().parse().ok())
                .ok_or_else(|| {
                    Trouble::Ours(format!("the gateway does not say where its {what} are"))
                })
        };
        Ok(Self {
            visitors: find("visitors ")?,
            tunnels: find("tunnels ")?,
            admin: find("admin ")?,
        })
    }
}

/// What asks a program to finish.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _any = self.terminate.recv() => {}
            _any = self.interrupt.recv() => {}
        }
    }
}
