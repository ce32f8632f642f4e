//! Acknowledging at once what an app sends while more of its answer is due.
//!
//! An app that writes head and body apart, with Nagle's algorithm on, sends the second part when the first is acknowledged,
//! and a kernel with nothing to send puts that off by 40 ms (RFC 9293 §3.7.4, §3.8.6.3): each on its own is right, together
//! they hold up every answer on a kept connection. `Link` knows whether more is due, `Line` has the socket; this is what they
//! share.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Context;

use socket2::SockRef;
use tokio::net::TcpStream;

/// Of one connection to the app.
#[derive(Debug, Default)]
pub(super) struct Haste {
    /// Octets came and may be unacknowledged.
    heard: AtomicBool,
    /// The next read that finds nothing acknowledges them.
    due: AtomicBool,
    /// The next read that finds nothing asks the system whether there is nothing.
    doubted: AtomicBool,
}

impl Haste {
    /// A request goes out, and takes the acknowledgement of all that came before it along.
    pub(super) fn rest(&self) {
        self.heard.store(false, Relaxed);
        self.due.store(false, Relaxed);
    }

    /// Octets were read.
    pub(super) fn heard(&self) {
        self.heard.store(true, Relaxed);
    }

    /// The connection was driven as far as it goes, and the answer is not whole. What came since the last time is
    /// acknowledged in the caller's next turn, which this asks for.
    pub(super) fn more_is_due(&self, cx: &Context<'_>) {
        if once(&self.heard) {
            self.due.store(true, Relaxed);
            cx.waker().wake_by_ref();
        }
    }

    /// Nothing may be on its way from the app: what the runtime has not heard of yet is to be found.
    pub(super) fn doubt(&self) {
        self.doubted.store(true, Relaxed);
    }

    /// Whether a read that found nothing is doubted, once; and if so, whether the system knows better.
    pub(super) fn is_mistaken(&self, tcp: Option<&TcpStream>) -> bool {
        once(&self.doubted)
            && tcp.is_some_and(|tcp| {
                let mut room = [MaybeUninit::uninit()];
                let found = SockRef::from(tcp).peek(&mut room);
                !matches!(found, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            })
    }

    /// A read found nothing.
    pub(super) fn found_nothing(&self, tcp: Option<&TcpStream>) {
        if once(&self.due)
            && let Some(tcp) = tcp
        {
            // A system without it acknowledges when it likes to; a connection that is gone says so when it is read.
            let _unsupported = SockRef::from(tcp).set_tcp_quickack(true);
        }
    }
}

/// Whether it is set, once. All is one task's at a time; a swap would make the processor wait for nothing.
fn once(flag: &AtomicBool) -> bool {
    let set = flag.load(Relaxed);
    if set {
        flag.store(false, Relaxed);
    }
    set
}
