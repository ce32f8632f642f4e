//! `tidegated probe HOST:PORT`: what a port takes of plain HTTP, HTTP/2 in clear text, TLS and PROXY headers, found out by trying, and what to configure
//! for it. Speaks to nobody but that port, asks for no more than a head, and believes no certificate.

mod attempt; // one connection

mod told; // what comes back on it

pub mod verdict; // what it means

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tidegate_shared::args::some_time;
use tidegate_shared::origin::dial::plain;
use tidegate_shared::tls::{AppTrust, app_client};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::app::Trouble;
use attempt::Trial;
use verdict::{Found, Inner, WAYS, advice, taken};

/// Which port to try, and how.
#[derive(Debug, Args)]
pub struct Probe {
    /// The port to try, as app.example.com:443 or 192.0.2.7:443.
    #[arg(value_name = "HOST:PORT", value_parser = port)]
    pub address: Port,
    /// The name to ask for by SNI and in Host, where it is not HOST.
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    pub server_name: Option<String>,
    /// How long each of the nine tries may take.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = some_time)]
    pub within: Duration,
    /// Print JSON: one object.
    #[arg(long)]
    pub json: bool,
}

/// Where a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    host: String,
    port: u16,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn port(text: &str) -> Result<Port, String> {
    let wrong = || match text.split_once("://") {
        Some((scheme, rest)) => format!(
            "`{text}` is not HOST:PORT; leave {scheme}:// and whatever follows the port out, as in {}",
            with_port(scheme, rest)
        ),
        None => format!(
            "`{text}` is not HOST:PORT; write it like app.example.com:443 or [2001:db8::1]:443"
        ),
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(wrong)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let usable = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.contains(':') && ServerName::try_from(host).is_ok(),
    };
    if !usable {
        return Err(wrong());
    }
    Ok(Port {
        host: bare.unwrap_or(host).to_owned(),
        port,
    })
}

/// What is between scheme and path in a URL, with the scheme's port where it has none.
fn with_port(scheme: &str, rest: &str) -> String {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let last = authority.rsplit(']').next().unwrap_or_default();
    let usual = if scheme == "https" { 443 } else { 80 };
    if last.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:{usual}")
    }
}

fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("`{text}` is neither a host name nor an address")),
    }
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// To be printed.
    pub text: String,
    /// Whether anything is taken.
    pub any: bool,
}

/// Tries every way, one after the other: an app that serves one connection at a time is tried like others.
///
/// # Errors
/// Where no connection can be made at all, or the program itself cannot run.
pub fn probe(asked: &Probe) -> Result<Report, Trouble> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Trouble::Ours(format!("the runtime could not be started: {error}")))?;
    runtime.block_on(tried(asked))
}

async fn tried(asked: &Probe) -> Result<Report, Trouble> {
    let address = reach(asked).await?;
    let host = asked.server_name.as_ref().unwrap_or(&asked.address.host);
    let unusable = || Trouble::Usage(format!("`{host}` is neither a host name nor an address"));
    let name = match host.parse::<IpAddr>() {
        Ok(address) => ServerName::IpAddress(address.into()),
        Err(_) => ServerName::try_from(host.clone()).map_err(|_| unusable())?,
    };
    let tls =
        app_client(&AppTrust::Insecure, &[]).map_err(|fault| Trouble::Ours(fault.to_string()))?;
    let trial = Trial {
        address,
        host: asked
            .server_name
            .clone()
            .unwrap_or_else(|| asked.address.to_string()),
        name,
        tls,
        within: asked.within,
    };
    let mut found = WAYS.map(|_| Found::Silent);
    for (way, found) in WAYS.into_iter().zip(&mut found) {
        *found = trial.of(way).await;
    }
    Ok(report(asked, &found))
}

/// The first of the host's addresses at which somebody listens.
async fn reach(asked: &Probe) -> Result<SocketAddr, Trouble> {
    let (port, within) = (&asked.address, asked.within);
    let none = |why: String| Trouble::Ours(format!("no connection to {port}: {why}"));
    let found = lookup_host((port.host.as_str(), port.port)).await;
    let addresses =
        found.map_err(|error| none(format!("{} cannot be resolved: {error}", port.host)))?;
    let mut first = None;
    for address in addresses {
        let why = match timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(_closed_again)) => return Ok(address),
            Ok(Err(error)) => plain(&error),
            Err(_elapsed) => format!("nobody answers within {within:?}"),
        };
        first.get_or_insert(why);
    }
    Err(none(
        first.unwrap_or_else(|| "its name has no address".to_owned()),
    ))
}

/// One try, for machines.
#[derive(Serialize)]
struct Row {
    header: Option<String>,
    tls: bool,
    http2: bool,
    taken: bool,
    seen: String,
}

/// All of it.
#[derive(Serialize)]
struct View {
    address: String,
    tries: Vec<Row>,
    taken: bool,
    advice: String,
}

fn report(asked: &Probe, found: &[Found; WAYS.len()]) -> Report {
    let (address, taken) = (asked.address.to_string(), taken(found));
    let (any, advice) = (taken.contains(&true), advice(&address, found));
    let tries = || WAYS.into_iter().zip(found).zip(taken);
    let text = if asked.json {
        let rows = tries().map(|((way, found), taken)| Row {
            header: way.header.map(|version| version.to_string()),
            tls: way.inner == Inner::Tls,
            http2: way.inner == Inner::Http2,
            taken,
            seen: found.words(),
        });
        let view = View {
            address,
            tries: rows.collect(),
            taken: any,
            advice,
        };
        // Texts, numbers and truths: there is nothing in it that JSON has no form for.
        serde_json::to_string(&view).unwrap_or_default() + "\n"
    } else {
        let lines = tries().map(|((way, found), taken)| {
            let yes = if taken { "yes" } else { "no" };
            format!("{:<28} {yes:<3}  {}\n", way.name(), found.words())
        });
        lines.collect::<String>() + &advice + "\n"
    };
    Report { text, any }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_host_and_a_number() {
        assert_eq!(port("app.test:443").unwrap().to_string(), "app.test:443");
        assert_eq!(port("[::1]:80").unwrap().to_string(), "[::1]:80");
        for wrong in [
            "",
            "app.test",
            ":80",
            "app.test:0",
            "app.test:65536",
            "::1:80",
            "http://app.test:80",
            "a b:1",
        ] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
        for (url, told) in [
            ("https://app.test:8443", "leave https:// and"),
            ("https://app.test:8443/x", "as in app.test:8443"),
            ("https://app.test", "as in app.test:443"),
            ("http://[::1]/", "as in [::1]:80"),
        ] {
            assert!(port(url).unwrap_err().contains(told), "{url}");
        }
    }
}
