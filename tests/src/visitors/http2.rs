//! An HTTP/2 visitor, over TLS by ALPN or in clear text by prior knowledge.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::ClientConfig;

use crate::conn::Conn;
use crate::eventually::{SOON, within};
use crate::task::{Task, spawn};

/// One HTTP/2 visitor connection.
#[derive(Debug)]
pub struct H2Visitor {
    send: SendRequest<Bytes>,
    scheme: &'static str,
    task: Task,
}

/// An answer, or as much of it as came.
#[derive(Debug)]
pub struct H2Answer {
    /// The final status.
    pub status: StatusCode,
    /// The fields of the head.
    pub fields: HeaderMap,
    /// The body as far as it came.
    pub body: Vec<u8>,
    /// The trailers, if some came.
    pub trailers: Option<HeaderMap>,
    /// The reset or loss that ended it before END_STREAM.
    pub cut: Option<h2::Error>,
}

impl H2Answer {
    /// A field of the head as text, or an empty text.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl H2Visitor {
    /// Connects over TLS, asks for `sni`, and insists on ALPN `h2`.
    pub async fn connect_tls(to: SocketAddr, sni: &str, config: Arc<ClientConfig>) -> Self {
        let conn = within(
            SOON,
            "a visitor's TLS handshake",
            Conn::tls(to, sni, config),
        )
        .await;
        let conn = conn.unwrap();
        assert_eq!(conn.alpn().as_deref(), Some(&b"h2"[..]), "ALPN");
        Self::over(conn, "https", client::Builder::new()).await
    }

    /// Connects in clear text with prior knowledge.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::connect_with(to, client::Builder::new()).await
    }

    /// Connects in clear text with settings of the test's own.
    pub async fn connect_with(to: SocketAddr, settings: client::Builder) -> Self {
        Self::over(Conn::plain(to).await.unwrap(), "http", settings).await
    }

    /// Connects in clear text from 127.0.0.`host`: a source of its own.
    pub async fn connect_from(host: u8, to: SocketAddr) -> Self {
        let conn = Conn::plain_from([127, 0, 0, host].into(), to).await;
        Self::over(conn.unwrap(), "http", client::Builder::new()).await
    }

    async fn over(conn: Conn, scheme: &'static str, settings: client::Builder) -> Self {
        let (send, connection) = within(SOON, "HTTP/2 begins", settings.handshake(conn))
            .await
            .unwrap();
        let task = spawn(async move {
            let _ = connection.await;
        });
        Self { send, scheme, task }
    }

    /// A request head for `path` at `host`.
    #[must_use]
    pub fn head(&self, method: Method, host: &str, path: &str) -> Request<()> {
        let uri = format!("{}://{host}{path}", self.scheme);
        Request::builder().method(method).uri(uri).body(()).unwrap()
    }

    /// Sends a request head; `end` when no body follows.
    pub async fn begin(
        &mut self,
        head: Request<()>,
        end: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let ready = self.send.clone().ready();
        self.send = within(SOON, "the gateway takes another stream", ready)
            .await
            .unwrap();
        self.send.send_request(head, end).unwrap()
    }

    /// A whole GET.
    pub async fn get(&mut self, host: &str, path: &str) -> H2Answer {
        let head = self.head(Method::GET, host, path);
        let (response, _) = self.begin(head, true).await;
        answer(response).await
    }

    /// A whole request with a body.
    pub async fn send(&mut self, head: Request<()>, body: impl Into<Bytes>) -> H2Answer {
        let (response, mut upload) = self.begin(head, false).await;
        upload.send_data(body.into(), true).unwrap();
        answer(response).await
    }

    /// Waits until the gateway's SETTINGS offer extended CONNECT (RFC 8441).
    pub async fn extended_connect(&self) {
        crate::eventually(SOON, "SETTINGS_ENABLE_CONNECT_PROTOCOL", async || {
            self.send
                .is_extended_connect_protocol_enabled()
                .then_some(())
        })
        .await;
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.task.is_finished()
    }
}

/// The response head; fails the test when a reset comes first.
pub async fn response(future: ResponseFuture) -> Response<RecvStream> {
    within(SOON, "a response head", future).await.unwrap()
}

/// The whole answer.
pub async fn answer(future: ResponseFuture) -> H2Answer {
    read(response(future).await).await
}

/// The rest of an answer, after its head.
pub async fn read(response: Response<RecvStream>) -> H2Answer {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    let mut cut = None;
    while let Some(piece) = within(SOON, "a piece of the body", stream.data()).await {
        match piece {
            Ok(piece) => {
                body.extend_from_slice(&piece);
                let _ = stream.flow_control().release_capacity(piece.len());
            }
            Err(error) => {
                cut = Some(error);
                break;
            }
        }
    }
    let trailers = match cut {
        None => within(SOON, "the end of the stream", stream.trailers())
            .await
            .unwrap(),
        Some(_) => None,
    };
    H2Answer {
        status: head.status,
        fields: head.headers,
        body,
        trailers,
        cut,
    }
}

/// The next piece of a body; `None` at END_STREAM or before trailers.
pub async fn piece(stream: &mut RecvStream) -> Option<Bytes> {
    let piece = within(SOON, "a piece of the body", stream.data())
        .await?
        .unwrap();
    stream.flow_control().release_capacity(piece.len()).unwrap();
    Some(piece)
}
