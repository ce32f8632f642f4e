//! What can be known of a connection from outside the task that owns it: the seam notes it, whoever has a share of it reads it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use crate::reversal::frames::Goaway;
use crate::reversal::{Fault, PeerSettings, Seen};

/// See the module's head.
#[derive(Debug, Default)]
pub struct Wire {
    pub(super) heard: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) data: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) control: AtomicU64,
    pub(super) heads: AtomicU64,
    pub(super) updates: AtomicU64,
    pub(super) padded_empty: AtomicU64,
    pub(super) goaway: OnceLock<Goaway>,
    pub(super) settled: OnceLock<PeerSettings>,
    pub(super) refused: OnceLock<Fault>,
    pub(super) opening: Mutex<Seen>,
    pub(super) inject: Mutex<Injection>,
}

/// A frame of our own that is to be put between two of `h2`'s.
#[derive(Debug, Default)]
pub(super) struct Injection {
    pub(super) frame: Option<Bytes>,
    pub(super) writer: Option<Waker>,
}

impl Wire {
    /// When the peer's last octet arrived, by [`crate::clock::now_ms`].
    pub fn heard_ms(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Octets received and sent on the socket (inside TLS, outside HTTP/2).
    pub fn octets(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    /// Octets of DATA received.
    pub fn data(&self) -> u64 {
        self.data.load(Relaxed)
    }

    /// Takes note that somebody took `octets` of DATA, or no longer wants them.
    pub fn taken(&self, octets: usize) {
        self.taken.fetch_add(octets as u64, Relaxed);
    }

    /// Octets of DATA that arrived and were not taken.
    pub fn unread(&self) -> u64 {
        self.data().saturating_sub(self.taken.load(Relaxed))
    }

    /// Frames received that cost work and say nothing ([`crate::reversal::frames::Counts::control`]).
    pub fn control(&self) -> u64 {
        self.control.load(Relaxed)
    }

    /// HEADERS frames received ([`crate::reversal::frames::Counts::heads`]).
    pub fn heads(&self) -> u64 {
        self.heads.load(Relaxed)
    }

    /// WINDOW_UPDATE frames received.
    pub fn updates(&self) -> u64 {
        self.updates.load(Relaxed)
    }

    /// Empty DATA behind padding, of which `h2` bears a hundred in a connection's life.
    pub fn padded_empty(&self) -> u64 {
        self.padded_empty.load(Relaxed)
    }

    /// The first GOAWAY that the peer sent.
    pub fn goaway(&self) -> Option<&Goaway> {
        self.goaway.get()
    }

    /// The peer's first SETTINGS, at the agent; `None` until they have arrived.
    pub fn settled(&self) -> Option<&PeerSettings> {
        self.settled.get()
    }

    /// Why the gateway's first octets were refused, at the agent.
    pub fn refused(&self) -> Option<&Fault> {
        self.refused.get()
    }

    /// What arrived of an opening that did not come to its end, at the agent.
    pub fn opening_so_far(&self) -> Seen {
        self.opening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a frame that was to be put between `h2`'s has not left yet.
    pub fn is_injecting(&self) -> bool {
        self.inject
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .frame
            .is_some()
    }

    /// Has a frame written at the next boundary between two of `h2`'s. A second call before the first frame left
    /// replaces it.
    pub fn inject(&self, frame: Vec<u8>) {
        let waker = {
            let mut inject = self.inject.lock().unwrap_or_else(PoisonError::into_inner);
            inject.frame = Some(frame.into());
            inject.writer.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
