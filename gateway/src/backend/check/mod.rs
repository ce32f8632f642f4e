//! Active checks: each server of a backend that is checked is asked at intervals, on connections of their own, and is up or down
//! by what comes of it. A server that is down takes no requests at all. One task per server, started by `app`; what the verdict
//! means to requests is `balance`'s.

mod health; // what follows from results

pub mod terms; // what an operator says

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use prometheus_client::metrics::counter::Counter;
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::origin::{Asking, Head, Line, Link, Miss};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info, warn};

use super::Backend;
use super::body::Carried;
use super::config::Address;
use super::head::for_http2;
use super::mismatch::{AT_ONCE, Mismatch, Mismatches};
use super::server::Server;
use crate::complaint::Complaint;
use crate::forward::{self, Outgoing};
use crate::intent::Mode;
use health::{Change, Health};
use terms::{Ask, Check};

/// The checks of one server.
#[derive(Debug)]
pub(super) struct Checks {
    pub(super) terms: Check,
    /// Whether the server has understood checks: what goes wrong before says that it is spoken to otherwise than it expects.
    pub(super) fits: Mismatches,
    down: AtomicBool,
    state: Mutex<State>,
    counts: [Counter; FOUND],
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    /// Why it is down, by its last check.
    why: String,
    /// The same as it was last said.
    said: String,
    /// What is said of single checks.
    notes: Complaint,
}

/// What a check has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Passed,
    Unreachable,
    Closed,
    Timeout,
    Invalid,
    Status,
}

const FOUND: usize = 6;

impl Found {
    pub(super) const ALL: [Self; FOUND] = [
        Self::Passed,
        Self::Unreachable,
        Self::Closed,
        Self::Timeout,
        Self::Invalid,
        Self::Status,
    ];

    /// One word, for metrics.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Invalid => "invalid-response",
            Self::Status => "status",
        }
    }
}

/// Why a check has failed, in words.
type Fault = (Found, String);

impl Checks {
    pub(super) fn new(terms: Check) -> Self {
        Self {
            terms,
            fits: Mismatches::default(),
            down: AtomicBool::new(false),
            state: Mutex::default(),
            counts: Default::default(),
        }
    }

    /// The verdict.
    pub(super) fn are_failed(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Why its last check failed, where it is down and not about to come back.
    pub(super) fn fault(&self) -> Option<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tells = state.health.is_down() && !state.why.is_empty();
        tells.then(|| state.why.clone())
    }

    /// How many checks have come to this.
    pub(super) fn count(&self, found: Found) -> u64 {
        self.counts[found as usize].get()
    }

    /// Takes a check's result. What is to be said of it, where something is.
    fn take(&self, now: u64, result: &Result<(), Fault>) -> Option<Change> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State {
            health,
            why,
            said,
            notes,
        } = &mut *state;
        let change = match result {
            Ok(()) => {
                self.fits.understood();
                health.passed(now, &self.terms)
            }
            Err(_) => Some(health.failed(now, &self.terms)),
        };
        self.down.store(health.is_down(), Relaxed);
        let (found, words) = match result {
            Ok(()) => (Found::Passed, ""),
            Err((found, words)) => (*found, words.as_str()),
        };
        self.counts[found as usize].inc();
        words.clone_into(why);
        let change = change?;
        let news = match change {
            Change::Shaken { .. } => notes.due(std::time::Instant::now()).is_some(),
            Change::StillDown => said != words && notes.due(std::time::Instant::now()).is_some(),
            Change::Down { .. } | Change::Up { .. } => true,
        };
        if news {
            words.clone_into(said);
        }
        news.then_some(change)
    }

    /// The server is as if it had never been checked.
    pub(super) fn forget(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.health = Health::default();
        self.down.store(false, Relaxed);
    }

    fn pause(&self, chance: u64) -> Duration {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.health.pause(&self.terms, chance)
    }
}

/// What checks every server that is to be checked, each until the end is asked for.
pub fn all(
    backends: &[Arc<Backend>],
    drain: &Drain,
) -> Vec<impl Future<Output = ()> + Send + use<>> {
    let mut servers = Vec::new();
    for backend in backends {
        let checked = backend.servers().iter().filter(|one| one.checks.is_some());
        servers.extend(checked.map(|server| (Arc::clone(backend), Arc::clone(server))));
    }
    let of = servers.len();
    let each = servers.into_iter().enumerate();
    each.map(|(place, (backend, server))| run(backend, server, (place, of), drain.clone()))
        .collect()
}

/// Checks one server until the end is asked for; it has this place among so many.
async fn run(
    backend: Arc<Backend>,
    server: Arc<Server>,
    (place, of): (usize, usize),
    drain: Drain,
) {
    let Some(checks) = &server.checks else { return };
    let mut due = Instant::now() + health::first(&checks.terms, place, of);
    loop {
        tokio::select! {
            () = drain.finishing() => return,
            () = sleep_until(due) => {}
        }
        let began = Instant::now();
        let epoch = server.epoch();
        let here = server
            .at_present()
            .filter(|_| server.mode() != Some(Mode::Maintenance));
        let Some(here) = here else {
            // Whatever is done to it in maintenance, or wherever DNS finds it next: what was found before says nothing of it then.
            checks.forget();
            due = began + checks.pause(chance());
            continue;
        };
        let result = tokio::select! {
            () = drain.finishing() => return,
            // Boxed, for a handshake is large and most of the time there is none.
            result = Box::pin(check(&server, &here.address, &checks.terms)) => result,
        };
        if server.epoch() != epoch {
            // It is elsewhere, and is asked there at once.
            due = Instant::now();
            continue;
        }
        if checks.terms.port.is_none() {
            let found = result
                .as_ref()
                .map_or_else(|(found, _)| *found, |()| Found::Passed);
            server.was_checked(found, checks.terms.rise);
        }
        if let Some(change) = checks.take(clock::now_ms(), &result) {
            let why = result.err().map(|(_, why)| why).unwrap_or_default();
            let at = checked_at(&here.address, &checks.terms);
            follow(&backend, &server, &at, change, &why);
        }
        due = began + checks.pause(chance());
    }
}

/// Anything at all.
fn chance() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    RandomState::new().build_hasher().finish()
}

/// Does and says what follows from a change.
fn follow(backend: &Backend, server: &Server, at: &Address, change: Change, why: &str) {
    let (name, of) = (&server.name, &backend.name);
    match change {
        Change::Shaken { left } => info!(
            said.what = "check-failed",
            said.backend = %of,
            said.server = %name,
            said.address = %at,
            said.why = %why,
            said.left = left,
            "backend {of}: a check of server {name} ({at}) failed; it is down if the next {left} in a row do: {why}"
        ),
        Change::StillDown => {
            info!(
                said.what = "still-down",
                said.backend = %of,
                said.server = %name,
                said.address = %at,
                said.why = %why,
                "backend {of}: server {name} ({at}) is still down, for another reason: {why}"
            );
        }
        Change::Down { failed } => {
            let times = match failed {
                1 => "a check failed".to_owned(),
                _ => format!("{failed} checks in a row failed, the last one for this"),
            };
            warn!(
                said.what = "down",
                said.backend = %of,
                said.server = %name,
                said.address = %at,
                said.why = %why,
                said.failed = failed,
                "backend {of}: server {name} ({at}) is down: {times}: {why}"
            );
            server.is_down_now();
            if backend.are_all_down() && !backend.deserted.swap(true, Relaxed) {
                error!(
                    said.what = "all-down",
                    said.backend = %of,
                    "backend {of}: every server is down by its checks; until one is up, visitors get 503 servers-down"
                );
            }
        }
        Change::Up { passed, after_ms } => {
            let after = Duration::from_millis(after_ms);
            let times = match passed {
                1 => "a check passed".to_owned(),
                _ => format!("{passed} checks in a row passed"),
            };
            info!(
                said.what = "up",
                said.backend = %of,
                said.server = %name,
                said.address = %at,
                said.passed = passed,
                said.after_ms = after_ms,
                "backend {of}: server {name} ({at}) is up again, after {after:?}: {times}"
            );
            backend.deserted.store(false, Relaxed);
            server.is_up_again();
        }
    }
}

/// Where a server is checked.
fn checked_at(address: &Address, terms: &Check) -> Address {
    Address {
        host: address.host.clone(),
        port: terms.port.unwrap_or(address.port),
    }
}

/// One check.
async fn check(server: &Server, address: &Address, terms: &Check) -> Result<(), Fault> {
    let began = Instant::now();
    let until = began + terms.timeout;
    let at = checked_at(address, terms);
    let (mut line, http2) = server
        .line_for_check(&at, terms)
        .await
        .map_err(|why| (Found::Unreachable, why))?;
    let Some(ask) = &terms.ask else {
        look_behind_header(&mut line, until, server, &at, terms).await?;
        close(&mut line, until).await;
        return Ok(());
    };
    let request = request(ask, &at);
    let asking = async {
        if http2 {
            status_in_http2(line, request, server, (&at, terms)).await
        } else {
            status(line, request, until)
                .await
                .map_err(|(found, why, first)| match first {
                    Some(first) if began.elapsed() < AT_ONCE => {
                        (found, server.broke_off_check(why, &first, &at, terms))
                    }
                    _ => (found, why),
                })
        }
    };
    let status = match timeout_at(until, asking).await {
        Ok(status) => status?,
        Err(_elapsed) => {
            let text = format!("nothing within {:?}", terms.timeout);
            return Err((Found::Timeout, text));
        }
    };
    if ask.statuses.contain(status) {
        return Ok(());
    }
    let (number, wanted) = (status.as_u16(), &ask.statuses);
    let text = format!("HTTP status {number} where {wanted} was expected");
    let text = server.refused_check(text, status, &at, terms);
    Err((Found::Status, text))
}

/// How long a server has to hang up that does not like a header, or to say so: a round trip or two, and a moment to look at it.
const DISLIKES_WITHIN: Duration = Duration::from_millis(500);

/// A connection that is enough is not where it begins with a header in clear text: what expects none, as a port for TLS, takes
/// the connection and hangs up behind it. Whoever waits for a request or greets is fine.
async fn look_behind_header(
    line: &mut Line,
    until: Instant,
    server: &Server,
    at: &Address,
    terms: &Check,
) -> Result<(), Fault> {
    if server.check_has(terms) != (true, false) {
        return Ok(());
    }
    let until = until.min(Instant::now() + DISLIKES_WITHIN);
    let mut first = [0; 16];
    let said = match timeout_at(until, line.read(&mut first)).await {
        Err(_elapsed) => return Ok(()),
        Ok(read) => &first[..read.unwrap_or_default()],
    };
    let Some((mismatch, got)) = Mismatch::of_first(true, &[], said) else {
        return Ok(());
    };
    let why = format!("behind the PROXY header it answered with {got}");
    let why = server.misfits_check(why, Some((mismatch, got)), at, terms);
    Err((Found::Closed, why))
}

fn invalid(why: impl Display) -> Fault {
    let text = format!("it did not answer in HTTP as it should be: {why}");
    (Found::Invalid, text)
}

fn closed() -> Fault {
    let text = "it closed the connection without an answer";
    (Found::Closed, text.to_owned())
}

/// The error is with what the server has said first on the connection.
async fn status(
    line: Line,
    request: Request<Carried>,
    until: Instant,
) -> Result<StatusCode, (Found, String, Option<Vec<u8>>)> {
    let mut link = Link::new(line);
    let (parts, body) = request.into_parts();
    let head = Head {
        method: &parts.method,
        target: parts.uri.path_and_query(),
        headers: &parts.headers,
    };
    let response = match link.ask(head, body, &mut Nobody, None).await {
        Ok(response) => response,
        Err(miss) => {
            let (found, why) = match miss {
                Miss::Invalid(why) => invalid(why),
                // Neither takes its time here, nor goes away.
                Miss::Closed | Miss::Unsent(_) | Miss::Slow | Miss::Unwanted => closed(),
            };
            let first = link.first().octets().unwrap_or_default().to_vec();
            return Err((found, why, Some(first)));
        }
    };
    let status = response.status();
    close(&mut link.into_parts().0, until).await;
    Ok(status)
}

async fn status_in_http2(
    line: Line,
    request: Request<Carried>,
    server: &Server,
    (at, terms): (&Address, &Check),
) -> Result<StatusCode, Fault> {
    let (parts, _no_body) = request.into_parts();
    let (mut headers, secured) = (parts.headers, server.is_secured());
    let nowhere = || invalid("it has no host to be asked for");
    let head = Outgoing {
        method: parts.method,
        scheme: forward::scheme(secured),
        authority: headers.remove(HOST).ok_or_else(nowhere)?,
        path: forward::path(parts.uri),
        headers,
    };
    let head = for_http2(&head, secured).map_err(|_bad| nowhere())?;
    let link = server.link(line, terms.timeout).await;
    let link = link.map_err(|unbegun| {
        let why = server.did_not_begin_check(unbegun, at, terms);
        (Found::Invalid, why)
    })?;
    let Some(seat) = link.seat() else {
        return Err(invalid("it takes no requests on a new connection"));
    };
    let ended = |error: h2::Error| {
        if error.is_io() {
            closed()
        } else {
            invalid(error)
        }
    };
    let requests = seat.requests.clone();
    let mut requests = requests.ready().await.map_err(ended)?;
    let (response, _no_body) = requests.send_request(head, true).map_err(ended)?;
    let response = response.await.map_err(ended)?;
    Ok(response.status())
}

/// In order, so that the server has nothing to complain of in its log.
async fn close(line: &mut Line, until: Instant) {
    let _ended = timeout_at(until, line.shutdown()).await;
}

fn request(ask: &Ask, at: &Address) -> Request<Carried> {
    let mut headers = HeaderMap::new();
    let host = ask
        .host
        .clone()
        // An address has nothing that a field could not.
        .or_else(|| HeaderValue::from_str(&at.to_string()).ok());
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static("tidegated-check"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(Carried::new(None));
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = Uri::from(ask.path.clone());
    *request.headers_mut() = headers;
    request
}

/// Nobody but the check's own time.
struct Nobody;

impl Asking for Nobody {
    fn interim(&mut self, _response: Response<()>) {}

    fn poll_gone(&mut self, _cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::task::Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_as_it_is_is_not_said_again() {
        let checks = Checks::new(Check {
            fall: 1,
            ..Check::default()
        });
        let failed = |why: &str| Err((Found::Status, why.to_owned()));
        let down = Some(Change::Down { failed: 1 });
        assert_eq!(checks.take(1, &failed("500")), down);
        assert_eq!(checks.take(2, &failed("500")), None);
        assert_eq!(checks.take(3, &failed("404")), Some(Change::StillDown));
        // Once a minute, whatever it is.
        assert_eq!(checks.take(4, &failed("403")), None);
        assert_eq!(checks.fault().as_deref(), Some("403"));
        assert!(checks.are_failed());
        assert_eq!(checks.take(5, &Ok(())), None);
        assert_eq!(checks.fault(), None);
        assert!(checks.take(6, &Ok(())).is_some() && !checks.are_failed());
        assert_eq!(checks.take(7, &failed("500")), down);
        assert_eq!(
            (checks.count(Found::Passed), checks.count(Found::Status)),
            (2, 5)
        );
        checks.forget();
        assert!(!checks.are_failed());
    }
}
