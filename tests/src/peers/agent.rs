//! An agent by hand: dials a gateway as HAProxy's origin does (`wire.md` §1.2) and then is the server of its frames.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use super::frame::{Frame, PREFACE, flag, kind, setting};
use super::hpack::Fields;
use super::{Event, Peer, field};
use crate::conn::Conn;
use crate::eventually::{SOON, within};
use crate::pki::Pki;
use crate::task::{Task, spawn};

/// A reversed connection, agent's side.
#[derive(Debug)]
pub struct RawAgent;

impl RawAgent {
    /// Dials TLS with `identity` and ALPN `h2`; nothing is written yet.
    ///
    /// # Errors
    /// Why the connection or the handshake failed. TLS 1.3 reports a refused certificate with the first read.
    pub async fn connect(
        gateway: SocketAddr,
        pki: &Pki,
        identity: Option<&Path>,
    ) -> io::Result<Conn> {
        let config = pki.client(identity, &["h2"]);
        within(
            SOON,
            "an agent's TLS handshake",
            Conn::tls(gateway, "localhost", config),
        )
        .await
    }

    /// As [`RawAgent::connect`], from the `number`th address of this machine: a source that has no history.
    ///
    /// # Errors
    /// As [`RawAgent::connect`].
    pub async fn connect_from(
        number: u8,
        gateway: SocketAddr,
        pki: &Pki,
        identity: Option<&Path>,
    ) -> io::Result<Conn> {
        let config = pki.client(identity, &["h2"]);
        let source = Ipv4Addr::new(127, 0, 1, number);
        let dialed = Conn::tls_from(source, gateway, "localhost", config);
        within(SOON, "an agent's TLS handshake", dialed).await
    }

    /// HAProxy's settings, byte for byte (`wire.md` §1.2).
    #[must_use]
    pub fn settings() -> Frame {
        Frame::settings(&[
            (setting::ENABLE_PUSH, 0),
            (setting::ENABLE_CONNECT_PROTOCOL, 1),
            (setting::INITIAL_WINDOW_SIZE, 16384),
            (setting::MAX_CONCURRENT_STREAMS, 100),
        ])
    }

    /// Dials, reverses, and returns when the gateway's SETTINGS are here.
    pub async fn dial(gateway: SocketAddr, pki: &Pki, identity: &Path) -> Peer {
        Self::dial_with(gateway, pki, identity, Self::settings()).await
    }

    /// As [`RawAgent::dial`], with settings of the test's own.
    pub async fn dial_with(
        gateway: SocketAddr,
        pki: &Pki,
        identity: &Path,
        settings: Frame,
    ) -> Peer {
        let conn = Self::connect(gateway, pki, Some(identity)).await.unwrap();
        let mut peer = Peer::over(conn);
        let opening = [PREFACE.as_slice(), &settings.encode()].concat();
        peer.write(&opening).await.unwrap();
        let first = within(SOON, "the gateway's SETTINGS", peer.event())
            .await
            .unwrap();
        let Event::Frame(first) = first else {
            panic!("the gateway began with a field block")
        };
        assert!(
            first.kind == kind::SETTINGS && !first.has(flag::ACK) && first.stream == 0,
            "the gateway's first frame is its SETTINGS: {first:?}"
        );
        peer
    }
}

/// Answers every request on `peer` for as long as it lives; `answer` makes the body from path and fields.
#[must_use]
pub fn answering(
    mut peer: Peer,
    answer: impl Fn(&str, &Fields) -> String + Send + 'static,
) -> Task {
    spawn(async move {
        while let Ok(event) = peer.event().await {
            let Event::Head { stream, fields, .. } = event else {
                continue;
            };
            let body = answer(field(&fields, ":path").unwrap_or_default(), &fields);
            if peer.respond(stream, &body).await.is_err() {
                return;
            }
        }
    })
}
