//! The HTTP/1 app: listeners, the keep-alive loop, and the record of what it has seen. Its answers are in `routes`.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::routes;
use crate::conn::Conn;
use crate::eventually::{SOON, eventually};
use crate::http1::{Framing, Head, Reader};
use crate::task::{Task, Tasks, spawn};

/// A running app. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct HttpApp {
    target: String,
    address: Option<SocketAddr>,
    seen: Seen,
    _task: Task,
}

/// What an app has seen, shared with its connections.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    connections: usize,
    requests: Vec<Head>,
    body_bytes: usize,
    /// Targets whose client went away before the answer was complete.
    abandoned: Vec<String>,
}

impl Seen {
    pub(super) fn body(&self, bytes: usize) {
        self.0.lock().unwrap().body_bytes += bytes;
    }

    pub(super) fn abandoned(&self, target: &str) {
        self.0.lock().unwrap().abandoned.push(target.to_owned());
    }
}

/// A connection that an app can serve.
pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the next close an RST, where the transport has one.
    fn make_close_abrupt(&self);
}

impl Wire for Conn {
    fn make_close_abrupt(&self) {
        SockRef::from(self.tcp())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

impl Wire for UnixStream {
    fn make_close_abrupt(&self) {}
}

impl HttpApp {
    /// Listens on a port of its own; `name` is in the answer of `/hello`.
    pub async fn start(name: &str) -> Self {
        Self::start_at(name, TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// Serves a listener that there is: an app that comes up late.
    #[must_use]
    pub fn start_at(name: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let (name, shared) = (name.to_owned(), seen.clone());
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                running.spawn(serve(Conn::Plain(tcp), name.clone(), shared.clone()));
            }
        });
        Self {
            target: format!("http://{address}"),
            address: Some(address),
            seen,
            _task: task,
        }
    }

    /// Listens on a port of its own, with TLS.
    pub async fn start_tls(name: &str, config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Seen::default();
        let (name, shared) = (name.to_owned(), seen.clone());
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (config, name, shared) = (Arc::clone(&config), name.clone(), shared.clone());
                running.spawn(async move {
                    if let Ok(conn) = Conn::accept_tls(tcp, config).await {
                        serve(conn, name, shared).await;
                    }
                });
            }
        });
        Self {
            target: format!("https://localhost:{}", address.port()),
            address: Some(address),
            seen,
            _task: task,
        }
    }

    /// Listens on a Unix socket in `dir`.
    #[must_use]
    pub fn start_unix(name: &str, dir: &Path) -> Self {
        let path: PathBuf = dir.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Seen::default();
        let (name, shared) = (name.to_owned(), seen.clone());
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((stream, _)) = listener.accept().await {
                running.spawn(serve(stream, name.clone(), shared.clone()));
            }
        });
        Self {
            target: format!("unix:{}", path.display()),
            address: None,
            seen,
            _task: task,
        }
    }

    /// The target to give an agent.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Its TCP address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an app on TCP")
    }

    /// The requests so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Head> {
        self.seen.0.lock().unwrap().requests.clone()
    }

    /// The last request; fails the test when there was none.
    #[must_use]
    pub fn last_request(&self) -> Head {
        self.requests().pop().expect("the app has seen a request")
    }

    /// How many requests had this target.
    #[must_use]
    pub fn count(&self, target: &str) -> usize {
        let requests = self.requests();
        requests
            .iter()
            .filter(|head| head.target() == target)
            .count()
    }

    /// How many body bytes of requests have arrived.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        self.seen.0.lock().unwrap().body_bytes
    }

    /// How many connections have been accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.seen.0.lock().unwrap().connections
    }

    /// Waits until a request for `target` is here.
    pub async fn wait_request(&self, target: &str) {
        let what = format!("the app gets {target}");
        eventually(SOON, &what, async || (self.count(target) > 0).then_some(())).await;
    }

    /// Waits, at most `limit`, until the client of `target` has left before the end of its answer.
    pub async fn wait_abandoned(&self, target: &str, limit: Duration) {
        let what = format!("the app sees that the visitor of {target} has left");
        eventually(limit, &what, async || {
            let record = self.seen.0.lock().unwrap();
            record
                .abandoned
                .iter()
                .any(|gone| gone == target)
                .then_some(())
        })
        .await;
    }
}

async fn serve<S: Wire>(io: S, name: String, seen: Seen) {
    seen.0.lock().unwrap().connections += 1;
    let mut reader = Reader::new(io);
    // An error is a client that left or broke off: the routes have recorded what a test wants to know about it.
    let _ = exchange(&mut reader, &name, &seen).await;
}

async fn exchange<S: Wire>(reader: &mut Reader<S>, name: &str, seen: &Seen) -> io::Result<()> {
    while let Some(head) = reader.head().await? {
        seen.0.lock().unwrap().requests.push(head.clone());
        let mut body = Framing::of_request(&head)?;
        let go_on = routes::answer(reader, &head, &mut body, name, seen).await?;
        while let Some(piece) = reader.piece(&mut body).await? {
            seen.body(piece.len());
        }
        if !go_on || head.lists("connection", "close") || head.start.ends_with("HTTP/1.0") {
            break;
        }
    }
    Ok(())
}
