//! What the system says of the TCP connections on this machine (`/proc/net/tcp`, proc(5)), for what no program's output shows.

use std::net::{Ipv4Addr, SocketAddr};

/// One IPv4 connection, from the side of `local`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// This side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// Octets that have come and nobody has read.
    pub unread: u64,
    /// Whether the system will ask the other side for a sign of life while nothing is sent.
    pub keeps_alive: bool,
}

/// The connection from `local` to `remote`, if there is one.
#[must_use]
pub fn connection(local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
    connections()
        .into_iter()
        .find(|socket| socket.local == local && socket.remote == remote)
}

/// All connections, and the listeners among them.
#[must_use]
pub fn connections() -> Vec<Socket> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, local, remote, _, queues, timer, ..] = fields[..] else {
        return None;
    };
    let (_, unread) = queues.split_once(':')?;
    Some(Socket {
        local: address(local)?,
        remote: address(remote)?,
        unread: u64::from_str_radix(unread, 16).ok()?,
        keeps_alive: timer.starts_with("02:"),
    })
}

/// The address as the machine's own order of octets has it, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((Ipv4Addr::from(address), port).into())
}
