//! TLS to a backend's servers: whom to trust, and what is shown to those that ask. Files that change are taken up; connections
//! that are open keep what they began with, and no later handshake resumes one of theirs.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tidegate_shared::tls::{AppTrust, FileWatch, SwapIdentity, TlsFault, origin_client};
use tracing::{error, info, warn};

use super::Unusable;
use super::config::{Protocol, Tls as Told};

/// Of one server: how, and by which name.
#[derive(Clone, Debug)]
pub(super) struct Secured {
    pub(super) tls: Arc<Tls>,
    pub(super) name: ServerName<'static>,
}

/// Of all of a backend's servers.
#[derive(Debug)]
pub(super) struct Tls {
    trust: AppTrust,
    /// The file of authorities, where there is one.
    authorities: Option<FileWatch>,
    /// What is shown to servers that ask for a certificate.
    identity: Option<Arc<SwapIdentity>>,
    protocol: Protocol,
    /// What names the backend, and where.
    pub(super) declared: String,
    current: ArcSwap<Configs>,
}

#[derive(Debug)]
struct Configs {
    usual: Arc<ClientConfig>,
    /// The same where it must be HTTP/1.1, whatever else the server can.
    http1: Arc<ClientConfig>,
}

impl Tls {
    /// Reads what an operator has named for this backend.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) fn new(
        (backend, declared): (&str, &str),
        told: &Told,
        protocol: Protocol,
    ) -> Result<Self, Unusable> {
        let identity = told.client_certificate.as_deref();
        let identity = identity
            .map(SwapIdentity::load)
            .transpose()
            .map_err(|fault| Unusable::of("client_certificate", fault))?;
        let trust = match &told.ca {
            _ if told.unverified => AppTrust::Insecure,
            Some(path) => AppTrust::File(path.clone()),
            None => AppTrust::System,
        };
        if told.unverified {
            warn!(
                said.what = "unverified",
                said.backend = %backend,
                "backend {backend}: its servers' certificates are NOT verified (verify = false): whoever can answer at their addresses can read and change everything"
            );
        }
        let authorities = match &trust {
            AppTrust::File(path) => Some(FileWatch::new(path)),
            AppTrust::System | AppTrust::Insecure => None,
        };
        let configs = configs(&trust, protocol, identity.clone());
        Ok(Self {
            authorities,
            protocol,
            declared: declared.to_owned(),
            current: ArcSwap::from_pointee(configs.map_err(|fault| Unusable::of("ca", fault))?),
            trust,
            identity,
        })
    }

    /// For a handshake.
    pub(super) fn usual(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().usual)
    }

    /// For one after which HTTP/1.1 is spoken.
    pub(super) fn http1(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().http1)
    }

    /// Reads the files again that have changed. Blocking, and short.
    pub(super) fn renew(&self, backend: &str) {
        let identity = self.identity.as_ref();
        let shown = identity.map(|identity| identity.reload_if_changed(|_any| Ok(())));
        match shown {
            Some(Ok(true)) => {
                // Made anew, because a session that is resumed shows what it was begun with.
                if self.make(backend) {
                    info!(
                        said.what = "tls-renewed",
                        said.backend = %backend,
                        "backend {backend}: the client certificate was read again"
                    );
                }
            }
            None | Some(Ok(false)) => {}
            Some(Err(fault)) => error!(
                said.what = "tls-unusable",
                said.backend = %backend,
                said.why = %fault,
                "backend {backend}: the client certificate was changed and is not used, the one in use stays: {fault}"
            ),
        }
        if let Some(file) = &self.authorities
            && file.has_changed()
            && self.make(backend)
        {
            let path = Path::display(file.path());
            info!(
                said.what = "tls-renewed",
                said.backend = %backend,
                "backend {backend}: the authorities in {path} were read again"
            );
        }
    }

    /// Whether what comes next goes by what the files say.
    fn make(&self, backend: &str) -> bool {
        match configs(&self.trust, self.protocol, self.identity.clone()) {
            Ok(configs) => {
                self.current.store(Arc::new(configs));
                true
            }
            Err(fault) => {
                error!(
                    said.what = "tls-unusable",
                    said.backend = %backend,
                    said.why = %fault,
                    "backend {backend}: a file of its tls was changed and is not used, what is in use stays: {fault}"
                );
                false
            }
        }
    }
}

fn configs(
    trust: &AppTrust,
    protocol: Protocol,
    identity: Option<Arc<SwapIdentity>>,
) -> Result<Configs, TlsFault> {
    let usual = origin_client(trust, protocol.alpn(), identity)?;
    let mut http1 = ClientConfig::clone(&usual);
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Configs {
        usual,
        http1: Arc::new(http1),
    })
}
