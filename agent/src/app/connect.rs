//! A connection to the app. The target comes from the command line and from nowhere else.

use std::borrow::Cow;

use tidegate_shared::origin::Line;
use tidegate_shared::origin::dial::{Fault, any_of, plain};
use tidegate_shared::socket;
use tidegate_shared::tls::{HandshakeFault, Layer};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::answer::Trouble;
use super::greeting::Greeting;
use super::{App, Settings};
use crate::target::Place;

impl App {
    /// Opens a connection, and remembers and logs whether the app is there.
    ///
    /// It begins with `greeting`, before TLS if there is TLS.
    pub(super) async fn connect(&self, greeting: Option<&Greeting>) -> Result<Line, Trouble> {
        let within = self.settings.connect_within;
        let header = greeting.map(Greeting::octets).unwrap_or_default();
        let fault = match timeout(within, self.settings.open(&header)).await {
            Ok(Ok(line)) => {
                self.answers();
                return Ok(line);
            }
            Ok(Err(fault)) => fault,
            Err(_elapsed) if self.settings.target.tls() => Fault {
                why: format!("no connection within {within:?}; does it speak TLS there?"),
                told: format!("no connection within {within:?}").into(),
            },
            Err(_elapsed) => Fault::from(format!("no connection within {within:?}")),
        };
        self.is_down(&fault.why);
        Err(Trouble::Unreachable(fault.told))
    }
}

impl Settings {
    async fn open(&self, header: &[u8]) -> Result<Line, Fault> {
        let mut tcp = match &self.target.place {
            Place::Socket(path) => {
                let mut unix = UnixStream::connect(path)
                    .await
                    .map_err(|error| Fault::from(plain(&error)))?;
                greet(&mut unix, header).await?;
                return Ok(unix.into());
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
        greet(&mut tcp, header).await?;
        let Some((config, name)) = &self.tls else {
            return Ok(tcp.into());
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
        Ok(stream.into())
    }
}

/// Writes what the connection begins with.
async fn greet(io: &mut (impl AsyncWrite + Unpin), header: &[u8]) -> Result<(), Fault> {
    io.write_all(header)
        .await
        .map_err(|error| plain(&error).into())
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
        // Whoever is sent a header that it does not expect, or waits for one, does not come to certificates.
        let why = if matches!(fault.layer, Layer::Tcp | Layer::Tls) {
            format!("{why}; {}", self.about_greeting())
        } else {
            why
        };
        Fault { why, told: NO_TLS }
    }

    /// What to try with an app that breaks off before it has said anything.
    pub(super) fn about_greeting(&self) -> String {
        match &self.greeting {
            Some(plan) => plan.remedy(),
            None => "if it expects a PROXY header, add --proxy-protocol".to_owned(),
        }
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
