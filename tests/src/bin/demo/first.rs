//! Before anybody is told to open a browser: is the app there at all, and does a visitor get an answer? The second goes the
//! way of every visitor, through the gateway's socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tidegate_agent::target::{Place, Target};
use tidegate_shared::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::args::NAME;

/// A slow app of the user's is no reason to say that the tunnel does not work.
const PATIENCE: Duration = Duration::from_secs(5);

/// More of an answer is not looked at.
const ENOUGH: u64 = 16 * 1024;

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The app's, whatever its status.
    Apps,
    /// The gateway's or the agent's, in the app's place: the reason's word, and the sentence that came with it.
    Failed { reason: String, text: String },
    /// None in time. The app may be slow.
    None,
}

/// Connects to a user's app, and leaves again.
///
/// # Errors
/// The system's own, or `TimedOut`.
pub(crate) async fn reach(target: &Target) -> io::Result<()> {
    let connecting = async {
        match &target.place {
            Place::Here(port) => {
                let both = [
                    SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
                    SocketAddr::from((Ipv6Addr::LOCALHOST, *port)),
                ];
                TcpStream::connect(&both[..]).await.map(drop)
            }
            Place::Host { host, port } => {
                TcpStream::connect((host.as_str(), *port)).await.map(drop)
            }
            Place::Socket(path) => UnixStream::connect(path).await.map(drop),
        }
    };
    timeout(PATIENCE, connecting).await?
}

/// Fetches `/` at the gateway as a visitor.
///
/// # Errors
/// The gateway does not answer in HTTP.
pub(crate) async fn ask(visitors: SocketAddr) -> io::Result<Answer> {
    match timeout(PATIENCE, fetch(visitors)).await {
        Ok(seen) => read(&seen?),
        Err(_) => Ok(Answer::None),
    }
}

async fn fetch(visitors: SocketAddr) -> io::Result<Vec<u8>> {
    let mut visitor = socket::connect(reachable(visitors), PATIENCE).await?;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {NAME}:{}\r\nuser-agent: tidegate-demo\r\naccept: text/plain, */*;q=0.5\r\n\
         connection: close\r\n\r\n",
        visitors.port()
    );
    visitor.write_all(request.as_bytes()).await?;
    let mut seen = Vec::new();
    visitor.take(ENOUGH).read_to_end(&mut seen).await?;
    Ok(seen)
}

/// Where to connect to reach a listener: one on every address is on loopback too.
fn reachable(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

fn read(seen: &[u8]) -> io::Result<Answer> {
    let text = String::from_utf8_lossy(seen);
    if !text.starts_with("HTTP/1.1 ") {
        return Err(io::Error::other("the gateway did not answer in HTTP/1.1"));
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let reason = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("tidegate-reason")
            .then(|| value.trim().to_owned())
    });
    Ok(match reason {
        None => Answer::Apps,
        Some(reason) => Answer::Failed {
            reason,
            text: body.lines().last().unwrap_or_default().trim().to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_the_reason() {
        let apps = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read(apps).unwrap(), Answer::Apps);
        let agents = b"HTTP/1.1 502 Bad Gateway\r\nTidegate-Reason: app-unreachable\r\n\r\n502 Bad Gateway\nThe app is not.\n";
        assert_eq!(
            read(agents).unwrap(),
            Answer::Failed {
                reason: "app-unreachable".to_owned(),
                text: "The app is not.".to_owned()
            }
        );
        assert!(read(b"").is_err());
    }

    #[test]
    fn a_listener_on_every_address_is_reached_on_loopback() {
        assert_eq!(
            reachable("0.0.0.0:80".parse().unwrap()).to_string(),
            "127.0.0.1:80"
        );
        assert_eq!(
            reachable("[::]:80".parse().unwrap()).to_string(),
            "[::1]:80"
        );
    }
}
