//! Stands in front of an app and takes the PROXY header off each connection, as an app does that expects one: what it said is
//! kept for the test, and what follows goes on untouched, whatever it is.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tidegate_shared::proxy_header::{Header, Parsed, USUAL_MOST, parse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::task::{Task, Tasks, spawn};

/// A header as it came.
#[derive(Debug, Clone)]
pub struct Greeted {
    /// Its octets.
    pub octets: Vec<u8>,
    /// What they say.
    pub header: Header,
}

/// See the module's head. A connection that begins otherwise is closed.
#[derive(Debug)]
pub struct Doorman {
    address: Option<SocketAddr>,
    greeted: Arc<Mutex<Vec<Greeted>>>,
    open: Arc<()>,
    _task: Task,
}

impl Doorman {
    /// On a port of its own.
    pub async fn before(app: SocketAddr) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::before_on(app, anywhere).await.unwrap()
    }

    /// On this one.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn before_on(app: SocketAddr, at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr().ok();
        let (greeted, open) = (Arc::default(), Arc::default());
        let (seen, one) = (Arc::clone(&greeted), Arc::clone(&open));
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                running.spawn(usher(tcp, app, Arc::clone(&seen), Arc::clone(&one)));
            }
        });
        Ok(Self {
            address,
            greeted,
            open,
            _task: task,
        })
    }

    /// On a Unix socket.
    #[must_use]
    pub fn before_at(app: SocketAddr, path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (greeted, open) = (Arc::default(), Arc::default());
        let (seen, one) = (Arc::clone(&greeted), Arc::clone(&open));
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((unix, _)) = listener.accept().await {
                running.spawn(usher(unix, app, Arc::clone(&seen), Arc::clone(&one)));
            }
        });
        Self {
            address: None,
            greeted,
            open,
            _task: task,
        }
    }

    /// The port that an agent is to be given.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.expect("on TCP").port()
    }

    /// The headers so far, in the order of their connections.
    #[must_use]
    pub fn greeted(&self) -> Vec<Greeted> {
        self.greeted.lock().unwrap().clone()
    }

    /// How many connections are open.
    #[must_use]
    pub fn open(&self) -> usize {
        // One is ours, one the listener's.
        Arc::strong_count(&self.open) - 2
    }
}

async fn usher<S>(mut from: S, app: SocketAddr, seen: Arc<Mutex<Vec<Greeted>>>, _open: Arc<()>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(greeted) = greeting(&mut from).await else {
        return;
    };
    seen.lock().unwrap().push(greeted);
    let mut to = TcpStream::connect(app).await.unwrap();
    to.set_nodelay(true).unwrap();
    // Either end may break off; the test sees it in what it is about.
    let _moved = copy_bidirectional(&mut from, &mut to).await;
}

async fn greeting<S: AsyncRead + Unpin>(from: &mut S) -> io::Result<Greeted> {
    let mut octets = Vec::new();
    loop {
        // One after the other, so that nothing of what follows is taken.
        octets.push(from.read_u8().await?);
        match parse(&octets, USUAL_MOST) {
            Ok(Parsed::More) => {}
            Ok(Parsed::Whole(header, _)) => return Ok(Greeted { octets, header }),
            Err(malformed) => return Err(io::Error::other(malformed)),
        }
    }
}
