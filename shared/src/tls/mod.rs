//! PEM files to rustls configurations, and handshake errors to sentences.
//!
//! The only place that builds rustls configurations: everyone else receives finished ones. The provider is
//! aws-lc-rs, versions are TLS 1.2 and 1.3, early data is never accepted. It does not interpret who a certificate
//! names (`certs::peer` does), and never logs key material. Buffers stay at rustls' own sizes: an idle tunnel is
//! to cost at most 20 KiB.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use crate::when::utc;

/// Reading certificates and keys out of PEM files.
mod pem;

/// One certificate and its key, which can be swapped while connections use it.
mod identity;

/// Whether a renewed certificate of our own will do.
mod anchors;

/// Configurations for both ends of the tunnel.
mod tunnel;

/// The configuration for visitors: several certificates, chosen by SNI.
mod visitor;

/// The configuration for an agent's `https://` target.
mod app;

/// Handshake errors in words.
mod fault;

pub use anchors::{Anchors, End, Fit, Unfit};
pub use app::{AppTrust, app_client, origin_client};
use fault::of_our_own;
pub use fault::{By, HandshakeFault, Layer};
pub use identity::{Identity, SwapIdentity};
pub use pem::{FileWatch, PemFile, is_readable_by_others, read_bounded};
pub use tunnel::{H2, Trust, agent_client, require_h2, tunnel_server};
pub use visitor::{VisitorCerts, visitor_server};

/// Why no configuration can be built: nearly always a file that a person has to correct.
#[derive(Debug, Error)]
pub enum TlsFault {
    /// The file cannot be opened or read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not PEM, or damaged.
    #[error("{path} is not a sound PEM file: {what}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What the reader stumbled over.
        what: String,
    },
    /// A certificate is missing.
    #[error("{0} holds no certificate; it needs a PEM block that begins with BEGIN CERTIFICATE")]
    NoCertificate(PathBuf),
    /// A key is missing.
    #[error("{0} holds no private key; put the key into the same file as the certificate")]
    NoKey(PathBuf),
    /// Only an encrypted key.
    #[error(
        "the private key in {0} is encrypted; decrypt it (openssl pkey) and protect the file by its mode"
    )]
    EncryptedKey(PathBuf),
    /// More than one key.
    #[error("{0} holds {1} private keys; leave the one that belongs to the certificate")]
    ManyKeys(PathBuf, usize),
    /// The key is of a kind that TLS cannot use, or damaged.
    #[error("the private key in {path} cannot be used: {what}")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// What the provider said.
        what: String,
    },
    /// No certificate of the file belongs to the key.
    #[error("the private key in {0} does not belong to a certificate in the same file")]
    KeyMismatch(PathBuf),
    /// A file that can be read and would be of no use: a renewed certificate that would be refused by those whom it is
    /// shown to, or authorities that are none.
    #[error("{path}: {why}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A renewed certificate that is not valid yet. It is looked at again when it is.
    #[error("{path}: it is valid only from {} on, and is taken up then", utc(*from))]
    Early {
        /// The file.
        path: PathBuf,
        /// From when on.
        from: SystemTime,
    },
    /// A certificate that cannot be parsed.
    #[error("certificate {position} in {path} cannot be used: {what}")]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Its position in the file, from 1.
        position: usize,
        /// What the parser said.
        what: String,
    },
    /// A visitors' listener without any certificate.
    #[error("no certificate file was given for visitors")]
    NoFiles,
    /// The system's trusted authorities cannot be loaded.
    #[error("cannot load the system's certificate authorities: {0}; name a file with them")]
    SystemTrust(String),
    /// rustls refuses the combination; a fault of ours.
    #[error("TLS cannot be configured: {0}")]
    Build(String),
}

impl TlsFault {
    fn build(error: impl ToString) -> Self {
        Self::Build(error.to_string())
    }
}

/// The one cryptography provider of this product.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The certificate authorities of a file.
#[derive(Debug)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Reads `path`; every certificate there must be usable, and there must be one.
    fn read(path: &Path) -> Result<Self, TlsFault> {
        let certificates = PemFile::read(path)?.certificates;
        if certificates.is_empty() {
            return Err(TlsFault::NoCertificate(path.into()));
        }
        let mut roots = RootCertStore::empty();
        for (index, certificate) in certificates.iter().enumerate() {
            roots
                .add(certificate.clone())
                .map_err(|e| TlsFault::BadCertificate {
                    path: path.into(),
                    position: index + 1,
                    what: of_our_own(&e),
                })?;
        }
        Ok(Self {
            certificates,
            roots: Arc::new(roots),
        })
    }
}
