//! What the gateway counts. The structures are passed in, so that a test reads its own; the page is written by `admin`.
//! Gauges of tunnels and streams are not kept here: they are read off the pool when asked for, so they cannot drift.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::backend::{self, Backend};
use crate::door;
use crate::failure::{ALL, Failure};
use crate::intent::Desk;
use crate::per_listener::PerListener;
use crate::pool::Pool;
use crate::rates;
use crate::smuggling;
use crate::tcp;
use crate::tunnel::{Ending, Life};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests that ended, by status class: 1xx to 5xx at 1 to 5.
    by_class: [Counter; 6],
    /// Requests that failed at the gateway, in the order of [`ALL`].
    by_failure: Vec<Counter>,
    pub received: Counter,
    pub sent: Counter,
    pub retries: Counter,
    pub held_total: Counter,
    pub held_refused: Counter,
    pub tunnels_opened: Counter,
    by_ending: [Counter; ENDINGS.len()],
    pub tunnels_refused: Refusals,
    pub visitors_opened: Counter,
    pub visitors_closed: Counter,
    pub visitors_shed: Counter,
    pub tls_failed: Counter,
    pub tls_overdue: Counter,
    pub head_overdue: Counter,
    pub idle_overdue: Counter,
    pub accept_failed: Counter,
    pub log_dropped: Counter,
    pub proxy_headers: PerListener<door::Counters>,
    backends: OnceLock<Arc<[Arc<Backend>]>>,
    desk: OnceLock<Arc<Desk>>,
    pub tcp: PerListener<tcp::Counters>,
    pub sources: rates::counters::Shown,
    pub smuggling: smuggling::Refused,
}

/// Tunnels that were not filed, by the layer that refused them.
#[derive(Debug, Default)]
pub struct Refusals {
    counters: [Counter; LAYERS.len()],
}

const ENDINGS: [&str; 7] = [
    "goaway", "closed", "silent", "expired", "replaced", "drained", "flood",
];
const LAYERS: [&str; 8] = [
    "source",
    "proxy",
    "tcp",
    "tls",
    "certificate",
    "alpn",
    "reversal",
    "limit",
];

/// Where `tls` stands.
const TLS: usize = 3;

impl Refusals {
    /// Counts one at the layer of that name; a layer without a counter of its own counts as `tls`.
    pub fn count(&self, layer: &str) {
        let index = LAYERS
            .iter()
            .position(|known| *known == layer)
            .unwrap_or(TLS);
        self.counters[index].inc();
    }
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            by_failure: ALL.iter().map(|_| Counter::default()).collect(),
            ..Self::default()
        }
    }

    /// Shows these from here on; once.
    pub fn show_backends(&self, backends: Arc<[Arc<Backend>]>) {
        let _shown_already = self.backends.set(backends);
    }

    /// Shows whether what operators ask is kept.
    pub fn show_desk(&self, desk: Arc<Desk>) {
        let _shown_already = self.desk.set(desk);
    }

    pub(crate) fn request_ended(&self, status: u16, received: u64, sent: u64) {
        let class = usize::from(status / 100).min(5);
        self.by_class[class].inc();
        if received > 0 {
            self.received.inc_by(received);
        }
        if sent > 0 {
            self.sent.inc_by(sent);
        }
    }

    pub(crate) fn failed(&self, failure: Failure) {
        if let Some(index) = ALL.iter().position(|known| *known == failure) {
            self.by_failure[index].inc();
        }
    }

    /// How many requests failed for this reason.
    pub fn failures(&self, failure: Failure) -> u64 {
        ALL.iter()
            .zip(&self.by_failure)
            .find(|(known, _)| **known == failure)
            .map_or(0, |(_, counter)| counter.get())
    }

    pub(crate) fn tunnels_closed(&self, ending: &Ending) {
        if let Some(index) = ENDINGS.iter().position(|known| *known == ending.label()) {
            self.by_ending[index].inc();
        }
    }

    /// Tunnels filed and gone, ever; their difference is what is filed.
    pub fn tunnels(&self) -> (u64, u64) {
        (
            self.tunnels_opened.get(),
            self.by_ending.iter().map(Counter::get).sum(),
        )
    }
}

/// Everything as a registry that can be encoded any number of times.
pub fn registry(
    metrics: &Arc<Metrics>,
    pool: &Arc<Pool>,
    log_dropped: impl Fn() -> u64 + Send + Sync + 'static,
) -> Registry {
    let mut registry = Registry::with_prefix("tidegate");
    let plain: [(&str, &str, &Counter); 11] = [
        (
            "request_retries",
            "Requests sent a second time, on another tunnel or connection",
            &metrics.retries,
        ),
        (
            "request_octets",
            "Octets of request bodies received",
            &metrics.received,
        ),
        (
            "response_octets",
            "Octets of response bodies sent",
            &metrics.sent,
        ),
        (
            "held",
            "Requests that waited for a tunnel",
            &metrics.held_total,
        ),
        (
            "held_refused",
            "Requests that found no room to wait for a tunnel",
            &metrics.held_refused,
        ),
        ("tunnels_opened", "Tunnels filed", &metrics.tunnels_opened),
        (
            "visitors_opened",
            "Connections of visitors accepted",
            &metrics.visitors_opened,
        ),
        (
            "visitors_closed",
            "Connections of visitors ended",
            &metrics.visitors_closed,
        ),
        (
            "visitors_shed",
            "Connections of visitors refused for a limit",
            &metrics.visitors_shed,
        ),
        (
            "visitors_tls_failed",
            "Connections of visitors that ended in their TLS handshake",
            &metrics.tls_failed,
        ),
        (
            "accept_errors",
            "Connections that the system refused to accept",
            &metrics.accept_failed,
        ),
    ];
    for (name, help, counter) in plain {
        registry.register(name, help, counter.clone());
    }
    registry.register_collector(Box::new(Live {
        metrics: Arc::clone(metrics),
        pool: Arc::clone(pool),
        log_dropped: Box::new(log_dropped),
    }));
    registry
}

/// What is read off the program's state at the moment of asking.
struct Live {
    metrics: Arc<Metrics>,
    pool: Arc<Pool>,
    log_dropped: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

pub(crate) type Labels = Vec<(&'static str, String)>;

pub(crate) fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    rows: impl Iterator<Item = (Labels, u64)>,
) -> Result<(), std::fmt::Error> {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        if labels.is_empty() {
            return ConstCounter::new(value).encode(encoder);
        }
        ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(crate) fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    unit: Option<&Unit>,
    rows: impl Iterator<Item = (Labels, f64)>,
) -> Result<(), std::fmt::Error> {
    let mut encoder = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    for (labels, value) in rows {
        if labels.is_empty() {
            return ConstGauge::new(value).encode(encoder);
        }
        ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
    }
    Ok(())
}

pub(crate) fn count(value: usize) -> f64 {
    // Exact up to 2^53, which no count of connections reaches.
    value as f64
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let encoder = &mut encoder;
        let metrics = &self.metrics;
        counters(
            encoder,
            ("requests", "Requests that ended, by status class"),
            (1..=5).map(|class| {
                (
                    vec![("class", format!("{class}xx"))],
                    metrics.by_class[class].get(),
                )
            }),
        )?;
        counters(
            encoder,
            (
                "requests_failed",
                "Requests that ended otherwise than with the app's whole answer, by reason",
            ),
            ALL.iter()
                .zip(&metrics.by_failure)
                .map(|(failure, counter)| {
                    (vec![("reason", failure.reason().to_owned())], counter.get())
                }),
        )?;
        counters(
            encoder,
            (
                "smuggling_refused",
                "Requests refused for a form in which one is made to look like another, by form",
            ),
            metrics
                .smuggling
                .all()
                .map(|(form, count)| (vec![("form", form.label().to_owned())], count)),
        )?;
        counters(
            encoder,
            (
                "visitors_overdue",
                "Connections of visitors that were ended because something did not come in time, by what",
            ),
            [
                ("tls", &metrics.tls_overdue),
                ("head", &metrics.head_overdue),
                ("idle", &metrics.idle_overdue),
            ]
            .into_iter()
            .map(|(what, counter)| (vec![("what", what.to_owned())], counter.get())),
        )?;
        counters(
            encoder,
            (
                "tunnels_closed",
                "Tunnels that left the pool, by what ended them",
            ),
            ENDINGS
                .iter()
                .zip(&metrics.by_ending)
                .map(|(ending, counter)| (vec![("ending", (*ending).to_owned())], counter.get())),
        )?;
        counters(
            encoder,
            (
                "tunnels_refused",
                "Tunnels that were not filed, by the layer that refused them",
            ),
            LAYERS
                .iter()
                .zip(&metrics.tunnels_refused.counters)
                .map(|(layer, counter)| (vec![("layer", (*layer).to_owned())], counter.get())),
        )?;
        counters(
            encoder,
            (
                "proxy_headers",
                "PROXY headers taken, by listener, version and whom they name",
            ),
            metrics
                .proxy_headers
                .all_taken()
                .map(|(listener, version, names, value)| {
                    let labels = vec![
                        ("listener", listener.to_string()),
                        ("version", version.to_string()),
                        ("names", names.label().to_owned()),
                    ];
                    (labels, value)
                }),
        )?;
        counters(
            encoder,
            (
                "proxy_header_mismatches",
                "Connections whose PROXY header, or what came in its place, was not what the listener expects, by what was wrong",
            ),
            metrics
                .proxy_headers
                .all_mismatches()
                .map(|(listener, kind, value)| {
                    let labels = vec![
                        ("listener", listener.to_string()),
                        ("why", kind.label().to_owned()),
                    ];
                    (labels, value)
                }),
        )?;
        counters(
            encoder,
            (
                "log_dropped",
                "Log lines dropped because the log is full, or read too slowly",
            ),
            std::iter::once((Vec::new(), (self.log_dropped)())),
        )?;
        if let Some(backends) = metrics.backends.get() {
            backend::encode(backends, encoder)?;
        }
        if let Some(desk) = metrics.desk.get().filter(|desk| desk.keeps()) {
            let unsaved = if desk.is_unsaved() { 1.0 } else { 0.0 };
            gauges(
                encoder,
                (
                    "state_unsaved",
                    "1 while what operators asked of servers is not in the state file",
                ),
                None,
                std::iter::once((Vec::new(), unsaved)),
            )?;
        }
        metrics.sources.encode(encoder)?;
        self.encode_tcp(encoder)?;
        self.encode_tunnels(encoder)
    }
}

impl Live {
    fn encode_tcp(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let listeners = self.metrics.tcp.all();
        let of = |name: &Arc<str>| ("listener", name.to_string());
        counters(
            encoder,
            (
                "tcp_connections",
                "Connections of listeners in TCP mode that ended, by how",
            ),
            listeners.iter().flat_map(|(name, counters)| {
                counters
                    .all_ended()
                    .map(move |(ended, count)| (vec![of(name), ("ended", ended.to_owned())], count))
            }),
        )?;
        counters(
            encoder,
            (
                "tcp_octets",
                "Octets of connections in TCP mode that ended: in from visitors, out to them",
            ),
            listeners.iter().flat_map(|(name, counters)| {
                let (received, sent) = counters.octets();
                [("in", received), ("out", sent)].map(|(direction, octets)| {
                    (vec![of(name), ("direction", direction.to_owned())], octets)
                })
            }),
        )?;
        counters(
            encoder,
            (
                "tcp_mismatches",
                "Connections to servers that expect something else: a PROXY header or none, TLS or clear text",
            ),
            listeners.iter().flat_map(|(name, counters)| {
                counters.all_mismatches().map(|(mismatch, count)| {
                    (vec![of(name), ("why", mismatch.label().to_owned())], count)
                })
            }),
        )?;
        gauges(
            encoder,
            ("tcp_open", "Connections of listeners in TCP mode"),
            None,
            listeners.iter().map(|(name, counters)| {
                let open = usize::try_from(counters.open()).unwrap_or(usize::MAX);
                (vec![of(name)], count(open))
            }),
        )
    }

    fn encode_tunnels(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tunnels = self.pool.tunnels();
        let groups = self.pool.groups();
        let by_primary = |value: &dyn Fn(&crate::tunnel::Tunnel) -> f64| {
            let mut rows: std::collections::BTreeMap<String, f64> = groups
                .iter()
                .map(|group| (group.name.to_string(), 0.0))
                .collect();
            for tunnel in &tunnels {
                *rows.entry(tunnel.agent.primary.to_string()).or_default() += value(tunnel);
            }
            rows.into_iter()
                .map(|(name, value)| (vec![("name", name)], value))
                .collect::<Vec<_>>()
        };
        gauges(
            encoder,
            (
                "tunnels",
                "Tunnels in the pool, each counted once, under its certificate's CN",
            ),
            None,
            by_primary(&|_| 1.0).into_iter(),
        )?;
        gauges(
            encoder,
            (
                "tunnels_doubted",
                "Tunnels in the pool of which a probe is overdue",
            ),
            None,
            by_primary(&|tunnel| {
                if tunnel.life() == Life::Doubted {
                    1.0
                } else {
                    0.0
                }
            })
            .into_iter(),
        )?;
        gauges(
            encoder,
            ("streams", "Requests in flight on tunnels in the pool"),
            None,
            by_primary(&|tunnel| count(tunnel.outstanding())).into_iter(),
        )?;
        let rtt = tunnels.iter().filter_map(|tunnel| {
            let labels = vec![
                ("name", tunnel.agent.primary.to_string()),
                ("tunnel", tunnel.id.to_string()),
            ];
            Some((labels, tunnel.rtt()?.as_secs_f64()))
        });
        gauges(
            encoder,
            ("tunnel_rtt", "Round trip of PING, smoothed"),
            Some(&Unit::Seconds),
            rtt,
        )?;
        gauges(
            encoder,
            (
                "reachable_tunnels",
                "Tunnels that a name's visitors can use; one tunnel may serve several names",
            ),
            None,
            groups
                .iter()
                .map(|group| (vec![("name", group.name.to_string())], count(group.count()))),
        )?;
        counters(
            encoder,
            (
                "name_requests",
                "Requests sent to an agent, by the name they were routed by",
            ),
            groups.iter().map(|group| {
                (
                    vec![("name", group.name.to_string())],
                    group.requests.load(Relaxed),
                )
            }),
        )?;
        gauges(
            encoder,
            ("tunnels_filed", "Tunnels in the pool, over all names"),
            None,
            std::iter::once((Vec::new(), count(tunnels.len()))),
        )?;
        gauges(
            encoder,
            ("held_requests", "Requests that wait for a tunnel"),
            None,
            std::iter::once((Vec::new(), count(self.pool.held()))),
        )?;
        let open = self
            .metrics
            .visitors_opened
            .get()
            .saturating_sub(self.metrics.visitors_closed.get());
        let visitors = Gauge::<i64>::default();
        visitors.set(i64::try_from(open).unwrap_or(i64::MAX));
        let encoder = encoder.encode_descriptor(
            "visitors",
            "Connections of visitors",
            None,
            MetricType::Gauge,
        )?;
        visitors.encode(encoder)
    }
}

/// A number that identifies things within one run of the program.
#[derive(Debug, Default)]
pub struct Ids(AtomicU64);

impl Ids {
    /// 1, 2, 3, …
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }
}
