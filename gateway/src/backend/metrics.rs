//! What is counted of backends and their servers, as `metrics` shows it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::registry::Unit;

use super::Backend;
use super::check::{Checks, Found};
use super::names::Named;
use super::server::{Server, What};
use crate::intent::Mode;
use crate::metrics::{Labels, count, counters, gauges};

/// Writes all of it; nothing where there are no backends.
pub(crate) fn encode(
    backends: &[Arc<Backend>],
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    if backends.is_empty() {
        return Ok(());
    }
    let servers = || backends.iter().flat_map(|backend| backend.servers());
    counters(
        encoder,
        ("backend_requests", "Requests sent to a server of a backend"),
        servers().map(|server| (labels(server), server.counts.requests.get())),
    )?;
    counters(
        encoder,
        (
            "backend_connections",
            "Connections opened to a server of a backend",
        ),
        servers().map(|server| (labels(server), server.counts.connections.get())),
    )?;
    let shared = || servers().filter(|server| server.shares());
    if shared().next().is_some() {
        counters(
            encoder,
            (
                "backend_doubts",
                "HTTP/2 connections to a server of a backend that did not answer a PING in time while requests waited",
            ),
            shared().map(|server| (labels(server), server.doubts.get())),
        )?;
    }
    counters(
        encoder,
        (
            "backend_failures",
            "Requests that a server of a backend failed, each attempt counted, by what was wrong",
        ),
        servers().flat_map(|server| {
            What::ALL.map(|what| {
                let mut labels = labels(server);
                labels.push(("why", what.label().to_owned()));
                (labels, server.counts.failures[what as usize].get())
            })
        }),
    )?;
    counters(
        encoder,
        (
            "backend_mismatches",
            "Connections to a server of a backend that expects something else: a PROXY header or none, TLS or clear text",
        ),
        servers().flat_map(|server| {
            server.mismatches.all().map(|(mismatch, count)| {
                let mut labels = labels(server);
                labels.push(("why", mismatch.label().to_owned()));
                (labels, count)
            })
        }),
    )?;
    let each =
        |value: fn(&Server) -> f64| servers().map(move |server| (labels(server), value(server)));
    // Where DNS has given no address there is no server that could be up or out.
    let there = || servers().filter(|server| !server.is_vacant());
    gauges(
        encoder,
        (
            "backend_open_connections",
            "Connections to a server of a backend, in use or resting",
        ),
        None,
        each(|server| count(server.open())),
    )?;
    gauges(
        encoder,
        (
            "backend_in_flight",
            "Requests in flight on a server of a backend",
        ),
        None,
        each(|server| count(server.outstanding())),
    )?;
    gauges(
        encoder,
        (
            "backend_server_out",
            "1 while a server of a backend is left out for its failures; a slot without an address has none",
        ),
        None,
        there().map(|server| (labels(server), f64::from(u8::from(server.is_out())))),
    )?;
    encode_checks(backends, encoder)?;
    encode_names(backends, encoder)?;
    gauges(
        encoder,
        (
            "backend_server_weight",
            "The share that a server of a backend has for the time being: as declared, in its SRV record, or as an operator asked, less while it starts slowly, and 0 while it is drained, in maintenance or without an address",
        ),
        None,
        each(|server| server.effective_weight()),
    )?;
    gauges(
        encoder,
        (
            "backend_server_backup",
            "1 for a server of a backend that is used only while none of the others is fit",
        ),
        None,
        each(|server| f64::from(u8::from(server.is_backup()))),
    )?;
    gauges(
        encoder,
        (
            "backend_server_priority",
            "The priority in the SRV record of a server of a backend: the lowest are used, the others are backups",
        ),
        None,
        servers().filter_map(|server| Some((labels(server), f64::from(server.priority()?)))),
    )?;
    gauges(
        encoder,
        (
            "backend_server_asked",
            "1 for a server of a backend that an operator has drained or put into maintenance",
        ),
        None,
        servers().flat_map(|server| {
            [Mode::Drain, Mode::Maintenance].map(|mode| {
                let mut labels = labels(server);
                labels.push(("mode", mode.to_string()));
                (
                    labels,
                    if server.mode() == Some(mode) {
                        1.0
                    } else {
                        0.0
                    },
                )
            })
        }),
    )?;
    gauges(
        encoder,
        (
            "backend_queued",
            "Requests that wait because every fit server of the backend is full",
        ),
        None,
        backends.iter().map(|backend| {
            let labels = vec![("backend", backend.name.to_string())];
            (labels, count(backend.queue.count()))
        }),
    )
}

/// Of those servers that are checked.
fn encode_checks(backends: &[Arc<Backend>], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let checked = || {
        let servers = backends.iter().flat_map(|backend| backend.servers());
        servers.filter_map(|server| Some((server, server.checks.as_ref()?)))
    };
    gauges(
        encoder,
        (
            "backend_server_up",
            "1 while a server of a backend is up by its checks, or has not been checked yet; 0 while it is down; a slot without an address has none",
        ),
        None,
        checked()
            .filter(|(server, _)| !server.is_vacant())
            .map(|(server, checks)| {
                let up = if checks.are_failed() { 0.0 } else { 1.0 };
                (labels(server), up)
            }),
    )?;
    counters(
        encoder,
        (
            "backend_checks",
            "Checks of a server of a backend, by what they came to",
        ),
        checked().flat_map(|(server, checks): (&Arc<Server>, &Checks)| {
            Found::ALL.map(|found| {
                let mut labels = labels(server);
                labels.push(("result", found.label().to_owned()));
                (labels, checks.count(found))
            })
        }),
    )
}

fn labels(server: &Server) -> Labels {
    vec![
        ("backend", server.backend().to_owned()),
        ("server", server.name.clone()),
    ]
}

/// What is known of servers whose addresses come from DNS; nothing where there are none.
fn encode_names(backends: &[Arc<Backend>], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let all = || backends.iter().flat_map(|backend| backend.named());
    if all().next().is_none() {
        return Ok(());
    }
    let of = |named: &Named| -> Labels {
        vec![
            ("backend", named.backend.to_string()),
            ("server", named.server.clone()),
        ]
    };
    counters(
        encoder,
        (
            "backend_dns_queries",
            "Questions to DNS servers for the addresses of a server of a backend, by what came of them",
        ),
        all().flat_map(|named| {
            named.counts.results().map(|(result, times)| {
                let mut labels = of(named);
                labels.push(("result", result.to_owned()));
                (labels, times)
            })
        }),
    )?;
    gauges(
        encoder,
        (
            "backend_dns_addresses",
            "Addresses in use that DNS has given for a server of a backend, at most one for each slot",
        ),
        None,
        all().map(|named| (of(named), count(named.taken()))),
    )?;
    gauges(
        encoder,
        (
            "backend_dns_failing",
            "1 while DNS servers do not answer everything that a server of a backend needs",
        ),
        None,
        all().map(|named| (of(named), f64::from(u8::from(named.counts.is_failing())))),
    )?;
    gauges(
        encoder,
        (
            "backend_dns_answer_age",
            "Since everything was last answered that a server of a backend needs of DNS",
        ),
        Some(&Unit::Seconds),
        all().filter_map(|named| Some((of(named), named.counts.age()?.as_secs_f64()))),
    )
}
