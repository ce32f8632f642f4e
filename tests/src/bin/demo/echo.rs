//! WebSocket frames (RFC 6455 §5) sent back as they came. `step` is pure: octets in, an answer out; `run` reads, asks and
//! writes. The handshake is `app`'s.

use std::io;

use bytes::{Buf, BytesMut};
use tidegate_tests::websocket::op;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest frame that is echoed; longer messages come in several.
const MOST: u64 = 1 << 20;

const FINAL: u8 = 0x80;
const CONTINUED: u8 = 0;

/// Close codes of RFC 6455 §7.4.1.
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const TOO_BIG: u16 = 1009;

/// What is to be done about the octets seen so far.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Read on.
    More,
    /// Drop `taken` octets, write `answer`.
    Answer { taken: usize, answer: Vec<u8> },
    /// Write this and close.
    Last(Vec<u8>),
}

/// Echoes until the visitor closes, or until `over` is ready, which is told to the visitor.
///
/// # Errors
/// What the connection says.
pub(crate) async fn run(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    over: impl Future<Output = ()>,
) -> io::Result<()> {
    let mut over = std::pin::pin!(over);
    let mut seen = BytesMut::new();
    loop {
        match step(&seen) {
            Step::More => {}
            Step::Answer { taken, answer } => {
                io.write_all(&answer).await?;
                io.flush().await?;
                seen.advance(taken);
                continue;
            }
            Step::Last(answer) => {
                io.write_all(&answer).await?;
                return io.shutdown().await;
            }
        }
        tokio::select! {
            read = io.read_buf(&mut seen) => if read? == 0 { return Ok(()) },
            () = &mut over => {
                io.write_all(&closing(GOING_AWAY)).await?;
                return io.shutdown().await;
            }
        }
    }
}

fn step(seen: &[u8]) -> Step {
    let [first, second, rest @ ..] = seen else {
        return Step::More;
    };
    let opcode = first & 0x0f;
    let control = opcode & 8 != 0;
    let known = opcode <= op::BINARY || (op::CLOSE..=op::PONG).contains(&opcode);
    let masked = second & 0x80 != 0;
    let short = second & 0x7f;
    let whole = first & FINAL != 0 && short < 126;
    if first & 0x70 != 0 || !known || !masked || (control && !whole) {
        return Step::Last(closing(PROTOCOL_ERROR));
    }
    let wide = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((length, rest)) = rest.split_at_checked(wide) else {
        return Step::More;
    };
    let length = match wide {
        0 => u64::from(short),
        _ => length
            .iter()
            .fold(0, |sum, octet| sum << 8 | u64::from(*octet)),
    };
    if length > MOST {
        return Step::Last(closing(TOO_BIG));
    }
    let Some((mask, rest)) = rest.split_at_checked(4) else {
        return Step::More;
    };
    let Some(payload) = usize::try_from(length).ok().and_then(|end| rest.get(..end)) else {
        return Step::More;
    };
    let taken = 2 + wide + 4 + payload.len();
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b);
    match opcode {
        op::PONG => Step::Answer {
            taken,
            answer: Vec::new(),
        },
        op::CLOSE => Step::Last(frame(*first, payload)),
        op::PING => Step::Answer {
            taken,
            answer: frame(FINAL | op::PONG, payload),
        },
        CONTINUED.. => Step::Answer {
            taken,
            answer: frame(*first, payload),
        },
    }
}

/// One frame as a server sends it: unmasked.
fn frame(first: u8, payload: impl Iterator<Item = u8>) -> Vec<u8> {
    let payload: Vec<u8> = payload.collect();
    let mut wire = vec![first];
    // Lengths are below `MOST`, so the last form always fits.
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length), _) if length < 126 => wire.push(length),
        (_, Ok(length)) => {
            wire.push(126);
            wire.extend(length.to_be_bytes());
        }
        _ => {
            wire.push(127);
            wire.extend((payload.len() as u64).to_be_bytes());
        }
    }
    wire.extend(payload);
    wire
}

fn closing(code: u16) -> Vec<u8> {
    frame(FINAL | op::CLOSE, code.to_be_bytes().into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_tests::websocket;

    #[test]
    fn a_frame_is_echoed_when_its_last_octet_is_here() {
        for length in [0, 1, 125, 126, 65_535] {
            let sent: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let wire = websocket::frame(op::BINARY, &sent, true);
            for cut in (0..wire.len().min(20)).chain([wire.len() - 1]) {
                assert_eq!(step(&wire[..cut]), Step::More, "{cut} of {length}");
            }
            let answer = websocket::frame(op::BINARY, &sent, false);
            let taken = wire.len();
            assert_eq!(step(&wire), Step::Answer { taken, answer });
        }
    }

    #[test]
    fn a_message_of_several_frames_stays_one() {
        let mut wire = websocket::frame(op::TEXT, b"half", true);
        wire[0] &= !FINAL;
        let Step::Answer { answer, .. } = step(&wire) else {
            panic!("no answer");
        };
        assert_eq!(answer, b"\x01\x04half");
        wire[0] = FINAL | CONTINUED;
        let Step::Answer { answer, .. } = step(&wire) else {
            panic!("no answer");
        };
        assert_eq!(answer, b"\x80\x04half");
    }

    #[test]
    fn control_frames_and_breaches_of_the_protocol() {
        let ping = websocket::frame(op::PING, b"x", true);
        let answer = websocket::frame(op::PONG, b"x", false);
        let taken = ping.len();
        assert_eq!(step(&ping), Step::Answer { taken, answer });
        let close = websocket::frame(op::CLOSE, &[3, 232], true);
        assert_eq!(step(&close), Step::Last(vec![0x88, 2, 3, 232]));
        let breach = Step::Last(closing(PROTOCOL_ERROR));
        assert_eq!(step(&websocket::frame(op::TEXT, b"x", false)), breach);
        assert_eq!(step(&[FINAL | 3, 0x80]), breach, "an opcode of no meaning");
        assert_eq!(step(&[0x09, 0x80]), breach, "a ping in parts");
        assert_eq!(step(&[0xc1, 0x80]), breach, "an extension bit");
        let huge = [FINAL | op::BINARY, 0xff, 0, 0, 0, 0, 0, 16, 0, 1];
        assert_eq!(step(&huge), Step::Last(closing(TOO_BIG)));
    }
}
