//! Whether a server has acknowledged our SETTINGS, read along with what it sends. Its own SETTINGS prove nothing, for some begin
//! with them whatever is said to them; the acknowledgement of ours does (RFC 9113 §6.5.3), and there are those who answer no PING
//! and acknowledge. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Octets of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;

const SETTINGS: u8 = 4;
const ACK: u8 = 1;

/// Follows the frames up to the acknowledgement.
#[derive(Debug, Default)]
pub(super) struct Settling {
    head: [u8; HEAD],
    /// Octets of the head that have come.
    length: usize,
    /// Octets of the frame's content that are to come.
    rest: usize,
    done: Arc<AtomicBool>,
}

impl Settling {
    /// Set when it has come.
    pub(super) fn done(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.done)
    }

    /// The server has sent these octets.
    pub(super) fn heard(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() && !self.done.load(Relaxed) {
            if self.rest > 0 {
                let skipped = self.rest.min(octets.len());
                self.rest -= skipped;
                octets = &octets[skipped..];
                continue;
            }
            let missing = (HEAD - self.length).min(octets.len());
            let (some, more) = octets.split_at(missing);
            self.head[self.length..self.length + missing].copy_from_slice(some);
            self.length += missing;
            octets = more;
            if self.length < HEAD {
                return;
            }
            let [high, mid, low, kind, flags, ..] = self.head;
            self.length = 0;
            self.rest = u32::from_be_bytes([0, high, mid, low]) as usize;
            if kind == SETTINGS && flags & ACK != 0 {
                self.done.store(true, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_is_found_however_it_is_cut() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x80";
        let window = b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
        let acknowledged = b"\0\0\0\x04\x01\0\0\0\0";
        let whole = [&settings[..], window, acknowledged].concat();
        for piece in 1..=whole.len() {
            let mut settling = Settling::default();
            let done = settling.done();
            for (at, octets) in whole.chunks(piece).enumerate() {
                settling.heard(octets);
                let over = (at + 1) * piece >= whole.len();
                assert_eq!(done.load(Relaxed), over, "{piece} {at}");
            }
        }
    }

    #[test]
    fn what_looks_like_one_inside_a_frame_is_none() {
        let mut settling = Settling::default();
        settling.heard(b"\0\0\x09\x06\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0");
        settling.heard(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x80");
        assert!(!settling.done().load(Relaxed));
    }
}
