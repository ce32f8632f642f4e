//! A request's body on its way: the visitor's octets as they come, and no more of them than the operator takes, whether the head
//! had said how many there would be or not. While there are few, they are kept, so that a request that may be repeated can be
//! (RFC 9110 §9.2.2). Read by `exchange`'s pump, and by a backend's connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame};

use crate::rates;

/// Octets of a body that are kept until the answer has begun. They are copies: a slice would keep the buffer that it was read
/// into, which is larger than what a slow visitor sends at a time.
const KEPT: usize = 64 * 1024;

/// See the module's head.
#[derive(Debug)]
pub struct Upload<B> {
    body: Option<B>,
    /// Octets that may still come.
    left: u64,
    past: Past,
    /// To be said once more, before what still comes.
    again: Option<Bytes>,
    trailers_again: bool,
    /// A field that a visitor must not be believed in, in trailers no more than in a head.
    disbelieved: Option<HeaderName>,
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

/// Why a body ended before its end.
#[derive(Debug)]
pub enum Fault<E> {
    /// There is more of it than is taken. Nothing of what is too much has gone on, and no end of it.
    TooLarge,
    /// The visitor's connection said so.
    Visitor(E),
}

impl<B> Upload<B> {
    /// With a limit in octets, or none. `None` for a body is a head that is all there is.
    pub(crate) fn new(body: Option<B>, most: Option<u64>) -> Self {
        Self {
            body,
            left: most.unwrap_or(u64::MAX),
            past: Past::default(),
            again: None,
            trailers_again: false,
            disbelieved: None,
        }
    }

    /// The same, less this field in its trailers.
    pub(crate) fn without(mut self, field: Option<HeaderName>) -> Self {
        self.disbelieved = field;
        self
    }

    pub(crate) const fn is_none(&self) -> bool {
        self.body.is_none()
    }

    /// Whether all that it has said is kept.
    pub(crate) const fn is_kept(&self) -> bool {
        !self.past.lost
    }

    /// The same body from its beginning; `None` where that is not kept.
    pub(crate) fn rewound(mut self) -> Option<Self> {
        self.rewind().then_some(self)
    }

    /// Begins it again; whether that can be done.
    pub(crate) fn rewind(&mut self) -> bool {
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
    pub(crate) fn settle(&mut self) {
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

impl<B: Body<Data = Bytes> + Unpin> Body for Upload<B> {
    type Data = Bytes;
    type Error = Fault<B::Error>;

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
        let mut frame = frame.map_err(Fault::Visitor)?;
        if let (Some(field), Some(trailers)) = (&this.disbelieved, frame.trailers_mut()) {
            rates::remove(trailers, field);
        }
        let octets = frame.data_ref().map_or(0, Bytes::len) as u64;
        this.left = this.left.checked_sub(octets).ok_or(Fault::TooLarge)?;
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
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Waker;

    use http::header::{HeaderName, HeaderValue};

    use super::*;

    #[derive(Debug)]
    struct Chunks(VecDeque<Frame<Bytes>>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn upload(chunks: &[usize], trailers: bool) -> Upload<Chunks> {
        let data = chunks
            .iter()
            .map(|length| Frame::data(Bytes::from(vec![7; *length])));
        let mut frames: VecDeque<_> = data.collect();
        if trailers {
            let field = (
                HeaderName::from_static("x-sum"),
                HeaderValue::from_static("1"),
            );
            frames.push_back(Frame::trailers([field].into_iter().collect()));
        }
        Upload::new(Some(Chunks(frames)), None)
    }

    /// Takes some frames, or all: octets, and whether trailers and the end came.
    fn take(upload: &mut Upload<Chunks>, frames: usize) -> (usize, bool, bool) {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut octets, mut trailers) = (0, false);
        for _ in 0..frames {
            match Pin::new(&mut *upload).poll_frame(&mut cx) {
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
            let mut first = upload(&[3, 0, 5], true);
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
        let mut large = upload(&[KEPT, 1], false);
        assert_eq!(take(&mut large, 1), (KEPT, false, false));
        assert!(large.is_kept());
        assert_eq!(take(&mut large, 1), (1, false, false));
        assert!(!large.is_kept() && large.rewound().is_none());
        let mut settled = upload(&[1, 1], false);
        let _one = take(&mut settled, 1);
        settled.settle();
        assert_eq!(take(&mut settled, 99), (1, false, true));
        assert!(settled.rewound().is_none());
    }
}
