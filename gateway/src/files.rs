//! The files that the configuration names, read and judged before a socket is opened: certificates, keys, authorities. Every
//! mistake is told, at the place where the file is named. Reading is `shared::tls`'s business.

mod written; // those that are not read alone

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use tidegate_certs::anchor;
use tidegate_certs::peer::gateway_identity;
use tidegate_shared::tls::{
    Anchors, End, SwapIdentity, Trust, is_readable_by_others, tunnel_server, visitor_server,
};

use crate::app::workers;
use crate::backend::{Backend, Unusable};
use crate::config::{Config, Placed, Problem};
use crate::rates::lists::{Listed, Lists};
use crate::visitor::Secured;

/// What TLS needs.
#[derive(Debug)]
pub(crate) struct Files {
    /// For each of [`Config::listeners`], in their order.
    pub(crate) fronts: Vec<Option<Secured>>,
    /// Towards agents.
    pub(crate) trust: Option<Arc<Trust<ServerConfig>>>,
    /// With what TLS to their servers needs.
    pub(crate) backends: Vec<Arc<Backend>>,
    /// Of sources that are denied or allowed more.
    pub(crate) lists: Lists,
}

/// Reads them all.
pub(crate) fn read(config: &Config) -> Result<Files, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut fronts = Vec::new();
    for listener in &config.listeners {
        let files = &listener.certificates;
        let front = if files.value.is_empty() {
            None
        } else {
            match visitor_server(&files.value) {
                Ok((config, certs)) => Some(Secured {
                    config,
                    certs,
                    named: files.named.clone(),
                }),
                Err(fault) => {
                    let each = files.value.iter();
                    let each =
                        each.filter_map(|file| visitor_server(std::slice::from_ref(file)).err());
                    let mut faults: Vec<_> = each.map(|fault| fault.to_string()).collect();
                    // Each may be well, and all of them together not.
                    if faults.is_empty() {
                        faults.push(fault.to_string());
                    }
                    problems.extend(faults.into_iter().map(|text| files.named.problem(text)));
                    None
                }
            }
        };
        fronts.push(front);
    }
    let trust = trust(config, &mut problems);
    let mut backends = Vec::with_capacity(config.backends.len());
    for placed in &config.backends {
        match Backend::new(&placed.backend, workers(&config.run)) {
            Ok(backend) => backends.push(backend),
            Err(unusable) => problems.extend(tls_problems(placed, unusable)),
        }
    }
    let lists = lists(config, &mut problems);
    problems.extend(written::problems(config));
    if problems.is_empty() {
        Ok(Files {
            fronts,
            trust,
            backends,
            lists,
        })
    } else {
        Err(problems)
    }
}

/// What is wrong with the files of a backend's TLS, given one of them: the other one is judged by itself.
fn tls_problems(placed: &Placed, Unusable { key, fault }: Unusable) -> Vec<Problem> {
    let mut all = vec![placed.problem_of(key, fault.to_string())];
    let mut rest = placed.backend.clone();
    if let Some(tls) = rest.tls.as_mut().filter(|_| key == "client_certificate") {
        tls.client_certificate = None;
        let other = Backend::new(&rest, 1).err();
        all.extend(other.map(|other| placed.problem_of(other.key, other.fault.to_string())));
    }
    all
}

/// What is allowed and not advised.
pub(crate) fn advice(config: &Config) -> Vec<Problem> {
    let mut all = open_keys(config);
    all.extend(written::advice(config));
    all
}

/// Files with private keys that other users can read, each told once, whatever names it.
fn open_keys(config: &Config) -> Vec<Problem> {
    let (run, sources) = (&config.run, &config.sources);
    let identity = run.identity.iter().filter(|_| run.tunnels.is_some());
    let identity = identity.map(|file| (file, sources.problem("identity", "")));
    let shown = config.listeners.iter().flat_map(|listener| {
        let files = &listener.certificates;
        let each = files.value.iter();
        each.map(|file| (file, files.named.problem("")))
    });
    let to_servers = config.backends.iter().filter_map(|placed| {
        let file = placed.backend.tls.as_ref()?.client_certificate.as_ref()?;
        Some((file, placed.problem_of("client_certificate", "")))
    });
    let mut told = HashSet::new();
    let mut all = Vec::new();
    for (file, problem) in identity.chain(shown).chain(to_servers) {
        if is_readable_by_others(file) && told.insert(file) {
            let text = format!(
                "the private key in {} can be read by other users; chmod 600 the file",
                file.display()
            );
            all.push(Problem { text, ..problem });
        }
    }
    all
}

/// Each file once, whoever names it.
fn lists(config: &Config, problems: &mut Vec<Problem>) -> Lists {
    let mut lists = Vec::<Arc<Listed>>::new();
    let mut bad = Vec::new();
    for named in config.lists() {
        let path = &named.path;
        if lists.iter().any(|list| list.path == *path) || bad.contains(path) {
            continue;
        }
        match Listed::load(path) {
            Ok(list) => lists.push(list),
            Err(unusable) => {
                bad.push(path.clone());
                let told = unusable.0.into_iter();
                problems.extend(told.map(|text| named.problem(text)));
            }
        }
    }
    Lists::new(lists)
}

fn trust(config: &Config, problems: &mut Vec<Problem>) -> Option<Arc<Trust<ServerConfig>>> {
    let run = &config.run;
    run.tunnels?;
    let of = |id: &str, fault: &dyn fmt::Display| config.sources.problem(id, fault.to_string());
    let identity = run.identity.as_ref().map(|file| {
        let loaded = SwapIdentity::load(file).map_err(|fault| of("identity", &fault))?;
        match gateway_identity(loaded.current().leaf()) {
            Ok(_) => Ok(loaded),
            Err(refusal) => Err(of(
                "identity",
                &format_args!(
                    "agents will refuse the certificate in {}: {refusal}",
                    file.display()
                ),
            )),
        }
    });
    let anchors = run.ca.as_ref().map(|ca| {
        Anchors::load(ca, End::Gateway, anchor::require).map_err(|fault| of("ca", &fault))
    });
    match (identity, anchors) {
        (Some(Ok(identity)), Some(Ok(anchors))) => Trust::new(identity, anchors, tunnel_server)
            .map_err(|fault| problems.push(of("ca", &fault)))
            .ok(),
        // What is wrong with one of them is told where the other is missing, too.
        (identity, anchors) => {
            problems.extend(identity.and_then(Result::err));
            problems.extend(anchors.and_then(Result::err));
            None
        }
    }
}
