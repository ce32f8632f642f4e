//! Where log lines go: into one buffer, and from there to standard error by a thread of their own, so that writing a log
//! never blocks a request. Lines that find the buffer full are dropped and counted, and the count is written.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::text;

mod human; // what a person reads behind a message
mod json; // events in the shape of every other line

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Human,
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            other => Err(format!(
                "`{other}` is not a log format; write `human` or `json`"
            )),
        }
    }
}

/// Octets that may wait for a slow reader of the log.
const ROOM: usize = 4 * 1024 * 1024;

/// How long the writer gathers lines before it writes them: at most fifty system calls a second, whatever the load.
const GATHER: Duration = Duration::from_millis(20);

/// The one way to standard error (or another file); cheap to clone.
#[derive(Clone, Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something to write, for the writer; everything written, for [`Sink::flush`].
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    writing: bool,
    writer_sleeps: bool,
    flushing: bool,
}

impl Sink {
    /// Starts the writing thread. The thread lives as long as the process.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(mut out: impl Write + Send + 'static, format: Format) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let sink = Self {
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.write_for_ever(&mut out, format))?;
        Ok(sink)
    }

    /// Takes a whole line, its newline included. Never waits; a line that finds no room is dropped and counted.
    pub fn line(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if state.waiting.len() + line.len() > ROOM {
            self.shared.dropped.fetch_add(1, Relaxed);
            return;
        }
        state.waiting.extend_from_slice(line);
        if state.writer_sleeps {
            state.writer_sleeps = false;
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Lines dropped so far because nobody read the log fast enough, or it could not be written.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// Waits until everything is written, or until `within` has passed.
    pub fn flush(&self, within: Duration) {
        let mut state = self.shared.lock();
        state.flushing = true;
        self.shared.changed.notify_all();
        let unfinished = |state: &mut State| state.writing || !state.waiting.is_empty();
        // Whether it ended in time changes nothing: this is the last thing that a program does.
        let _either = self
            .shared
            .changed
            .wait_timeout_while(state, within, unfinished);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first line of a quiet time is written at once; what comes soon after it is gathered. Whoever waits for the last
    /// line to be written ends the pause.
    fn pause(&self) {
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        let gathering = |state: &mut State| !state.flushing;
        // Either end of the wait means the same: go on.
        let _either = self.changed.wait_timeout_while(state, GATHER, gathering);
    }

    fn write_for_ever(&self, out: &mut dyn Write, format: Format) {
        let mut batch = Vec::new();
        let mut told = 0;
        // The last octets that went out were no whole line.
        let mut torn = false;
        loop {
            let mut state = self.lock();
            state.writing = false;
            while state.waiting.is_empty() {
                state.writer_sleeps = true;
                self.changed.notify_all();
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut state.waiting, &mut batch);
            state.writing = true;
            drop(state);
            let dropped = self.dropped.load(Relaxed);
            let missing = dropped - told;
            // A log that cannot be written has nowhere to say so but the counter, and says it later; traffic goes on.
            let said = (missing == 0 && !torn) || {
                let notice = notice(format, torn, missing);
                put(out, &notice) == notice.len()
            };
            if said {
                (told, torn) = (dropped, false);
            }
            let written = if said { put(out, &batch) } else { 0 };
            let lost = &batch[written..];
            if !lost.is_empty() {
                torn |= written > 0 && batch[written - 1] != b'\n';
                self.dropped.fetch_add(lines(lost), Relaxed);
            }
            batch.clear();
            batch.shrink_to(ROOM / 16);
            self.pause();
        }
    }
}

/// Writes as much as goes, and says how much that was: a full disk takes a part.
fn put(out: &mut dyn Write, octets: &[u8]) -> usize {
    let mut written = 0;
    while written < octets.len() {
        match out.write(&octets[written..]) {
            Ok(0) => break,
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_full_or_gone) => break,
        }
    }
    written
}

fn lines(octets: &[u8]) -> u64 {
    octets.iter().map(|octet| u64::from(*octet == b'\n')).sum()
}

/// That so many lines are missing here, on a line of its own.
fn notice(format: Format, torn: bool, missing: u64) -> Vec<u8> {
    let mut notice = Vec::new();
    if torn {
        notice.push(b'\n');
    }
    match format {
        _ if missing == 0 => {}
        Format::Human => notice.extend_from_slice(
            format!("log: {missing} lines dropped: the log is full, or read too slowly\n")
                .as_bytes(),
        ),
        Format::Json => json::dropped(missing, &mut notice),
    }
    notice
}

/// One event on its way into the sink, handed over whole when it is dropped.
#[derive(Debug)]
pub struct Line<'a> {
    sink: &'a Sink,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        // Whatever an event quotes, nobody but this program begins a line.
        let safe = text::one_line(&self.text);
        self.sink.line(safe.as_deref().unwrap_or(&self.text));
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            sink: self,
            text: Vec::new(),
        }
    }
}

/// Sends `tracing` events to a sink on standard error. `filter` is a level or a list of `target=level`.
///
/// # Errors
/// A filter that cannot be read, or a system that refuses a thread; a sentence either way.
pub fn init(format: Format, filter: &str) -> Result<Sink, String> {
    let filter = parsed(filter)?;
    let sink = Sink::start(io::stderr(), format)
        .map_err(|error| format!("the log's thread could not be started: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(sink.clone())
        .with_target(false);
    let installed = match format {
        Format::Human => builder
            .with_ansi(false)
            .compact()
            .fmt_fields(human::Fields)
            .try_init(),
        Format::Json => builder.event_format(json::Events).try_init(),
    };
    installed.map_err(|error| format!("a second logger was installed: {error}"))?;
    Ok(sink)
}

/// Whether [`init`] would take this filter.
///
/// # Errors
/// A sentence that says why not.
pub fn check_level(filter: &str) -> Result<(), String> {
    parsed(filter).map(drop)
}

/// What a user may write: levels, alone or of a target. `EnvFilter` takes more: digits and nothing at all for levels, and a
/// mistyped level for the name of a target, of which nothing would be logged.
fn parsed(filter: &str) -> Result<EnvFilter, String> {
    let wrong = || {
        format!(
            "`{filter}` is not a log level; write off, error, warn, info, debug or trace, also by target as in `info,h2=debug`"
        )
    };
    let plain = within(filter, STATIC_MAX_LEVEL).ok_or_else(wrong)?;
    EnvFilter::try_new(with_quiet_libraries(&plain)).map_err(|_bad| wrong())
}

/// The same filter with no level above `most`, of which `EnvFilter` would tell whoever reads its own standard error; `None`
/// where it is none.
fn within(filter: &str, most: LevelFilter) -> Option<String> {
    let level = |word: &str| {
        let word = word.trim();
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        let mut known = known
            .iter()
            .filter(|known| word.eq_ignore_ascii_case(known));
        let level: LevelFilter = known.next()?.parse().ok()?;
        Some(level.min(most).to_string())
    };
    let is_target = |octet: u8| octet.is_ascii_alphanumeric() || b"_-:".contains(&octet);
    let part = |part: &str| match part.split_once('=') {
        None => level(part),
        Some((target, word)) => {
            let target = target.trim();
            let named = !target.is_empty() && target.bytes().all(is_target);
            named.then_some(format!("{target}={}", level(word)?))
        }
    };
    let all: Option<Vec<String>> = filter.split(',').map(part).collect();
    all.map(|all| all.join(","))
}

/// A library warns of what hostile peers send as often as they send it. What matters of that is said here, counted and
/// folded; who wants a library's own words names it, as in `info,h2=debug`.
fn with_quiet_libraries(filter: &str) -> String {
    let off = |directive: &str| matches!(directive.trim().parse(), Ok(LevelFilter::OFF));
    if filter.split(',').any(off) {
        // What is silent altogether stays so.
        return filter.to_owned();
    }
    let mut all = String::new();
    for (library, level) in [
        ("h2", "error"),
        ("rustls", "error"),
        ("tokio_rustls", "error"),
        // What is wrong with an answer is said where a name is kept.
        ("hickory_net", "off"),
        ("hickory_proto", "off"),
        ("hickory_resolver", "off"),
        // An error of its own for each certificate that it does not trust: as often as an app is asked for.
        ("rustls_platform_verifier", "off"),
    ] {
        let named = |directive: &str| directive.trim().starts_with(&format!("{library}="));
        if !filter.split(',').any(named) {
            all.push_str(&format!("{library}={level},"));
        }
    }
    all + filter
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let filter = with_quiet_libraries("debug");
        assert!(
            filter.starts_with("h2=error,") && filter.ends_with(",debug"),
            "{filter}"
        );
        let filter = with_quiet_libraries("info,h2=trace");
        assert!(
            !filter.contains("h2=error") && filter.contains("rustls=error"),
            "{filter}"
        );
        for silent in ["off", "OFF", "off,tidegate_shared=info"] {
            assert_eq!(with_quiet_libraries(silent), silent);
        }
        for good in [
            "info",
            "off",
            "info,h2=debug",
            "tidegate_shared=trace, warn",
        ] {
            assert!(parsed(good).is_ok(), "{good}");
        }
        for bad in [
            "nonsense",
            "loud=very",
            "info,loud",
            "5",
            "h2=5",
            "",
            "info,",
            "h2=",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_more_is_asked_for_than_the_program_is_built_with() {
        for (filter, most, plain) in [
            ("TRACE", LevelFilter::DEBUG, "debug"),
            ("info, h2=trace", LevelFilter::DEBUG, "info,h2=debug"),
            ("off,h2 = warn", LevelFilter::TRACE, "off,h2=warn"),
        ] {
            assert_eq!(within(filter, most).as_deref(), Some(plain));
        }
    }

    struct Slow {
        go: mpsc::Receiver<()>,
        seen: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.go.recv().map_err(io::Error::other)?;
            self.seen.send(part.to_vec()).map_err(io::Error::other)?;
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes so many octets, then nothing until there is room again.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(usize, Vec<u8>)>>);

    impl Disk {
        fn lock(&self) -> MutexGuard<'_, (usize, Vec<u8>)> {
            self.0.lock().unwrap()
        }

        fn make_room(&self, octets: usize) {
            self.lock().0 += octets;
        }

        fn text(&self) -> String {
            String::from_utf8(self.lock().1.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            let mut disk = self.lock();
            let fits = part.len().min(disk.0);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            disk.0 -= fits;
            disk.1.extend_from_slice(&part[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_each() {
        let disk = Disk::default();
        disk.make_room(20);
        let sink = Sink::start(disk.clone(), Format::Human).unwrap();
        let say = |line: &[u8]| {
            sink.line(line);
            sink.flush(Duration::from_secs(10));
        };
        say(b"first\n");
        say(b"this one does not fit\n");
        say(b"nor this one\n");
        assert_eq!(sink.dropped(), 2);
        assert_eq!(disk.text(), "first\nthis one does ");
        disk.make_room(1000);
        say(b"last\n");
        assert_eq!(sink.dropped(), 2);
        let told = "log: 2 lines dropped: the log is full, or read too slowly";
        assert_eq!(
            disk.text(),
            format!("first\nthis one does \n{told}\nlast\n")
        );
    }

    #[test]
    fn an_event_is_one_line_whatever_it_quotes() {
        let (seen, written) = mpsc::channel();
        let (go, gone) = mpsc::channel();
        let sink = Sink::start(Slow { go: gone, seen }, Format::Human).unwrap();
        let logger = tracing_subscriber::fmt()
            .with_writer(sink)
            .with_ansi(false)
            .compact()
            .finish();
        go.send(()).unwrap();
        tracing::subscriber::with_default(logger, || {
            tracing::warn!(who = %"a\nforged", "said\r\nforged\x1b[31m");
        });
        let line = written.recv_timeout(Duration::from_secs(10)).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains("said") && line.contains("forged"), "{line:?}");
        let controls: Vec<char> = line.chars().filter(|c| c.is_control()).collect();
        assert_eq!(
            (controls, line.ends_with('\n')),
            (vec!['\n'], true),
            "{line:?}"
        );
    }

    #[test]
    fn a_reader_that_stops_loses_lines_and_is_told_how_many() {
        let (go, gone) = mpsc::channel();
        let (seen, written) = mpsc::channel();
        let sink = Sink::start(Slow { go: gone, seen }, Format::Human).unwrap();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let lines = 2 * ROOM / line.len() + 10;
        for _ in 0..lines {
            sink.line(&line);
        }
        let dropped = sink.dropped();
        assert!(dropped > 0, "nothing was dropped of {lines} lines");
        let mut all = Vec::new();
        go.send(()).unwrap();
        go.send(()).unwrap();
        sink.line(b"after\n");
        while !String::from_utf8_lossy(&all).contains("after\n") {
            all.extend(written.recv_timeout(Duration::from_secs(10)).unwrap());
            // The reader may have gone on to wait; one more token can never hurt.
            go.send(()).unwrap();
        }
        let kept = all.iter().filter(|octet| **octet == b'\n').count();
        let text = String::from_utf8_lossy(&all).into_owned();
        let told: u64 = text
            .lines()
            .filter_map(|line| {
                line.strip_prefix("log: ")?
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        assert_eq!(told, sink.dropped());
        assert!(kept as u64 + told > lines as u64);
        sink.flush(Duration::from_secs(5));
    }
}
