//! A body into one HTTP/2 stream: the only place that reserves a stream's capacity. Never more is taken from the body
//! than the peer has given window for, so nothing piles up between the two. The future that pumps a request's body is
//! part of that request's own future: dropping it drops both halves.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Body;

use crate::message::strip_trailers;

/// What one DATA frame carries, at most: with its head of nine octets (RFC 9113 §4.1) it fills one TLS record and one
/// buffer of 16 KiB at whoever reads it. A full frame of 16,384 would take a second record for its last nine, and a
/// buffer of the allocator's next size, 20 KiB, for as long as its data waits.
const PART: usize = 16 * 1024 - 9;

/// How a pump ended before its body did.
#[derive(Debug)]
pub enum Stop<E> {
    /// The body failed. The stream is still open: whoever pumps resets it, so that the far side cannot take what it has
    /// for the whole, and lets what was sent before that leave first if it is worth something (a reset overtakes it).
    Body(E),
    /// The far side reset the stream. `NO_ERROR` means that it wants no more and that its answer stands
    /// (RFC 9113 §8.1).
    Reset(Reason),
    /// The connection is gone.
    Gone(h2::Error),
}

/// Moves one body into one stream.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    chunk: Bytes,
    last: bool,
    trailers: Option<HeaderMap>,
    sent: u64,
    touched: bool,
    waits_for_window: bool,
    finished: bool,
}

impl<B> Pump<B> {
    /// Octets of DATA payload handed to the stream so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether there is nothing left to do: everything handed over, or given up.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The body, for whoever goes on with it by other means.
    pub fn into_body(self) -> B {
        self.body
    }

    /// The stream, for whoever goes on with it by other means.
    pub fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Gives up and resets the stream (RFC 9113 §6.4).
    pub fn reset(&mut self, reason: Reason) {
        self.finished = true;
        self.stream.send_reset(reason);
    }
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            chunk: Bytes::new(),
            last: false,
            trailers: None,
            sent: 0,
            touched: false,
            waits_for_window: false,
            finished: false,
        }
    }

    /// A pump with nothing to do, for a stream whose head was its end.
    pub fn spent(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            finished: true,
            ..Self::new(body, stream)
        }
    }

    /// Whether the last poll ended because the far side gives no window: it does not read.
    pub fn waits_for_window(&self) -> bool {
        self.waits_for_window
    }

    pub fn body(&self) -> &B {
        &self.body
    }

    /// Whether nothing has been taken from the body.
    pub fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// The body, whole, for another attempt; `None` where something has been taken from it.
    pub fn into_untouched(self) -> Option<B> {
        (!self.touched).then_some(self.body)
    }

    /// Moves what can be moved. Ready when the whole body and its trailers are with the stream.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_parts(cx));
        self.finished = true;
        Poll::Ready(result)
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        loop {
            if !self.chunk.is_empty() {
                ready!(self.poll_send(cx))?;
                continue;
            }
            if self.last {
                return Poll::Ready(Ok(()));
            }
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(self.stream.send_trailers(trailers).map_err(Stop::Gone));
            }
            self.waits_for_window = false;
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match self.touch(frame).into_data() {
                    Ok(data) => {
                        // END_STREAM rides on the last DATA frame, where the body knows that it is the last.
                        self.last = self.body.is_end_stream() && !data.is_empty();
                        self.chunk = data;
                    }
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        strip_trailers(&mut trailers);
                        self.trailers = Some(trailers);
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Stop::Body(error))),
                Poll::Ready(None) => {
                    return Poll::Ready(
                        self.stream
                            .send_data(Bytes::new(), true)
                            .map_err(Stop::Gone),
                    );
                }
                Poll::Pending => return self.poll_reset(cx),
            }
        }
    }

    fn touch<F>(&mut self, frame: F) -> F {
        self.touched = true;
        frame
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        self.stream.reserve_capacity(self.chunk.len());
        while self.stream.capacity() == 0 {
            self.waits_for_window = true;
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(stop(error))),
                // The stream takes no more: reset by either side, or its connection is gone.
                Poll::Ready(None) => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(Ok(reason)) => Poll::Ready(Err(Stop::Reset(reason))),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(stop(error))),
                        Poll::Pending => Poll::Ready(Err(Stop::Reset(Reason::CANCEL))),
                    };
                }
                Poll::Pending => return self.poll_reset(cx),
            }
        }
        self.waits_for_window = false;
        let part = self
            .chunk
            .split_to(self.stream.capacity().min(self.chunk.len()).min(PART));
        self.sent += part.len() as u64;
        let last = self.last && self.chunk.is_empty();
        Poll::Ready(self.stream.send_data(part, last).map_err(Stop::Gone))
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        match ready!(self.stream.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(Err(Stop::Reset(reason))),
            Err(error) => Poll::Ready(Err(stop(error))),
        }
    }
}

fn stop<E>(error: h2::Error) -> Stop<E> {
    match error.reason() {
        Some(reason) if error.is_reset() => Stop::Reset(reason),
        _ => Stop::Gone(error),
    }
}
