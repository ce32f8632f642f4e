//! The visitor's side of a request on HTTP/2 that waits for its answer: interim responses go out at once, a reset ends the wait,
//! and so does time. Used by `h2` for each stream; over HTTP/1 the connection's pulse keeps time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::Response;
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tokio::time::{Sleep, sleep};

use super::Reception;
use super::due::Due;
use super::ledger::Ledger;
use super::wait::Wait;
use crate::exchange::Side;
use crate::failure::Failure;

/// How often the time is looked at while nothing else happens, and at most so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(20);

/// See the module's head.
#[derive(Debug)]
pub(super) struct Front {
    respond: SendResponse<Bytes>,
    /// When waiting ends: armed with the first wait.
    until: Option<Pin<Box<Sleep>>>,
    reception: Arc<Reception>,
    ledger: Arc<Ledger>,
    /// What has come of a body that is due.
    body: Option<Due>,
    wait: Wait,
}

impl Front {
    /// For a request that has just come.
    pub(super) fn new(
        respond: SendResponse<Bytes>,
        reception: Arc<Reception>,
        ledger: Arc<Ledger>,
    ) -> Self {
        let wait = Wait::default();
        wait.begin(clock::now_ms());
        Self {
            respond,
            until: None,
            reception,
            ledger,
            body: None,
            wait,
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Says when the gateway ends.
    pub(super) fn drain(&self) -> &Drain {
        &self.reception.drain
    }

    /// For the answer.
    pub(super) fn into_parts(self) -> (SendResponse<Bytes>, Arc<Ledger>) {
        (self.respond, self.ledger)
    }

    /// Whether the stream has been reset, by either side.
    pub(super) fn is_reset(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.respond.poll_reset(&mut cx).is_ready()
    }

    /// Whether the visitor has taken its request back before it was looked at: it costs no app anything then.
    pub(super) async fn was_reset(&mut self) -> bool {
        self.ledger.has_resets()
            && poll_fn(|cx| Poll::Ready(self.respond.poll_reset(cx).is_ready())).await
    }
}

impl Side for Front {
    fn interim(&mut self, response: Response<()>) {
        let mut interim = Response::new(());
        *interim.status_mut() = response.status();
        *interim.headers_mut() = response.headers().clone();
        // A visitor that cannot take it has left, which the response will find out.
        let _gone = self.respond.send_informational(interim);
    }

    fn go_on(&mut self) {
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::CONTINUE;
        let _gone = self.respond.send_informational(response);
    }

    fn body_due(&mut self, moved: Option<u64>) {
        match (moved, &mut self.body) {
            (Some(moved), Some(body)) => body.came(moved),
            (Some(moved), body) => *body = Some(Due::begin(moved)),
            (None, body) => *body = None,
        }
    }

    fn held(&mut self, holds: bool) {
        self.wait.hold(holds, clock::now_ms());
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match self.respond.poll_reset(cx) {
            Poll::Pending => {}
            // So ends here a stream whose body is not what its head has said (RFC 9113 §8.1.1).
            Poll::Ready(Ok(Reason::PROTOCOL_ERROR)) => return Poll::Ready(Failure::Malformed),
            Poll::Ready(_) => return Poll::Ready(Failure::VisitorGone),
        }
        if self.reception.drain.is_last_call() {
            return Poll::Ready(Failure::Draining);
        }
        let limits = &self.reception.limits;
        let until = self.until.get_or_insert_with(|| {
            let first = limits.response.map_or(limits.patience.stall, |most| {
                most.min(limits.patience.stall)
            });
            Box::pin(sleep(first))
        });
        while until.as_mut().poll(cx).is_ready() {
            if self
                .body
                .as_mut()
                .is_some_and(|body| body.is_overdue(&limits.patience))
            {
                return Poll::Ready(Failure::BodyTimeout);
            }
            let lasts = Duration::from_millis(self.wait.lasts(clock::now_ms()));
            if self.body.is_none() && limits.response.is_some_and(|most| lasts >= most) {
                return Poll::Ready(Failure::ResponseTimeout);
            }
            let again = limits.patience.stall.min(LOOK_EVERY);
            let again = limits.response.map_or(again, |most| {
                again.min(most.saturating_sub(lasts).max(LOOK_AT_MOST_EVERY))
            });
            let now = Instant::now();
            let again = self.body.as_ref().map_or(again, |body| {
                let end = body.ends(&limits.patience);
                again.min(end.saturating_duration_since(now).max(LOOK_AT_MOST_EVERY))
            });
            until.as_mut().reset((now + again).into());
        }
        Poll::Pending
    }
}
