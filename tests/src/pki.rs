//! A throw-away CA in a directory, the certificates that the programs need, and the odd ones that they must refuse.
//!
//! Certificates are made with `rcgen` directly, not with the project's own `tidegate-certs`: the two must agree.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use time::OffsetDateTime;

/// A CA and the directory that holds what it issued.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// A certificate chain with its key, as rustls wants them.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Pki {
    /// Makes a CA called `name` and writes `NAME.crt` into `dir`.
    #[must_use]
    pub fn create(dir: &Path, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = common_name(&format!("Tidegate test CA {name}"));
        let ca_pem = params.self_signed(&key).unwrap().pem();
        fs::write(dir.join(format!("{name}.crt")), &ca_pem).unwrap();
        Self {
            dir: dir.to_owned(),
            issuer: Issuer::new(params, key),
            ca_pem,
        }
    }

    /// Where the CA's certificate called `name` is.
    #[must_use]
    pub fn ca_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// Parameters of a good agent certificate: the first name is the CN, all are DNS SANs, clientAuth.
    #[must_use]
    pub fn agent_params(names: &[&str]) -> CertificateParams {
        leaf(names, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Parameters of a good server certificate for `names` (host names or addresses).
    #[must_use]
    pub fn server_params(names: &[&str]) -> CertificateParams {
        leaf(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Issues an agent certificate and returns its PEM file (chain, then key, mode 0600).
    #[must_use]
    pub fn agent(&self, names: &[&str]) -> PathBuf {
        self.issue(&Self::agent_params(names), &file_name("agent", names))
    }

    /// Issues a server certificate and returns its PEM file.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> PathBuf {
        self.issue(&Self::server_params(names), &file_name("server", names))
    }

    /// Issues an agent certificate that is valid from an hour ago until `left` from the call.
    #[must_use]
    pub fn agent_for(&self, names: &[&str], left: Duration) -> PathBuf {
        let mut params = Self::agent_params(names);
        params.not_after = OffsetDateTime::now_utc() + left;
        self.issue(&params, &file_name("short", names))
    }

    /// Issues a gateway's certificate that ran out so long ago.
    #[must_use]
    pub fn server_expired(&self, names: &[&str], ago: Duration) -> PathBuf {
        let mut params = Self::server_params(names);
        params.not_after = OffsetDateTime::now_utc() - ago;
        params.not_before = params.not_after - 2 * ago;
        self.issue(&params, &file_name("expired", names))
    }

    /// Issues an agent certificate that is valid for a month, from `wait` after the call.
    #[must_use]
    pub fn agent_in(&self, names: &[&str], wait: Duration) -> PathBuf {
        let mut params = Self::agent_params(names);
        params.not_before = OffsetDateTime::now_utc() + wait;
        self.issue(&params, &file_name("short", names))
    }

    /// Signs `params` and writes `FILE.pem`.
    #[must_use]
    pub fn issue(&self, params: &CertificateParams, file: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let path = self.dir.join(format!("{file}.pem"));
        let pem = format!("{}{}{}", cert.pem(), self.ca_pem, key.serialize_pem());
        // Written aside and renamed, so that a program that watches the file never reads half of it.
        let aside = self.dir.join(format!("{file}.pem.part"));
        fs::write(&aside, pem).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&aside, &path).unwrap();
        path
    }

    /// A certificate that is its own authority's, as `openssl req -x509` makes it: `FILE.pem` with the key, `FILE.crt` without.
    #[must_use]
    pub fn self_signed(&self, mut params: CertificateParams, file: &str) -> (PathBuf, PathBuf) {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap().pem();
        let (both, alone) = (
            self.dir.join(format!("{file}.pem")),
            self.dir.join(format!("{file}.crt")),
        );
        fs::write(&both, format!("{cert}{}", key.serialize_pem())).unwrap();
        fs::write(&alone, cert).unwrap();
        (both, alone)
    }

    #[must_use]
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    /// A client that trusts this CA, shows `identity` if there is one, and offers `alpn`.
    #[must_use]
    pub fn client(&self, identity: Option<&Path>, alpn: &[&str]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match identity {
            Some(file) => {
                let (chain, key) = read_identity(file);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// A server that shows `identity`, asks for a client certificate of this CA when `mutual`, and offers `alpn`.
    #[must_use]
    pub fn server_config(&self, identity: &Path, mutual: bool, alpn: &[&str]) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider)
                    .build()
                    .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let (chain, key) = read_identity(identity);
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A distinguished name that is one CN.
#[must_use]
pub fn common_name(cn: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, DnValue::Utf8String(cn.to_owned()));
    name
}

/// A distinguished name with two CNs.
#[must_use]
pub fn two_common_names(first: &str, second: &str) -> DistinguishedName {
    let mut name = common_name(first);
    // 2.5.4.3 is the CN; under its number rcgen takes it for another attribute and keeps both.
    name.push(
        DnType::CustomDnType(vec![2, 5, 4, 3]),
        DnValue::Utf8String(second.to_owned()),
    );
    name
}

fn leaf(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(names[0]);
    params.subject_alt_names = names.iter().map(|name| san(name)).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3600);
    params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(30 * 24 * 3600);
    params
}

fn san(name: &str) -> SanType {
    match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into().unwrap()),
    }
}

fn file_name(kind: &str, names: &[&str]) -> String {
    format!("{kind}-{}", names.join("+").replace(['*', '/', ':'], "_"))
}

fn read_identity(file: &Path) -> Identity {
    let pem = fs::read(file).unwrap();
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .unwrap();
    (chain, PrivateKeyDer::from_pem_slice(&pem).unwrap())
}
