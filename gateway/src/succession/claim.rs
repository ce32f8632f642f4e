//! What a gateway opens at its start, where another one may still have it: that one is asked to give way if it ends, and an
//! address in use is tried again for a moment. Nothing here takes longer than a few seconds, whoever has the address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_shared::socket;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::info;

use crate::app::Trouble;
use crate::config::listeners::Named;
use crate::intent::control::Control;

/// For how long an address in use is tried again: one that has just been told to end stops listening within milliseconds.
const FREE_WITHIN: Duration = Duration::from_secs(2);

/// Visitors who come in the meantime are refused, so it is not long.
const AGAIN: Duration = Duration::from_millis(5);

/// How long whoever has the admin address may take to say that it gives way.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Longest answer that is read, in octets.
const LONGEST_ANSWER: u64 = 4096;

/// What a gateway opens, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Another one had some of it until then.
    pub(crate) inherits: bool,
}

impl Claim {
    /// A listener.
    pub(crate) async fn listener(
        &mut self,
        named: &Named,
        address: SocketAddr,
    ) -> Result<TcpListener, Trouble> {
        let mut opened = socket::listen(address);
        if opened.as_ref().is_err_and(is_in_use) {
            self.inherits = true;
            info!("{address} ({named}) is in use; it is tried again for {FREE_WITHIN:?}");
            opened = when_free(address).await;
        }
        opened.map_err(|error| refused(named, address, &error))
    }

    /// The admin page's listener.
    pub(crate) async fn page(
        &mut self,
        named: &Named,
        address: SocketAddr,
    ) -> Result<TcpListener, Trouble> {
        let given = match socket::listen(address) {
            Err(error) if is_in_use(&error) => gives_way(address).await,
            opened => return opened.map_err(|error| refused(named, address, &error)),
        };
        if !given {
            return self.listener(named, address).await;
        }
        let opened = when_free(address).await;
        let listener = opened.map_err(|error| refused(named, address, &error))?;
        self.inherits = true;
        info!("took over the admin address {address} from a gateway that is draining");
        Ok(listener)
    }

    /// The control socket.
    pub(crate) async fn control(&mut self, named: &Named, path: &Path) -> Result<Control, Trouble> {
        let (control, given) = Control::listen(path).await.map_err(|why| {
            Trouble::Usage(format!(
                "cannot listen at {} ({named}): {why}",
                path.display()
            ))
        })?;
        if given {
            self.inherits = true;
            info!(
                "took over the control socket {} from a gateway that is draining",
                path.display()
            );
        }
        Ok(control)
    }
}

fn is_in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// A listener, as soon as nobody else has the address.
async fn when_free(address: SocketAddr) -> io::Result<TcpListener> {
    let began = Instant::now();
    loop {
        match socket::listen(address) {
            Err(error) if is_in_use(&error) && began.elapsed() < FREE_WITHIN => {}
            opened => return opened,
        }
        sleep(AGAIN).await;
    }
}

/// Whether a gateway that ends has the address, and gives it up. What is none is asked one thing that harms nothing.
async fn gives_way(address: SocketAddr) -> bool {
    let asking = async {
        let state = ask(address, "GET", "/ready").await?;
        if !(state.starts_with("HTTP/1.1 503 ") && state.ends_with("\r\n\r\ndraining\n")) {
            return Ok(false);
        }
        let answer = ask(address, "POST", "/give-way").await?;
        Ok::<_, io::Error>(answer.starts_with("HTTP/1.1 200 "))
    };
    matches!(timeout(ANSWER_WITHIN, asking).await, Ok(Ok(true)))
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> io::Result<String> {
    // What listens everywhere is here as well.
    let there = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let mut stream = TcpStream::connect((there, address.port())).await?;
    let question =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn refused(named: &Named, address: SocketAddr, error: &io::Error) -> Trouble {
    let text = format!("cannot listen on {address} ({named}): {error}");
    if let Some(lack) = socket::lack(error, address) {
        return Trouble::Usage(format!("{text}; {lack}"));
    }
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            Trouble::Usage(format!("{text}; is another gateway running there?"))
        }
        io::ErrorKind::PermissionDenied => Trouble::Usage(format!(
            "{text}; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        )),
        io::ErrorKind::AddrNotAvailable => {
            Trouble::Usage(format!("{text}; this machine has no such address"))
        }
        _ => Trouble::Ours(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_lacks_is_a_mistake_of_who_asks_for_it() {
        let named = Named::Option("--visitors");
        for (address, code, told) in [
            (
                "[fe80::1%77]:80",
                19,
                Some("no interface of this machine has the number 77; `ip link`"),
            ),
            (
                "[::1]:80",
                97,
                Some("has no IPv6; write an address of IPv4"),
            ),
            ("192.0.2.1:80", 99, Some("no such address")),
            ("[::]:80", 23, None),
        ] {
            let error = io::Error::from_raw_os_error(code);
            let trouble = refused(&named, address.parse().unwrap(), &error);
            match (trouble, told) {
                (Trouble::Usage(text), Some(told)) => assert!(text.contains(told), "{text}"),
                (Trouble::Ours(_), None) => {}
                (trouble, _) => panic!("{address} {code}: {trouble:?}"),
            }
        }
    }
}
