//! One line per request, whatever became of it. A record is made when a request's head is complete (or when it turns out
//! that there will be none) and writes itself when it is dropped, so there is no way to end a request without a line.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Version};
use tidegate_shared::idle::Quiet;
use tidegate_shared::log::{Format, Sink};
use tidegate_shared::{text, when};

use crate::backend::Server;
use crate::cloud::Label;
use crate::failure::Failure;
use crate::lasting::{Lasting, TimedOut};
use crate::line;
use crate::metrics::{Ids, Metrics};
use crate::opening::Opening;
use crate::rates::{Action, Excess, Pass};
use crate::smuggling::Form;
use crate::spent::Waited;
use crate::tunnel::Tunnel;

mod json; // the line for machines

mod times; // where a request's time went

/// Where records go.
#[derive(Debug)]
pub struct Access {
    sink: Option<Sink>,
    format: Format,
    metrics: Arc<Metrics>,
    /// Tells the runs of the program apart, so that an id is unique for ever.
    run: u32,
    ids: Ids,
    connections: Ids,
}

impl Access {
    /// Without a sink, requests are counted and not written.
    pub fn new(sink: Option<Sink>, format: Format, metrics: Arc<Metrics>, run: u32) -> Self {
        Self {
            sink,
            format,
            metrics,
            run,
            ids: Ids::default(),
            connections: Ids::default(),
        }
    }

    /// An id for a visitor's connection: unique over all runs of the program, and none of a request's.
    pub(crate) fn connection_id(&self) -> String {
        format!("{:08x}-c{}", self.run, self.connections.next())
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The number of the next that has a line.
    pub(crate) fn number(&self) -> u64 {
        self.ids.next()
    }

    /// What tells this run of the program from others.
    pub(crate) fn run(&self) -> u32 {
        self.run
    }

    /// Writes a line, where lines are written: `fill` puts it together, without its end.
    pub(crate) fn write(&self, fill: impl FnOnce(Format, &mut Vec<u8>)) {
        let Some(sink) = &self.sink else {
            return;
        };
        LINE.with_borrow_mut(|line| {
            line.clear();
            fill(self.format, line);
            line.push(b'\n');
            let safe = match self.format {
                Format::Json => text::in_json(line),
                Format::Human => None,
            };
            sink.line(safe.as_ref().unwrap_or(line));
        });
    }

    /// Begins a record: the visitor's first octet came at `began`, the head was complete just now.
    pub(crate) fn record(
        self: &Arc<Self>,
        visitor: &Arc<Label>,
        tls: bool,
        began: Instant,
    ) -> Box<Record> {
        self.record_of(visitor, tls, began, Instant::now())
    }

    /// The same for a head that was complete at a moment that is known. Boxed, as it is handed on from the request to its answer,
    /// and to whoever writes that.
    pub(crate) fn record_of(
        self: &Arc<Self>,
        visitor: &Arc<Label>,
        tls: bool,
        began: Instant,
        headed: Instant,
    ) -> Box<Record> {
        Box::new(Record {
            access: Arc::clone(self),
            number: self.number(),
            visitor: Arc::clone(visitor),
            tls,
            version: Version::HTTP_11,
            method: None,
            path: None,
            host: None,
            unparsed: None,
            tunnel: None,
            backend: None,
            server: None,
            at: None,
            status: None,
            reason: None,
            joined: false,
            pass: None,
            limited: None,
            form: None,
            timed_out: None,
            well_headed: false,
            attempts: 0,
            received: 0,
            sent: 0,
            opening: None,
            began,
            headed,
            hold: Duration::ZERO,
            pick: Duration::ZERO,
            connect: Duration::ZERO,
            upload: Waited::default(),
            answered: None,
            ended: None,
        })
    }
}

/// One request, from its head to its end.
#[derive(Debug)]
pub struct Record {
    access: Arc<Access>,
    number: u64,
    /// The visitor's address, as text, and what else is known of how it came.
    visitor: Arc<Label>,
    tls: bool,
    pub(crate) version: Version,
    pub(crate) method: Option<Method>,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) host: Option<HeaderValue>,
    /// The first line of what could not be parsed, escaped.
    unparsed: Option<String>,
    pub(crate) tunnel: Option<Arc<Tunnel>>,
    /// Where it was to go to one.
    pub(crate) backend: Option<Arc<str>>,
    /// Of a backend, where it went to one.
    pub(crate) server: Option<Arc<Server>>,
    /// Where that server was, if DNS says where it is.
    pub(crate) at: Option<SocketAddr>,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    /// What follows a 101 goes on.
    joined: bool,
    /// Whose it is, once that was asked.
    pass: Option<Pass>,
    /// Its head is in order: what is malformed from here on is its body.
    well_headed: bool,
    /// The limit that its source was beyond, and what was done.
    limited: Option<Excess>,
    /// In which way it looked like two, or like another one.
    form: Option<Form>,
    /// The time that was over, where a key says it and the reason does not tell which.
    timed_out: Option<Box<TimedOut>>,
    pub(crate) attempts: u32,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Of the first request of its connection.
    opening: Option<Box<Opening>>,
    began: Instant,
    headed: Instant,
    pub(crate) hold: Duration,
    pub(crate) pick: Duration,
    /// Opening connections to servers of a backend.
    pub(crate) connect: Duration,
    /// Before the answer began, everything waited for the next octets of the visitor's body.
    pub(crate) upload: Waited,
    answered: Option<Instant>,
    /// When it ended, where that is known before its line is written.
    ended: Option<Instant>,
}

impl Record {
    /// The id under which the log has this request: unique over all runs of the program.
    pub fn id(&self) -> String {
        format!("{:08x}-{}", self.access.run, self.number)
    }

    /// What came in the place of a head, and could not be parsed. It is somebody else's choice, and is escaped here.
    pub(crate) fn unparsed(&mut self, line: &[u8]) {
        self.unparsed = Some(line.escape_ascii().to_string());
    }

    /// The gateway itself answers, or nobody, or the response that was on its way ends otherwise than whole.
    pub(crate) fn failed(&mut self, failure: Failure) {
        if self.status.is_none() {
            self.status = Some(failure.status());
        }
        if self
            .limited
            .is_some_and(|excess| excess.action == Action::Tarpit)
            && self.hold.is_zero()
        {
            self.hold = self.headed.elapsed();
        }
        if self.reason.is_none() {
            self.reason = Some(failure.reason());
            self.access.metrics.failed(failure);
            match failure {
                Failure::Malformed if self.well_headed && self.version >= Version::HTTP_2 => {
                    self.smuggled(Form::MalformedHttp2);
                }
                Failure::Malformed if self.well_headed => self.smuggled(Form::Chunks),
                Failure::ManyHosts | Failure::ConflictingHost => self.smuggled(Form::SeveralHosts),
                _ => {}
            }
        }
    }

    /// When its head was complete.
    pub(crate) fn headed_at(&self) -> Instant {
        self.headed
    }

    /// Since when a way for it is looked for: since its head was complete, or, if it was looked for before, from now on.
    pub(crate) fn seeks_since(&self) -> Instant {
        if self.pick.is_zero() && self.hold.is_zero() {
            self.headed
        } else {
            Instant::now()
        }
    }

    /// It is the first of its connection, before which this came.
    pub(crate) fn opened(&mut self, opening: Opening) {
        self.opening = Some(Box::new(opening));
    }

    /// There is no head to wait for: all of its time was somebody else's.
    pub(crate) fn headless(&mut self) {
        self.headed = self.began;
    }

    /// It counts for its source from here on.
    pub(crate) fn counts(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }

    /// The head is in order.
    pub(crate) fn well_headed(&mut self) {
        self.well_headed = true;
    }

    /// The request had this form.
    pub(crate) fn smuggled(&mut self, form: Form) {
        self.access.metrics.smuggling.count(form);
        self.form = Some(form);
    }

    /// It was waited for no longer.
    pub(crate) fn timed_out(&mut self, timed_out: TimedOut) {
        self.timed_out.get_or_insert_with(|| Box::new(timed_out));
    }

    /// Neither side of what it has upgraded to has said anything for too long.
    pub(crate) fn fell_silent(&mut self, quiet: Quiet, lasting: Lasting) {
        self.timed_out(lasting.key(quiet, self.backend.as_deref()));
        self.failed(Failure::UpgradedTimeout);
    }

    /// Its source is beyond a limit.
    pub(crate) fn limited(&mut self, excess: Excess) {
        self.limited = Some(excess);
    }

    /// Whether nobody is to be answered.
    pub(crate) fn is_refused(&self) -> bool {
        self.limited.is_some_and(|excess| excess.is_silent())
    }

    /// When its source may ask again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        self.limited?.retry_after()
    }

    /// Which limit the source is beyond, and what was done: of one that was only marked as well.
    fn limit(&self) -> Option<(&'static str, &'static str)> {
        let marked = || Some((self.pass.as_ref()?.marked()?, Action::Mark));
        let limited = self.limited.map(|excess| (excess.limit, excess.action));
        let (limit, action) = limited.or_else(marked)?;
        // A trusted hop asks for others as well: it is told, and keeps its connection.
        let told = action == Action::Refuse && !self.is_refused();
        Some((limit.label(), if told { "403" } else { action.label() }))
    }

    /// For whom a trusted hop says that it asks.
    fn asked_for(&self) -> Option<IpAddr> {
        let denied = |excess: Excess| (!excess.own).then_some(excess.who);
        let pass = self.pass.as_ref().and_then(Pass::named);
        pass.or_else(|| self.limited.and_then(denied))
    }

    /// Whose limit it was, where that is not the connection's own, and the line of a list that says so.
    fn limited_for(&self) -> (Option<IpAddr>, Option<String>) {
        match (self.limited, &self.pass) {
            (Some(excess), _) => {
                let list = excess.list;
                let list = list.and_then(|entry| self.access.metrics.sources.place(entry));
                ((!excess.own).then_some(excess.who), list)
            }
            (None, Some(pass)) if pass.marked().is_some() => (pass.named(), None),
            _ => (None, None),
        }
    }

    /// A response head came from the app.
    pub(crate) fn answered(&mut self, status: StatusCode, at: Instant) {
        self.status = Some(status);
        self.answered = Some(at);
    }

    /// It is over at this moment.
    pub(crate) fn ended(&mut self, at: Instant) {
        self.ended = Some(at);
    }

    /// The visitor was told 101: what follows is no longer HTTP.
    pub(crate) fn switched(&mut self) {
        self.status = Some(StatusCode::SWITCHING_PROTOCOLS);
        self.joined = true;
    }

    /// What followed the 101 has ended.
    pub(crate) fn parted(&mut self) {
        self.joined = false;
    }

    /// The app has answered as if no change of protocol had been asked for, with this status.
    pub(crate) fn ignored(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    fn path(&self) -> &str {
        match (&self.path, &self.unparsed) {
            (Some(path), _) => path.as_str(),
            (None, Some(line)) => line,
            (None, None) => "-",
        }
    }

    fn host(&self) -> &str {
        self.host
            .as_ref()
            .and_then(|host| host.to_str().ok())
            .unwrap_or("-")
    }

    /// The line for people. Written piece by piece: at full load the machinery of `format!` would cost more than all the
    /// rest of the gateway's own work on a request.
    fn human(&self, ended: Instant, out: &mut Vec<u8>) {
        when::stamp(SystemTime::now(), out);
        out.extend_from_slice(b" access ");
        line::hex(self.access.run, out);
        out.push(b'-');
        line::number(self.number, out);
        out.push(b' ');
        out.extend_from_slice(self.visitor.address.as_bytes());
        out.extend_from_slice(b" \"");
        match &self.unparsed {
            Some(line) => out.extend_from_slice(line.as_bytes()),
            None => self.request_line(out),
        }
        out.extend_from_slice(b"\" ");
        match (&self.server, &self.backend, &self.tunnel) {
            (Some(server), ..) => out.extend_from_slice(server.label().as_bytes()),
            (None, Some(backend), _) => {
                out.extend_from_slice(b"backend=");
                out.extend_from_slice(backend.as_bytes());
                out.extend_from_slice(b" server=-");
            }
            (None, None, Some(tunnel)) => out.extend_from_slice(tunnel.label().as_bytes()),
            (None, None, None) => out.extend_from_slice(b"name=- agent=- tunnel=-"),
        }
        if let Some(at) = self.at {
            // Into memory.
            let _infallible = write!(out, " at={at}");
        }
        out.extend_from_slice(b" status=");
        line::number(
            self.status.map_or(0, |status| u64::from(status.as_u16())),
            out,
        );
        out.extend_from_slice(b" reason=");
        line::plain(self.reason.unwrap_or("-"), out);
        if let Some(form) = self.form {
            out.extend_from_slice(b" form=");
            out.extend_from_slice(form.label().as_bytes());
        }
        if let Some((limit, action)) = self.limit() {
            for part in [" limit=", limit, " action=", action] {
                out.extend_from_slice(part.as_bytes());
            }
            let (source, list) = self.limited_for();
            let source = source.map(|source| source.to_string());
            for (name, value) in [(" source=", source), (" list=", list)] {
                if let Some(value) = value {
                    out.extend_from_slice(name.as_bytes());
                    line::plain(&value, out);
                }
            }
        }
        if let Some(asked_for) = self.asked_for() {
            let _infallible = write!(out, " for={asked_for}");
        }
        if let Some(cloud) = &self.visitor.cloud {
            cloud.write(out);
        }
        if let Some(timed_out) = &self.timed_out {
            let _infallible = write!(out, " timeout={timed_out}");
        }
        for (name, value) in [(&b" in="[..], self.received), (b" out=", self.sent)] {
            out.extend_from_slice(name);
            line::number(value, out);
        }
        if self.attempts > 1 {
            out.extend_from_slice(b" attempts=");
            line::number(u64::from(self.attempts), out);
        }
        if let Some(opening) = &self.opening {
            opening.write(out);
        }
        self.times(ended).write(self.server.is_some(), out);
    }

    fn request_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_ref().map_or("-", Method::as_str).as_bytes());
        out.push(b' ');
        line::plain(self.host(), out);
        // CONNECT names a host and nothing at it (RFC 9112 §3.2.3).
        if self.path.is_some() || self.host.is_none() {
            line::plain(self.path(), out);
        }
        out.push(b' ');
        out.extend_from_slice(version(self.version).as_bytes());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.status.is_none() || self.joined {
            // Dropped with its connection, which nobody but the visitor has ended: whoever else does says why.
            self.failed(Failure::VisitorGone);
        }
        let status = self.status.map_or(0, |status| status.as_u16());
        self.access
            .metrics
            .request_ended(status, self.received, self.sent);
        let ended = self.ended.unwrap_or_else(Instant::now);
        if let Some(pass) = &self.pass {
            pass.ended(status, ended);
        }
        self.access.write(|format, line| match format {
            Format::Human => self.human(ended, line),
            Format::Json => {
                if let Err(error) = self.json(ended, line) {
                    // Its parts are text and numbers; should one still not go, the id says which request it was.
                    line.clear();
                    line.extend_from_slice(format!("{} {error}", self.id()).as_bytes());
                }
            }
        });
    }
}

thread_local! {
    /// A line being put together; its room is used again.
    static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(512));
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/3",
    }
}

#[cfg(test)]
mod tests;
