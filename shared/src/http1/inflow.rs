//! What was read from a connection and not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// What is read at once: so much at first, and as much as [`AT_MOST`] where a peer fills it.
const AT_FIRST: usize = 8 * 1024;
const AT_MOST: usize = 64 * 1024;

/// Room for what comes at first, unless there is more of it.
const ENOUGH: usize = 2 * 1024;

/// See the module's head.
#[derive(Debug)]
pub struct Inflow {
    octets: BytesMut,
    at_once: usize,
}

impl Default for Inflow {
    fn default() -> Self {
        Self {
            octets: BytesMut::new(),
            at_once: AT_FIRST,
        }
    }
}

impl From<Bytes> for Inflow {
    /// One that begins with what was read already.
    fn from(seen: Bytes) -> Self {
        Self {
            octets: seen.into(),
            ..Self::default()
        }
    }
}

impl Inflow {
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// What is to be taken from.
    pub const fn octets(&mut self) -> &mut BytesMut {
        &mut self.octets
    }

    /// What nobody took.
    pub fn into_octets(self) -> Bytes {
        self.octets.freeze()
    }

    /// Reads what is there, at most as much as is read at once. Nothing is the connection's end.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_read<T>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<usize>>
    where
        T: AsyncRead + Unpin,
    {
        if self.at_once == AT_FIRST && self.octets.is_empty() && self.octets.capacity() > AT_FIRST {
            // What much content took is given back.
            self.octets = BytesMut::new();
        }
        // Small messages fill what one of them left of a buffer.
        let least = if self.at_once == AT_FIRST {
            ENOUGH
        } else {
            self.at_once
        };
        if self.octets.capacity() - self.octets.len() < least {
            self.octets.reserve(self.at_once);
        }
        let room = self.octets.capacity() - self.octets.len();
        let read = ready!(poll_read_buf(Pin::new(io), cx, &mut self.octets))?;
        if read == room {
            self.at_once = (self.at_once * 2).min(AT_MOST);
        } else if read < self.at_once / 4 {
            self.at_once = (self.at_once / 2).max(AT_FIRST);
        }
        Poll::Ready(Ok(read))
    }
}
