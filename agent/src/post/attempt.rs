//! One tunnel's task: an attempt to dial it, and if it comes up its whole life. It decides nothing; what becomes of it, it tells
//! the post that has started it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc;

use crate::app::App;
use crate::backoff::Kind;
use crate::dial::{Dialler, Failure, Layer};
use crate::serve::{self, Care, Control, Ending, News};

/// What a tunnel's task tells the one who looks after its address. The last it tells is one of the last two.
#[derive(Debug)]
pub(super) enum Event {
    /// It is dialled, from this address.
    From(SocketAddr),
    News(News),
    Failed(Failure),
    Ended(Ending),
}

/// What a tunnel's task needs.
pub(super) struct Attempt {
    pub(super) id: u64,
    pub(super) address: SocketAddr,
    pub(super) dialler: Dialler,
    pub(super) care: Care,
    pub(super) app: Arc<App>,
    pub(super) control: Arc<Control>,
    /// Nobody listens any more only when the agent is ending.
    pub(super) tell: mpsc::UnboundedSender<(u64, Event)>,
}

impl Attempt {
    /// Dials, and serves until the tunnel is over.
    pub(super) async fn run(self) {
        let Self {
            id,
            address,
            dialler,
            care,
            app,
            control,
            tell,
        } = self;
        let event = match or_retired(&control, Box::pin(dialler.dial(address))).await {
            Some(Ok((dialled, local))) => {
                if let Some(local) = local {
                    let _ending = tell.send((id, Event::From(local)));
                }
                // Its settings are not kept for a tunnel's whole life.
                drop(dialler);
                let news = tell.clone();
                let ending = serve::drive(
                    dialled,
                    care,
                    control,
                    move |exchange, wire| app.serve(exchange, wire),
                    move |piece| {
                        let _ending = news.send((id, Event::News(piece)));
                    },
                );
                Event::Ended(ending.await)
            }
            Some(Err(failure)) => Event::Failed(failure),
            None => Event::Ended(Ending::Retired),
        };
        let _ending = tell.send((id, event));
    }
}

/// The dialling, unless it is not wanted any more.
async fn or_retired<F>(control: &Control, mut attempt: F) -> Option<F::Output>
where
    F: Future + Unpin,
{
    poll_fn(|cx| {
        if control.poll_retired(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut attempt).poll(cx).map(Some)
    })
    .await
}

/// Why an attempt failed whose reversal had worked.
pub(super) fn before_up(ending: &Ending) -> Failure {
    match ending {
        Ending::Refused(text) => Failure::refused(text),
        other => Failure {
            layer: Layer::Reversal,
            kind: if matches!(other, Ending::Silent { .. }) {
                Kind::Path
            } else {
                Kind::Rejected
            },
            text: format!(
                "the tunnel ended before it was used: {other}; the gateway's log may say why"
            ),
        },
    }
}
