//! A long way in user space: a TCP relay that holds each chunk for the one-way delay and passes a set number of
//! bytes per second in each direction, for all its connections together, as one cable would.
//! What is on the way has no limit but the size of the transfer, so the buffer is never what slows one, and nothing
//! is lost. Used by the distance figures; it parses nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// How far and how wide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// One way; half of the round trip.
    pub(crate) delay: Duration,
    /// In each direction.
    pub(crate) bytes_per_second: f64,
}

impl Way {
    /// 100 ms round trip at 500 Mbit/s.
    pub(crate) const FAR: Self = Self {
        delay: Duration::from_millis(50),
        bytes_per_second: 500e6 / 8.0,
    };
}

/// Starts a link to `far_end` and gives the address of its near end. Its threads end with the process.
pub(crate) fn start(way: Way, far_end: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near_end = listener.local_addr()?;
    let there = Arc::new(Lane::new(way));
    let back = Arc::new(Lane::new(way));
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            // A far end that refuses shows as a connection closed at once.
            let Ok(far) = TcpStream::connect(far_end) else {
                continue;
            };
            let started = carry(&there, &near, &far).and_then(|()| carry(&back, &far, &near));
            debug_assert!(
                started.is_ok(),
                "two handles and four threads are to be had"
            );
        }
    });
    Ok(near_end)
}

/// One direction of the cable, shared by all connections.
#[derive(Debug)]
struct Lane {
    way: Way,
    /// When the last byte accepted so far will have left.
    free_at: Mutex<Instant>,
}

impl Lane {
    fn new(way: Way) -> Self {
        Self {
            way,
            free_at: Mutex::new(Instant::now()),
        }
    }

    /// When a chunk of `length` bytes that enters at this moment arrives at the other end.
    fn arrival(&self, length: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = Duration::from_secs_f64(length as f64 / self.way.bytes_per_second);
        *free_at = (*free_at).max(Instant::now()) + takes;
        *free_at + self.way.delay
    }
}

/// Carries one direction of one connection, in two threads.
fn carry(lane: &Arc<Lane>, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (from, to) = (from.try_clone()?, to.try_clone()?);
    to.set_nodelay(true)?;
    let (send, receive) = channel();
    let lane = Arc::clone(lane);
    thread::spawn(move || take_in(&lane, from, &send));
    thread::spawn(move || give_out(to, &receive));
    Ok(())
}

fn take_in(lane: &Lane, mut from: TcpStream, send: &Sender<(Instant, Vec<u8>)>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if send
            .send((lane.arrival(length), chunk[..length].to_vec()))
            .is_err()
        {
            break;
        }
    }
}

fn give_out(mut to: TcpStream, receive: &Receiver<(Instant, Vec<u8>)>) {
    for (arrival, chunk) in receive {
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        if to.write_all(&chunk).is_err() {
            break;
        }
    }
    // The other end has closed its side, or is gone; either way this side has no more to say.
    let _ = to.shutdown(Shutdown::Write);
}

/// Small against the bandwidth-delay product, so that bytes flow and do not come in lumps.
const CHUNK: usize = 64 * 1024;
