//! An upgraded connection and one HTTP/2 stream, joined: bytes as they come, both ways, each direction closed for itself
//! (RFC 8441 §5, RFC 9113 §8.5). Called at both ends of a tunnel for WebSocket and whatever else is upgraded.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use crate::inbound::Inbound;
use crate::pump::{Pump, Stop};

/// What went through, in octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the upgraded connection into the stream.
    pub sent: u64,
    /// From the stream into the upgraded connection.
    pub received: u64,
}

/// Why a join ended otherwise than by both sides' closing.
#[derive(Debug, Error)]
pub enum Broken {
    #[error("the upgraded connection failed: {0}")]
    Io(#[source] io::Error),
    #[error("the upgraded connection took nothing of what waits for it within {0:?}")]
    Stalled(Duration),
    #[error("the stream was reset by the other end of the tunnel: {0}")]
    Reset(Reason),
    #[error("the tunnel is gone: {0}")]
    Gone(#[source] h2::Error),
}

/// Most that is read from the connection at once.
const CHUNK: usize = 16 * 1024;

/// Relays until both directions are closed or one fails. When it returns an error the stream is reset and `io` dropped.
/// `stall` is for how long `io` may take nothing of what waits for it; `None` for any time.
pub async fn join<T>(
    io: T,
    send: SendStream<Bytes>,
    recv: Inbound,
    stall: Option<Duration>,
) -> (Traffic, Result<(), Broken>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(io);
    let mut outward = Pump::new(
        Reading {
            io: reader,
            buffer: BytesMut::new(),
            ended: false,
        },
        send,
    );
    let mut inward = Writing {
        io: writer,
        from: recv,
        chunk: Bytes::new(),
        closing: false,
        done: false,
        stall: stall.map(Stall::new),
    };
    let result = std::future::poll_fn(|cx| {
        let out = match outward.poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(Stop::Body(error))) => return Poll::Ready(Err(Broken::Io(error))),
            // The far side wants no more; what it has to say may still be coming.
            Poll::Ready(Err(Stop::Reset(Reason::NO_ERROR))) => true,
            Poll::Ready(Err(Stop::Reset(reason))) => {
                return Poll::Ready(Err(Broken::Reset(reason)));
            }
            Poll::Ready(Err(Stop::Gone(error))) => return Poll::Ready(Err(Broken::Gone(error))),
            Poll::Pending => false,
        };
        let back = match inward.poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
            Poll::Pending => false,
        };
        if out && back {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await;
    if result.is_err() {
        outward.reset(Reason::CANCEL);
    }
    (
        Traffic {
            sent: outward.sent(),
            received: inward.from.received(),
        },
        result,
    )
}

struct Reading<R> {
    io: R,
    buffer: BytesMut,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Body for Reading<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        this.buffer.reserve(CHUNK);
        match ready!(poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buffer)) {
            Ok(0) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Ok(_) => Poll::Ready(Some(Ok(Frame::data(this.buffer.split().freeze())))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }
}

struct Writing<W> {
    io: W,
    from: Inbound,
    chunk: Bytes,
    closing: bool,
    done: bool,
    stall: Option<Stall>,
}

impl<W: AsyncWrite + Unpin> Writing<W> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.closing {
                let closed = Pin::new(&mut self.io).poll_shutdown(cx);
                ready!(self.taken(cx, closed))?;
                self.done = true;
                continue;
            }
            if !self.chunk.is_empty() {
                let written = Pin::new(&mut self.io).poll_write(cx, &self.chunk);
                let n = ready!(self.taken(cx, written))?;
                if n == 0 {
                    return Poll::Ready(Err(Broken::Io(io::ErrorKind::WriteZero.into())));
                }
                let _written = self.chunk.split_to(n);
                continue;
            }
            match Pin::new(&mut self.from).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.chunk = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(match error.reason() {
                        Some(reason) if error.is_reset() => Broken::Reset(reason),
                        _ => Broken::Gone(error),
                    }));
                }
                Poll::Ready(None) => self.closing = true,
                Poll::Pending => {
                    let flushed = Pin::new(&mut self.io).poll_flush(cx);
                    ready!(self.taken(cx, flushed))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// What came of an offer to `io`: it took some of what waits for it, or it has not for too long.
    fn taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        offered: Poll<io::Result<T>>,
    ) -> Poll<Result<T, Broken>> {
        let Some(stall) = &mut self.stall else {
            return offered.map_err(Broken::Io);
        };
        if offered.is_ready() {
            stall.since = None;
        } else if stall.is_over(cx) {
            return Poll::Ready(Err(Broken::Stalled(stall.most)));
        }
        offered.map_err(Broken::Io)
    }
}

/// For how long nothing has been taken. One timer, looked at when it is due: what moves does not touch it.
struct Stall {
    most: Duration,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn new(most: Duration) -> Self {
        Self {
            most,
            since: None,
            timer: None,
        }
    }

    /// Nothing was taken: whether that has lasted too long.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let end = *self.since.get_or_insert_with(Instant::now) + self.most;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        while timer.as_mut().poll(cx).is_ready() {
            if timer.deadline() >= end {
                return true;
            }
            timer.as_mut().reset(end);
        }
        false
    }
}
