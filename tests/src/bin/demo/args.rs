//! The command line of the demo, and those that it gives to the gateway and to the agent. The demo's own environment
//! variables start with `TIDEGATE_DEMO_`; the programs' are not read, so that a service's settings cannot leak in.

use std::ffi::OsString;
use std::net::SocketAddr;

use clap::{CommandFactory, FromArgMatches, Parser};
use tidegate_agent::cli::{self as agent, Http};
use tidegate_agent::target::Target;
use tidegate_gateway::app::Trouble;
use tidegate_gateway::config as gateway;
use tidegate_shared::args::listen_loopback;

use crate::certificates::Certificates;

/// The name under which visitors reach the app. Browsers and curl take every name below `localhost` for this machine.
pub(crate) const NAME: &str = "demo.localhost";

/// Where visitors come unless they are told otherwise.
pub(crate) const USUAL: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// Time for what is in flight at the end. Nobody waits long for a demo.
const DRAIN: &str = "2s";

/// Shows Tidegate at work on this machine: a gateway, an agent with tunnels to it, and an app behind the agent.
///
/// Prints what to open in a browser or to fetch with curl, and runs until Ctrl-C. Certificates are made at the start,
/// in a private directory, and removed at the end.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
pub(crate) struct Args {
    /// An app of yours to show: 3000, host:3000, http://host:3000, https://host or unix:/path. Left out, the demo brings
    /// its own.
    #[arg(value_name = "TARGET", env = "TIDEGATE_DEMO_TARGET")]
    pub(crate) target: Option<Target>,

    /// Where visitors come, on this machine: 127.0.0.1, `[::1]` or every address (0.0.0.0), and a port. Left out, it is
    /// 127.0.0.1:8080, or another port where that one is taken.
    #[arg(long, value_name = "ADDR", env = "TIDEGATE_DEMO_VISITORS", value_parser = visitors)]
    pub(crate) visitors: Option<SocketAddr>,

    /// What the gateway and the agent log, on standard error: error, warn, info, debug or trace. From info on, each
    /// request has its line too.
    #[arg(
        long,
        value_name = "LEVEL",
        env = "TIDEGATE_DEMO_LOG_LEVEL",
        default_value = "warn"
    )]
    pub(crate) log_level: String,
}

fn visitors(text: &str) -> Result<SocketAddr, String> {
    let address = listen_loopback(text)?;
    let ip = address.ip();
    if ip == USUAL.ip() || ip == std::net::Ipv6Addr::LOCALHOST || ip.is_unspecified() {
        return Ok(address);
    }
    Err(format!(
        "{NAME} is 127.0.0.1 and [::1], so visitors would not find {address}; write it like 127.0.0.1:{}",
        address.port()
    ))
}

impl Args {
    fn quiet(&self) -> bool {
        matches!(self.log_level.as_str(), "off" | "error" | "warn")
    }

    /// What `tidegated run` is told.
    pub(crate) fn gateway(
        &self,
        visitors: SocketAddr,
        certificates: &Certificates,
    ) -> Result<gateway::Config, Trouble> {
        let mut argv: Vec<OsString> = vec![
            "tidegated".into(),
            "run".into(),
            "--visitors".into(),
            visitors.to_string().into(),
        ];
        for listener in ["--tunnels", "--admin"] {
            argv.extend([listener.into(), "127.0.0.1:0".into()]);
        }
        argv.extend(["--identity".into(), certificates.gateway().into()]);
        argv.extend(["--ca".into(), certificates.ca().into()]);
        argv.extend(["--drain".into(), DRAIN.into()]);
        if self.quiet() {
            argv.push("--no-access-log".into());
        }
        gateway::Config::alone(&argv).map_err(Trouble::Config)
    }

    /// What `tidegate http` is told.
    pub(crate) fn agent(
        target: &Target,
        gateway: SocketAddr,
        certificates: &Certificates,
    ) -> Result<Http, Trouble> {
        let mut argv: Vec<OsString> =
            vec!["tidegate".into(), "http".into(), target.to_string().into()];
        argv.extend(["--gateway".into(), gateway.to_string().into()]);
        argv.extend(["--identity".into(), certificates.agent().into()]);
        argv.extend(["--ca".into(), certificates.ca().into()]);
        argv.extend(["--drain".into(), DRAIN.into()]);
        let agent::Command::Http(mut told) = parse::<agent::Cli>(argv)?.command else {
            unreachable!("`http` was written above")
        };
        // As it was written: `3000` is this machine by IPv4 and by IPv6, which its text as a URL does not say.
        told.target = target.clone();
        Ok(*told)
    }
}

/// Reads an argument vector as the program itself would, but for its environment variables.
fn parse<Cli: CommandFactory + FromArgMatches>(argv: Vec<OsString>) -> Result<Cli, Trouble> {
    Cli::command()
        .mut_subcommands(|command| command.mut_args(|arg| arg.env(None::<&'static str>)))
        .try_get_matches_from(argv)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches))
        .map_err(|error| Trouble::Ours(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_come_where_the_name_leads() {
        for (text, meant) in [
            ("8081", "127.0.0.1:8081"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
        ] {
            assert_eq!(visitors(text).unwrap().to_string(), meant, "{text}");
        }
        for wrong in ["192.0.2.1:80", "127.0.0.2:80", "demo", ""] {
            assert!(visitors(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_programs_read_what_the_demo_writes() {
        let certificates = Certificates::make().unwrap();
        let args = Args::parse_from(["demo", "--log-level", "info"]);
        let run = args.gateway(USUAL, &certificates).unwrap().run;
        assert_eq!(run.visitors, Some(USUAL));
        assert!(run.identity.is_some() && !run.no_access_log);
        let target: Target = "3000".parse().unwrap();
        let told = Args::agent(&target, "127.0.0.1:8443".parse().unwrap(), &certificates).unwrap();
        assert_eq!(told.tunnelling.gateway, ["127.0.0.1:8443"]);
        assert_eq!(told.target, target);
        assert!(Args::parse_from(["demo"]).quiet());
    }
}
