//! Takes a header off a connection, and not an octet more: what follows stays in the socket, for TLS or HTTP to read from
//! there as if no header had been. Called by whoever accepted the connection, before anything else.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Header, Malformed, Parsed, parse};
use crate::reversal::Seen;

/// Octets that are looked at before it is known how many of them belong to the header.
const GLANCE: usize = 512;

/// What a header is taken with.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Octets of the longest one.
    pub most: usize,
    /// All of it has to be there by then. The specification wants three seconds at least (§2).
    pub within: Duration,
}

/// How a connection begins that may have a header.
#[derive(Debug)]
pub enum Begun {
    Header(Header),
    /// It has none; these octets of it have been read already, and are few.
    Without(Bytes),
}

/// Why a connection cannot be used.
#[derive(Debug)]
pub struct Refused {
    pub why: Why,
    /// What came in the place of a header, or the header of which a part came.
    pub seen: Seen,
}

/// See [`Refused`].
#[derive(Debug)]
pub enum Why {
    Malformed(Malformed),
    /// It did not come in time.
    Overdue(Duration),
    /// The peer left before its header's end.
    Left,
    /// It left before its first octet, as a check of whether the port is open does.
    LeftAtOnce,
    Broken(io::Error),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Malformed(Malformed::NoHeader) => {
                write!(f, "expected a PROXY header, got {}", self.seen)
            }
            Why::Malformed(malformed @ Malformed::TooLong { .. }) => {
                write!(
                    f,
                    "expected a PROXY header, got one that is not read: {malformed}"
                )
            }
            Why::Malformed(malformed) => {
                write!(
                    f,
                    "expected a PROXY header, got a malformed one: {malformed}"
                )
            }
            Why::Overdue(within) => write!(
                f,
                "expected a PROXY header within {within:?}, got {}",
                self.part()
            ),
            Why::Left => write!(
                f,
                "expected a PROXY header, got {}, and the peer left",
                self.part()
            ),
            Why::LeftAtOnce => write!(f, "the peer left before its PROXY header"),
            Why::Broken(error) => write!(f, "while its PROXY header was read: {error}"),
        }
    }
}

impl Refused {
    /// Where what came was good as far as it went.
    fn part(&self) -> String {
        match self.seen {
            Seen::ProxyV1 | Seen::ProxyV2 => format!("only a part of {}", self.seen),
            _ => self.seen.to_string(),
        }
    }
}

/// Takes the header that a connection must begin with.
///
/// # Errors
/// Where none comes in time, or something else does.
pub async fn require(stream: &mut TcpStream, terms: &Terms) -> Result<Header, Refused> {
    let mut reader = Reader::default();
    match timeout(terms.within, reader.take(stream, terms.most)).await {
        Ok(Ok(header)) => Ok(header),
        Ok(Err(why)) => Err(reader.refused(why)),
        Err(_elapsed) => Err(reader.refused(Why::Overdue(terms.within))),
    }
}

/// Takes the header that a connection may begin with. Silence is no header, and the next reader's to wait for.
///
/// # Errors
/// Where something begins like a header and is none, or does not end in time.
pub async fn accept(stream: &mut TcpStream, terms: &Terms) -> Result<Begun, Refused> {
    let mut reader = Reader::default();
    match timeout(terms.within, reader.take(stream, terms.most)).await {
        Ok(Ok(header)) => Ok(Begun::Header(header)),
        Ok(Err(Why::Malformed(Malformed::NoHeader) | Why::LeftAtOnce)) => {
            Ok(Begun::Without(reader.taken()))
        }
        Ok(Err(why)) => Err(reader.refused(why)),
        Err(_elapsed) if reader.seen.is_empty() => Ok(Begun::Without(Bytes::new())),
        Err(_elapsed) => Err(reader.refused(Why::Overdue(terms.within))),
    }
}

/// A header on its way.
#[derive(Default)]
struct Reader {
    /// All that was looked at,
    seen: BytesMut,
    /// and how much of it is no longer in the socket.
    taken: usize,
}

impl Reader {
    async fn take(&mut self, stream: &mut TcpStream, most: usize) -> Result<Header, Why> {
        let mut glance = [0; GLANCE];
        loop {
            let there = stream.peek(&mut glance).await.map_err(Why::Broken)?;
            if there == 0 {
                return Err(if self.seen.is_empty() {
                    Why::LeftAtOnce
                } else {
                    Why::Left
                });
            }
            self.seen.extend_from_slice(&glance[..there]);
            let (header, octets) = match parse(&self.seen, most).map_err(Why::Malformed)? {
                Parsed::Whole(header, octets) => (Some(header), octets),
                // All of it belongs to the header.
                Parsed::More => (None, self.seen.len()),
            };
            // They are there: this does not wait.
            stream
                .read_exact(&mut glance[..octets - self.taken])
                .await
                .map_err(Why::Broken)?;
            self.taken = octets;
            if let Some(header) = header {
                return Ok(header);
            }
        }
    }

    fn taken(mut self) -> Bytes {
        self.seen.truncate(self.taken);
        self.seen.freeze()
    }

    fn refused(&self, why: Why) -> Refused {
        let seen = match (&why, self.seen.first()) {
            // What is waited for more of is a header as far as it goes.
            (Why::Overdue(_) | Why::Left, Some(b'P')) => Seen::ProxyV1,
            (Why::Overdue(_) | Why::Left, Some(_)) => Seen::ProxyV2,
            _ => Seen::at_the_end(&self.seen),
        };
        Refused { why, seen }
    }
}
