//! An app that is not there: its port is held, so that no other test gets it, and refuses connections until it listens.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A port on which nobody listens yet.
#[derive(Debug)]
pub struct AbsentApp(TcpSocket);

impl AbsentApp {
    #[must_use]
    #[expect(
        clippy::new_without_default,
        reason = "it takes a port, which no default should"
    )]
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The app comes up: connections are accepted from here on.
    #[must_use]
    pub fn listen(self) -> TcpListener {
        self.0.listen(64).unwrap()
    }
}
