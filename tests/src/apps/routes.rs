//! The answers of the HTTP/1 app, one route for each thing that must pass through a tunnel unharmed.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{interval, sleep};

use super::http::{Seen, Wire};
use crate::http1::{Framing, Head, Reader, pattern, pattern_byte};
use crate::websocket;

/// Time between two events of `/sse`.
const EVENT_EVERY: Duration = Duration::from_millis(50);

/// Answers one request. Returns whether the connection may be used for another one.
///
/// | route | answer |
/// |---|---|
/// | `/hello` | `hello from NAME`; also every unknown path |
/// | `/echo` | the request's body, piece by piece as it arrives, then its trailers |
/// | `/upload` | how many body bytes came and whether they were the pattern |
/// | `/size/N`, `/chunked/N` | N pattern bytes, with a length or in chunks |
/// | `/slow/MS` | after that many milliseconds |
/// | `/never` | none |
/// | `/sse` | an event every 50 ms, without end |
/// | `/drip` | one-byte chunks as fast as they are taken, without end |
/// | `/trailers`, `/hints`, `/multi` | trailers; a 103 first; repeated fields |
/// | `/status/N` | that status; without a body where it has none |
/// | `/early-413` | 413 before the body is read |
/// | `/expect/honour`, `/expect/refuse` | 100, then the body's length; 417 at once |
/// | `/cut`, `/chunkcut`, `/reset` | a body that ends early: by FIN, by FIN, by RST |
/// | `/ws` | a WebSocket that echoes |
/// | `/headers` | the request head as it came |
pub(super) async fn answer<S: Wire>(
    io: &mut Reader<S>,
    head: &Head,
    body: &mut Framing,
    name: &str,
    seen: &Seen,
) -> io::Result<bool> {
    let path = head.target().split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let send_body = head.method() != "HEAD";
    match parts.as_slice() {
        ["echo"] => echo(io, body, seen).await?,
        ["upload"] => upload(io, body, seen).await?,
        ["size", length] => sized(io, number(length)?, send_body).await?,
        ["chunked", length] => chunked(io, number(length)?).await?,
        ["slow", millis] => slow(io, head, Duration::from_millis(number(millis)?), seen).await?,
        ["never"] => {
            io.closed().await;
            seen.abandoned(head.target());
            return Ok(false);
        }
        ["sse"] => return events(io, head, seen).await,
        ["drip"] => return drip(io, head, seen).await,
        ["trailers"] => trailers(io).await?,
        ["hints"] => hints(io).await?,
        ["multi"] => multi(io).await?,
        ["status", code] => status(io, number(code)?).await?,
        ["early-413"] => early(io, body, seen).await?,
        ["expect", wish] => return expect(io, body, wish, seen).await,
        ["cut"] => return cut(io, "Content-Length: 1000\r\n\r\nonly this").await,
        ["chunkcut"] => {
            return cut(io, "Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n").await;
        }
        ["reset"] => {
            io.io.make_close_abrupt();
            return cut(io, "Content-Length: 1000\r\n\r\nonly this").await;
        }
        ["ws"] => return websocket(io, head).await,
        ["headers"] => text(io, &as_text(head), send_body).await?,
        _ => text(io, &format!("hello from {name}\n"), send_body).await?,
    }
    Ok(true)
}

async fn text<S: Wire>(io: &mut Reader<S>, body: &str, send_body: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let body = if send_body { body } else { "" };
    write(io, format!("{head}{body}").as_bytes()).await
}

async fn echo<S: Wire>(io: &mut Reader<S>, body: &mut Framing, seen: &Seen) -> io::Result<()> {
    // Announced, as a sender of trailers should (RFC 9110 §6.6.2).
    write(
        io,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n",
    )
    .await?;
    while let Some(piece) = io.piece(body).await? {
        seen.body(piece.len());
        chunk(io, &piece).await?;
    }
    let trailers = std::mem::take(&mut io.trailers);
    let lines: String = trailers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write(io, format!("0\r\n{lines}\r\n").as_bytes()).await
}

async fn upload<S: Wire>(io: &mut Reader<S>, body: &mut Framing, seen: &Seen) -> io::Result<()> {
    let (mut count, mut same) = (0, true);
    while let Some(piece) = io.piece(body).await? {
        seen.body(piece.len());
        same &= piece
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == pattern_byte(count + at));
        count += piece.len();
    }
    let verdict = if same { "intact" } else { "damaged" };
    text(io, &format!("{count} {verdict}"), true).await
}

async fn sized<S: Wire>(io: &mut Reader<S>, length: u64, send_body: bool) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
    write(io, head.as_bytes()).await?;
    if send_body {
        many(io, length).await
    } else {
        Ok(())
    }
}

/// Writes pattern bytes without holding more than one period of the pattern.
async fn many<S: Wire>(io: &mut Reader<S>, length: u64) -> io::Result<()> {
    let block = pattern(251 * 256);
    let mut left = usize::try_from(length).unwrap();
    while left > 0 {
        let take = left.min(block.len());
        write(io, &block[..take]).await?;
        left -= take;
    }
    Ok(())
}

async fn chunked<S: Wire>(io: &mut Reader<S>, length: u64) -> io::Result<()> {
    write(io, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    for piece in pattern(usize::try_from(length).unwrap()).chunks(1000) {
        chunk(io, piece).await?;
    }
    write(io, b"0\r\n\r\n").await
}

async fn slow<S: Wire>(
    io: &mut Reader<S>,
    head: &Head,
    delay: Duration,
    seen: &Seen,
) -> io::Result<()> {
    tokio::select! {
        () = sleep(delay) => text(io, "slow\n", true).await,
        () = io.closed() => {
            seen.abandoned(head.target());
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}

async fn events<S: Wire>(io: &mut Reader<S>, head: &Head, seen: &Seen) -> io::Result<bool> {
    write(
        io,
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await?;
    let mut ticks = interval(EVENT_EVERY);
    for count in 0_u64.. {
        let left = tokio::select! {
            _ = ticks.tick() => chunk(io, format!("data: {count}\n\n").as_bytes()).await.is_err(),
            () = io.closed() => true,
        };
        if left {
            seen.abandoned(head.target());
            break;
        }
    }
    Ok(false)
}

async fn drip<S: Wire>(io: &mut Reader<S>, head: &Head, seen: &Seen) -> io::Result<bool> {
    write(io, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    while chunk(io, b"x").await.is_ok() {
        // One chunk per read of the other side: without a pause of the scheduler the kernel joins them.
        tokio::task::yield_now().await;
    }
    seen.abandoned(head.target());
    Ok(false)
}

async fn trailers<S: Wire>(io: &mut Reader<S>) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\nTrailer: X-Check, X-Count\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "4\r\nbody\r\n0\r\nX-Check: fine\r\nX-Count: 4\r\n\r\n";
    write(io, format!("{head}{body}").as_bytes()).await
}

async fn hints<S: Wire>(io: &mut Reader<S>) -> io::Result<()> {
    write(
        io,
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
    )
    .await?;
    text(io, "after the hints\n", true).await
}

async fn multi<S: Wire>(io: &mut Reader<S>) -> io::Result<()> {
    let fields =
        "Set-Cookie: b=2\r\nX-List: one\r\nSet-Cookie: a=1; Path=/\r\nX-List: two\r\nX-Empty:\r\n";
    write(
        io,
        format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n").as_bytes(),
    )
    .await
}

async fn status<S: Wire>(io: &mut Reader<S>, code: u64) -> io::Result<()> {
    let rest = match code {
        204 => "\r\n",
        304 => "ETag: \"tide\"\r\n\r\n",
        _ => "Content-Length: 7\r\n\r\nstatus\n",
    };
    write(
        io,
        format!("HTTP/1.1 {code} Some Reason\r\n{rest}").as_bytes(),
    )
    .await
}

/// Answers at once and goes on reading, as a polite server does that has seen enough of a body.
async fn early<S: Wire>(io: &mut Reader<S>, body: &mut Framing, seen: &Seen) -> io::Result<()> {
    write(
        io,
        b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large",
    )
    .await?;
    while let Some(piece) = io.piece(body).await? {
        seen.body(piece.len());
    }
    Ok(())
}

async fn expect<S: Wire>(
    io: &mut Reader<S>,
    body: &mut Framing,
    wish: &str,
    seen: &Seen,
) -> io::Result<bool> {
    if wish == "refuse" {
        write(
            io,
            b"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
        )
        .await?;
        *body = Framing::Ended;
        return Ok(false);
    }
    write(io, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    upload(io, body, seen).await?;
    Ok(true)
}

async fn cut<S: Wire>(io: &mut Reader<S>, rest: &str) -> io::Result<bool> {
    write(io, format!("HTTP/1.1 200 OK\r\n{rest}").as_bytes()).await?;
    Ok(false)
}

async fn websocket<S: Wire>(io: &mut Reader<S>, head: &Head) -> io::Result<bool> {
    let good = head.lists("connection", "upgrade") && head.lists("upgrade", "websocket");
    let Some(key) = head.get("sec-websocket-key").filter(|_| good) else {
        write(
            io,
            b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        )
        .await?;
        return Ok(true);
    };
    let accept = websocket::accept(key);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    write(io, answer.as_bytes()).await?;
    websocket::echo(io).await?;
    Ok(false)
}

fn as_text(head: &Head) -> String {
    let mut lines = vec![head.start.clone()];
    lines.extend(
        head.fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}")),
    );
    lines.join("\n")
}

async fn chunk<S: Wire>(io: &mut Reader<S>, bytes: &[u8]) -> io::Result<()> {
    let mut wire = format!("{:x}\r\n", bytes.len()).into_bytes();
    wire.extend(bytes);
    wire.extend(b"\r\n");
    write(io, &wire).await
}

async fn write<S: Wire>(io: &mut Reader<S>, bytes: &[u8]) -> io::Result<()> {
    io.io.write_all(bytes).await?;
    io.io.flush().await
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(io::Error::other)
}
