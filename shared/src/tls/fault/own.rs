//! What is wrong with a certificate or a key that stands in a file of ours, as the end of a sentence about it. Pure. What the other
//! end of a connection shows is `certificate`'s.

use rustls::{CertificateError, Error, OtherError};

use super::certificate::from_certificate;

/// rustls's word on what it was given.
pub(in crate::tls) fn of_our_own(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(why) if is_old(why) => OLD.to_owned(),
        Error::InvalidCertificate(why) => from_certificate(why)
            .reason
            .replace("the peer's certificate", "it"),
        Error::General(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What `openssl x509 -req` makes unless it is told of extensions.
const OLD: &str = "it is of version 1 of X.509, and TLS here takes version 3, which has extensions; have its authority issue it again with \
                   one: openssl x509 -req -in REQUEST -CA CA -CAkey KEY -out FILE -extfile EXTENSIONS, where EXTENSIONS is a file with a \
                   line such as extendedKeyUsage = clientAuth, or subjectAltName = DNS:NAME for a server";

fn is_old(why: &CertificateError) -> bool {
    let CertificateError::Other(OtherError(cause)) = why else {
        return false;
    };
    matches!(
        cause.downcast_ref(),
        Some(webpki::Error::UnsupportedCertVersion)
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn nothing_of_a_library_is_shown() {
        let below = |why: webpki::Error| CertificateError::Other(OtherError(Arc::new(why)));
        for (why, said) in [
            (
                below(webpki::Error::UnsupportedCertVersion),
                "it is of version 1",
            ),
            (
                below(webpki::Error::InvalidSerialNumber),
                "the serial number of it is not",
            ),
            (CertificateError::BadEncoding, "it is malformed"),
            (
                CertificateError::UnhandledCriticalExtension,
                "it has a critical extension",
            ),
        ] {
            let text = of_our_own(&Error::InvalidCertificate(why));
            assert!(text.starts_with(said), "{text}");
            assert!(!text.contains("peer") && !text.contains("Error"), "{text}");
        }
        let key = Error::General("it is no key".to_owned());
        assert_eq!(of_our_own(&key), "it is no key");
    }
}
