//! The configuration for an agent's `https://` target: an ordinary TLS client, whom to trust being the operator's
//! choice. Not for the tunnel.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;

use super::{Authorities, TlsFault, provider};

/// Whose certificates an app may present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppTrust {
    /// The authorities that the operating system trusts.
    System,
    /// The authorities in a PEM file, and no others.
    File(PathBuf),
    /// Anyone's. Whoever can answer at the app's address is then the app.
    Insecure,
}

/// A client configuration for the app, offering `alpn` in this order.
///
/// # Errors
/// A file that cannot be used, or a system without authorities.
pub fn app_client(trust: &AppTrust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsFault> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::build)?;
    let builder = match trust {
        AppTrust::File(path) => builder.with_root_certificates(Authorities::read(path)?.roots),
        AppTrust::System => {
            let verifier =
                Verifier::new(provider).map_err(|e| TlsFault::SystemTrust(e.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
        AppTrust::Insecure => {
            tracing::warn!(
                "the app's certificate is NOT verified: whoever can answer at its address can read and change everything"
            );
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        }
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Takes every certificate. Signatures are still checked, so that the peer at least holds the key it presents.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
