//! A connection to the app. The target comes from the command line and from nowhere else.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_shared::descriptors;
use tidegate_shared::socket;
use tidegate_shared::socket::poll_write_pieces;
use tidegate_shared::tls::HandshakeFault;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::answer::Trouble;
use super::{App, Settings};
use crate::target::Place;

/// A connection to the app.
#[derive(Debug)]
pub(super) enum Line {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl App {
    /// Opens a connection, and remembers and logs whether the app is there.
    pub(super) async fn connect(&self) -> Result<Line, Trouble> {
        let within = self.settings.connect_within;
        let why = match timeout(within, self.settings.open()).await {
            Ok(Ok(line)) => {
                self.answers();
                return Ok(line);
            }
            Ok(Err(why)) => why,
            Err(_elapsed) => format!("no connection within {within:?}"),
        };
        self.is_down(&why);
        Err(Trouble::Unreachable(why))
    }
}

impl Settings {
    async fn open(&self) -> Result<Line, String> {
        let tcp = match &self.target.place {
            Place::Socket(path) => {
                return UnixStream::connect(path)
                    .await
                    .map(Line::Unix)
                    .map_err(|error| plain(&error));
            }
            Place::Here(port) => match TcpStream::connect(("127.0.0.1", *port)).await {
                Ok(tcp) => tcp,
                // Development servers like to listen on one of the two only. The first reason is the one to tell.
                Err(first) => TcpStream::connect(("::1", *port))
                    .await
                    .map_err(|_second| plain(&first))?,
            },
            Place::Host { host, port } => any_of(host, *port).await?,
        };
        socket::tune_plain(&tcp);
        let Some((config, name)) = &self.tls else {
            return Ok(Line::Tcp(tcp));
        };
        let handshake = TlsConnector::from(config.clone()).connect(name.clone(), tcp);
        let stream = Box::pin(handshake)
            .await
            .map_err(|error| HandshakeFault::from_io(&error).to_string())?;
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2".as_slice()) {
            return Err("it does not offer HTTP/2 by ALPN; leave --h2 out".to_owned());
        }
        Ok(Line::Tls(Box::new(stream)))
    }
}

/// Tries every address of a name in turn.
async fn any_of(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = lookup_host((host, port))
        .await
        .map_err(|error| format!("{host} cannot be resolved: {error}"))?;
    let mut first = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or_else(|| format!("{host} has no address"), |error| plain(&error)))
}

/// An error as a person says it: the system's number adds nothing.
fn plain(error: &io::Error) -> String {
    if descriptors::are_used_up(error) {
        return descriptors::REMEDY.to_owned();
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

macro_rules! whichever {
    ($line:expr, $io:ident => $call:expr) => {
        match $line {
            Line::Tcp($io) => $call,
            Line::Unix($io) => $call,
            Line::Tls($io) => $call,
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        whichever!(self.get_mut(), io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        whichever!(self.get_mut(), io => Pin::new(io).poll_write(cx, octets))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        whichever!(self.get_mut(), io => poll_write_pieces(Pin::new(io), cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        whichever!(self, io => io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))
    }
}
