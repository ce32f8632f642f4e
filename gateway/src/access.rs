//! One line per request, whatever became of it. A record is made when a request's head is complete (or when it turns out
//! that there will be none) and writes itself when it is dropped, so there is no way to end a request without a line.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode, Version};
use serde::Serialize;
use tidegate_shared::log::{Format, Sink};

use crate::failure::Failure;
use crate::metrics::{Ids, Metrics};
use crate::tunnel::Tunnel;
use crate::when;

/// Where records go.
#[derive(Debug)]
pub struct Access {
    sink: Option<Sink>,
    format: Format,
    metrics: Arc<Metrics>,
    /// Tells the runs of the program apart, so that an id is unique for ever.
    run: u32,
    ids: Ids,
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
        }
    }

    /// Begins a record: the visitor's first octet came at `began`, the head was complete just now.
    pub(crate) fn record(
        self: &Arc<Self>,
        visitor: SocketAddr,
        tls: bool,
        began: Instant,
    ) -> Record {
        Record {
            access: Arc::clone(self),
            number: self.ids.next(),
            visitor,
            tls,
            version: Version::HTTP_11,
            method: None,
            path: None,
            host: None,
            raw: None,
            tunnel: None,
            status: None,
            reason: None,
            said: None,
            attempts: 0,
            received: 0,
            sent: 0,
            began,
            headed: Instant::now(),
            hold: Duration::ZERO,
            pick: Duration::ZERO,
            answered: None,
        }
    }
}

/// One request, from its head to its end.
#[derive(Debug)]
pub struct Record {
    access: Arc<Access>,
    number: u64,
    visitor: SocketAddr,
    tls: bool,
    pub(crate) version: Version,
    pub(crate) method: Option<Method>,
    pub(crate) path: Option<PathAndQuery>,
    pub(crate) host: Option<HeaderValue>,
    /// The first line of what could not be parsed.
    pub(crate) raw: Option<String>,
    pub(crate) tunnel: Option<Arc<Tunnel>>,
    status: Option<StatusCode>,
    reason: Option<&'static str>,
    /// A reason that the agent gave.
    said: Option<HeaderValue>,
    pub(crate) attempts: u32,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    began: Instant,
    headed: Instant,
    pub(crate) hold: Duration,
    pub(crate) pick: Duration,
    answered: Option<Instant>,
}

impl Record {
    /// The id under which the log has this request: unique over all runs of the program.
    pub fn id(&self) -> String {
        format!("{:08x}-{}", self.access.run, self.number)
    }

    /// The gateway itself answers, or nobody.
    pub(crate) fn failed(&mut self, failure: Failure) {
        if self.status.is_none() {
            self.status = Some(failure.status());
        }
        if self.reason.is_none() {
            self.reason = Some(failure.reason());
            self.access.metrics.failed(failure);
        }
    }

    /// A response head came through the tunnel.
    pub(crate) fn answered(&mut self, status: StatusCode, said: Option<HeaderValue>, at: Instant) {
        self.status = Some(status);
        self.said = said;
        self.answered = Some(at);
    }

    /// The response ended otherwise than whole.
    pub(crate) fn cut(&mut self, why: &'static str) {
        if self.reason.is_none() {
            self.reason = Some(why);
        }
    }

    fn reason(&self) -> Option<&str> {
        self.reason.or_else(|| self.said.as_ref()?.to_str().ok())
    }

    fn view<'a>(&'a self, id: &'a str, time: &'a str, ended: Instant) -> View<'a> {
        let answered = self.answered.unwrap_or(ended);
        let asked = self.headed + self.hold + self.pick;
        View {
            time,
            kind: "access",
            id,
            visitor: self.visitor,
            tls: self.tls,
            version: version(self.version),
            method: self.method.as_ref().map_or("-", Method::as_str),
            host: self
                .host
                .as_ref()
                .and_then(|host| host.to_str().ok())
                .unwrap_or("-"),
            path: match (&self.path, &self.raw) {
                (Some(path), _) => path.as_str(),
                (None, Some(raw)) => raw,
                (None, None) => "-",
            },
            name: self
                .tunnel
                .as_ref()
                .map(|tunnel| tunnel.agent.primary.to_string()),
            agent: self.tunnel.as_ref().map(|tunnel| tunnel.agent.address),
            tunnel: self.tunnel.as_ref().map(|tunnel| tunnel.id),
            attempts: self.attempts,
            status: self.status.map_or(0, |status| status.as_u16()),
            reason: self.reason(),
            bytes_in: self.received,
            bytes_out: self.sent,
            head_ms: ms(self.headed.saturating_duration_since(self.began)),
            hold_ms: ms(self.hold),
            pick_ms: ms(self.pick),
            first_ms: ms(answered.saturating_duration_since(asked)),
            body_ms: ms(ended.saturating_duration_since(answered)),
            total_ms: ms(ended.saturating_duration_since(self.began)),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Dropped with its connection before anything was decided.
            self.failed(Failure::VisitorGone);
        }
        let status = self.status.map_or(0, |status| status.as_u16());
        self.access
            .metrics
            .request_ended(status, self.received, self.sent);
        let Some(sink) = &self.access.sink else {
            return;
        };
        let mut time = Vec::with_capacity(24);
        when::stamp(SystemTime::now(), &mut time);
        let time = String::from_utf8_lossy(&time);
        let id = self.id();
        let view = self.view(&id, &time, Instant::now());
        let mut line = Vec::with_capacity(384);
        let written = match self.access.format {
            Format::Human => view.human(&mut line),
            Format::Json => serde_json::to_writer(&mut line, &view).map_err(std::io::Error::from),
        };
        // A vector takes everything; a record that cannot be written is still worth its id.
        if written.is_err() {
            line.clear();
            line.extend_from_slice(id.as_bytes());
        }
        line.push(b'\n');
        sink.line(&line);
    }
}

/// What a line says, in its order.
#[derive(Serialize)]
struct View<'a> {
    time: &'a str,
    kind: &'static str,
    id: &'a str,
    visitor: SocketAddr,
    tls: bool,
    version: &'static str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    name: Option<String>,
    agent: Option<SocketAddr>,
    tunnel: Option<u64>,
    attempts: u32,
    status: u16,
    reason: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    head_ms: f64,
    hold_ms: f64,
    pick_ms: f64,
    first_ms: f64,
    body_ms: f64,
    total_ms: f64,
}

impl View<'_> {
    fn human(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        write!(
            out,
            "{} access {} {} \"{} {}{} {}\" ",
            self.time,
            self.id,
            self.visitor,
            self.method,
            Plain(self.host),
            Plain(self.path),
            self.version
        )?;
        match (&self.name, self.agent, self.tunnel) {
            (Some(name), Some(agent), Some(tunnel)) => {
                write!(out, "name={name} agent={agent} tunnel={tunnel} ")?
            }
            _ => out.extend_from_slice(b"name=- agent=- tunnel=- "),
        }
        write!(
            out,
            "status={} reason={} in={} out={} ",
            self.status,
            Plain(self.reason.unwrap_or("-")),
            self.bytes_in,
            self.bytes_out
        )?;
        if self.attempts > 1 {
            write!(out, "attempts={} ", self.attempts)?;
        }
        write!(
            out,
            "head={} hold={} pick={} first={} body={} total={}ms",
            self.head_ms, self.hold_ms, self.pick_ms, self.first_ms, self.body_ms, self.total_ms
        )
    }
}

/// Text that a visitor chose, on one line and between quotes.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self
            .0
            .bytes()
            .all(|octet| octet.is_ascii_graphic() && octet != b'"' && octet != b'\\')
        {
            return f.write_str(self.0);
        }
        for part in self.0.chars() {
            match part {
                '"' | '\\' => write!(f, "\\{part}")?,
                part if part.is_control() => write!(f, "{}", part.escape_default())?,
                part => write!(f, "{part}")?,
            }
        }
        Ok(())
    }
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    // Exact for anything below a century.
    duration.as_micros() as f64 / 1000.0
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
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Lines(mpsc::Sender<Vec<u8>>);

    impl Write for Lines {
        fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
            self.0.send(part.to_vec()).map_err(std::io::Error::other)?;
            Ok(part.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line(format: Format, fill: impl FnOnce(&mut Record)) -> String {
        let (send, lines) = mpsc::channel();
        let sink = Sink::start(Lines(send)).unwrap();
        let access = Arc::new(Access::new(
            Some(sink),
            format,
            Arc::new(Metrics::new()),
            0xab,
        ));
        let mut record = access.record("192.0.2.1:5".parse().unwrap(), false, Instant::now());
        fill(&mut record);
        drop(record);
        String::from_utf8(lines.recv_timeout(Duration::from_secs(10)).unwrap()).unwrap()
    }

    #[test]
    fn a_dropped_record_is_a_line_and_nobody_can_forge_another() {
        let text = line(Format::Human, |record| {
            record.method = Some(Method::GET);
            record.host = Some(HeaderValue::from_static("app.test"));
            record.path = Some(PathAndQuery::from_static("/a?b=1"));
            record.failed(Failure::AgentGone);
        });
        assert!(
            text.contains("access 000000ab-1 192.0.2.1:5 \"GET app.test/a?b=1 HTTP/1.1\""),
            "{text}"
        );
        assert!(text.contains("status=503 reason=agent-gone"), "{text}");
        let forged = line(Format::Human, |record| {
            record.raw = Some("x\"\nstatus=200".into())
        });
        assert_eq!(forged.lines().count(), 1, "{forged}");
        let json = line(Format::Json, |record| {
            record.raw = Some("x\"\n{\"status\":200}".into())
        });
        let value: serde_json::Value = serde_json::from_str(json.trim()).unwrap();
        assert_eq!(value["status"], 499);
        assert_eq!(value["id"], "000000ab-1");
    }
}
