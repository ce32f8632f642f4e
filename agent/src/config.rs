//! What the program believes, checked once: everything in here can be used as it is. Reads certificate files and changes
//! nothing.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use http::HeaderValue;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tidegate_certs::anchor;
use tidegate_shared::clock;
use tidegate_shared::liveness::Patience;
use tidegate_shared::proxy_header::Version;
use tidegate_shared::reversal::Marks;
use tidegate_shared::reversal::io::Terms;
use tidegate_shared::tls::{
    Anchors, AppTrust, End, PemFile, SwapIdentity, Trust, agent_client, app_client,
};

use crate::app;
use crate::cli::{HostHeader, Http, Tcp, Tunnelling};
use crate::dial::Dialler;
use crate::identity::Renewable;
use crate::reconcile::Gateway;
use crate::serve::Care;
use crate::target::{Place, Target};

/// How long nothing need move of a body whose request is answered: what a gateway gives a stalled visitor.
const REST_WITHIN: Duration = Duration::from_secs(30);

/// Everything that `tidegate http` or `tidegate tcp` was told.
#[derive(Debug)]
pub struct Config {
    /// Each gateway, and how it is dialled.
    pub gateways: Vec<(Gateway, Dialler)>,
    /// `None` in clear text.
    pub identity: Option<Renewable>,
    pub tunnels: usize,
    pub care: Care,
    pub app: app::Settings,
    pub workers: NonZeroUsize,
    pub drain: Duration,
}

impl Config {
    /// Checks the command line of `tidegate http`.
    ///
    /// # Errors
    /// A sentence that names the option, and says what to do.
    pub fn new(told: &Http) -> Result<Self, String> {
        let marks = marks(told.proxy_protocol);
        Self::with(&told.tunnelling, marks, || http_app(told))
    }

    /// Checks the command line of `tidegate tcp`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn tcp(told: &Tcp) -> Result<Self, String> {
        let marks = marks(told.proxy_protocol);
        Self::with(&told.tunnelling, marks, || Ok(tcp_app(told)))
    }

    fn with(
        told: &Tunnelling,
        marks: Marks,
        app: impl FnOnce() -> Result<app::Settings, String>,
    ) -> Result<Self, String> {
        let (identity, tls) = match (&told.identity, &told.ca) {
            (Some(identity), Some(ca)) if !told.clear => {
                let trust = trust(identity, ca)?;
                (Some(Arc::clone(&trust)), Some(trust))
            }
            _ => (None, None),
        };
        let mut gateways: Vec<(Gateway, Dialler)> = Vec::new();
        for text in &told.gateway {
            let gateway = gateway(text)?;
            if gateways.iter().any(|(known, _)| *known == gateway) {
                continue;
            }
            let dialler = dialler(told, marks, &gateway, tls.as_ref())?;
            gateways.push((gateway, dialler));
        }
        Ok(Self {
            gateways,
            identity,
            tunnels: usize::from(told.tunnels),
            care: Care {
                patience: patience(told),
                window_most: told.window_max,
            },
            app: app()?,
            workers: workers(told),
            drain: told.drain,
        })
    }
}

/// The gateway need not tell what nobody is told.
fn marks(proxy_protocol: Option<Version>) -> Marks {
    proxy_protocol.map_or(Marks::NONE, |_| Marks::VISITOR)
}

fn trust(identity: &Path, ca: &Path) -> Result<Renewable, String> {
    let identity = SwapIdentity::load(identity).map_err(|fault| format!("--identity: {fault}"))?;
    let of_ca = |fault| format!("--ca: {fault}");
    let anchors = Anchors::load(ca, End::Agent, anchor::require).map_err(of_ca)?;
    Trust::new(identity, anchors, agent_client).map_err(of_ca)
}

fn gateway(text: &str) -> Result<Gateway, String> {
    let wrong = || {
        format!(
            "--gateway: `{text}` is not HOST:PORT; write it like gateway.example.com:8443 or [2001:db8::1]:8443"
        )
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let usable = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => ServerName::try_from(host).is_ok() && !host.contains(':'),
    };
    if port == 0 || !usable {
        return Err(wrong());
    }
    Ok(Gateway {
        host: bare.unwrap_or(host).to_ascii_lowercase(),
        port,
    })
}

fn dialler(
    told: &Tunnelling,
    marks: Marks,
    gateway: &Gateway,
    tls: Option<&Renewable>,
) -> Result<Dialler, String> {
    let name = told.server_name.as_ref().unwrap_or(&gateway.host);
    let name = ServerName::try_from(name.clone())
        .map_err(|_| format!("--server-name: `{name}` is neither a host name nor an address"))?;
    Ok(Dialler {
        tls: tls.map(|trust| (Arc::clone(trust), name)),
        terms: Terms {
            marks,
            ..Terms::default()
        },
        connect_within: told.connect_timeout,
        told: Arc::default(),
    })
}

fn patience(told: &Tunnelling) -> Patience {
    let usual = Patience::default();
    Patience {
        interval: told.ping_interval,
        answer: told.ping_timeout,
        probe_after: told.probe_after,
        probe_answer: usual.probe_answer.min(told.ping_timeout),
        ..usual
    }
}

fn http_app(told: &Http) -> Result<app::Settings, String> {
    let target = told.target.clone();
    if !target.tls() && (told.target_ca.is_some() || told.target_insecure) {
        return Err(format!(
            "--target-ca and --target-insecure say how an https TARGET proves itself, and {target} is none; write https://… or leave them out"
        ));
    }
    let host = match told.host_header {
        HostHeader::Keep => None,
        HostHeader::Target => Some(HeaderValue::from_str(&target.authority()).map_err(|_| {
            format!(
                "TARGET: `{}` cannot stand in a Host header",
                target.authority()
            )
        })?),
    };
    Ok(app::Settings {
        tls: app_tls(told, &target)?,
        own_trust: told.target_ca.is_some(),
        http2: told.h2,
        host,
        greeting: told.proxy_protocol.map(|version| app::Plan {
            version,
            from: told.visitor_from.clone(),
        }),
        connect_within: told.tunnelling.app_connect_timeout,
        first_byte_within: Some(told.app_timeout).filter(|limit| !limit.is_zero()),
        rest_within: REST_WITHIN,
        now_ms: clock::now_ms,
        target,
    })
}

fn tcp_app(told: &Tcp) -> app::Settings {
    app::Settings {
        tls: None,
        own_trust: false,
        http2: false,
        host: None,
        greeting: told.proxy_protocol.map(|version| app::Plan {
            version,
            from: None,
        }),
        connect_within: told.tunnelling.app_connect_timeout,
        first_byte_within: None,
        rest_within: REST_WITHIN,
        now_ms: clock::now_ms,
        target: told.target.0.clone(),
    }
}

fn app_tls(
    told: &Http,
    target: &Target,
) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, String> {
    if !target.tls() {
        return Ok(None);
    }
    let trust = match &told.target_ca {
        Some(file) => {
            let of_file = |what: String| format!("--target-ca: {what}");
            let held = PemFile::read(file).map_err(|fault| of_file(fault.to_string()))?;
            anchor::require(&held.certificates)
                .map_err(|why| of_file(format!("{}: {why}", file.display())))?;
            AppTrust::File(file.clone())
        }
        None if told.target_insecure => AppTrust::Insecure,
        None => AppTrust::System,
    };
    let alpn: &[&[u8]] = if told.h2 { &[b"h2"] } else { &[b"http/1.1"] };
    let client = app_client(&trust, alpn).map_err(|fault| format!("--target-ca: {fault}"))?;
    let name = match (&target.place, target.server_name().parse::<IpAddr>()) {
        (Place::Host { .. }, Ok(address)) => ServerName::IpAddress(address.into()),
        _ => ServerName::try_from(target.server_name().to_owned()).map_err(|_| {
            format!(
                "TARGET: `{}` cannot be the name in a certificate",
                target.server_name()
            )
        })?,
    };
    Ok(Some((client, name)))
}

fn workers(told: &Tunnelling) -> NonZeroUsize {
    told.workers
        .and_then(|count| NonZeroUsize::new(usize::from(count)))
        .or_else(|| available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_host_and_port() {
        assert_eq!(
            gateway("Gw.example:8443").unwrap().to_string(),
            "gw.example:8443"
        );
        assert_eq!(
            gateway("[2001:db8::1]:8443").unwrap().to_string(),
            "[2001:db8::1]:8443"
        );
        for wrong in [
            "gw",
            "gw:",
            "gw:0",
            "gw:65536",
            ":8443",
            "2001:db8::1:8443",
            "https://gw:8443",
            "[gw]:1",
        ] {
            assert!(gateway(wrong).is_err(), "{wrong}");
        }
    }
}
