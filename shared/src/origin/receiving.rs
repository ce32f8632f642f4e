//! An app's answers as they arrive: head after head, and content as whoever asked takes it.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;

use super::Line;
use super::framing;
use crate::http1::response::Reader;
use crate::http1::{Content, Inflow, Piece, Unreadable};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Receiving {
    inflow: Inflow,
    reader: Reader,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing is due: no request is in hand, or its answer is whole.
    Rest,
    Head,
    Content(Content),
    /// The app has changed the protocol: what comes is no HTTP.
    Switched,
    /// The connection's end was read, or what came is nothing that could be read on.
    Over,
}

/// Why there is no head of an answer.
#[derive(Debug)]
pub(super) enum NoHead {
    Closed,
    Unreadable(Unreadable),
}

/// Why content has ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The app's end of the connection, or what came on it.
    #[error("{0}")]
    App(#[source] io::Error),
    /// The request broke off, and the answer with it.
    #[error("the request ended before its end")]
    Request,
}

impl Receiving {
    pub(super) fn new() -> Self {
        Self {
            inflow: Inflow::default(),
            reader: Reader::default(),
            state: State::Rest,
        }
    }

    /// A request was sent.
    pub(super) const fn begin(&mut self) {
        self.state = State::Head;
    }

    /// Whether nothing is due.
    pub(super) const fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Rest)
    }

    /// Whether nothing comes any more that is an answer's.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Switched | State::Over)
    }

    /// Nothing of the connection is read any more.
    pub(super) fn end(&mut self) {
        self.state = State::Over;
    }

    /// What was read and not taken.
    pub(super) fn into_octets(self) -> Bytes {
        self.inflow.into_octets()
    }

    /// Ready when something comes that was not asked for, or the end.
    pub(super) fn poll_unasked(&mut self, cx: &mut Context<'_>, line: &mut Line) -> Poll<()> {
        if self.inflow.is_empty() {
            let _whatever = ready!(self.inflow.poll_read(cx, line));
        }
        Poll::Ready(())
    }

    /// The next head: an interim response's, or the answer's.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        line: &mut Line,
    ) -> Poll<Result<Response<()>, NoHead>> {
        loop {
            if !self.inflow.is_empty() {
                match self.reader.next(self.inflow.octets()) {
                    Ok(Some(head)) => return Poll::Ready(Ok(head)),
                    Ok(None) => {}
                    Err(why) => return Poll::Ready(Err(NoHead::Unreadable(why))),
                }
            }
            match ready!(self.inflow.poll_read(cx, line)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(NoHead::Closed)),
                Ok(_) => {}
            }
        }
    }

    /// The answer's head has come: what follows it is content, or another protocol's.
    pub(super) fn content(&mut self, status: StatusCode, content: Content) {
        self.state = if status == StatusCode::SWITCHING_PROTOCOLS {
            State::Switched
        } else if content.is_over() {
            State::Rest
        } else {
            State::Content(content)
        };
    }

    /// The next of the content; `None` at its end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        line: &mut Line,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.take() {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => {}
                Err(why) => return self.break_off(io::Error::other(why)),
            }
            match ready!(self.inflow.poll_read(cx, line)) {
                Ok(0) if matches!(self.state, State::Content(Content::ToEnd)) => {
                    self.state = State::Over;
                    return Poll::Ready(None);
                }
                Ok(0) => return self.break_off(framing::cut_short()),
                Ok(_) => {}
                Err(error) => return self.break_off(error),
            }
        }
    }

    fn take(&mut self) -> Result<Piece, Unreadable> {
        let State::Content(content) = &mut self.state else {
            return Ok(Piece::End);
        };
        let piece = content.next(self.inflow.octets())?;
        if content.is_over() {
            self.state = State::Rest;
        }
        Ok(piece)
    }

    fn break_off(&mut self, error: io::Error) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.state = State::Over;
        Poll::Ready(Some(Err(Broken::App(error))))
    }
}
