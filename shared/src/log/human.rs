//! An event's fields as people read them: behind the message, `name=value`, and without those that the message has already.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};

/// What the name of a field begins with whose value stands in the message in words. Machines have it as a field all the same,
/// without this in front.
pub(super) const SAID: &str = "said.";

/// What `tracing` is told to write fields with.
pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut unsaid = Unsaid(DefaultVisitor::new(writer, true));
        fields.record(&mut unsaid);
        unsaid.0.finish()
    }
}

/// Passes on what the message has not said.
struct Unsaid<'writer>(DefaultVisitor<'writer>);

impl Visit for Unsaid<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !field.name().starts_with(SAID) {
            self.0.record_str(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if !field.name().starts_with(SAID) {
            self.0.record_debug(field, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Arc;

    #[test]
    fn what_the_message_has_is_not_said_twice() {
        let written = tempfile::NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(written.reopen().unwrap()))
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .compact()
            .fmt_fields(Fields)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(said.backend = "site", times = 3, said.left = 7, why = %"so", "backend site: 7 left");
        });
        let line = fs::read_to_string(written.path()).unwrap();
        assert_eq!(line.trim(), "WARN backend site: 7 left times=3 why=so");
    }
}
