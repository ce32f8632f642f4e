//! Whether a request may be made at all, by what its source has done: asked of every request before anything else is. The same
//! over HTTP/1 and HTTP/2.

use std::future::poll_fn;
use std::sync::Arc;

use http::HeaderMap;
use tidegate_shared::drain::Drain;
use tokio::time::sleep;

use crate::access::Record;
use crate::exchange::{Side, Visit};
use crate::pool::Unavailable;
use crate::rates::{Action, Limit};

/// Lets a request pass, or says why not; `Some` with the limit that it is to be marked with.
///
/// # Errors
/// Its source is beyond a limit. The time in a tarpit is over then, or the gateway ends, or the visitor has left.
pub(super) async fn pass<S: Side>(
    visit: &Arc<Visit>,
    headers: &HeaderMap,
    record: &mut Record,
    side: &mut S,
    drain: &Drain,
) -> Result<Option<Limit>, Unavailable> {
    let gateway = &visit.gateway;
    let trusted = visit.origin.is_trusted();
    let trusted = trusted.then_some(&gateway.policy.trusted[..]);
    let (excess, held) = match visit.guest.ask(headers, trusted, record.headed_at()) {
        Ok(pass) => {
            let marked = pass.marked();
            record.counts(pass);
            return Ok(marked);
        }
        Err(beyond) => beyond,
    };
    record.limited(excess);
    if excess.action == Action::Tarpit {
        let time = visit.guest.warden().rules.tarpit;
        tokio::select! {
            biased;
            failure = poll_fn(|cx| side.poll_over(cx)) => return Err(Unavailable::plain(failure)),
            () = drain.finishing() => {}
            () = sleep(time) => {}
        }
    }
    drop(held);
    Err(Unavailable::plain(excess.limit.failure()))
}

/// The visitor is to have no answer, and its connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    #[error("the visitor is beyond a limit, and refused")]
    Refused,
    #[error("the visitor has left")]
    Gone,
}
