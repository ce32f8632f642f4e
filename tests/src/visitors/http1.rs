//! A visitor who writes the bytes that a test gives and reads exactly what comes back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::ClientConfig;
use socket2::SockRef;
use tokio::io::AsyncWriteExt;

use crate::conn::Conn;
use crate::eventually::{SOON, within};
use crate::http1::{Framing, Head, Reader};

/// One visitor connection.
#[derive(Debug)]
pub struct Visitor {
    /// What is read, and what is left of it.
    pub reader: Reader<Conn>,
}

/// A whole answer, or as much of it as came.
#[derive(Debug)]
pub struct Answer {
    /// Heads with a 1xx status that came first.
    pub interim: Vec<Head>,
    /// The final head.
    pub head: Head,
    /// The body as far as it came.
    pub body: Vec<u8>,
    /// The trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Why the body ended before its proper end, if it did.
    pub cut: Option<io::Error>,
    /// From the call until the last byte.
    pub took: Duration,
}

impl Answer {
    /// The final status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `tidegate-reason` field, or an empty text.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.head.get("tidegate-reason").unwrap_or_default()
    }
}

impl Visitor {
    /// Connects in clear text.
    pub async fn connect(to: SocketAddr) -> Self {
        let conn = within(SOON, "a visitor connects", Conn::plain(to)).await;
        Self::over(conn.unwrap())
    }

    /// Connects in clear text from 127.0.0.`host`: a source of its own.
    pub async fn connect_from(host: u8, to: SocketAddr) -> Self {
        let source = [127, 0, 0, host].into();
        let conn = within(SOON, "a visitor connects", Conn::plain_from(source, to)).await;
        Self::over(conn.unwrap())
    }

    /// Connects over TLS and asks for `sni`.
    pub async fn connect_tls(to: SocketAddr, sni: &str, config: Arc<ClientConfig>) -> Self {
        let conn = within(
            SOON,
            "a visitor's TLS handshake",
            Conn::tls(to, sni, config),
        )
        .await;
        Self::over(conn.unwrap())
    }

    /// Connects with a receive buffer of a few KiB, so that a visitor who does not read stalls the sender early.
    pub async fn connect_narrow(to: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::over(Conn::Plain(socket.connect(to).await.unwrap()))
    }

    /// Uses a connection that is there.
    #[must_use]
    pub fn over(conn: Conn) -> Self {
        Self {
            reader: Reader::new(conn),
        }
    }

    /// Writes bytes; fails the test when the connection does not take them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(SOON, "the visitor's bytes are taken", self.try_send(bytes))
            .await
            .unwrap();
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.reader.io.write_all(bytes.as_ref()).await?;
        self.reader.io.flush().await
    }

    /// Writes a GET for `path` at `host` that keeps the connection.
    pub async fn send_get(&mut self, host: &str, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
    }

    /// As [`Visitor::send_get`], as a browser asks for a page: a failure is to be one in HTML.
    pub async fn send_browser_get(&mut self, host: &str, path: &str) {
        self.send(format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n\r\n"
        ))
        .await;
    }

    /// Says that no more will be written (FIN), and goes on reading.
    pub async fn half_close(&mut self) {
        self.reader.io.shutdown().await.unwrap();
    }

    /// Closes with RST.
    pub fn reset(self) {
        self.reader.io.reset();
    }

    /// The next head, 1xx or final.
    pub async fn head(&mut self) -> Head {
        self.head_within(SOON).await
    }

    /// The next head, with a deadline of the test's own.
    pub async fn head_within(&mut self, limit: Duration) -> Head {
        let head = within(limit, "a response head", self.reader.head()).await;
        head.unwrap()
            .expect("a response head, not the end of the connection")
    }

    /// The next piece of a body; `None` at its proper end.
    pub async fn piece(&mut self, framing: &mut Framing) -> Option<Bytes> {
        within(SOON, "a piece of the body", self.reader.piece(framing))
            .await
            .unwrap()
    }

    /// The whole answer to a request that was sent with `method`.
    pub async fn answer(&mut self, method: &str) -> Answer {
        self.answer_within(SOON, method).await
    }

    /// As [`Visitor::answer`], with a deadline of the test's own.
    pub async fn answer_within(&mut self, limit: Duration, method: &str) -> Answer {
        let answer = within(limit, "an answer", self.try_answer(method)).await;
        answer.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// The whole answer; an error when the connection ended before the final head.
    ///
    /// # Errors
    /// What the connection says before the final head is complete.
    pub async fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let began = Instant::now();
        let mut interim = Vec::new();
        let head = loop {
            let head = self
                .reader
                .head()
                .await?
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            if head.status() >= 200 || head.status() == 101 {
                break head;
            }
            interim.push(head);
        };
        let mut framing = Framing::of_answer(&head, method)?;
        let mut body = Vec::new();
        let cut = loop {
            match self.reader.piece(&mut framing).await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        Ok(Answer {
            interim,
            head,
            body,
            trailers: std::mem::take(&mut self.reader.trailers),
            cut,
            took: began.elapsed(),
        })
    }

    /// Waits until the gateway closes (or resets) the connection, and returns what came before that.
    pub async fn closed_within(&mut self, limit: Duration) -> Vec<u8> {
        let rest = within(
            limit,
            "the gateway closes the connection",
            self.reader.rest(),
        )
        .await;
        rest.unwrap_or_default()
    }

    /// Makes the socket's receive buffer small: to be used before anything has been read.
    pub fn narrow(&self) {
        SockRef::from(self.reader.io.tcp())
            .set_recv_buffer_size(4096)
            .unwrap();
    }
}

/// One GET on a connection of its own.
pub async fn get(to: SocketAddr, host: &str, path: &str) -> Answer {
    let mut visitor = Visitor::connect(to).await;
    visitor.send_get(host, path).await;
    visitor.answer("GET").await
}

/// One GET on a connection of its own; an error when no answer came.
///
/// # Errors
/// What the connection says, or that `limit` passed.
pub async fn try_get(
    to: SocketAddr,
    host: &str,
    path: &str,
    limit: Duration,
) -> io::Result<Answer> {
    let work = async {
        let mut visitor = Visitor::over(Conn::plain(to).await?);
        visitor
            .try_send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await?;
        visitor.try_answer("GET").await
    };
    tokio::time::timeout(limit, work).await?
}
