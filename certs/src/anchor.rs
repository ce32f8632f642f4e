//! Whether the certificates of a file can be what chains end at. Pure. Reading the file and verifying chains is
//! `tidegate_shared::tls`'s; called by both programs with each file of authorities that they read.

use rustls_pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::X509Version;

use crate::peer::{distinguished_name, parse};

/// How many of the wrong certificates are named.
const NAMED: usize = 3;

/// Refuses a file in which nothing is an authority: every handshake would fail, and blame the other end. That a file holds
/// nothing at all is said by whoever reads it.
///
/// # Errors
/// What the file holds, and what to give for it. Fit to stand behind the file's name and a colon.
pub fn require(certificates: &[CertificateDer<'_>]) -> Result<(), String> {
    let mut held = Vec::new();
    for der in certificates {
        match parse(der) {
            Ok(certificate) if !can_issue(&certificate) => held.push(described(&certificate)),
            // What cannot be read here may be more than enough for the verifier.
            _ => return Ok(()),
        }
    }
    if held.is_empty() {
        return Ok(());
    }
    let more = held.len().saturating_sub(NAMED);
    held.truncate(NAMED);
    let mut held = held.join(", ");
    if more > 0 {
        held.push_str(&format!(" and {more} more"));
    }
    Err(format!(
        "it holds no certificate authority, only {held}; give the certificate of the authority that issues those of \
         the other end (for tunnels, ca.crt of tidegate-certs init)"
    ))
}

/// An authority says so (RFC 5280 §4.2.1.9); before version 3 none could; and a certificate that was issued by whom it
/// names is the end of its own chain.
fn can_issue(certificate: &X509Certificate<'_>) -> bool {
    certificate.version() != X509Version::V3
        || certificate.is_ca()
        || certificate.basic_constraints().is_err()
        || certificate.subject().as_raw() == certificate.issuer().as_raw()
}

fn described(certificate: &X509Certificate<'_>) -> String {
    format!(
        "the certificate of {} (issued by {})",
        distinguished_name(certificate.subject()),
        distinguished_name(certificate.issuer())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::{Authority, Validity};
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tidegate_shared::tls::PemFile;

    /// Self-signed, of version 1: `openssl x509 -req -signkey`.
    const OLD: &str = "-----BEGIN CERTIFICATE-----
MIIBHjCBxQIUHMKkpRCjzeUxkR9cFrxtWcUGjKgwCgYIKoZIzj0EAwIwETEPMA0G
A1UEAwwGT2xkIENBMCAXDTI2MTEyMTExMTUzMVoYDzIxMjYxMDI4MTExNTMxWjAR
MQ8wDQYDVQQDDAZPbGQgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARr+lO4
eDRSWmXG/7WhJOOMpklykLp718DD3EtiWor+i8fs80CIqSqXgay9zHhQCODrqL58
PVyvDewxQBIfKy4+MAoGCCqGSM49BAMCA0gAMEUCIQD26iDVwLRouvjh8NL/HBpB
R0zTmZTA+F9+4GHCQ+xz1QIgZqngnWO9GXYUyJanenZ6YZNvKiWGHgX/sNaYP7Ld
pY0=
-----END CERTIFICATE-----
";

    fn held(text: &str) -> Vec<CertificateDer<'static>> {
        PemFile::parse(text.as_bytes()).unwrap().certificates
    }

    #[test]
    fn authorities_and_what_stands_for_itself_are_taken() {
        let authority = Authority::create(Validity::days(1)).unwrap();
        let own = CertificateParams::new(["app.test".to_owned()])
            .unwrap()
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap();
        for text in [authority.certificate_pem(), OLD, &own.pem()] {
            assert_eq!(require(&held(text)), Ok(()), "{text}");
        }
        let agent = authority
            .issue_agent(&["app.test"], Validity::days(1))
            .unwrap();
        let mixed = [agent.pem(), authority.certificate_pem()].concat();
        assert_eq!(require(&held(&mixed)), Ok(()), "one authority is enough");
    }

    #[test]
    fn a_file_of_leaves_is_refused_by_name() {
        let authority = Authority::create(Validity::days(1)).unwrap();
        let agent = authority
            .issue_agent(&["app.test"], Validity::days(1))
            .unwrap();
        let why = require(&held(agent.pem())).unwrap_err();
        for part in ["CN=app.test", "issued by CN=Tidegate CA", "ca.crt"] {
            assert!(why.contains(part), "{part}: {why}");
        }
        let why = require(&held(&agent.pem().repeat(5))).unwrap_err();
        assert!(why.contains("and 2 more"), "{why}");
    }

    /// Both ways of saying that one is none.
    #[test]
    fn a_leaf_that_says_so_is_refused_too() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(params, key);
        for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
            let mut params = CertificateParams::new(["app.test".to_owned()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, "app.test");
            params.is_ca = is_ca;
            let leaf = params
                .signed_by(&KeyPair::generate().unwrap(), &issuer)
                .unwrap();
            assert!(require(&[leaf.der().clone()]).is_err());
        }
    }
}
