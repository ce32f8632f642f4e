//! A gateway by hand: waits for agents, reverses as HAProxy does (`wire.md` §1.2), and then asks in frames.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::frame::{Frame, PREFACE, flag, kind, setting};
use super::hpack::Fields;
use super::{Event, Peer};
use crate::conn::Conn;
use crate::eventually::{SOON, within};
use crate::pki::Pki;

/// A listener for agents.
#[derive(Debug)]
pub struct RawGateway {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl RawGateway {
    /// Listens with `identity` and asks for client certificates of `pki`.
    pub async fn listen(pki: &Pki, identity: &Path) -> Self {
        Self::listen_alpn(pki, identity, &["h2"]).await
    }

    /// As [`RawGateway::listen`], with an ALPN list of the test's own.
    pub async fn listen_alpn(pki: &Pki, identity: &Path, alpn: &[&str]) -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            config: pki.server_config(identity, true, alpn),
        }
    }

    /// Where agents dial.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection whose TLS handshake succeeds; nothing has been read.
    pub async fn accept(&self) -> Conn {
        within(SOON, "an agent dials", async {
            loop {
                let (tcp, _) = self.listener.accept().await.unwrap();
                if let Ok(conn) = Conn::accept_tls(tcp, Arc::clone(&self.config)).await {
                    return conn;
                }
            }
        })
        .await
    }

    /// The next connection's TCP socket, before any handshake.
    pub async fn accept_tcp(&self) -> tokio::net::TcpStream {
        within(SOON, "an agent dials", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    /// The next connection, its preface and SETTINGS read and checked; nothing has been written.
    pub async fn opening(&self) -> (Peer, Frame) {
        let mut peer = Peer::over(self.accept().await);
        let preface = within(SOON, "the agent's preface", peer.exactly(24))
            .await
            .unwrap();
        assert_eq!(preface, PREFACE, "what the agent says first");
        let settings = within(SOON, "the agent's SETTINGS", peer.frame())
            .await
            .unwrap();
        assert!(
            settings.kind == kind::SETTINGS && settings.flags == 0 && settings.stream == 0,
            "the agent's first frame is its SETTINGS: {settings:?}"
        );
        (peer, settings)
    }

    /// The next connection, reversed: SETTINGS sent, acknowledged, and acknowledged back.
    pub async fn reversed(&self) -> Peer {
        let (mut peer, _) = self.opening().await;
        peer.send(Self::settings()).await;
        peer.send(Frame::settings_ack()).await;
        let ack = peer.wait_frame(kind::SETTINGS).await;
        assert!(
            ack.has(flag::ACK),
            "the agent acknowledges SETTINGS: {ack:?}"
        );
        peer
    }

    /// HAProxy's settings on this side (`wire.md` §1.2): no ENABLE_PUSH.
    #[must_use]
    pub fn settings() -> Frame {
        Frame::settings(&[
            (setting::ENABLE_CONNECT_PROTOCOL, 1),
            (setting::INITIAL_WINDOW_SIZE, 16384),
            (setting::MAX_CONCURRENT_STREAMS, 100),
        ])
    }
}

/// The fields of a plain request.
#[must_use]
pub fn request<'a>(method: &'a str, host: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", host),
        (":path", path),
    ]
}

/// Reads the whole answer on `stream`: head, body, and the trailers' fields (empty where there are none).
pub async fn answer(peer: &mut Peer, stream: u32) -> (Fields, Vec<u8>, Fields) {
    within(SOON, "an answer", async {
        let mut head: Option<Fields> = None;
        let mut body = Vec::new();
        loop {
            match peer.event().await.unwrap() {
                Event::Head {
                    stream: on,
                    fields,
                    end,
                } if on == stream => match head {
                    None if end => return (fields, body, Fields::new()),
                    None => head = Some(fields),
                    Some(head) => return (head, body, fields),
                },
                Event::Frame(frame) if frame.stream == stream && frame.kind == kind::DATA => {
                    body.extend(&frame.payload);
                    if frame.has(flag::END_STREAM) {
                        return (head.unwrap(), body, Fields::new());
                    }
                }
                Event::Frame(frame) if frame.stream == stream => {
                    assert_ne!(frame.kind, kind::RST_STREAM, "reset with {}", frame.code());
                }
                _ => {}
            }
        }
    })
    .await
}
