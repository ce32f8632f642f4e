//! An event as one line of JSON: `time`, `level`, `kind` and `message`, which every line of the log has, and then the
//! event's own fields. Access records have the same four and are written by the gateway.

use std::fmt::{self, Debug};
use std::time::SystemTime;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::human::SAID;
use crate::{text, when};

/// What `tracing` is told to write events with.
pub(super) struct Events;

impl<S, N> FormatEvent<S, N> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut line = Vec::with_capacity(256);
        write_line(event.metadata().level(), &fields, &mut line);
        let line = text::in_json(&line).unwrap_or(line);
        writer.write_str(&String::from_utf8_lossy(&line))
    }
}

/// Says that lines were dropped, in their place.
pub(super) fn dropped(lines: u64, out: &mut Vec<u8>) {
    let mut fields = Fields {
        message: "lines were dropped: the log is full, or read too slowly".to_owned(),
        ..Fields::default()
    };
    fields.add("dropped", &lines);
    write_line(&Level::WARN, &fields, out);
}

fn write_line(level: &Level, fields: &Fields, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    when::stamp(SystemTime::now(), out);
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(name(*level).as_bytes());
    out.extend_from_slice(b"\",\"kind\":\"event\",\"message\":");
    json(&fields.message, out);
    out.extend_from_slice(&fields.rest);
    out.extend_from_slice(b"}\n");
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// An event's fields, each with a comma before it, and its message apart.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<u8>,
}

impl Fields {
    fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        // What the `log` crate says about its caller is not about the event.
        if name.starts_with("log.") {
            return;
        }
        let name = name.strip_prefix(SAID).unwrap_or(name);
        self.rest.push(b',');
        // A name that every line has can be taken by one field only.
        if matches!(name, "time" | "level" | "kind") {
            json(&format!("{name}_"), &mut self.rest);
        } else {
            json(name, &mut self.rest);
        }
        self.rest.push(b':');
        json(value, &mut self.rest);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.add(field.name(), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        // Text and numbers always go; the line must stay one whatever a field is.
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Arc;

    use serde_json::Value;

    #[test]
    fn an_event_is_one_object_with_the_four_keys_first() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(written.reopen().unwrap()))
            .event_format(Events)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(count = 3, kind = "x", who = ?"a\"\n", open = true, said.server = "one", "it is {}", "so\n");
        });
        let line = fs::read_to_string(written.path()).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        let order: Vec<_> = ["time", "level", "kind", "message", "count"]
            .iter()
            .map(|key| line.find(&format!("\"{key}\":")).unwrap())
            .collect();
        assert!(order.is_sorted(), "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "warn");
        assert_eq!(value["kind"], "event");
        assert_eq!(value["message"], "it is so\n");
        assert_eq!(value["count"], 3);
        assert_eq!(value["kind_"], "x");
        assert_eq!(value["who"], "\"a\\\"\\n\"");
        assert_eq!(value["open"], true);
        assert_eq!(value["server"], "one", "{line}");
        assert!(value["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }

    #[test]
    fn dropped_lines_are_told_in_the_same_shape() {
        let mut line = Vec::new();
        dropped(7, &mut line);
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            (&value["level"], &value["dropped"]),
            (&"warn".into(), &7.into())
        );
    }
}
