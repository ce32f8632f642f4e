//! What came to a visitors' port and is no HTTP, named for the operator, who can mostly mend it with one option. The visitor
//! gets its 400 and its access line either way; the lines here are one a minute for each kind and listener, because anybody can
//! cause them.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tidegate_shared::reversal::Seen;
use tracing::warn;

use crate::complaint::Complaint;
use crate::door::{Door, Expect};

/// What an operator may have set up wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stray {
    Tls,
    ProxyV1,
    ProxyV2,
    Ssh,
    /// At a port for TLS: something else.
    Clear,
}

impl Stray {
    /// What these first octets of a connection are, if they are one of these.
    pub(super) fn of(seen: &[u8]) -> Option<Self> {
        match Seen::at_the_end(seen) {
            Seen::TlsRecord => Some(Self::Tls),
            Seen::ProxyV1 => Some(Self::ProxyV1),
            Seen::ProxyV2 => Some(Self::ProxyV2),
            Seen::Ssh => Some(Self::Ssh),
            _ => None,
        }
    }

    /// What was seen at this door, and what to change.
    fn sentence(self, door: &Door) -> String {
        let (listener, required) = (&door.listener, door.named.set_to("required"));
        let header = |version: &str, option: &str| {
            if door.expect == Expect::Optional {
                return format!(
                    "a PROXY {version} header came from where none is believed: if that is a load balancer of yours, add it to {}",
                    door.from_named
                );
            }
            if door.expect == Expect::Required {
                return format!(
                    "a second PROXY {version} header came behind the first ({listener}): does more than one hop in front add one? Have all but the last leave it out (HAProxy: {option})"
                );
            }
            format!(
                "a PROXY {version} header came where none is read: start with {required} and {}, or have what stands in front leave it out (HAProxy: {option})",
                door.from_named
            )
        };
        match (self, door.tls) {
            (Self::Tls, false) => format!(
                "a TLS handshake was begun at the port for clear text ({listener}): TLS is served by --visitors-tls and --visitors-cert, or where a listener of a file has certificates"
            ),
            (Self::Tls, true) => format!(
                "a TLS handshake was begun inside TLS ({listener}): something in front wraps it once more"
            ),
            (Self::ProxyV1, _) => header("v1", "send-proxy"),
            (Self::ProxyV2, _) => header("v2", "send-proxy-v2"),
            (Self::Ssh, _) => "an SSH client came to a visitors' port: HTTP is served here".into(),
            (Self::Clear, _) => format!(
                "something that is no TLS came to the port for TLS ({listener}): clear text is served by --visitors, or where a listener of a file has no certificates"
            ),
        }
    }
}

/// How many kinds there are.
const KINDS: usize = Stray::Clear as usize + 1;

/// Says what came to one listener, once a minute for each kind.
#[derive(Debug, Default)]
pub struct Strays([Mutex<Complaint>; KINDS]);

impl Strays {
    /// A connection in TCP mode whose visitor has said this first, which goes on as it came: a header that nobody has read is
    /// told of.
    pub(crate) fn look(&self, said: &[u8], visitor: SocketAddr, door: &Door) {
        if let Some(stray @ (Stray::ProxyV1 | Stray::ProxyV2)) = Stray::of(said) {
            self.tell(stray, visitor, door, "; it is not taken off what goes on");
            door.counters.unexpected();
        }
    }

    pub(super) fn came(&self, stray: Stray, visitor: SocketAddr, door: &Door) {
        self.tell(stray, visitor, door, "");
    }

    fn tell(&self, stray: Stray, visitor: SocketAddr, door: &Door, more: &str) {
        let due = self.0[stray as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .due(Instant::now());
        if let Some(times) = due {
            warn!(%visitor, listener = %door.listener, times, "{}{more}", stray.sentence(door));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_http_is_no_stray() {
        for seen in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"G",
            b"\r\n\r\nGET /",
            b"PROPFIND / H",
            b"",
        ] {
            assert_eq!(Stray::of(seen), None, "{seen:?}");
        }
        for (seen, stray) in [
            (&b"\x16\x03\x01\x02\x00\x01"[..], Stray::Tls),
            (b"PROXY TCP4 192.0.2.1", Stray::ProxyV1),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", Stray::ProxyV2),
            (b"SSH-2.0-OpenSSH_9", Stray::Ssh),
        ] {
            assert_eq!(Stray::of(seen), Some(stray), "{seen:?}");
        }
    }
}
