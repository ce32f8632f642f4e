//! `tidegate tcp`: a stream of the tunnel and a connection to the app, made one (RFC 9113 §8.5). Called by `App::serve` for each
//! stream; where the connection goes is TARGET's to say, whatever the stream asks for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response};
use tidegate_shared::duplex::{Broken, Join, Terms};
use tidegate_shared::inbound::Inbound;
use tidegate_shared::seam::Wire;
use tracing::debug;

use super::answer::{Asker, Trouble};
use super::{App, answer};

/// The gateway knows how long a connection may idle, and its visitor; an agent ends none.
const TERMS: Terms = Terms {
    stall: None,
    idle: None,
    failed: Reason::CONNECT_ERROR,
};

/// Serves one stream. Ends when both directions are closed, when either side breaks off, or with an answer in the app's
/// place.
pub(super) async fn relay(
    app: Arc<App>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wire: Arc<Wire>,
) {
    let plain =
        request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
    if !plain {
        return answer::send(&app, &request, respond, &Trouble::NotHttp);
    }
    let asker = Asker::of(request.method(), request.headers());
    let greeting = app.greeting(&request, &wire);
    let mut connecting = pin!(app.connect(greeting.as_ref()));
    let connected = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(connected) => Poll::Ready(Some(connected)),
        // The visitor has gone; there is nobody to connect for.
        Poll::Pending => respond.poll_reset(cx).map(|_gone| None),
    })
    .await;
    let line = match connected {
        Some(Ok(line)) => line,
        Some(Err(trouble)) => return asker.send(&app, respond, &trouble),
        None => return,
    };
    let Ok(stream) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let inbound = Inbound::counted(request.into_body(), wire);
    let (first, began) = (line.first(), Instant::now());
    let mut join = Join::new(line, Bytes::new(), stream, inbound, &TERMS);
    let ended = join.run().await;
    // A visitor that has said nothing is not told anything by most apps either.
    let asked = join.traffic().received > 0 || matches!(ended, Err(Broken::Io(_)));
    app.carried(first.octets(), asked, began.elapsed());
    debug!(traffic = ?join.traffic(), ?ended, "a connection to the app ended");
    if matches!(ended, Err(Broken::Reset(_) | Broken::Gone(_))) {
        // A reset stays one: the app is not to take what it has for all there was.
        join.into_io().close_abruptly();
    }
}
