//! What an app says first on a connection, for whoever has to tell what is wrong with one that is never understood.

use std::io;
use std::sync::OnceLock;

use crate::tls::{By, HandshakeFault, Layer};

/// As many octets as tell one protocol from another.
const MOST: usize = 16;

/// See the module's head.
#[derive(Debug, Default)]
pub struct First {
    said: OnceLock<Said>,
    alert: OnceLock<HandshakeFault>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    octets: [u8; MOST],
    length: usize,
}

impl First {
    /// It has said this, or nothing where it has closed its side. Only what comes first counts.
    pub(super) fn heard(&self, octets: &[u8]) {
        if self.said.get().is_some() {
            return;
        }
        let length = octets.len().min(MOST);
        let mut said = Said {
            octets: [0; MOST],
            length,
        };
        said.octets[..length].copy_from_slice(&octets[..length]);
        // Only the connection's own reader writes it.
        let _first = self.said.set(said);
    }

    /// Reading from it failed. In TLS 1.3 a server judges what it was shown when the handshake is over for its client, and says
    /// so in the place of its first octets (RFC 8446 §4.4.2.4).
    pub(super) fn failed(&self, error: &io::Error) {
        let fault = HandshakeFault::from_io(error);
        if fault.layer == Layer::Certificate && fault.by == By::Peer {
            // Only the connection's own reader writes it.
            let _first = self.alert.set(fault);
        }
    }

    /// Its judgement of the certificate that it was shown, or was not, where it has refused it.
    pub fn refusal(&self) -> Option<&HandshakeFault> {
        self.alert.get()
    }

    /// Its first octets, at most sixteen; nothing where it closed without a word, `None` where it has done neither.
    pub fn octets(&self) -> Option<&[u8]> {
        self.said.get().map(|said| &said.octets[..said.length])
    }
}
