//! Load of small requests: `wrk` where it is installed, the loops below where not, or where the pace is set.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::http::{NAME, Visitor};
use crate::process::{find, output};

/// What a load saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    /// Microseconds until the answer was there, of the middle request; without end if none was answered.
    pub(crate) p50: f64,
    /// The same, of the slowest but one in a hundred.
    pub(crate) p99: f64,
}

/// `visitors` connections, each sending its next request as soon as it has the answer.
pub(crate) fn as_fast_as_it_goes(
    gateway: SocketAddr,
    visitors: usize,
    time: Duration,
) -> Result<Seen> {
    match find("wrk") {
        Some(wrk) => with_wrk(&wrk, gateway, visitors, time),
        None => own(gateway, visitors, time, None),
    }
}

/// `visitors` connections, each sending a request every `interval`, whatever became of the one before: an answer's
/// time counts from when its request was due, so a pause is felt by every request that it delayed.
pub(crate) fn at_a_pace(
    gateway: SocketAddr,
    visitors: usize,
    time: Duration,
    interval: Duration,
) -> Result<Seen> {
    own(gateway, visitors, time, Some(interval))
}

/// The tool that `as_fast_as_it_goes` uses, for the report.
pub(crate) fn tool() -> &'static str {
    if find("wrk").is_some() {
        "wrk"
    } else {
        "the benchmark's own load"
    }
}

fn with_wrk(wrk: &Path, gateway: SocketAddr, visitors: usize, time: Duration) -> Result<Seen> {
    let threads = visitors.min(2).to_string();
    let args = [
        "--latency".to_owned(),
        format!("--threads={threads}"),
        format!("--connections={visitors}"),
        format!("--duration={}s", time.as_secs().max(1)),
        format!("--header=Host: {NAME}"),
        format!("http://{gateway}/"),
    ];
    let text = output(wrk, &args)?;
    read_wrk(&text).with_context(|| format!("wrk printed what this does not understand:\n{text}"))
}

fn read_wrk(text: &str) -> Result<Seen> {
    let line = |mark: &str| text.lines().map(str::trim).find(|line| line.contains(mark));
    let total = line(" requests in ").context("no total")?;
    let (requests, rest) = total.split_once(" requests in ").context("no total")?;
    let seconds = wrk_time(rest.split(',').next().unwrap_or_default())?.as_secs_f64();
    let refused: u64 = match line("Non-2xx or 3xx responses:") {
        Some(line) => line.rsplit(' ').next().unwrap_or_default().parse()?,
        None => 0,
    };
    let mut broken = 0;
    if let Some(errors) = line("Socket errors:") {
        for count in errors
            .split(|c: char| !c.is_ascii_digit())
            .filter(|digits| !digits.is_empty())
        {
            broken += count.parse::<u64>()?;
        }
    }
    let percentile = |mark: &str| {
        let line = text
            .lines()
            .map(str::trim)
            .find_map(|line| line.strip_prefix(mark));
        let time = wrk_time(line.with_context(|| format!("no {mark}"))?.trim())?;
        anyhow::Ok(time.as_secs_f64() * 1e6)
    };
    let requests = requests.parse::<u64>()?;
    Ok(Seen {
        requests,
        failed: refused + broken,
        seconds,
        p50: percentile("50%")?,
        p99: percentile("99%")?,
    })
}

/// `142.00us`, `1.20ms`, `5.01s`, `2.00m`.
fn wrk_time(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        unit => return Err(anyhow!("unknown unit {unit:?} in {text:?}")),
    };
    Ok(Duration::from_secs_f64(digits.parse::<f64>()? * seconds))
}

fn own(
    gateway: SocketAddr,
    visitors: usize,
    time: Duration,
    interval: Option<Duration>,
) -> Result<Seen> {
    let began = Instant::now();
    let threads: Vec<_> = (0..visitors)
        .map(|which| {
            // Spread over the interval, so that paced visitors do not all come at once.
            let offset = interval.unwrap_or_default() * which as u32 / visitors as u32;
            thread::spawn(move || one_visitor(gateway, began + offset, began + time, interval))
        })
        .collect();
    let mut latencies = Vec::new();
    let mut failed = 0;
    for thread in threads {
        let (mut theirs, failures) = thread
            .join()
            .map_err(|_| anyhow!("a visitor's thread panicked"))?;
        latencies.append(&mut theirs);
        failed += failures;
    }
    latencies.sort_unstable();
    let at = |share: f64| {
        let which = (latencies.len().saturating_sub(1) as f64 * share) as usize;
        latencies
            .get(which)
            .map_or(f64::INFINITY, |latency| latency.as_secs_f64() * 1e6)
    };
    let seconds = began.elapsed().as_secs_f64();
    Ok(Seen {
        requests: latencies.len() as u64,
        failed,
        seconds,
        p50: at(0.50),
        p99: at(0.99),
    })
}

/// One visitor's answers' times, and how many requests failed. Reconnects after a failure.
fn one_visitor(
    gateway: SocketAddr,
    start: Instant,
    end: Instant,
    interval: Option<Duration>,
) -> (Vec<Duration>, u64) {
    let mut latencies = Vec::new();
    let mut failed = 0;
    let mut connection = None;
    let mut due = start;
    while due < end && Instant::now() < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let answer = connection
            .take()
            .map_or_else(|| Visitor::connect(gateway, PATIENCE), Ok)
            .map_err(anyhow::Error::from)
            .and_then(|mut visitor: Visitor| visitor.get("/").map(|status| (visitor, status)));
        match answer {
            Ok((visitor, 200)) => {
                connection = Some(visitor);
                latencies.push(due.elapsed());
            }
            Ok(_) | Err(_) => failed += 1,
        }
        due = interval.map_or_else(Instant::now, |interval| due + interval);
    }
    (latencies, failed)
}

const PATIENCE: Duration = Duration::from_secs(10);
