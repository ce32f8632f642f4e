//! HTTP/1.1 to the app: what of it is the agent's. The request's future drives the app's connection itself.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use tidegate_shared::message::{strip_agents, strip_hop_by_hop};
use tidegate_shared::origin::{self, ANY, Broken, Head, Miss, fault_in_reading, is_idempotent};
use tidegate_shared::pump::{Pump, Stop};
use tidegate_shared::seam::Wire;

use super::answer::{Asker, Trouble, excess};
use super::greeting::Greeting;
use super::request::{Upload, for_http1};
use super::{AT_ONCE, App};

/// A connection to the app.
pub(super) type Link = origin::Link<Upload>;

/// Serves one request. Ends when the response has gone to the visitor, or the visitor has gone, or either side broke off;
/// a response that the app did not finish is reset and never ended.
pub(super) async fn relay(
    app: Arc<App>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    wire: Arc<Wire>,
) {
    let greeting = app.greeting(&request, &wire);
    let (mut head, recv) = request.into_parts();
    let asker = Asker::of(&head.method, &head.headers);
    let upload = Upload::new(recv, wire);
    for_http1(&mut head, app.settings.host.as_ref(), !upload.is_none());
    let (mut link, mut response) =
        match fetch(&app, &head, upload, greeting.as_ref(), &mut respond).await {
            Ok(answered) => answered,
            Err(Some(trouble)) => return asker.send(&app, respond, &trouble),
            Err(None) => return,
        };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let why = "it changed the protocol, which nobody had asked for (RFC 9110 §7.8)";
        return asker.send(&app, respond, &Trouble::Invalid(why.into()));
    }
    app.speaks(response.status());
    if let Some(excess) = excess(response.headers()) {
        return asker.send(&app, respond, &excess);
    }
    strip_agents(response.headers_mut());
    if pass(&mut link, response, respond, &app).await {
        app.rest(link, greeting.as_ref());
    }
}

/// Sends the head of the app's response, in which the agent has had its say, moves the body to the visitor, and goes on with the
/// request's. Says whether the connection is fit for another request.
pub(super) async fn pass(
    link: &mut Link,
    response: Response<()>,
    mut respond: SendResponse<Bytes>,
    app: &App,
) -> bool {
    let (mut head, ()) = response.into_parts();
    strip_hop_by_hop(&mut head.headers);
    head.version = Version::HTTP_2;
    let empty = link.is_whole();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), empty) else {
        // The visitor has gone.
        return false;
    };
    if !empty {
        let mut pump = Pump::new(Content(link), stream);
        let pumped = poll_fn(|cx| {
            let pumped = pump.poll(cx);
            if pumped.is_pending() && pump.waits_for_window() {
                // A visitor who takes nothing of the answer may first have to be rid of the rest of the request.
                let _over = pump.body_mut().0.drive(cx);
            }
            pumped
        });
        if let Err(stop) = pumped.await {
            if let Stop::Body(broken) = &stop
                && let Some(why) = fault_in_reading(broken)
            {
                app.broke_off(why);
            }
            // A turn for the tunnel to send what came before the end, which the reset would overtake.
            tokio::task::yield_now().await;
            pump.reset(Reason::CANCEL);
            return false;
        }
    }
    link.reusable(app.settings.rest_within).await
}

/// The content of the app's response, as it comes.
struct Content<'a>(&'a mut Link);

impl Body for Content<'_> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.0.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_whole()
    }
}

/// Gets a response, on a connection that rests or on a fresh one. `Err(None)` when the visitor has gone.
async fn fetch(
    app: &App,
    head: &Parts,
    upload: Upload,
    greeting: Option<&Greeting>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(Box<Link>, Response<()>), Option<Trouble>> {
    let repeatable = upload.is_none() && is_idempotent(&head.method);
    let within = app.settings.first_byte_within;
    let asked = Head {
        method: &head.method,
        target: head.uri.path_and_query(),
        headers: &head.headers,
    };
    let mut upload = upload;
    let mut refused = false;
    while !refused && let Some((mut link, rested)) = app.rested(repeatable, greeting) {
        if !repeatable {
            link.look_first();
        }
        let body = std::mem::replace(&mut upload, Upload::None);
        let began = Instant::now();
        let answer = link.ask(asked, body, respond, within).await;
        if matches!(answer, Err(Miss::Unsent(_) | Miss::Closed))
            && began.elapsed() < AT_ONCE
            && !has_gone(respond)
        {
            app.closed_resting(rested, app.now_ms());
        }
        match answer {
            Ok(response) => return Ok((link, response)),
            Err(Miss::Unsent(unsent)) => upload = unsent,
            // The app closed while the request was on its way to it. Once is chance; a fresh connection must tell.
            Err(Miss::Closed) if repeatable => refused = true,
            Err(miss) => return Err(trouble(miss, respond)),
        }
    }
    let mut link = connect(app, greeting, respond).await?;
    match link.ask(asked, upload, respond, within).await {
        Ok(response) => Ok((link, response)),
        Err(miss) => Err(trouble(miss, respond)),
    }
}

impl App {
    /// A connection that rests, and for how many milliseconds it has: anybody's, or, where connections name their visitor, one of
    /// its own. One for a request that cannot be repeated must not be closed under its feet.
    fn rested(&self, repeatable: bool, greeting: Option<&Greeting>) -> Option<(Box<Link>, u64)> {
        let now = self.now_ms();
        let fit = if repeatable {
            ANY
        } else {
            if self.manners.is_unknown(now) {
                self.look_at_resting(now);
            }
            self.manners.fit(now)
        };
        let link = match greeting {
            None => self.pool().take(now, &fit),
            Some(greeting) => self.bound.take(greeting.visitor()?, now, &fit),
        };
        if link.is_none() && *fit.start() > 0 {
            self.pool().shed(now);
        }
        link.map(|link| {
            let rested = now.saturating_sub(link.rested_since());
            (link, rested)
        })
    }

    /// Takes back a connection that is ready for another request; one of which nobody knows whose it is ends.
    fn rest(&self, link: Box<Link>, greeting: Option<&Greeting>) {
        match greeting.map(Greeting::visitor) {
            None => self.pool().put(self.now_ms(), link),
            Some(Some(visitor)) => self.bound.put(visitor, self.now_ms(), link),
            Some(None) => {}
        }
    }
}

/// A fresh connection, unless the visitor goes away first.
pub(super) async fn connect(
    app: &App,
    greeting: Option<&Greeting>,
    respond: &mut SendResponse<Bytes>,
) -> Result<Box<Link>, Option<Trouble>> {
    let mut opening = pin!(app.connect(greeting));
    poll_fn(|cx| {
        if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
            return Poll::Ready(opened.map(Link::new).map_err(Some));
        }
        respond.poll_reset(cx).map(|_gone| Err(None))
    })
    .await
}

/// Whether there is no visitor any more: an upload that is broken off looks like a broken connection to the app.
fn has_gone(respond: &mut SendResponse<Bytes>) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    respond.poll_reset(&mut cx).is_ready()
}

/// What to tell the visitor, if there still is one.
pub(super) fn trouble(miss: Miss<Upload>, respond: &mut SendResponse<Bytes>) -> Option<Trouble> {
    if has_gone(respond) {
        return None;
    }
    match miss {
        Miss::Unsent(_) | Miss::Closed => Some(Trouble::Closed),
        Miss::Invalid(why) => Some(Trouble::Invalid(why)),
        Miss::Slow => Some(Trouble::Slow),
        Miss::Unwanted => None,
    }
}
