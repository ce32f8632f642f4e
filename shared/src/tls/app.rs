//! The configuration for an agent's `https://` target and a gateway's backend: an ordinary TLS client, whom to trust being the
//! operator's choice. Not for the tunnel.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use rustls_platform_verifier::Verifier;

use super::{Authorities, PemFile, SwapIdentity, TlsFault, provider};

/// Whose certificates an app may present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppTrust {
    /// The authorities that the operating system trusts.
    System,
    /// The authorities in a PEM file and no others, and the certificates in it themselves.
    File(PathBuf),
    /// Anyone's. Whoever can answer at the app's address is then the app.
    Insecure,
}

/// A client configuration for an agent's app, offering `alpn` in this order.
///
/// # Errors
/// A file that cannot be used, or a system without authorities.
pub fn app_client(trust: &AppTrust, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsFault> {
    if *trust == AppTrust::Insecure {
        tracing::warn!(
            "the app's certificate is NOT verified: whoever can answer at its address can read and change everything"
        );
    }
    origin_client(trust, alpn, None)
}

/// The same for whatever is dialled, with the certificate that is shown where one is asked for. Whoever asks for
/// [`AppTrust::Insecure`] warns of it.
///
/// # Errors
/// As above.
pub fn origin_client(
    trust: &AppTrust,
    alpn: &[&[u8]],
    identity: Option<Arc<SwapIdentity>>,
) -> Result<Arc<ClientConfig>, TlsFault> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsFault::build)?;
    let builder = match trust {
        AppTrust::File(path) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Listed::read(path, provider)?)),
        AppTrust::System => {
            let verifier =
                Verifier::new(provider).map_err(|e| TlsFault::SystemTrust(e.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
        AppTrust::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Takes what an authority in a file has issued, and what is in the file itself: development servers show a certificate that
/// is its own authority's (`openssl req -x509`), which as such ends no chain.
#[derive(Debug)]
struct Listed {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Listed {
    fn read(path: &Path, provider: Arc<CryptoProvider>) -> Result<Self, TlsFault> {
        let roots = Authorities::read(path)?.roots;
        let authorities = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| TlsFault::SystemTrust(error.to_string()))?;
        Ok(Self {
            authorities,
            certificates: PemFile::read(path)?.certificates,
        })
    }
}

impl ServerCertVerifier for Listed {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self
            .authorities
            .verify_server_cert(shown, between, name, ocsp, now);
        match verdict {
            // Its dates are looked at before what it may be used for; its names behind that.
            Err(error) if is_authoritys_own(&error) && self.certificates.contains(shown) => {
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Whether a certificate is refused for being an authority's, and for nothing before that.
fn is_authoritys_own(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = error else {
        return false;
    };
    matches!(cause.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
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
