//! One request from the tunnel to the app and its response back. Modules stand in the order in which a byte meets them.
//! Called by `serve`, once per stream; runs on the tunnel's own worker, with that worker's connections to the app.

mod greeting; // what a connection to the app begins with: whose it is

mod connect; // where the app is, and nowhere else

mod bound; // connections to the app that are one visitor's

mod request; // what the app is sent: one hop's fields off, `Host` on

mod http1; // HTTP/1.1 to the app

mod upgrade; // WebSocket and whatever else is upgraded

mod http2; // HTTP/2 with prior knowledge to the app

mod tcp; // whatever is spoken over TCP

mod answer; // what the visitor gets when the app gives nothing

mod complaints; // what the log says of it

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::origin::{Manners, Pool, SETTLED_MS};
use tidegate_shared::reversal::Marks;
use tidegate_shared::reversal::io::Exchange;
use tidegate_shared::seam::Wire;
use tidegate_shared::workers;
use tracing::{info, warn};

use crate::serve::Serving;
use crate::target::{Place, Target};
use answer::Trouble;
use bound::Bound;
use greeting::{Doubt, Greeting};
use request::Upload;

/// A connection that has rested so long, in milliseconds, is closed.
const REST_MS: u64 = 60_000;

/// An app that ends a connection so soon did not like what it was told first.
const AT_ONCE: Duration = Duration::from_secs(2);

pub use greeting::Plan;

/// What is known of the app from the command line.
#[derive(Clone, Debug)]
pub struct Settings {
    pub target: Target,
    /// For `https://`.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Its certificate is checked against a file of the operator's.
    pub own_trust: bool,
    /// HTTP/2 with prior knowledge, or by ALPN over TLS.
    pub http2: bool,
    /// Sent as `Host` in place of the visitor's.
    pub host: Option<HeaderValue>,
    /// Each connection begins with a PROXY header.
    pub greeting: Option<Plan>,
    /// For TCP and TLS together.
    pub connect_within: Duration,
    /// From the request to the head of the response; `None` for no limit.
    pub first_byte_within: Option<Duration>,
    /// How long nothing need move of a body whose request is answered, before it is called off.
    pub rest_within: Duration,
    /// What time it is, in milliseconds: [`tidegate_shared::clock::now_ms`], except in tests. For how long connections rest.
    pub now_ms: fn() -> u64,
}

/// Answers of 400 in a row, from an app that has never said anything else, which say more of it than of its visitors.
const REFUSALS: usize = 3;

/// The app, as all tunnels see it.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    /// One per worker.
    pools: Vec<Pool<Upload>>,
    links: Vec<http2::Links>,
    /// In place of those, where each connection names its visitor.
    bound: Bound,
    /// How it ends connections in HTTP/1.1.
    manners: Manners,
    reach: complaints::Reach,
    /// An attempt to connect has failed, ever: until then there is nothing to note in `reach`.
    watched: AtomicBool,
    /// It has answered a request, ever.
    spoke: AtomicBool,
    /// Answers of 400, before it has said anything else.
    refusals: AtomicUsize,
    /// It has been said that the gateway does not say who asks.
    untold: AtomicBool,
    complaints: complaints::Complaints,
    drain: Drain,
}

impl App {
    pub fn new(settings: Settings, workers: NonZeroUsize, drain: Drain) -> Arc<Self> {
        Arc::new(Self {
            settings,
            pools: (0..workers.get()).map(|_| Pool::new(REST_MS)).collect(),
            links: (0..workers.get())
                .map(|_| http2::Links::default())
                .collect(),
            bound: Bound::default(),
            manners: Manners::wary(),
            reach: complaints::Reach::default(),
            watched: AtomicBool::new(false),
            spoke: AtomicBool::new(false),
            refusals: AtomicUsize::new(0),
            untold: AtomicBool::new(false),
            complaints: complaints::Complaints::default(),
            drain,
        })
    }

    /// Serves one request to its end. Dropping the future drops the connection to the app that it uses.
    pub fn serve(self: &Arc<Self>, (request, respond): Exchange, wire: &Arc<Wire>) -> Serving {
        let (app, wire) = (Arc::clone(self), Arc::clone(wire));
        if app.settings.target.is_tcp() {
            return Box::pin(tcp::relay(app, request, respond, wire));
        }
        if let Some(why) = request::unfit(&request) {
            return Box::pin(async move {
                answer::send(&app, &request, respond, &Trouble::Unfit(why));
            });
        }
        let upgrade = request.extensions().get::<Protocol>().cloned();
        if let Some(protocol) = upgrade {
            return if app.settings.http2 {
                Box::pin(http2::relay(app, request, respond, wire))
            } else {
                Box::pin(upgrade::relay(app, protocol, request, respond, wire))
            };
        }
        if request.method() == Method::CONNECT {
            return Box::pin(
                async move { answer::send(&app, &request, respond, &Trouble::Connect) },
            );
        }
        if app.settings.http2 {
            Box::pin(http2::relay(app, request, respond, wire))
        } else {
            Box::pin(http1::relay(app, request, respond, wire))
        }
    }

    /// Closes connections to the app that the app has closed, or that have rested for long. To be called now and then on
    /// each worker.
    pub fn sweep(&self) {
        if self.watched.load(Relaxed) {
            self.tell(self.reach.due(clock::now_ms()));
        }
        self.look_at_resting(self.now_ms());
        self.links().sweep(self.now_ms());
    }

    /// The same of those in HTTP/1.1: how the app ends them shows.
    fn look_at_resting(&self, now: u64) {
        let mut seen = |rested, open| {
            if open {
                self.manners.kept_for(rested, now);
            } else {
                self.closed_resting(rested, now);
            }
        };
        self.pool().sweep(now, &mut seen);
        self.bound.sweep(now, &mut seen);
    }

    /// The app has closed a connection that had rested for so many milliseconds.
    fn closed_resting(&self, rested: u64, now: u64) {
        if self.manners.closed_after(rested, now) {
            let (target, rested) = (&self.settings.target, rested.max(1));
            info!(
                "the app at {target} closed a connection within {rested} ms of an answer that did not say so; for 10 minutes, \
                 requests that cannot be repeated go on connections that have rested for {SETTLED_MS} ms, or on fresh ones"
            );
        }
    }

    /// What a connection for this request is to begin with; looks at the request as it came. `None` without
    /// `--proxy-protocol`.
    fn greeting<B>(&self, request: &Request<B>, wire: &Wire) -> Option<Greeting> {
        let plan = self.settings.greeting.as_ref()?;
        let settled = wire.settled();
        let marked = settled.is_some_and(|peer| peer.marks.contains(Marks::VISITOR));
        let (greeting, doubt) = plan.greeting(request, marked);
        if let Some(doubt) = doubt {
            self.doubt(plan, &doubt);
        }
        Some(greeting)
    }

    /// Says that the app is not told who asked, and why.
    fn doubt(&self, plan: &Plan, doubt: &Doubt) {
        let (version, nobody) = (plan.version, plan.nobody());
        let why = match doubt {
            Doubt::NoField => {
                if self.untold.swap(true, Relaxed) {
                    return;
                }
                let why = "the gateway is no tidegated that says who its visitors are";
                if self.settings.target.is_tcp() {
                    format!(
                        "{why}; nobody else can say it of a TCP connection: leave --proxy-protocol out, or dial a tidegated"
                    )
                } else {
                    format!(
                        "{why}; name the field to whose end it appends their address with --visitor-from, as in --visitor-from x-forwarded-for"
                    )
                }
            }
            Doubt::NoAddress(_) | Doubt::Untold(_)
                if self
                    .complaints
                    .due("visitor-unknown", clock::now_ms())
                    .is_none() =>
            {
                return;
            }
            Doubt::NoAddress(field) => format!(
                "the last element of the field {field} is no address, or there is no such field; have the gateway append the \
                 visitor's (HAProxy: option forwardfor), or name another field with --visitor-from"
            ),
            Doubt::Untold(why) => format!("{why}; do gateway and agent differ in version?"),
        };
        warn!("the PROXY {version} header to the app names nobody ({nobody}): {why}");
    }

    fn now_ms(&self) -> u64 {
        (self.settings.now_ms)()
    }

    fn pool(&self) -> &Pool<Upload> {
        &self.pools[self.here()]
    }

    fn links(&self) -> &http2::Links {
        &self.links[self.here()]
    }

    fn here(&self) -> usize {
        // On a thread that is no worker there is one for all.
        workers::here().min(self.pools.len() - 1)
    }

    /// A connection to the app has come about.
    fn answers(&self) {
        if self.watched.load(Relaxed) {
            self.tell(self.reach.heard(None, clock::now_ms()));
        }
    }

    /// None has.
    fn is_down(&self, why: &str) {
        self.watched.store(true, Relaxed);
        self.tell(self.reach.heard(Some(why), clock::now_ms()));
    }

    fn tell(&self, news: Option<complaints::News>) {
        let Some(complaints::News { down, untold }) = news else {
            return;
        };
        let target = &self.settings.target;
        let often = if untold == 0 {
            String::new()
        } else {
            format!("; since the last such line it has come or gone {untold} times")
        };
        match down {
            Some(why) if target.is_tcp() => warn!(
                "the app at {target} cannot be reached: {why}; visitors' connections are closed until it answers{often}"
            ),
            Some(why) => warn!(
                "the app at {target} cannot be reached: {why}; visitors get 502 until it answers{often}"
            ),
            None => info!("the app at {target} answers again{often}"),
        }
    }

    /// The app has not sent all of an answer that it had begun.
    fn broke_off(&self, why: &dyn std::error::Error) {
        let Some(more) = self.complaints.due("answer-cut", clock::now_ms()) else {
            return;
        };
        let target = &self.settings.target;
        let so_did = if more == 0 {
            String::new()
        } else {
            format!(", and so did {more} since the last such line")
        };
        warn!(
            "the app at {target} broke off its answer: {why}; the visitor saw it break off{so_did}"
        );
    }

    /// The app has answered: what it speaks is understood. A 400 to the very first request says little where it could mean
    /// the PROXY header before it, or that there is no TLS; of the latter it takes some, as visitors can ask for a 400 or two.
    fn speaks(&self, status: StatusCode) {
        if self.spoke.load(Relaxed) {
            return;
        }
        if self.settings.greeting.is_none()
            && !self.settings.target.tls()
            && !matches!(self.settings.target.place, Place::Socket(_))
            && status == StatusCode::BAD_REQUEST
        {
            if self.refusals.fetch_add(1, Relaxed) + 1 == REFUSALS {
                let target = &self.settings.target;
                warn!(
                    "the app at {target} has answered nothing but 400 yet; if it speaks TLS, write https:// in TARGET"
                );
            }
            return;
        }
        if let Some(plan) = &self.settings.greeting
            && status == StatusCode::BAD_REQUEST
        {
            if self.complaints.due("greeting", clock::now_ms()).is_some() {
                let (target, remedy) = (&self.settings.target, plan.remedy());
                warn!("the app at {target} has answered nothing but 400 yet: {remedy}");
            }
            return;
        }
        self.spoke.store(true, Relaxed);
    }

    /// A connection in TCP mode has ended, on which the app has said this first. One that breaks off as soon as it is asked
    /// something may not take the header, or miss one, until it has been understood once.
    fn carried(&self, first: Option<&[u8]>, asked: bool, lasted: Duration) {
        let said = tcp::Said::of(first);
        let told = self.settings.greeting.is_some();
        if said.is_understood(told) {
            self.spoke.store(true, Relaxed);
        }
        if self.spoke.load(Relaxed) || !said.startles(told, asked, lasted) {
            return;
        }
        if self.complaints.due("startled", clock::now_ms()).is_none() {
            return;
        }
        let got = said.words();
        let (target, about) = (&self.settings.target, self.settings.about_greeting());
        warn!("the app at {target} has answered visitors with nothing but {got} yet: {about}");
    }

    /// Says in the log what a visitor is told in the app's place, apart from what [`Self::is_down`] has said.
    fn complain(&self, trouble: &Trouble) {
        if matches!(trouble, Trouble::Unreachable(_) | Trouble::Connect) {
            return;
        }
        let (reason, status) = (trouble.reason(), trouble.status().as_u16());
        let Some(more) = self.complaints.due(reason, clock::now_ms()) else {
            return;
        };
        let target = &self.settings.target;
        let hint = self.hint(trouble);
        if more == 0 {
            warn!("the app at {target} {trouble}{hint}; the visitor got {status} {reason}");
        } else {
            warn!(
                "the app at {target} {trouble}{hint}; the visitor got {status} {reason}, and so did {more} since the last such line"
            );
        }
    }

    /// What to try with an app that has never been understood, or was asked for what it is not.
    fn hint(&self, trouble: &Trouble) -> String {
        if *trouble == Trouble::NotHttp {
            return "; if it speaks HTTP, serve it with `tidegate http`".to_owned();
        }
        let http2 = self.settings.http2;
        let garbled = match trouble {
            Trouble::Closed => true,
            // So it is said of what does not begin as HTTP/1 does.
            Trouble::Invalid(why) => http2 || why.contains("HTTP version"),
            _ => false,
        };
        let mut hint = String::new();
        if !garbled || self.spoke.load(Relaxed) {
            return hint;
        }
        let target = &self.settings.target;
        hint.push_str("; ");
        hint.push_str(&self.settings.about_greeting());
        if !target.tls() && !matches!(target.place, Place::Socket(_)) {
            hint.push_str("; if it speaks TLS, write https:// in TARGET");
        }
        hint.push_str(if http2 {
            "; if it speaks HTTP/1.1 only, leave --h2 out"
        } else {
            "; if it speaks HTTP/2 only, add --h2"
        });
        hint
    }
}
