//! What the other end of a TCP connection has not acknowledged yet: octets that were written leave the system's buffer while nobody
//! here has anything to do. Asked of Linux by the two addresses of a connection (sock_diag(7)), since nothing else tells it without
//! `unsafe`; where the system does not say, nobody knows. Called when a connection seems silent, and not before.

use std::net::SocketAddr;

use tokio::net::TcpStream;

/// A TCP connection, by its two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacked {
    local: SocketAddr,
    peer: SocketAddr,
}

impl Unacked {
    /// `None` for a connection that is gone.
    pub fn of(tcp: &TcpStream) -> Option<Self> {
        let (local, peer) = (tcp.local_addr().ok()?, tcp.peer_addr().ok()?);
        Some(Self { local, peer })
    }

    /// So many octets at this moment, an end that was said counting as one; `None` where nobody knows.
    pub fn octets(self) -> Option<u64> {
        system::octets(self.local, self.peer)
    }
}

/// The same for a connection that is at hand.
pub fn octets(tcp: &TcpStream) -> Option<u64> {
    Unacked::of(tcp)?.octets()
}

/// What is known of two; `None` where nothing is.
pub fn both(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
    }
}

/// Into so many parts a time is divided: when nothing has been moved for one of them, it is looked whether what was written earlier
/// is still on its way.
pub const LOOKS: u32 = 8;

/// Whether what waits in the system gets less for good. What others write on the same connection makes it more at any time, and
/// proves nothing by getting less again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ebb {
    least: Option<u64>,
}

impl Ebb {
    /// Whether `waits` is less than at any look before this; the first has nothing to be compared with.
    pub fn falls(&mut self, waits: Option<u64>) -> bool {
        let before = self.least;
        self.least = match (before, waits) {
            (Some(least), Some(waits)) => Some(least.min(waits)),
            (least, waits) => least.or(waits),
        };
        before.is_some() && self.least < before
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::{self, Read};
    use std::net::{IpAddr, SocketAddr};
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use socket2::{Domain, Protocol, Socket, Type};

    /// linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
    const AF_NETLINK: i32 = 16;
    const NETLINK_SOCK_DIAG: i32 = 4;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    const NOCOOKIE: [u8; 8] = [0xff; 8];

    /// A message's head, and the request behind it.
    const HEAD: usize = 16;
    const REQUEST: usize = HEAD + 56;

    /// Where an answer has its kind, and what was not acknowledged: behind the message's head, four octets, the addresses and
    /// two numbers.
    const KIND: usize = 4;
    const QUEUE: usize = HEAD + 4 + 48 + 8;

    /// In vain so often, with never an answer, means that this system gives none: each question might have it look for a module
    /// on the disk.
    const IN_VAIN: u32 = 16;

    /// Questions without an answer, until one has had one.
    static VAIN: AtomicU32 = AtomicU32::new(0);
    const ANSWERED: u32 = u32::MAX;

    pub(super) fn octets(local: SocketAddr, peer: SocketAddr) -> Option<u64> {
        let vain = VAIN.load(Relaxed);
        if vain != ANSWERED && vain >= IN_VAIN {
            return None;
        }
        let octets = ask(local, peer).ok().flatten();
        match octets {
            Some(_) if vain != ANSWERED => VAIN.store(ANSWERED, Relaxed),
            None if vain != ANSWERED => VAIN.store(vain + 1, Relaxed),
            _ => {}
        }
        octets.map(u64::from)
    }

    fn ask(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
        let socket = Socket::new(
            Domain::from(AF_NETLINK),
            Type::DGRAM.nonblocking(),
            Some(Protocol::from(NETLINK_SOCK_DIAG)),
        )?;
        socket.send(&request(local, peer))?;
        let mut answer = [0; 512];
        // The system has answered before it returns from being asked.
        let length = (&socket).read(&mut answer)?;
        Ok(queue(&answer[..length]))
    }

    fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let (family, scope) = match (local, local.ip().to_canonical()) {
            (_, IpAddr::V4(_)) => (AF_INET, 0),
            (SocketAddr::V6(local), _) => (AF_INET6, local.scope_id()),
            (SocketAddr::V4(_), _) => (AF_INET, 0),
        };
        let mut message = Vec::with_capacity(REQUEST);
        message.extend((REQUEST as u32).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(NLM_F_REQUEST.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([family, IPPROTO_TCP, 0, 0]);
        // In whatever state it is.
        message.extend(u32::MAX.to_ne_bytes());
        message.extend(local.port().to_be_bytes());
        message.extend(peer.port().to_be_bytes());
        for end in [local, peer] {
            let mut room = [0; 16];
            match end.ip().to_canonical() {
                IpAddr::V4(ip) => room[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => room = ip.octets(),
            }
            message.extend(room);
        }
        message.extend(scope.to_ne_bytes());
        message.extend(NOCOOKIE);
        message
    }

    fn queue(answer: &[u8]) -> Option<u32> {
        let kind = answer.get(KIND..KIND + 2)?.try_into().ok()?;
        let queue = answer.get(QUEUE..QUEUE + 4)?.try_into().ok()?;
        (u16::from_ne_bytes(kind) == SOCK_DIAG_BY_FAMILY).then(|| u32::from_ne_bytes(queue))
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::net::SocketAddr;

    pub(super) const fn octets(_local: SocketAddr, _peer: SocketAddr) -> Option<u64> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn what_waits_falls_where_it_is_less_than_ever() {
        let mut ebb = Ebb::default();
        let looks = [
            None,
            Some(7),
            None,
            Some(9),
            Some(8),
            Some(7),
            Some(6),
            Some(6),
            None,
            Some(0),
        ];
        let fell: Vec<bool> = looks.into_iter().map(|waits| ebb.falls(waits)).collect();
        let falls = [
            false, false, false, false, false, false, true, false, false, true,
        ];
        assert_eq!(fell, falls);
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_is_counted_until_it_is() {
        for (listens, host) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            // An IPv4 visitor of a listener for both.
            ("[::]:0", "127.0.0.1"),
        ] {
            let listener = TcpListener::bind(listens).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (there, here) = tokio::join!(TcpStream::connect((host, port)), listener.accept());
            let (mut there, mut here) = (there.unwrap(), here.unwrap().0);
            let unacked = Unacked::of(&here).unwrap();
            assert_eq!(unacked.octets(), Some(0), "{listens}");
            let mut written = 0;
            while let Ok(more) = here.try_write(&[0; 65536]) {
                written += more as u64;
            }
            let before = unacked.octets().unwrap();
            assert!(before > 0 && before <= written, "{before} of {written}");
            let mut taken = vec![0; usize::try_from(written).unwrap()];
            there.read_exact(&mut taken).await.unwrap();
            assert!(unacked.octets().unwrap() < before, "{listens}");
            here.shutdown().await.unwrap();
            assert_eq!(there.read(&mut taken).await.unwrap(), 0);
            assert!(octets(&here).unwrap() <= 1, "{listens}");
            assert_eq!(octets(&there), Some(0));
        }
    }
}
