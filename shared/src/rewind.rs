//! A body that can be said once more: while it is small it is kept, so that a request that may be repeated can be (RFC 9110 §9.2.2,
//! RFC 9113 §8.7). Between a body and whatever pumps it: `exchange` and the backends of the gateway, the agent's app in HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

/// Octets of a body that are kept until the answer has begun. They are copies: a slice would keep the buffer that it was read
/// into, which is larger than what a slow sender sends at a time.
pub const KEPT: usize = 64 * 1024;

/// See the module's head.
#[derive(Debug)]
pub struct Rewind<B> {
    body: Option<B>,
    past: Past,
    /// To be said once more, before what still comes.
    again: Option<Bytes>,
    trailers_again: bool,
}

/// What the body has said.
#[derive(Debug, Default)]
struct Past {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// There was more than is kept, or nobody will ask for it.
    lost: bool,
}

impl<B> Rewind<B> {
    /// `None` for a body is a head that is all there is.
    pub fn new(body: Option<B>) -> Self {
        Self {
            body,
            past: Past::default(),
            again: None,
            trailers_again: false,
        }
    }

    /// Whether a head is all there is.
    pub const fn is_none(&self) -> bool {
        self.body.is_none()
    }

    /// Whether all that it has said is kept.
    pub const fn is_kept(&self) -> bool {
        !self.past.lost
    }

    /// The same body from its beginning; `None` where that is not kept.
    pub fn rewound(mut self) -> Option<Self> {
        self.rewind().then_some(self)
    }

    /// Begins it again; whether that can be done.
    pub fn rewind(&mut self) -> bool {
        let Past {
            data,
            trailers,
            lost,
            ..
        } = &self.past;
        if *lost {
            return false;
        }
        self.again = (!data.is_empty()).then(|| Bytes::copy_from_slice(data));
        self.trailers_again = trailers.is_some();
        true
    }

    /// Keeps nothing from here on: the answer has begun.
    pub fn settle(&mut self) {
        self.past.lose();
    }
}

impl Past {
    fn lose(&mut self) {
        self.lost = true;
        self.data = Vec::new();
    }

    fn add(&mut self, frame: &Frame<Bytes>) {
        if self.lost {
            return;
        }
        if let Some(data) = frame.data_ref() {
            if self.data.len() + data.len() > KEPT {
                self.lose();
            } else {
                self.data.extend_from_slice(data);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Rewind<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(again) = this.again.take() {
            return Poll::Ready(Some(Ok(Frame::data(again))));
        }
        if std::mem::take(&mut this.trailers_again)
            && let Some(trailers) = &this.past.trailers
        {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        let Some(body) = this.body.as_mut().filter(|_| !this.past.ended) else {
            return Poll::Ready(None);
        };
        let Some(frame) = ready!(Pin::new(body).poll_frame(cx)) else {
            this.past.ended = true;
            return Poll::Ready(None);
        };
        let frame = frame?;
        this.past.add(&frame);
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.again.is_none()
            && !self.trailers_again
            && (self.past.ended || self.body.as_ref().is_none_or(Body::is_end_stream))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::testing::Frames;

    fn body(chunks: &[usize]) -> Frames {
        let data: Vec<_> = chunks.iter().map(|length| vec![7; *length]).collect();
        let data: Vec<_> = data.iter().map(Vec::as_slice).collect();
        Frames::of(&data)
    }

    /// Takes some frames, or all: octets, and whether trailers and the end came.
    fn take(body: &mut Rewind<Frames>, frames: usize) -> (usize, bool, bool) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut octets, mut trailers) = (0, false);
        for _ in 0..frames {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => octets += data.len(),
                    Err(_trailers) => trailers = true,
                },
                _ => return (octets, trailers, true),
            }
        }
        (octets, trailers, false)
    }

    #[test]
    fn a_small_body_can_be_said_again_from_any_point() {
        for frames in 0..6 {
            let mut first = Rewind::new(Some(body(&[3, 0, 5]).trailer("x-sum", "1")));
            let _some = take(&mut first, frames);
            let mut again = first.rewound().unwrap();
            let _some = take(&mut again, frames / 2);
            let mut last = again.rewound().unwrap();
            assert_eq!(take(&mut last, 99), (8, true, true), "after {frames}");
            assert!(last.is_end_stream());
        }
    }

    #[test]
    fn what_is_too_much_or_settled_cannot() {
        let mut large = Rewind::new(Some(body(&[KEPT, 1])));
        assert_eq!(take(&mut large, 1), (KEPT, false, false));
        assert!(large.is_kept());
        assert_eq!(take(&mut large, 1), (1, false, false));
        assert!(!large.is_kept() && large.rewound().is_none());
        let mut settled = Rewind::new(Some(body(&[1, 1])));
        let _one = take(&mut settled, 1);
        settled.settle();
        assert_eq!(take(&mut settled, 99), (1, false, true));
        assert!(settled.rewound().is_none());
    }
}
