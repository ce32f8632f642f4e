//! How far TLS's handshake has come with who dialled: what came and what was said are counted beneath it, so that one that is
//! not finished in time can be told of by what was seen. Used where visitors are taken.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::ServerConfig;
use tidegate_shared::reversal::Seen;
use tidegate_shared::tap::{Ear, Tap};
use tidegate_shared::unacked;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The socket beneath TLS.
pub(crate) type Counted = Tap<TcpStream, Progress>;

/// What came through it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    heard: u64,
    /// How much of that had come before anything was said.
    asked: Option<u64>,
    /// The first octets, once they are all there; meanwhile they are gathered beside.
    first: Arc<OnceLock<[u8; TO_VERSION]>>,
    gathered: [u8; TO_VERSION],
}

/// Up to the version in a ClientHello: the record's head, the message's head, and that.
const TO_VERSION: usize = 11;

/// The version that a ClientHello has in its own field; `None` where these octets begin none.
fn version(first: &[u8; TO_VERSION]) -> Option<u16> {
    // A handshake's record (RFC 8446 §5.1), and a ClientHello in it (§4).
    let is_hello = first[0] == 0x16 && first[5] == 0x01;
    is_hello.then(|| u16::from_be_bytes([first[9], first[10]]))
}

/// What had come when the time for a handshake was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    Nothing,
    /// This, which begins no handshake; what is no TLS at all has failed by then.
    Instead(Seen),
    /// So many octets of a ClientHello.
    Part(u64),
    /// A ClientHello, which was answered, and so many octets behind that.
    Hello {
        then: u64,
        /// Octets of the answer that nobody has acknowledged, where that is known.
        unacked: Option<u64>,
    },
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing came"),
            Self::Instead(seen) => write!(f, "{seen} came, and a ClientHello was due"),
            Self::Part(1) => f.write_str("one octet of a ClientHello came"),
            Self::Part(octets) => write!(f, "{octets} octets of a ClientHello came"),
            Self::Hello {
                unacked: Some(1..), ..
            } => f.write_str(
                "a ClientHello came, and the answer to it was not received as a whole: does the path lose large packets (MTU)?",
            ),
            Self::Hello { then: 0, .. } => {
                f.write_str("a ClientHello came and was answered, and nothing came behind it")
            }
            Self::Hello { then, .. } => write!(
                f,
                "a ClientHello came and was answered, and {then} octets behind it that do not finish the handshake"
            ),
        }
    }
}

/// Why there is no TLS.
pub(crate) enum Unshaken {
    Failed {
        error: io::Error,
        /// What it was instead of TLS, where that is known.
        instead: Option<Seen>,
        /// The version that the ClientHello has in its own field, where one has come.
        offered: Option<u16>,
    },
    /// It was not finished in time.
    Overdue(Came),
}

/// Shakes hands within this time. `look` sees the socket before TLS does, and says what comes there instead.
pub(crate) async fn shake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    within: Duration,
    look: impl AsyncFnOnce(&TcpStream) -> Option<Seen>,
) -> Result<TlsStream<Counted>, Unshaken> {
    let until = Instant::now() + within;
    let Ok(instead) = timeout_at(until, look(&stream)).await else {
        return Err(Unshaken::Overdue(Came::Nothing));
    };
    let progress = Progress::default();
    let first = Arc::clone(&progress.first);
    let mut accepting = TlsAcceptor::from(config).accept(Tap::new(stream, progress));
    match timeout_at(until, &mut accepting).await {
        Ok(Ok(tls)) => Ok(tls),
        // The socket, and what was counted of it, is gone by now.
        Ok(Err(error)) => Err(Unshaken::Failed {
            error,
            instead,
            offered: first.get().and_then(version),
        }),
        Err(_elapsed) => {
            let socket = accepting.get_ref();
            let came = |socket: &Counted| socket.ear().came(instead, socket.stream());
            let came = socket.map_or(Came::Nothing, came);
            Err(Unshaken::Overdue(came))
        }
    }
}

impl Progress {
    /// So far, where it began like this if not like TLS.
    fn came(&self, instead: Option<Seen>, socket: &TcpStream) -> Came {
        came(self.heard, self.asked, instead, || unacked::octets(socket))
    }
}

fn came(
    heard: u64,
    asked: Option<u64>,
    instead: Option<Seen>,
    unacked: impl FnOnce() -> Option<u64>,
) -> Came {
    match (asked, instead) {
        (Some(asked), _) => Came::Hello {
            then: heard.saturating_sub(asked),
            unacked: unacked(),
        },
        (None, Some(seen)) if seen != Seen::Nothing => Came::Instead(seen),
        (None, _) if heard == 0 => Came::Nothing,
        (None, _) => Came::Part(heard),
    }
}

impl Ear for Progress {
    const JOINS: bool = true;

    fn heard(&mut self, octets: &[u8]) {
        let at = usize::try_from(self.heard).unwrap_or(usize::MAX);
        self.heard += octets.len() as u64;
        if let Some(room) = self.gathered.get_mut(at..) {
            let part = room.len().min(octets.len());
            room[..part].copy_from_slice(&octets[..part]);
            if !room.is_empty() && part == room.len() {
                // Nobody else sets it.
                let _new = self.first.set(self.gathered);
            }
        }
    }

    fn said(&mut self, _pieces: &[IoSlice<'_>], octets: usize) {
        if octets > 0 {
            self.asked.get_or_insert(self.heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_tells_its_version_in_whatever_pieces_it_comes() {
        let hello = *b"\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x02\0\0\0";
        for size in 1..=hello.len() {
            let mut progress = Progress::default();
            for (number, piece) in hello.chunks(size).enumerate() {
                let whole = number * size >= TO_VERSION;
                assert_eq!(progress.first.get().is_some(), whole, "{size}");
                progress.heard(piece);
            }
            assert_eq!(
                progress.first.get().and_then(version),
                Some(0x0302),
                "{size}"
            );
            assert_eq!(progress.heard, hello.len() as u64);
        }
        assert_eq!(version(b"GET / HTTP/"), None);
    }

    #[test]
    fn what_had_come_is_told_by_what_was_counted() {
        let instead = || Some(Seen::TlsAlert);
        for (heard, asked, seen, unacked, words) in [
            (0, None, None, None, "nothing came"),
            (0, None, Some(Seen::Nothing), None, "nothing came"),
            (4, None, instead(), None, "a TLS alert came, and a"),
            (1, None, None, None, "one octet of a ClientHello came"),
            (6, None, None, None, "6 octets of a ClientHello came"),
            (517, Some(517), None, None, "answered, and nothing came"),
            (517, Some(517), None, Some(0), "answered, and nothing came"),
            (523, Some(517), None, None, "answered, and 6 octets behind"),
            (517, Some(517), None, Some(900), "not received as a whole"),
        ] {
            let said = came(heard, asked, seen, || unacked).to_string();
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}
