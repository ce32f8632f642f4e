//! One HTTP/2 stream's incoming bytes as a body. Called wherever a tunnel's or a visitor's stream is read. A chunk's
//! window is given back when the next one is asked for, that is when the other side has taken it: back-pressure is real.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};

use crate::seam::Wire;

/// The body of a request or response that arrives on an HTTP/2 stream.
#[derive(Debug)]
pub struct Inbound {
    recv: RecvStream,
    /// Handed on, not yet acknowledged.
    owed: usize,
    received: u64,
    ended: bool,
    /// Where the tunnel keeps count of what was taken, against what arrived.
    wire: Option<Arc<Wire>>,
}

impl Inbound {
    /// A visitor's or an app's stream.
    pub fn new(recv: RecvStream) -> Self {
        Self {
            recv,
            owed: 0,
            received: 0,
            ended: false,
            wire: None,
        }
    }

    /// The same for a stream of a tunnel, whose owner wants to know how much lies unread.
    pub fn counted(recv: RecvStream, wire: Arc<Wire>) -> Self {
        let mut inbound = Self::new(recv);
        inbound.wire = Some(wire);
        inbound
    }

    /// Octets of DATA payload handed on so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    fn acknowledge(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if owed > 0 {
            // Fails only for a stream that is gone, whose window nobody needs.
            let _gone = self.recv.flow_control().release_capacity(owed);
            if let Some(wire) = &self.wire {
                wire.taken(owed);
            }
        }
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        this.acknowledge();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            match this.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(chunk))) if chunk.is_empty() => {}
                Poll::Ready(Some(Ok(chunk))) => {
                    this.owed = chunk.len();
                    this.received += chunk.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Poll::Ready(Some(Err(error))) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        match this.recv.poll_trailers(cx) {
            Poll::Ready(Ok(Some(trailers))) => {
                this.ended = true;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Poll::Ready(Ok(None)) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => {
                this.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.recv.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // `h2` returns the connection's part of what a dropped stream still held; only our own count must follow.
        if let Some(wire) = &self.wire {
            let left = if self.recv.is_end_stream() {
                self.owed
            } else {
                self.recv.flow_control().used_capacity()
            };
            wire.taken(left);
        }
    }
}
