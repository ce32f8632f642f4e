//! A connection to the app. The target comes from the command line and from nowhere else.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
use super::haste::Haste;
use super::{App, Settings};
use crate::target::Place;

/// A connection to the app.
#[derive(Debug)]
pub(super) struct Line {
    way: Way,
    haste: Arc<Haste>,
    taken: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Way {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl App {
    /// Opens a connection, and remembers and logs whether the app is there.
    pub(super) async fn connect(&self) -> Result<Line, Trouble> {
        let within = self.settings.connect_within;
        let fault = match timeout(within, self.settings.open()).await {
            Ok(Ok(way)) => {
                self.answers();
                return Ok(Line {
                    way,
                    haste: Arc::default(),
                    taken: Arc::default(),
                });
            }
            Ok(Err(fault)) => fault,
            Err(_elapsed) if self.settings.target.tls => Fault {
                why: format!("no connection within {within:?}; does it speak TLS there?"),
                told: format!("no connection within {within:?}").into(),
            },
            Err(_elapsed) => Fault::from(format!("no connection within {within:?}")),
        };
        self.is_down(&fault.why);
        Err(Trouble::Unreachable(fault.told))
    }
}

/// Why there is no connection.
struct Fault {
    /// For the log.
    why: String,
    /// For visitors, who are not to learn where the app is.
    told: Cow<'static, str>,
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        let told = why.clone().into();
        Self { why, told }
    }
}

impl Settings {
    async fn open(&self) -> Result<Way, Fault> {
        let tcp = match &self.target.place {
            Place::Socket(path) => {
                return UnixStream::connect(path)
                    .await
                    .map(Way::Unix)
                    .map_err(|error| plain(&error).into());
            }
            Place::Here(port) => match TcpStream::connect(("127.0.0.1", *port)).await {
                Ok(tcp) => tcp,
                // Development servers like to listen on one of the two only. The first reason is the one to tell.
                Err(first) => TcpStream::connect(("::1", *port))
                    .await
                    .map_err(|_second| Fault::from(plain(&first)))?,
            },
            Place::Host { host, port } => any_of(host, *port).await?,
        };
        socket::tune_plain(&tcp);
        let Some((config, name)) = &self.tls else {
            return Ok(Way::Tcp(tcp));
        };
        let handshake = TlsConnector::from(config.clone()).connect(name.clone(), tcp);
        let stream = Box::pin(handshake)
            .await
            .map_err(|error| self.untrusted(&HandshakeFault::from_io(&error)))?;
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2".as_slice()) {
            return Err(Fault {
                why: "it does not offer HTTP/2 by ALPN; leave --h2 out".to_owned(),
                told: NO_TLS,
            });
        }
        Ok(Way::Tls(Box::new(stream)))
    }
}

/// What visitors are told of a handshake that failed: the reason can quote names.
const NO_TLS: Cow<'static, str> = Cow::Borrowed("TLS with it failed");

impl Settings {
    fn untrusted(&self, fault: &HandshakeFault) -> Fault {
        let why = match fault.label {
            "alpn-mismatch" if self.http2 => {
                "it does not offer HTTP/2 by ALPN; leave --h2 out".to_owned()
            }
            "alpn-mismatch" => {
                "it refuses HTTP/1.1 by ALPN; if it speaks HTTP/2, add --h2".to_owned()
            }
            "not-tls" => "it does not speak TLS; write http:// in TARGET".to_owned(),
            "unknown-ca" | "authority-shown" => self.who_vouches(fault.label).to_owned(),
            // The sentences are for tunnels, whose other end is a peer.
            _ => fault
                .to_string()
                .replace("the peer's", "its")
                .replace("the peer", "it"),
        };
        Fault { why, told: NO_TLS }
    }

    /// What to do about a certificate that nobody trusted has issued.
    fn who_vouches(&self, label: &str) -> &'static str {
        match (self.own_trust, label) {
            (true, "authority-shown") => {
                "its certificate is an authority's own, or self-signed, and not the one in the --target-ca file; give \
                 that certificate there"
            }
            (true, _) => {
                "its certificate was not issued by an authority in the --target-ca file; give the certificate of the \
                 authority that issued it, or of the app if it is self-signed"
            }
            (false, _) => {
                "its certificate is self-signed, or of an authority that this system does not trust; give that \
                 authority's certificate, or the app's if it is self-signed, with --target-ca, or write \
                 --target-insecure if nobody else can answer at that address"
            }
        }
    }
}

/// Tries every address of a name in turn.
async fn any_of(host: &str, port: u16) -> Result<TcpStream, Fault> {
    let addresses = lookup_host((host, port)).await.map_err(|error| Fault {
        why: format!("{host} cannot be resolved: {error}"),
        told: "its name cannot be resolved".into(),
    })?;
    let mut first = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or_else(
        || Fault {
            why: format!("{host} has no address"),
            told: "its name has no address".into(),
        },
        |error| plain(&error).into(),
    ))
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

impl Line {
    /// What is to be acknowledged, and when.
    pub(super) fn haste(&self) -> Arc<Haste> {
        Arc::clone(&self.haste)
    }

    /// How many octets the app has taken.
    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(octets)) = &written {
            self.taken.fetch_add(*octets as u64, Relaxed);
        }
        written
    }
}

impl Way {
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(tcp) => Some(tcp),
            Self::Unix(_) => None,
            Self::Tls(tls) => Some(tls.get_ref().0),
        }
    }
}

macro_rules! whichever {
    ($way:expr, $io:ident => $call:expr) => {
        match $way {
            Way::Tcp($io) => $call,
            Way::Unix($io) => $call,
            Way::Tls($io) => $call,
        }
    };
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { way, haste, .. } = self.get_mut();
        let before = buf.filled().len();
        let polled = whichever!(way, io => Pin::new(io).poll_read(cx, buf));
        if polled.is_pending() {
            haste.found_nothing(way.tcp());
        } else if buf.filled().len() > before {
            haste.heard();
        }
        polled
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = whichever!(&mut this.way, io => Pin::new(io).poll_write(cx, octets));
        this.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = whichever!(&mut this.way, io => poll_write_pieces(Pin::new(io), cx, slices));
        this.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        whichever!(&self.way, io => io.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(&mut self.get_mut().way, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(&mut self.get_mut().way, io => Pin::new(io).poll_shutdown(cx))
    }
}
