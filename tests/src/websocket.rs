//! The little of RFC 6455 that tests need: the handshake's answer and unfragmented frames up to 64 KiB.

use std::io;

use aws_lc_rs::digest;
use bytes::Bytes;
use data_encoding::BASE64;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::http1::Reader;

/// A key for tests (the example of RFC 6455 §1.3).
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Opcodes of RFC 6455 §5.2.
pub mod op {
    /// UTF-8 text.
    pub const TEXT: u8 = 1;
    /// Any bytes.
    pub const BINARY: u8 = 2;
    /// The closing handshake.
    pub const CLOSE: u8 = 8;
    /// Wants a pong with the same bytes.
    pub const PING: u8 = 9;
    /// Answers a ping.
    pub const PONG: u8 = 10;
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
#[must_use]
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    BASE64.encode(hash.as_ref())
}

/// One final frame; `mask` as a client must.
#[must_use]
pub fn frame(opcode: u8, payload: &[u8], mask: bool) -> Vec<u8> {
    let bit = if mask { 0x80 } else { 0 };
    let mut wire = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(short) if short < 126 => wire.push(bit | short),
        _ => {
            wire.push(bit | 126);
            wire.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    if mask {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        wire.extend(key);
        wire.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
    } else {
        wire.extend(payload);
    }
    wire
}

/// Reads one frame, unmasked.
///
/// # Errors
/// What the connection says, or an end in the middle.
pub async fn read<S: AsyncRead + Unpin>(from: &mut Reader<S>) -> io::Result<(u8, Bytes)> {
    let head = from.exactly(2).await?;
    let mut length = usize::from(head[1] & 0x7f);
    if length == 126 {
        let wide = from.exactly(2).await?;
        length = usize::from(u16::from_be_bytes([wide[0], wide[1]]));
    }
    let mask = if head[1] & 0x80 != 0 {
        Some(from.exactly(4).await?)
    } else {
        None
    };
    let payload = from.exactly(length).await?;
    let payload = match mask {
        Some(key) => payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key)
            .collect(),
        None => payload,
    };
    Ok((head[0] & 0x0f, payload))
}

/// Echoes text and binary frames, answers pings, and closes when told to: the app's side after the handshake.
///
/// # Errors
/// What the connection says.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(io: &mut Reader<S>) -> io::Result<()> {
    loop {
        let (opcode, payload) = read(io).await?;
        let answer = if opcode == op::PING { op::PONG } else { opcode };
        io.io.write_all(&frame(answer, &payload, false)).await?;
        io.io.flush().await?;
        if opcode == op::CLOSE {
            return io.io.shutdown().await;
        }
    }
}
