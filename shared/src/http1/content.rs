//! What follows a head, taken out of what has arrived as it comes (RFC 9112 §6). Pure.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::Unreadable;
use super::chunks::Chunks;

/// How much of a message's content is still to come.
#[derive(Debug)]
pub enum Content {
    /// So many octets.
    Length(u64),
    Chunks(Chunks),
    /// All that comes before the connection ends.
    ToEnd,
}

/// What comes next of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// Nothing that is whole yet.
    More,
}

impl Content {
    /// None at all.
    pub const NONE: Self = Self::Length(0);

    /// Whose length comes with it.
    pub const fn chunked() -> Self {
        Self::Chunks(Chunks::new())
    }

    /// Whether all of it was taken, as far as that can be known without the connection's end.
    pub const fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks(chunks) => chunks.is_over(),
            Self::ToEnd => false,
        }
    }

    /// The least that is still to come of it.
    pub const fn least(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunks(chunks) => chunks.least(),
            Self::ToEnd => 0,
        }
    }

    /// Takes what comes next out of what has arrived.
    ///
    /// # Errors
    /// What of it is not as it should be.
    pub fn next(&mut self, octets: &mut BytesMut) -> Result<Piece, Unreadable> {
        Ok(match self {
            Self::Chunks(chunks) => chunks.next(octets)?,
            Self::Length(0) => Piece::End,
            Self::Length(_) | Self::ToEnd if octets.is_empty() => Piece::More,
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX);
                let data = octets.split_to(here.min(octets.len()));
                *left -= data.len() as u64;
                Piece::Data(data.freeze())
            }
            Self::ToEnd => Piece::Data(octets.split().freeze()),
        })
    }
}
