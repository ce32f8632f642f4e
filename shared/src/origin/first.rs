//! What an app says first on a connection, for whoever has to tell what is wrong with one that is never understood.

use std::sync::OnceLock;

/// As many octets as tell one protocol from another.
const MOST: usize = 16;

/// See the module's head.
#[derive(Debug, Default)]
pub struct First(OnceLock<Said>);

#[derive(Clone, Copy, Debug)]
struct Said {
    octets: [u8; MOST],
    length: usize,
}

impl First {
    /// It has said this, or nothing where it has closed its side. Only what comes first counts.
    pub(super) fn heard(&self, octets: &[u8]) {
        if self.0.get().is_some() {
            return;
        }
        let length = octets.len().min(MOST);
        let mut said = Said {
            octets: [0; MOST],
            length,
        };
        said.octets[..length].copy_from_slice(&octets[..length]);
        // Only the connection's own reader writes it.
        let _first = self.0.set(said);
    }

    /// Its first octets, at most sixteen; nothing where it closed without a word, `None` where it has done neither.
    pub fn octets(&self) -> Option<&[u8]> {
        self.0.get().map(|said| &said.octets[..said.length])
    }
}
