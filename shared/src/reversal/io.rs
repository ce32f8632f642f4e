//! Runs an opening over a socket and hands over the connection as `h2` knows it. Called by the gateway's tunnel listener
//! ([`accept`]) and by the agent's dialler ([`dial`]).

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, client, server};
use http::Request;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::timeout;

use super::{End, Fault, Marks, PeerSettings, Seen, Step, opening};
use crate::seam::{Opening, Seam, Wire};

/// What we announce to the peer and hold it to. Everything that `h2` would leave unlimited is set.
#[derive(Clone, Debug)]
pub struct Terms {
    /// From the end of TLS until the peer's SETTINGS.
    pub settle_within: Duration,
    /// Octets that the peer may send ahead on one stream, to begin with; `window` moves it later.
    pub stream_window: u32,
    /// Octets that the peer may send ahead on the whole connection.
    pub connection_window: u32,
    /// Streams that the peer may have open at once (at the agent).
    pub max_streams: u32,
    /// The largest header list, decoded, in octets (RFC 9113 §6.5.2).
    pub max_header_list: u32,
    /// Octets of one stream that may wait to be written.
    pub send_buffer: usize,
    /// What a peer that is a Tidegate is told of us.
    pub marks: Marks,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            settle_within: Duration::from_secs(5),
            stream_window: crate::window::BASE,
            connection_window: crate::window::CONNECTION,
            max_streams: 256,
            max_header_list: 64 * 1024,
            send_buffer: 256 * 1024,
            marks: Marks::NONE,
        }
    }
}

/// `h2` ends a connection whose small unread frames add up to this charge (256 less the length, each), less what larger
/// frames bring beyond 256. With the default, one visitor who does not read would end the tunnel of everybody else; without
/// a bound, a peer could have every octet of the window kept as a frame of its own.
///
/// What arrives together is joined before it comes here ([`super::frames`]) and a [`crate::pump`] sends small chunks
/// together, so that only what trickles or is sent on many streams in turn counts: 65,800 frames of one octet, each in some
/// 250 octets of a table that keeps its size as long as the tunnel lives. That is 16 MiB for a tunnel at its worst.
const SMALL_FRAME_BUDGET: usize = 16 * 1024 * 1024;

/// Streams that the gateway may have opened and reset before the agent looked at the first of them. Visitors decide how many
/// there are: each upload that is broken off is one, and an agent that gets no processor for a moment finds all of them at once.
/// h2 ends the connection beyond it, and with it what others have on it; a kilobyte or so each, this is 16 MiB at the worst.
const BROKEN_OFF_UNSEEN: usize = 16 * 1024;

/// Resets that `h2` remembers so that late frames of theirs are no error.
const REMEMBERED_RESETS: usize = 512;
const REMEMBER_RESETS_FOR: Duration = Duration::from_secs(10);

/// Why an opening came to nothing.
#[derive(Debug, Error)]
pub enum Unsettled {
    #[error("HTTP/2 SETTINGS were due, and there was {0}")]
    Refused(Fault),
    #[error("waited {within:?} for HTTP/2 SETTINGS and saw {seen}")]
    Late { within: Duration, seen: Seen },
    #[error("the peer closed the connection after {seen}, before HTTP/2 SETTINGS")]
    Closed { seen: Seen },
    #[error("the connection failed before HTTP/2 SETTINGS: {0}")]
    Io(#[source] io::Error),
    #[error("HTTP/2 could not be started: {0}")]
    Http2(#[source] h2::Error),
}

impl Unsettled {
    /// One word for what is the same in kind, whatever the octets were.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Refused(Fault::Instead(_)) => "not-http2",
            Self::Refused(_) => "bad-settings",
            Self::Late { .. } => "late",
            Self::Closed { .. } => "closed",
            Self::Io(_) => "io",
            Self::Http2(_) => "http2",
        }
    }

    /// What came where HTTP/2 was due, where that is known.
    pub fn instead(&self) -> Option<&Seen> {
        match self {
            Self::Refused(Fault::Instead(seen))
            | Self::Late { seen, .. }
            | Self::Closed { seen } => Some(seen),
            Self::Refused(_) | Self::Io(_) | Self::Http2(_) => None,
        }
    }

    /// Whether the peer spoke TLS where HTTP/2 was due.
    pub fn is_tls(&self) -> bool {
        matches!(self.instead(), Some(Seen::TlsRecord | Seen::TlsAlert))
    }
}

/// A tunnel at the gateway, reversed: the agent's SETTINGS have arrived.
#[derive(Debug)]
pub struct Accepted<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    pub requests: client::SendRequest<Bytes>,
    /// Must be polled at once: our SETTINGS leave with its first poll, and the agent waits for them.
    pub connection: client::Connection<Seam<T>, Bytes>,
    pub peer: PeerSettings,
    pub wire: Arc<Wire>,
}

/// Waits for the agent's preface and SETTINGS and becomes the HTTP client. `max_streams` caps what the agent allows.
///
/// # Errors
/// What came in the place of them, or that nothing did within [`Terms::settle_within`].
pub async fn accept<T>(mut io: T, terms: &Terms) -> Result<Accepted<T>, Unsettled>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (settings, seen) = settle(&mut io, terms.settle_within).await?;
    let (seam, wire) = Seam::new(io, Opening::SwallowPreface, seen, terms.marks);
    let most = settings
        .max_concurrent_streams
        .unwrap_or(terms.max_streams)
        .min(terms.max_streams);
    let (requests, connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(terms.stream_window)
        .initial_connection_window_size(terms.connection_window)
        .max_header_list_size(terms.max_header_list)
        .max_concurrent_streams(terms.max_streams)
        .initial_max_send_streams(most as usize)
        .max_send_buffer_size(terms.send_buffer)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS_FOR)
        // Streams that the agent breaks are counted by the tunnel's owner, against a rate and not against a lifetime.
        .max_local_error_reset_streams(None)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .handshake(seam)
        .await
        .map_err(Unsettled::Http2)?;
    Ok(Accepted {
        requests,
        connection,
        peer: settings,
        wire,
    })
}

/// A tunnel at the agent, reversed: the gateway's SETTINGS have arrived.
#[derive(Debug)]
pub struct Dialled<T>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    pub connection: server::Connection<Seam<T>, Bytes>,
    /// A request that came in one segment with the gateway's SETTINGS.
    pub first: Option<Exchange>,
    pub wire: Arc<Wire>,
}

/// A request as `h2` hands it to a server.
pub type Exchange = (Request<RecvStream>, server::SendResponse<Bytes>);

/// Sends preface and SETTINGS, waits for the gateway's, and becomes the HTTP server.
///
/// # Errors
/// As [`accept`].
pub async fn dial<T>(io: T, terms: &Terms) -> Result<Dialled<T>, Unsettled>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (seam, wire) = Seam::new(io, Opening::BothPrefaces, Bytes::new(), terms.marks);
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(terms.stream_window)
        .initial_connection_window_size(terms.connection_window)
        .max_header_list_size(terms.max_header_list)
        .max_concurrent_streams(terms.max_streams)
        .max_send_buffer_size(terms.send_buffer)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS_FOR)
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(BROKEN_OFF_UNSEEN)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .enable_connect_protocol();
    let within = terms.settle_within;
    let settled = async {
        let mut connection = builder.handshake(seam).await?;
        let first = poll_fn(|cx| match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok(exchange))) => Poll::Ready(Ok(Some(exchange))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(Some(error))),
            Poll::Ready(None) if wire.settled().is_none() => Poll::Ready(Err(None)),
            _ if wire.settled().is_some() => Poll::Ready(Ok(None)),
            _ => Poll::Pending,
        })
        .await;
        match first {
            Ok(first) => Ok(Ok((connection, first))),
            Err(error) => Ok(Err(error)),
        }
    };
    let outcome = timeout(within, settled).await;
    match outcome {
        Ok(Ok(Ok((connection, first)))) => Ok(Dialled {
            connection,
            first,
            wire,
        }),
        Err(_elapsed) => Err(Unsettled::Late {
            within,
            seen: wire.opening_so_far(),
        }),
        Ok(Ok(Err(error))) => Err(unsettled(&wire, error)),
        Ok(Err(error)) => Err(unsettled(&wire, Some(error))),
    }
}

fn unsettled(wire: &Wire, error: Option<h2::Error>) -> Unsettled {
    if let Some(fault) = wire.refused() {
        return Unsettled::Refused(fault.clone());
    }
    match error {
        None => Unsettled::Closed {
            seen: wire.opening_so_far(),
        },
        Some(error) if error.is_io() => {
            let io = error
                .into_io()
                .unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
            match io.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionReset => Unsettled::Closed {
                    seen: wire.opening_so_far(),
                },
                _ => Unsettled::Io(io),
            }
        }
        Some(error) => Unsettled::Http2(error),
    }
}

async fn settle<T>(io: &mut T, within: Duration) -> Result<(PeerSettings, Bytes), Unsettled>
where
    T: AsyncRead + Unpin,
{
    let mut seen = BytesMut::with_capacity(256);
    match timeout(within, read_opening(io, &mut seen)).await {
        Ok(settled) => settled,
        Err(_elapsed) => Err(Unsettled::Late {
            within,
            seen: Seen::at_the_end(&seen),
        }),
    }
}

async fn read_opening<T>(
    io: &mut T,
    seen: &mut BytesMut,
) -> Result<(PeerSettings, Bytes), Unsettled>
where
    T: AsyncRead + Unpin,
{
    loop {
        match opening(End::Gateway, seen) {
            Step::Settled { settings, replay } => {
                return Ok((settings, seen.split_off(replay).freeze()));
            }
            Step::Refuse(fault) => return Err(Unsettled::Refused(fault)),
            Step::More(_) => {}
        }
        // Bounded: an opening is decided within a preface and the longest SETTINGS that are read.
        match io.read_buf(seen).await {
            Ok(0) => {
                return Err(Unsettled::Closed {
                    seen: Seen::at_the_end(seen),
                });
            }
            Ok(_) => {}
            Err(error) => return Err(Unsettled::Io(error)),
        }
    }
}
