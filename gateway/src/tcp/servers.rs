//! Servers that the gateway dials for a connection, one after the other from where the last one began, and the PROXY header that
//! tells them whose it is. Balance and health are not its business.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_shared::client_hello::ClientHello;
use tidegate_shared::proxy_header::{Ends, Pair, TlvWriter, Version, write_v1, write_v2};
use tidegate_shared::socket;
use tokio::io::Interest;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::hello::Heard;
use super::record::{Ended, Record};
use crate::backend::config::Address;
use crate::complaint::Complaint;
use crate::failure::Failure;

/// Servers of which any will do.
#[derive(Debug)]
pub struct Servers {
    /// All of them, as the log has them.
    pub name: Arc<str>,
    all: Vec<Address>,
    /// What each is told of the visitor before anything else.
    pub proxy: Option<Version>,
    next: AtomicUsize,
    /// Some of them are not there.
    missing: Mutex<Complaint>,
}

impl Servers {
    /// Of at least one.
    pub fn new(all: Vec<Address>, proxy: Option<Version>) -> Self {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        Self {
            name: names.join(",").into(),
            all,
            proxy,
            next: AtomicUsize::new(0),
            missing: Mutex::default(),
        }
    }

    /// Connects to the first that answers, `within` at most for each.
    pub(super) async fn dial(
        &self,
        within: Duration,
        visitor: &TcpStream,
        record: &mut Record,
    ) -> Result<TcpStream, Ended> {
        tokio::select! {
            biased;
            dialled = self.any(within, record) => dialled.ok_or(Ended::NoServer),
            _gone = visitor.ready(Interest::ERROR) => Err(Ended::Failed(Failure::VisitorGone)),
        }
    }

    async fn any(&self, within: Duration, record: &mut Record) -> Option<TcpStream> {
        let first = self.next.fetch_add(1, Relaxed);
        for turn in 0..self.all.len() {
            let server = &self.all[first.wrapping_add(turn) % self.all.len()];
            record.attempts += 1;
            let until = Instant::now() + within;
            let found = timeout(within, lookup_host((server.host.as_str(), server.port))).await;
            let addresses = match found {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(error)) => {
                    self.complain(
                        server,
                        &format_args!("its name cannot be resolved: {error}"),
                    );
                    continue;
                }
                Err(_elapsed) => {
                    let why = format_args!("its name was not resolved within {within:?}");
                    self.complain(server, &why);
                    continue;
                }
            };
            for address in addresses {
                let left = until.saturating_duration_since(Instant::now());
                record.server = Some(address);
                match socket::connect(address, left).await {
                    Ok(server) => return Some(server),
                    Err(error) => self.complain(server, &error),
                }
            }
        }
        None
    }

    /// A server is not there: one line a minute, with the last of the reasons.
    fn complain(&self, server: &Address, why: &dyn Display) {
        let due = self
            .missing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(Instant::now());
        match due {
            Some(times) => {
                warn!(servers = %self.name, times, "the server {server} cannot be reached: {why}; the next one is tried, if there is any")
            }
            None => debug!(servers = %self.name, "the server {server} cannot be reached: {why}"),
        }
    }

    /// What a server is told first, where it is told anything.
    pub(super) fn header(
        &self,
        from: SocketAddr,
        to: Option<SocketAddr>,
        heard: &Heard,
        id: &str,
    ) -> Option<Vec<u8>> {
        let ends = to.map_or(Ends::Unknown, |to| Ends::Stream(Pair::new(from, to)));
        match self.proxy? {
            Version::V1 => Some(write_v1(&ends)),
            Version::V2 => {
                let hello = match heard {
                    Heard::Hello(hello) => Some(hello),
                    _ => None,
                };
                // What is longer than a header can be is left out, and the addresses are not.
                write_v2(&ends, &told(hello, id))
                    .or_else(|_| write_v2(&ends, &told(None, id)))
                    .ok()
            }
        }
    }
}

fn told(hello: Option<&ClientHello>, id: &str) -> TlvWriter {
    let mut tlvs = TlvWriter::default();
    if let Some(hello) = hello {
        // Which of several protocols it will be is the server's choice; it is known where there is only one.
        if let [only] = &hello.alpn[..] {
            tlvs.alpn(only);
        }
        if let Some(name) = &hello.server_name {
            tlvs.authority(name);
        }
    }
    tlvs.unique_id(id.as_bytes());
    tlvs.crc32c();
    tlvs
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_shared::proxy_header::{Parsed, USUAL_MOST, parse};

    #[test]
    fn a_server_is_told_whose_connection_it_is() {
        let (from, to) = (
            "192.0.2.1:5".parse().unwrap(),
            "192.0.2.9:443".parse().unwrap(),
        );
        let servers = |proxy| Servers::new(Vec::new(), proxy);
        let hello = |alpn: &[&str]| {
            Heard::Hello(ClientHello {
                server_name: Some("a.test".into()),
                alpn: alpn.iter().map(|name| name.as_bytes().into()).collect(),
            })
        };
        let read = |octets: &[u8]| match parse(octets, USUAL_MOST) {
            Ok(Parsed::Whole(header, length)) if length == octets.len() => header,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            servers(None).header(from, Some(to), &Heard::Silence, "x-1"),
            None
        );
        let v1 = servers(Some(Version::V1)).header(from, Some(to), &hello(&[]), "x-1");
        assert_eq!(v1.unwrap(), b"PROXY TCP4 192.0.2.1 192.0.2.9 5 443\r\n");
        let v2 = |heard: &Heard| {
            read(
                &servers(Some(Version::V2))
                    .header(from, Some(to), heard, "x-1")
                    .unwrap(),
            )
        };
        let header = v2(&hello(&["h2"]));
        assert_eq!(header.ends, Ends::Stream(Pair::new(from, to)));
        let tlvs = &header.tlvs;
        assert_eq!(
            (tlvs.authority(), tlvs.alpn()),
            (Some("a.test"), Some(&b"h2"[..]))
        );
        assert_eq!(tlvs.unique_id(), Some(&b"x-1"[..]));
        assert!(tlvs.iter().any(|tlv| tlv.kind == 3), "a checksum");
        assert_eq!(v2(&hello(&["h2", "http/1.1"])).tlvs.alpn(), None);
        assert_eq!(v2(&Heard::Unasked).tlvs.authority(), None);
    }
}
