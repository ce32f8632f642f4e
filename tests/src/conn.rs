//! One connection, clear or TLS, that keeps its TCP socket in reach (for resets and for options).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// A TCP connection, or a TLS session over one.
#[derive(Debug)]
pub enum Conn {
    /// Clear text.
    Plain(TcpStream),
    /// TLS, as client or as server.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conn {
    /// Connects in clear text.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn plain(to: SocketAddr) -> io::Result<Self> {
        let tcp = TcpStream::connect(to).await?;
        tcp.set_nodelay(true)?;
        Ok(Self::Plain(tcp))
    }

    /// Connects and shakes hands as a TLS client that asks for `name`.
    ///
    /// # Errors
    /// What the operating system says, or why the handshake failed.
    pub async fn tls(to: SocketAddr, name: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        Self::tls_over(TcpStream::connect(to).await?, name, config).await
    }

    /// As [`Conn::plain`], from a source address of the test's own: all of 127.0.0.0/8 is this machine.
    ///
    /// # Errors
    /// As [`Conn::plain`].
    pub async fn plain_from(source: Ipv4Addr, to: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let tcp = socket.connect(to).await?;
        tcp.set_nodelay(true)?;
        Ok(Self::Plain(tcp))
    }

    /// As [`Conn::tls`], from a source address of the test's own: all of 127.0.0.0/8 is this machine.
    ///
    /// # Errors
    /// As [`Conn::tls`].
    pub async fn tls_from(
        source: Ipv4Addr,
        to: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        Self::tls_over(socket.connect(to).await?, name, config).await
    }

    /// Shakes hands as a TLS client on a connection that is there.
    ///
    /// # Errors
    /// Why the handshake failed.
    pub async fn tls_over(
        tcp: TcpStream,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let session = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Self::Tls(Box::new(session.into())))
    }

    /// Shakes hands as a TLS server on an accepted connection.
    ///
    /// # Errors
    /// Why the handshake failed.
    pub async fn accept_tls(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        let session = TlsAcceptor::from(config).accept(tcp).await?;
        Ok(Self::Tls(Box::new(session.into())))
    }

    /// The TCP socket underneath.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(session) => session.get_ref().0,
        }
    }

    /// The protocol that ALPN chose, if TLS chose one.
    #[must_use]
    pub fn alpn(&self) -> Option<Vec<u8>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(session) => session.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
        }
    }

    /// Closes with RST, without sending what is buffered.
    pub fn reset(self) {
        SockRef::from(self.tcp())
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
