//! A visitor's body on its way to a backend: the connection takes from it as the server does, and whoever asked keeps a hand on it, to
//! know how far it has come, why it broke off, and to have it back whole if nothing was taken.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tidegate_shared::message::strip_trailers;

use crate::exchange::broken;
use crate::failure::Failure;
use crate::upload::{Fault, Upload};

/// What the connection is given.
#[derive(Debug)]
pub(super) struct Carried(Option<Arc<dyn Feed>>);

impl Carried {
    /// A body, or none.
    pub(super) fn new(feed: Option<&Arc<dyn Feed>>) -> Self {
        let feed = feed.map(|feed| {
            feed.offered();
            Arc::clone(feed)
        });
        Self(feed)
    }
}

/// The visitor's body has ended otherwise than whole; [`Feed::progress`] has the reason.
#[derive(Debug, thiserror::Error)]
#[error("the visitor's body broke off")]
pub(super) struct BrokeOff;

impl Body for Carried {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        match &self.0 {
            Some(feed) => feed.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|feed| feed.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(feed) = &self.0 {
            feed.released();
        }
    }
}

/// How it stands with a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// Octets that have gone on.
    pub(super) moved: u64,
    /// The visitor's next ones are what everything waits for.
    pub(super) waits: bool,
    /// Something was taken of it.
    pub(super) touched: bool,
    /// All of it was.
    pub(super) finished: bool,
    /// It has broken off, for this.
    pub(super) fault: Option<Failure>,
}

/// A body behind a lock that only ever one task takes.
pub(super) trait Feed: fmt::Debug + Send + Sync {
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>>;
    fn is_end_stream(&self) -> bool;
    fn progress(&self) -> Progress;
    /// The visitor held it back until it is told to go on, and has been.
    fn open(&self);
    /// Whether it is still held back.
    fn is_shut(&self) -> bool;
    /// Whether what was taken of it can be had once more.
    fn is_kept(&self) -> bool;
    /// Begins it again, if it can be.
    fn rewind(&self);
    /// Nobody will ask for it again.
    fn settle(&self);
    /// It is somebody's to take.
    fn offered(&self);
    fn released(&self);
}

/// See the module's head.
pub(super) struct Slot<B>(Mutex<State<B>>);

struct State<B> {
    body: Upload<B>,
    /// Nothing is taken of it yet.
    shut: Option<Option<Waker>>,
    moved: u64,
    waits: bool,
    touched: bool,
    ended: bool,
    released: bool,
    fault: Option<Failure>,
}

impl<B> fmt::Debug for Slot<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl<B> Slot<B> {
    /// `shut` for one that the visitor holds back.
    pub(super) fn new(body: Upload<B>, shut: bool) -> Self {
        Self(Mutex::new(State {
            body,
            shut: shut.then_some(None),
            moved: 0,
            waits: false,
            touched: false,
            ended: false,
            released: false,
            fault: None,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B> Feed for Slot<B>
where
    B: Body<Data = Bytes, Error: Error + 'static> + Send + Unpin,
{
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let state = &mut *self.lock();
        if state.fault.is_some() {
            return Poll::Ready(Some(Err(BrokeOff)));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        if let Some(waker) = &mut state.shut {
            *waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let polled = Pin::new(&mut state.body).poll_frame(cx);
        state.waits = polled.is_pending();
        let Poll::Ready(frame) = polled else {
            return Poll::Pending;
        };
        state.touched = true;
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    state.moved += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                    state.ended = true;
                }
                Some(Ok(frame))
            }
            Some(Err(fault)) => {
                state.fault = Some(match fault {
                    Fault::TooLarge => Failure::BodyTooLarge,
                    Fault::Visitor(error) => broken(&error),
                });
                Some(Err(BrokeOff))
            }
            None => {
                state.ended = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let state = self.lock();
        state.fault.is_none() && (state.ended || state.body.is_end_stream())
    }

    fn progress(&self) -> Progress {
        let state = self.lock();
        Progress {
            moved: state.moved,
            waits: state.waits && !state.released,
            touched: state.touched,
            finished: state.ended || state.fault.is_some() || state.body.is_end_stream(),
            fault: state.fault,
        }
    }

    fn open(&self) {
        if let Some(Some(waker)) = self.lock().shut.take() {
            waker.wake();
        }
    }

    fn is_shut(&self) -> bool {
        self.lock().shut.is_some()
    }

    fn is_kept(&self) -> bool {
        let state = self.lock();
        state.fault.is_none() && state.body.is_kept()
    }

    fn rewind(&self) {
        let state = &mut *self.lock();
        if state.fault.is_none() && state.body.rewind() {
            state.moved = 0;
            state.waits = false;
            state.touched = false;
            state.ended = false;
        }
    }

    fn settle(&self) {
        self.lock().body.settle();
    }

    fn offered(&self) {
        self.lock().released = false;
    }

    fn released(&self) {
        self.lock().released = true;
    }
}
