//! What stands behind each port: doors for visitors' and agents' listeners, and where connections go that are passed on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustls::ServerConfig;
use tidegate_shared::idle::Silence;
use tidegate_shared::proxy_header;
use tidegate_shared::tls::Trust;
use tokio::net::TcpListener;
use tracing::warn;

use super::Trouble;
use crate::backend::Backend;
use crate::config::listeners::{Listener, Named};
use crate::config::passing::Onward;
use crate::config::{Config, Run};
use crate::door::{Complaints, Door, Expect};
use crate::listen::Gate;
use crate::metrics::Metrics;
use crate::range::Range;
use crate::succession::claim::Claim;
use crate::tcp::{self, Tcp};
use crate::tunnel::accept::Security;
use crate::visitor::Strays;

/// What a listener does with connections that it passes on, where it is in TCP mode.
pub(super) fn passing(
    config: &Config,
    listener: &Listener,
    backends: &[Arc<Backend>],
    metrics: &Metrics,
) -> Option<Tcp> {
    let told = listener.passing.as_ref()?;
    // A name that no backend has was refused with the file.
    let target = |goal: &Onward| match goal {
        Onward::Tunnel(name) => Some(tcp::route::Target::Tunnel(name.clone())),
        Onward::Servers {
            all,
            send_proxy,
            place,
        } => {
            let servers = tcp::Servers::new(all.clone(), send_proxy.clone(), place.clone());
            Some(tcp::route::Target::Servers(Arc::new(servers)))
        }
        Onward::Backend(name) => {
            let named = backends.iter().find(|known| *known.name == **name);
            named.map(|known| tcp::route::Target::Backend(Arc::clone(known)))
        }
    };
    let by_name = config
        .passed
        .iter()
        .filter(|passed| passed.is_for(&listener.name))
        .filter_map(|passed| Some((passed.sni.clone(), target(&passed.goal)?)));
    let routes = tcp::route::Routes::new(by_name, told.goal.value.as_ref().and_then(target));
    let terms = tcp::Terms {
        hello: told.hello.value,
        connect: told.connect.value,
        silence: Silence {
            most: Some(told.idle.value).filter(|idle| !idle.is_zero()),
            half_closed: Some(told.half_closed.value).filter(|time| !time.is_zero()),
        },
    };
    let counters = metrics.tcp.of(&listener.name);
    Some(Tcp::new(
        Arc::clone(&listener.name),
        routes,
        terms,
        counters,
    ))
}

/// What stands in front of a tunnels' listener, and the start of what stands in front of a visitors' one.
pub(super) fn door(run: &Run, listener: &Arc<str>, tls: bool, metrics: &Metrics) -> Door {
    Door {
        listener: Arc::clone(listener),
        named: Named::Option("--tunnels-proxy"),
        expect: Expect::Off,
        from_named: Named::Option("--proxy-from"),
        from: Arc::new([]),
        terms: proxy_header::io::Terms {
            most: run.proxy.max_proxy_header,
            within: run.proxy.proxy_timeout,
        },
        counters: metrics.proxy_headers.of(listener),
        tls,
        tls_named: Named::Option("--identity"),
        at: Named::Option("--tunnels"),
        complaints: Complaints::default(),
        told_of_nobody: AtomicBool::default(),
        strays: Strays::default(),
    }
}

/// Opens the listeners for agents.
pub(super) async fn tunnels(
    config: &Config,
    trust: Option<&Arc<Trust<ServerConfig>>>,
    metrics: &Metrics,
    claim: &mut Claim,
) -> Result<Vec<(TcpListener, Arc<Gate>)>, Trouble> {
    let (run, sources) = (&config.run, &config.sources);
    let from: Arc<[Range]> = config.tunnels_proxy_from.value.clone().into();
    let door = |listener: &str, tls| Door {
        named: config.tunnels_named("tunnels_proxy", "proxy", "--tunnels-proxy"),
        expect: run.proxy.tunnels_proxy,
        from_named: match &config.tunnels_proxy_from {
            from if from.given => from.named.clone(),
            _ => config.tunnels_named("proxy_from", "proxy_from", "--proxy-from"),
        },
        from: Arc::clone(&from),
        tls_named: sources.named("identity", "--identity"),
        at: match tls {
            true => sources.named("tunnels", "--tunnels"),
            false => sources.named("tunnels_clear", "--tunnels-clear"),
        },
        ..door(run, &listener.into(), tls, metrics)
    };
    let mut open = Vec::new();
    if let (Some(address), Some(trust)) = (run.tunnels, trust) {
        let gate = Gate {
            door: door("tunnels", true),
            security: Security::Tls(Arc::clone(trust)),
        };
        let named = sources.named("tunnels", "--tunnels");
        let listener = claim.listener(&named, address).await?;
        open.push((listener, Arc::new(gate)));
    }
    if let Some(address) = run.tunnels_clear {
        let named = sources.named("tunnels_clear", "--tunnels-clear");
        let listener = claim.listener(&named, address).await?;
        warn!(
            address = %listener.local_addr().unwrap_or(address),
            "tunnels are accepted in CLEAR TEXT here: whoever can connect can serve {}",
            run.tunnels_clear_name.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        );
        let gate = Gate {
            door: door("tunnels-clear", false),
            security: Security::Clear(run.tunnels_clear_name.clone().into()),
        };
        open.push((listener, Arc::new(gate)));
    }
    Ok(open)
}
