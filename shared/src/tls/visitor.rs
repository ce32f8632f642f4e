//! The configuration for visitors: several certificates, chosen by SNI, replaced together when a file changes.
//!
//! Also answers whether the certificate served on a connection covers another host, because an HTTP/2 visitor may
//! send requests for several hosts on one connection (RFC 9110 §15.5.20: 421). Sessions may be resumed here, there
//! being no client certificate that a resumption could carry past a verifier; tickets are this listener's own.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use super::identity::Identity;
use super::pem::Stamp;
use super::tunnel::H2;
use super::{TlsFault, provider};
use crate::name::below;

/// A server configuration without client certificates, ALPN `h2` before `http/1.1`, and the certificates that it
/// serves. `certs` are PEM bundles (chain and key); the first is served to visitors that name no host of theirs.
///
/// # Errors
/// A file that cannot be used, or none given.
pub fn visitor_server(
    certs: &[PathBuf],
) -> Result<(Arc<ServerConfig>, Arc<VisitorCerts>), TlsFault> {
    let certs = VisitorCerts::load(certs)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::build)?
        .with_no_client_auth()
        .with_cert_resolver(certs.clone());
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new().map_err(TlsFault::build)?;
    config.max_early_data_size = 0;
    Ok((Arc::new(config), certs))
}

/// The visitors' certificates, swapped as a whole.
pub struct VisitorCerts {
    paths: Vec<PathBuf>,
    table: ArcSwap<Table>,
    seen: Mutex<Vec<Option<Stamp>>>,
}

impl VisitorCerts {
    fn load(paths: &[PathBuf]) -> Result<Arc<Self>, TlsFault> {
        let seen = stamps(paths);
        Ok(Arc::new(Self {
            paths: paths.into(),
            table: ArcSwap::from_pointee(Table::load(paths)?),
            seen: Mutex::new(seen),
        }))
    }

    /// Whether a request for `host` (in comparable form, an IPv6 literal with its brackets) may be answered on a
    /// connection that was opened for `sni`: it is the name that the visitor opened the connection for, or the
    /// certificate that this name was given covers it too.
    #[must_use]
    pub fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        sni.is_some_and(|sni| sni.eq_ignore_ascii_case(host))
            || self.table.load().select(sni, None).covers(host)
    }

    /// The leaf certificate of each file, as it is served.
    #[must_use]
    pub fn in_use(&self) -> Vec<(PathBuf, CertificateDer<'static>)> {
        let table = self.table.load();
        let leaves = table
            .served
            .iter()
            .filter_map(|served| served.certified.cert.first());
        self.paths.iter().cloned().zip(leaves.cloned()).collect()
    }

    /// Looks at the files, and reads all of them if one is not as seen before. Which were not, when the certificates
    /// were replaced. Blocking: a `stat` each, rarely a read.
    ///
    /// # Errors
    /// As [`visitor_server`], once per state of the files; those in use stay, all of them.
    pub fn reload_if_changed(&self) -> Result<Vec<PathBuf>, TlsFault> {
        let stamps = stamps(&self.paths);
        let changed: Vec<PathBuf> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let pairs = seen.iter().zip(&stamps).zip(&self.paths);
            let changed = pairs.filter(|((before, now), _)| before != now);
            let changed = changed.map(|(_, path)| path.clone()).collect();
            *seen = stamps;
            changed
        };
        if !changed.is_empty() {
            self.table.store(Arc::new(Table::load(&self.paths)?));
        }
        Ok(changed)
    }
}

impl ResolvesServerCert for VisitorCerts {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let served = table.select(hello.server_name(), Some(hello.signature_schemes()));
        Some(served.certified.clone())
    }
}

impl fmt::Debug for VisitorCerts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VisitorCerts")
            .field("paths", &self.paths)
            .finish_non_exhaustive()
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

/// All certificates and where to find them. Several may name one host (an ECDSA and an RSA one, say).
struct Table {
    served: Vec<Served>,
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By what stands below the star.
    wildcard: HashMap<Box<str>, Vec<usize>>,
}

impl Table {
    fn load(paths: &[PathBuf]) -> Result<Self, TlsFault> {
        if paths.is_empty() {
            return Err(TlsFault::NoFiles);
        }
        let mut table = Self {
            served: Vec::with_capacity(paths.len()),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for (index, path) in paths.iter().enumerate() {
            let served = Served::load(path)?;
            for name in &served.names {
                let (map, key) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut table.wildcard, rest),
                    None => (&mut table.exact, &**name),
                };
                map.entry(key.into()).or_default().push(index);
            }
            table.served.push(served);
        }
        Ok(table)
    }

    /// What `sni` is served: exact, then wildcard, then the first file. Among several that name the host, the first
    /// whose key the visitor can verify.
    fn select(&self, sni: Option<&str>, schemes: Option<&[SignatureScheme]>) -> &Served {
        let named = sni.and_then(|sni| {
            let host = sni.strip_suffix('.').unwrap_or(sni).to_ascii_lowercase();
            let below = || below(&host).and_then(|rest| self.wildcard.get(rest));
            self.exact.get(host.as_str()).or_else(below)
        });
        let first = &self.served[0]; // `load` refuses an empty list.
        let Some(named) = named else { return first };
        let mut candidates = named.iter().map(|index| &self.served[*index]);
        let usable = schemes.and_then(|schemes| candidates.clone().find(|c| c.can_sign(schemes)));
        usable.or_else(|| candidates.next()).unwrap_or(first)
    }
}

/// One certificate, with the DNS names that it states, in lower case.
struct Served {
    certified: Arc<CertifiedKey>,
    names: Vec<Box<str>>,
}

impl Served {
    fn load(path: &std::path::Path) -> Result<Self, TlsFault> {
        let identity = Identity::load(path)?;
        let names = EndEntityCert::try_from(identity.leaf())
            .map_err(|e| TlsFault::BadCertificate {
                path: path.into(),
                position: 1,
                what: e.to_string(),
            })?
            .valid_dns_names()
            .map(|name| name.to_ascii_lowercase().into_boxed_str())
            .collect();
        Ok(Self {
            certified: identity.certified().clone(),
            names,
        })
    }

    fn can_sign(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }

    fn covers(&self, host: &str) -> bool {
        let named = |name: &str| match name.strip_prefix("*.") {
            Some(rest) => below(host) == Some(rest),
            None => name == host,
        };
        self.names.iter().any(|name| named(name)) || self.covers_address(host)
    }

    fn covers_address(&self, host: &str) -> bool {
        let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else {
            return false;
        };
        EndEntityCert::try_from(&self.certified.cert[0]).is_ok_and(|leaf| {
            leaf.verify_is_valid_for_subject_name(&ServerName::from(address))
                .is_ok()
        })
    }
}
