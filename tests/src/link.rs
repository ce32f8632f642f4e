//! A TCP relay between two programs that can freeze, be cut, and be delayed: a network with a switch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::task::{Task, Tasks, spawn};

/// A relay to one address. Dropping it closes everything that runs through it.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<State>,
    opened: Arc<AtomicUsize>,
    _task: Task,
}

#[derive(Debug, Clone, Copy)]
struct State {
    frozen: bool,
    /// Raised by one for each cut; a connection ends when it is no longer the one it began with.
    cuts: usize,
    delay: Duration,
}

impl Link {
    /// Starts relaying to `target` on a port of its own.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, watched) = watch::channel(State {
            frozen: false,
            cuts: 0,
            delay: Duration::ZERO,
        });
        let opened = Arc::new(AtomicUsize::new(0));
        let task = spawn(accept(listener, target, watched, Arc::clone(&opened)));
        Self {
            address,
            state,
            opened,
            _task: task,
        }
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have been opened through it.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Stops passing bytes, both ways, with every connection left open.
    pub fn freeze(&self) {
        self.state.send_modify(|state| state.frozen = true);
    }

    /// Passes bytes again, also those that were sent meanwhile.
    pub fn thaw(&self) {
        self.state.send_modify(|state| state.frozen = false);
    }

    /// Closes every connection; later ones are served.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Holds each piece back by `delay` in each direction.
    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }
}

async fn accept(
    listener: TcpListener,
    target: SocketAddr,
    mut state: watch::Receiver<State>,
    opened: Arc<AtomicUsize>,
) {
    let mut running = Tasks::new();
    loop {
        let Ok((near, _)) = listener.accept().await else {
            return;
        };
        if thawed(&mut state).await.is_none() {
            return;
        }
        opened.fetch_add(1, Ordering::Relaxed);
        running.spawn(relay(near, target, state.clone()));
    }
}

async fn relay(near: TcpStream, target: SocketAddr, mut state: watch::Receiver<State>) {
    let Ok(far) = TcpStream::connect(target).await else {
        return;
    };
    let began = state.borrow().cuts;
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = copy(near_read, far_write, state.clone());
    let back = copy(far_read, near_write, state.clone());
    tokio::select! {
        _ = state.wait_for(|state| state.cuts != began) => {}
        _ = async { tokio::join!(there, back) } => {}
    }
}

/// Copies one direction until its end, then half-closes the other side.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 16 * 1024];
    while thawed(&mut state).await.is_some() {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            break;
        };
        let Some(delay) = thawed(&mut state).await else {
            break;
        };
        sleep(delay).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Waits until bytes may pass, and returns the delay; `None` when the link is gone.
async fn thawed(state: &mut watch::Receiver<State>) -> Option<Duration> {
    let state = state.wait_for(|state| !state.frozen).await.ok()?;
    Some(state.delay)
}
