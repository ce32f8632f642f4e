//! Waiting for the head of an answer: the request's body goes on meanwhile, interim responses pass, and a tunnel that is in doubt
//! is left where the request can go elsewhere. Polled by `exchange`, once for each attempt.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client;
use http::{Response, StatusCode};
use http_body::Body;
use tidegate_shared::interim::{Fate, Interims};
use tidegate_shared::message::declared_length;
use tidegate_shared::pump::{Pump, Stop};
use tokio::time::Sleep;

use super::{Side, broken};
use crate::failure::Failure;
use crate::pool::Tried;
use crate::spent::Waited;
use crate::tunnel::{Life, Tunnel};
use crate::upload::{Fault, Upload};

/// Interim responses of one request that are looked at before others have a turn.
const INTERIMS_IN_A_TURN: u32 = 64;

/// How it ended.
pub(super) enum Outcome {
    Answered(Response<h2::RecvStream>),
    /// The visitor left, or time is up.
    Over(Failure),
    /// The tunnel is in doubt and the request can go elsewhere.
    Left,
    Lost(h2::Error),
    /// Interim responses without end, or a head that does not say in one way how long the answer is.
    NoAnswer,
}

/// Whether the body may go on.
pub(super) enum Gate {
    Open,
    /// The body waits for a 100, or for this.
    Shut(Pin<Box<Sleep>>),
}

/// See the module's head.
pub(super) struct Wait<'a, B, F> {
    pub(super) response: client::ResponseFuture,
    pub(super) upload: &'a mut Pump<Upload<B>>,
    pub(super) tunnel: &'a Tunnel,
    pub(super) gate: Gate,
    pub(super) may_leave: F,
    pub(super) tried: &'a Tried,
    /// Octets of the body that have gone on, kept where they are found however the wait ends.
    pub(super) received: &'a mut u64,
    /// How long its next ones were what everything waited for, likewise.
    pub(super) waited: &'a mut Waited,
    pub(super) interims: Interims,
}

impl<B, F> Wait<'_, B, F>
where
    B: Body<Data = Bytes, Error: std::error::Error + 'static> + Unpin,
    F: Fn(&Pump<Upload<B>>, &Tried) -> bool,
{
    pub(super) async fn run<S: Side>(&mut self, side: &mut S) -> Outcome {
        let mut trouble = pin!(self.tunnel.trouble().notified());
        // Registered before the first look, so that no trouble goes unnoticed.
        trouble.as_mut().enable();
        let mut doubted = self.tunnel.life() == Life::Doubted;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(outcome) = self.poll_response(cx, side) {
                    return Poll::Ready(outcome);
                }
                if let Poll::Ready(failure) = side.poll_over(cx) {
                    return Poll::Ready(Outcome::Over(failure));
                }
                if let Some(failure) = self.poll_upload(cx, side) {
                    return Poll::Ready(Outcome::Over(failure));
                }
                if trouble.as_mut().poll(cx).is_ready() {
                    trouble.set(self.tunnel.trouble().notified());
                    doubted = true;
                    continue;
                }
                if doubted && self.tunnel.life() == Life::Doubted {
                    doubted = false;
                    if (self.may_leave)(self.upload, self.tried) {
                        return Poll::Ready(Outcome::Left);
                    }
                }
                return Poll::Pending;
            }
        })
        .await
    }

    fn poll_response<S: Side>(&mut self, cx: &mut Context<'_>, side: &mut S) -> Poll<Outcome> {
        let mut turn = 0;
        loop {
            if turn == INTERIMS_IN_A_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            turn += 1;
            match self.response.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    if let Fate::Flood = self.met(interim, side) {
                        return Poll::Ready(Outcome::NoAnswer);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Outcome::Lost(error)),
                // The response itself is next, or an error.
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(&mut self.response)
            .poll(cx)
            .map(|response| match response {
                // `h2` takes an empty one for zero, and several that agree.
                Ok(response) if declared_length(response.headers()).is_err() => Outcome::NoAnswer,
                Ok(response) => Outcome::Answered(response),
                Err(error) => Outcome::Lost(error),
            })
    }

    /// Passes an interim response on, as far as it is to be.
    fn met<S: Side>(&mut self, mut interim: Response<()>, side: &mut S) -> Fate {
        let fate = self.interims.meet(&mut interim);
        if fate != Fate::Pass {
            return fate;
        }
        if interim.status() != StatusCode::CONTINUE {
            side.interim(interim);
        } else if let Gate::Shut(_) = self.gate {
            // A visitor who held nothing back is not told to go on.
            self.gate = Gate::Open;
            side.go_on();
        }
        fate
    }

    /// Moves the request's body. Only the visitor's own failures end the wait; what is wrong with the tunnel the
    /// response says.
    fn poll_upload<S: Side>(&mut self, cx: &mut Context<'_>, side: &mut S) -> Option<Failure> {
        if self.upload.is_finished() {
            return None;
        }
        if let Gate::Shut(until) = &mut self.gate {
            if until.as_mut().poll(cx).is_pending() {
                return None;
            }
            self.gate = Gate::Open;
            side.go_on();
        }
        let moved = self.upload.poll(cx);
        *self.received = self.upload.sent();
        match moved {
            Poll::Ready(Err(Stop::Body(Fault::TooLarge))) => Some(Failure::BodyTooLarge),
            Poll::Ready(Err(Stop::Body(Fault::Visitor(error)))) => Some(broken(&error)),
            Poll::Ready(_) => {
                side.body_due(None);
                self.waited.note(false);
                None
            }
            Poll::Pending => {
                let upload = &self.upload;
                let visitors_turn = !upload.waits_for_window();
                side.body_due(visitors_turn.then(|| upload.sent()));
                self.waited.note(visitors_turn);
                None
            }
        }
    }
}
