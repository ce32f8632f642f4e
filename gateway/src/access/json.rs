//! A record as one object of JSON, for machines.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use serde::Serialize;
use tidegate_shared::when;

use super::{Record, version};
use crate::smuggling::Form;

impl Record {
    /// The line for machines.
    pub(super) fn json(&self, ended: Instant, out: &mut Vec<u8>) -> serde_json::Result<()> {
        let mut time = Vec::with_capacity(24);
        when::stamp(SystemTime::now(), &mut time);
        let times = self.times(ended);
        let (source, list) = self.limited_for();
        let cloud = self.visitor.cloud.as_deref();
        let view = View {
            time: &String::from_utf8_lossy(&time),
            level: "info",
            kind: "access",
            message: "request",
            id: &self.id(),
            visitor: &self.visitor.address,
            aws_vpce: cloud.and_then(|cloud| cloud.aws_vpce.as_deref()),
            gcp_psc: cloud.and_then(|cloud| cloud.gcp_psc.as_deref()),
            azure_link: cloud.and_then(|cloud| cloud.azure_link),
            tls: self.tls,
            version: version(self.version),
            method: self.method.as_ref().map_or("-", Method::as_str),
            host: self.host(),
            path: self.path(),
            name: self
                .tunnel
                .as_ref()
                .map(|tunnel| tunnel.agent.primary.to_string()),
            agent: self.tunnel.as_ref().map(|tunnel| tunnel.agent.address),
            tunnel: self.tunnel.as_ref().map(|tunnel| tunnel.id),
            backend: self.backend.as_deref(),
            server: self.server.as_ref().map(|server| server.name.as_str()),
            at: self.at,
            attempts: self.attempts,
            status: self.status.map_or(0, |status| status.as_u16()),
            reason: self.reason,
            form: self.form.map(Form::label),
            asked_for: self.asked_for(),
            limit: self.limit().map(|(limit, _)| limit),
            action: self.limit().map(|(_, action)| action),
            source,
            list,
            timeout: self.timed_out.as_ref().map(|over| over.key.as_str()),
            timeout_ms: self.timed_out.as_ref().map(|over| ms(over.within)),
            bytes_in: self.received,
            bytes_out: self.sent,
            header_ms: self.opening.as_ref().and_then(|it| it.header).map(ms),
            tls_ms: self.opening.as_ref().and_then(|it| it.tls).map(ms),
            head_ms: ms(times.head),
            hold_ms: ms(times.hold),
            pick_ms: ms(times.pick),
            connect_ms: self.server.as_ref().map(|_server| ms(times.connect)),
            upload_ms: (!times.upload.is_zero()).then(|| ms(times.upload)),
            first_ms: ms(times.first),
            body_ms: ms(times.body),
            total_ms: ms(times.total),
        };
        serde_json::to_writer(out, &view)
    }
}

/// What a line says, in its order.
#[derive(Serialize)]
struct View<'a> {
    time: &'a str,
    level: &'static str,
    kind: &'static str,
    message: &'static str,
    id: &'a str,
    visitor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aws_vpce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gcp_psc: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    azure_link: Option<u32>,
    tls: bool,
    version: &'static str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    name: Option<String>,
    agent: Option<SocketAddr>,
    tunnel: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<SocketAddr>,
    attempts: u32,
    status: u16,
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    form: Option<&'static str>,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    asked_for: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<f64>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    header_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ms: Option<f64>,
    head_ms: f64,
    hold_ms: f64,
    pick_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_ms: Option<f64>,
    first_ms: f64,
    body_ms: f64,
    total_ms: f64,
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    // Exact for anything below a century.
    duration.as_micros() as f64 / 1000.0
}
