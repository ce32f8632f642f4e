//! One request on a shared connection, until the head of its answer: the body goes on meanwhile, and interim responses pass.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Reason, RecvStream, client};
use http::{Request, Response};
use tidegate_shared::interim::{Fate, Interims};
use tidegate_shared::message::declared_length;
use tidegate_shared::origin::{Asking as _, ENDLESS};
use tidegate_shared::pump::{Pump, Stop};

use super::super::asking::Asker;
use super::super::body::{Carried, Feed};
use super::pulse::END_AFTER;
use super::seat::Seat;
use crate::exchange::Side;

/// Interim responses of one request that are looked at before others have a turn.
const INTERIMS_IN_A_TURN: u32 = 64;

/// Fields of an answer, at most; as on HTTP/1.1.
const MOST_FIELDS: usize = 100;

/// The rest of a request, on its way.
pub(in super::super) type Upload = Pump<Carried>;

/// Why there is no answer.
#[derive(Debug)]
pub(in super::super) enum Miss {
    /// The connection takes no more requests, or the server says that it did nothing with this one (RFC 9113 §6.8, §8.7).
    Untaken(&'static str),
    /// The connection ended.
    Closed,
    /// Nobody seems to be there any more, for this.
    Silent(String),
    /// What the server answered is not HTTP as it should be, for this.
    Invalid(String),
    /// The visitor's body broke off, or nobody waits any more: the one who asks knows why.
    Unwanted,
}

/// Sends a request and waits for the head of its answer. `taken` is told how many octets of the body the server's windows have let
/// go. One that `may_leave` does not wait on a connection that gets into doubt.
pub(in super::super) async fn ask<S: Side>(
    seat: &mut Seat,
    request: Request<()>,
    feed: Option<&Arc<dyn Feed>>,
    asker: &mut Asker<'_, S>,
    taken: &AtomicU64,
    may_leave: bool,
) -> Result<(Response<RecvStream>, Option<Upload>), Miss> {
    let waiting = seat.wait();
    let requests = &mut seat.requests;
    // A connection may have its places taken by what another worker's clock has not seen end yet.
    let ready = poll_fn(|cx| {
        if let Poll::Ready(ready) = requests.poll_ready(cx) {
            return Poll::Ready(ready.map_err(|_over| Miss::Untaken(TAKES_NO_MORE)));
        }
        asker.poll_gone(cx).map(|()| Err(Miss::Unwanted))
    });
    ready.await?;
    let sent = requests.send_request(request, feed.is_none());
    let (response, stream) = sent.map_err(|error| {
        if error.is_reset() || error.get_io().is_some() || error.is_go_away() {
            Miss::Untaken(TAKES_NO_MORE)
        } else {
            Miss::Invalid(error.to_string())
        }
    })?;
    let mut asked = Asked {
        response,
        upload: feed.map(|feed| Pump::new(Carried::new(Some(feed)), stream)),
        interims: Interims::default(),
    };
    let mut doubt = pin!(waiting.doubt());
    let answered = poll_fn(|cx| {
        let answered = asked.poll(cx, asker, taken);
        if may_leave && answered.is_pending() && doubt.as_mut().poll(cx).is_ready() {
            let why = "its HTTP/2 connection answers no PING".to_owned();
            return Poll::Ready(Err(Miss::Silent(why)));
        }
        answered
    });
    match answered.await {
        Ok(response) => Ok((response, asked.upload)),
        Err(Miss::Closed) if seat.was_silent() => {
            let end = Duration::from_millis(END_AFTER);
            Err(Miss::Silent(format!(
                "it said nothing for {end:?}, not even to a PING"
            )))
        }
        Err(miss) => {
            // The server must not take what it has for all of it.
            if let Some(upload) = asked.upload.as_mut().filter(|upload| !upload.is_finished()) {
                upload.reset(Reason::CANCEL);
            }
            Err(miss)
        }
    }
}

const TAKES_NO_MORE: &str = "the connection takes no more requests";

struct Asked {
    response: client::ResponseFuture,
    upload: Option<Upload>,
    interims: Interims,
}

impl Asked {
    fn poll<S: Side>(
        &mut self,
        cx: &mut Context<'_>,
        asker: &mut Asker<'_, S>,
        taken: &AtomicU64,
    ) -> Poll<Result<Response<RecvStream>, Miss>> {
        if push(&mut self.upload, cx).is_err() {
            return Poll::Ready(Err(Miss::Unwanted));
        }
        if let Some(upload) = &self.upload {
            taken.store(upload.sent(), Relaxed);
        }
        let mut turn = 0;
        loop {
            if turn == INTERIMS_IN_A_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            turn += 1;
            match self.response.poll_informational(cx) {
                Poll::Ready(Some(Ok(mut interim))) => match self.interims.meet(&mut interim) {
                    Fate::Pass => asker.interim(interim),
                    Fate::Drop => {}
                    Fate::Flood => return Poll::Ready(Err(Miss::Invalid(ENDLESS.to_owned()))),
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(missed(&error))),
                // The response itself is next, or an error.
                Poll::Ready(None) => break,
                Poll::Pending => return asker.poll_gone(cx).map(|()| Err(Miss::Unwanted)),
            }
        }
        match Pin::new(&mut self.response).poll(cx) {
            Poll::Ready(Ok(response)) => Poll::Ready(fit(response)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(missed(&error))),
            Poll::Pending => asker.poll_gone(cx).map(|()| Err(Miss::Unwanted)),
        }
    }
}

/// The visitor's body broke off.
pub(super) struct BrokenOff;

/// Moves the request's body on, if there still is some.
pub(super) fn push(upload: &mut Option<Upload>, cx: &mut Context<'_>) -> Result<(), BrokenOff> {
    let Some(pump) = upload else { return Ok(()) };
    match pump.poll(cx) {
        Poll::Pending => Ok(()),
        Poll::Ready(Err(Stop::Body(_known_to_the_feed))) => Err(BrokenOff),
        // What the server no longer wants its answer says, or its reset.
        Poll::Ready(Ok(()) | Err(Stop::Reset(_) | Stop::Gone(_))) => Ok(()),
    }
}

fn fit(response: Response<RecvStream>) -> Result<Response<RecvStream>, Miss> {
    if response.headers().len() > MOST_FIELDS {
        let why = format!("its head has more than {MOST_FIELDS} fields");
        return Err(Miss::Invalid(why));
    }
    // `h2` takes an empty one for zero, and several that agree.
    match declared_length(response.headers()) {
        Ok(_length) => Ok(response),
        Err(_several) => Err(Miss::Invalid(
            "it says in two ways how long its answer is".to_owned(),
        )),
    }
}

/// Whose fault it is that there is none.
fn missed(error: &h2::Error) -> Miss {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => {
            Miss::Untaken("it refused the stream")
        }
        Some(Reason::HTTP_1_1_REQUIRED) if error.is_remote() => Miss::Invalid(
            "it wants HTTP/1.1 for this (RFC 9113 §13); leave `protocol` out".to_owned(),
        ),
        // Streams that a GOAWAY names are not ended by it; those above its last one were not taken (RFC 9113 §6.8).
        Some(_) if error.is_go_away() && error.is_remote() => Miss::Untaken(TAKES_NO_MORE),
        Some(reason) if error.is_reset() && error.is_remote() => {
            Miss::Invalid(format!("it reset the stream: {reason}"))
        }
        Some(_) => Miss::Invalid(error.to_string()),
        None => Miss::Closed,
    }
}
