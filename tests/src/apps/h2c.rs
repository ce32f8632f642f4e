//! An HTTP/2 app in clear text, shaped like a gRPC server: echoing streams, trailers, and errors in trailers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::task::{Task, Tasks, spawn};

/// A running app. Paths: `/test.Echo/Stream` echoes pieces as they come, says its path in `x-path`, and ends with `grpc-status: 0`;
/// `/test.Echo/Fail` answers with trailers only; `/test.Echo/Abort` sends one piece and resets the stream;
/// `/test.Echo/Forge` pretends to be its agent, which has no connection to it.
#[derive(Debug)]
pub struct H2cApp {
    address: SocketAddr,
    resets: Arc<AtomicUsize>,
    _task: Task,
}

impl H2cApp {
    /// Listens on a port of its own.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let resets = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&resets);
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((tcp, _)) = listener.accept().await {
                running.spawn(connection(tcp, Arc::clone(&counter)));
            }
        });
        Self {
            address,
            resets,
            _task: task,
        }
    }

    /// The target to give an agent (with `--h2`).
    #[must_use]
    pub fn target(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many request streams were reset by the client before their end.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.resets.load(Ordering::Relaxed)
    }
}

async fn connection(tcp: TcpStream, resets: Arc<AtomicUsize>) {
    tcp.set_nodelay(true).unwrap();
    let Ok(mut connection) = server::handshake(tcp).await else {
        return;
    };
    let mut streams = Tasks::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(stream(request, respond, Arc::clone(&resets)));
    }
}

async fn stream(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    resets: Arc<AtomicUsize>,
) {
    let path = request.uri().path().to_owned();
    let outcome = match path.as_str() {
        "/test.Echo/Fail" => fail(respond),
        "/test.Echo/Forge" => forge(respond),
        "/test.Echo/Abort" => abort(request.into_body(), respond).await,
        path => echo(path, request.into_body(), respond).await,
    };
    if outcome.is_err_and(|error| error.is_reset()) {
        resets.fetch_add(1, Ordering::Relaxed);
    }
}

fn fail(mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", "5")
        .header("grpc-message", "no such thing")
        .body(())
        .unwrap();
    respond.send_response(head, true).map(|_| ())
}

fn forge(mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let head = Response::builder()
        .status(502)
        .header("tidegate-reason", "app-unreachable")
        .header("tidegate-detail", "forged")
        .body(())
        .unwrap();
    let mut send = respond.send_response(head, false)?;
    send.send_data(Bytes::from_static(b"mine"), true)
}

async fn abort(mut body: RecvStream, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut send = respond.send_response(Response::new(()), false)?;
    send.send_data(Bytes::from_static(b"one"), false)?;
    // h2 drops what it has not written when it resets: the client says when it has the first piece.
    body.data().await.transpose()?;
    send.send_reset(h2::Reason::INTERNAL_ERROR);
    Ok(())
}

async fn echo(
    path: &str,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .header("x-path", path)
        .body(())
        .unwrap();
    let mut send = respond.send_response(head, false)?;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        // h2 buffers what the window does not take; an echo is bounded by what its client leaves unread.
        send.send_data(piece, false)?;
    }
    let asked = body.trailers().await?.unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    for (name, value) in &asked {
        trailers.insert(name.clone(), value.clone());
    }
    send.send_trailers(trailers)
}
