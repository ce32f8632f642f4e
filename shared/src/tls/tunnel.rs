//! Configurations for both ends of the tunnel: mutual TLS, ALPN `h2`, no resumption.
//!
//! Resumption is off on both ends for a reason that no option may undo: rustls hands a resumed session the client
//! chain it stored, without asking the verifier again, so that an expired or revoked agent would come back in, and
//! a ticket from another listener would carry an identity that was never checked here (CVE-2025-23419 is nginx's).

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, CommonState, ServerConfig};

use super::fault::HandshakeFault;
use super::identity::SwapIdentity;
use super::{Anchors, TlsFault, provider};

/// The ALPN identifier of HTTP/2 over TLS (RFC 9113 §3.2).
pub const H2: &[u8] = b"h2";

/// What one end of a tunnel is known by and whom it believes, and the configuration made of both: the next handshake's. Live
/// connections keep theirs.
pub struct Trust<C> {
    identity: Arc<SwapIdentity>,
    anchors: Anchors,
    make: Make<C>,
    config: ArcSwap<C>,
}

type Make<C> = fn(Arc<SwapIdentity>, &Anchors) -> Result<Arc<C>, TlsFault>;

impl<C> Trust<C> {
    /// With the configuration that `make` makes, [`tunnel_server`] or [`agent_client`].
    ///
    /// # Errors
    /// What `make` returned.
    pub fn new(
        identity: Arc<SwapIdentity>,
        anchors: Anchors,
        make: Make<C>,
    ) -> Result<Arc<Self>, TlsFault> {
        let config = ArcSwap::new(make(Arc::clone(&identity), &anchors)?);
        Ok(Arc::new(Self {
            identity,
            anchors,
            make,
            config,
        }))
    }

    /// For the next handshake.
    #[must_use]
    pub fn config(&self) -> Arc<C> {
        self.config.load_full()
    }

    /// What this end shows.
    #[must_use]
    pub fn identity(&self) -> &SwapIdentity {
        &self.identity
    }

    /// Whom it believes.
    #[must_use]
    pub const fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Looks at the file of authorities. True when handshakes believe others from here on; an identity that was refused
    /// for the former ones' sake is judged again. Blocking, and short.
    ///
    /// # Errors
    /// As [`Anchors::load`], once per state of the file; the authorities in use stay.
    pub fn reload_anchors(&self) -> Result<bool, TlsFault> {
        let changed = self.anchors.reload_if_changed()?;
        if changed {
            let config = (self.make)(Arc::clone(&self.identity), &self.anchors)?;
            self.config.store(config);
            self.identity.judge_again();
        }
        Ok(changed)
    }
}

impl<C> fmt::Debug for Trust<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("identity", &self.identity)
            .field("anchors", &self.anchors)
            .finish_non_exhaustive()
    }
}

/// The gateway's side: presents `identity`, demands a client certificate that ends at the authorities, is in date and
/// allows clientAuth. Who the certificate names is for `certs::peer` to say, afterwards.
///
/// # Errors
/// rustls refuses what it was given.
pub fn tunnel_server(
    identity: Arc<SwapIdentity>,
    authorities: &Anchors,
) -> Result<Arc<ServerConfig>, TlsFault> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authorities.roots(), provider.clone())
            .build()
            .map_err(TlsFault::build)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::build)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The agent's side: presents `identity`, and demands of the gateway a certificate that ends at the authorities, is in date,
/// allows serverAuth and matches the server name that the connection is opened with.
///
/// # Errors
/// rustls refuses what it was given.
pub fn agent_client(
    identity: Arc<SwapIdentity>,
    authorities: &Anchors,
) -> Result<Arc<ClientConfig>, TlsFault> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::build)?
        .with_root_certificates(authorities.roots())
        .with_client_cert_resolver(identity);
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Whether the finished handshake agreed on `h2`. rustls only refuses a peer that offers *other* protocols; one that
/// offers none completes, and must be asked about here.
///
/// # Errors
/// The fault to log and to count; the connection is to be closed.
pub fn require_h2(connection: &CommonState) -> Result<(), HandshakeFault> {
    match connection.alpn_protocol() {
        Some(H2) => Ok(()),
        _ => Err(HandshakeFault::no_alpn()),
    }
}
