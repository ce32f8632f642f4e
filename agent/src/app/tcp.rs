//! `tidegate tcp`: a stream of the tunnel and a connection to the app, made one (RFC 9113 §8.5). Called by `App::serve` for each
//! stream; where the connection goes is TARGET's to say, whatever the stream asks for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response};
use tidegate_shared::duplex::{Broken, Join, Terms};
use tidegate_shared::idle::Silence;
use tidegate_shared::inbound::Inbound;
use tidegate_shared::seam::Wire;
use tracing::debug;

use super::answer::{Asker, Trouble};
use super::{AT_ONCE, App, answer};

/// The gateway knows how long a connection may idle, and its visitor; an agent ends none.
const TERMS: Terms = Terms {
    stall: None,
    silence: Silence {
        most: None,
        half_closed: None,
    },
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
    let mut known = false;
    let running = join.watched(|join| {
        known = first.octets().is_some() && join.traffic().received > 0;
        if known {
            app.carried(first.octets(), true, began.elapsed());
        }
        known
    });
    let ended = running.await;
    if !known {
        // A visitor that has said nothing is not told anything by most apps either.
        let asked = join.traffic().received > 0 || matches!(ended, Err(Broken::Io(_)));
        app.carried(first.octets(), asked, began.elapsed());
    }
    debug!(traffic = ?join.traffic(), ?ended, "a connection to the app ended");
    if matches!(ended, Err(Broken::Reset(_) | Broken::Gone(_))) {
        // A reset stays one: the app is not to take what it has for all there was, unless that was said before.
        let told = join.is_told();
        join.into_io().break_off(told);
    }
}

/// What an app's first octets say of how it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It closed without a word, or nobody waited for one.
    Nothing,
    /// A TLS alert (RFC 8446 §6).
    Alert,
    /// An HTTP server's word for what it does not understand, and for what its visitors do wrong.
    BadRequest,
    Sense,
}

impl Said {
    pub(super) fn of(first: Option<&[u8]>) -> Self {
        match first {
            None | Some([]) => Self::Nothing,
            Some([0x15, 3, ..]) => Self::Alert,
            Some(
                [
                    b'H',
                    b'T',
                    b'T',
                    b'P',
                    b'/',
                    b'1',
                    b'.',
                    _,
                    b' ',
                    b'4',
                    b'0',
                    b'0',
                    ..,
                ],
            ) => Self::BadRequest,
            Some(_) => Self::Sense,
        }
    }

    /// Whether it shows that the app takes what connections begin with; `told` is whether that is a header.
    pub(super) fn is_understood(self, told: bool) -> bool {
        match self {
            Self::Nothing | Self::Alert => false,
            Self::BadRequest => !told,
            Self::Sense => true,
        }
    }

    /// Whether it looks as if the app did not: of one that was `asked` something, on a connection that `lasted` so long.
    pub(super) fn startles(self, told: bool, asked: bool, lasted: Duration) -> bool {
        let at_once = asked && lasted <= AT_ONCE;
        match self {
            Self::Nothing => at_once,
            // TLS that the visitor and the app do not agree on is theirs to mend.
            Self::Alert => at_once && told,
            Self::BadRequest => told,
            Self::Sense => false,
        }
    }

    /// As it follows "nothing but".
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Nothing => "a connection that closes without a word",
            Self::Alert => "a TLS alert",
            Self::BadRequest => "400",
            Self::Sense => "sense",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_app_says_first_tells_whether_it_takes_the_header() {
        let (soon, late) = (Duration::from_millis(5), Duration::from_secs(60));
        for (first, told, lasted, understood, startles) in [
            (Some(&b"HTTP/1.1 400 Bad"[..]), true, late, false, true),
            (Some(b"HTTP/1.1 400 Bad"), false, soon, true, false),
            (Some(b"HTTP/1.1 200 OK\r"), true, soon, true, false),
            (Some(b"\x15\x03\x01\0\x02"), true, soon, false, true),
            (Some(b"\x15\x03\x01\0\x02"), false, soon, false, false),
            (Some(b"\x16\x03\x03"), true, soon, true, false),
            (Some(b""), true, soon, false, true),
            (Some(b""), false, soon, false, true),
            (Some(b""), true, late, false, false),
            (Some(b"SSH-2.0-x"), true, soon, true, false),
        ] {
            let said = Said::of(first);
            assert_eq!(said.is_understood(told), understood, "{first:?} {told}");
            assert_eq!(
                said.startles(told, true, lasted),
                startles,
                "{first:?} {told}"
            );
            let unasked = said.startles(told, false, lasted);
            assert_eq!(unasked, startles && said == Said::BadRequest, "{first:?}");
        }
    }
}
