//! The private authority: create it, load it, issue identities.
//!
//! Makes certificates and keys in memory; files are `store`'s. Used by the command line, and by tests and the demo,
//! which ask for odd dates. Leaf keys are P-256, fresh for each certificate. Keys are never logged: `Debug` omits them.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, string::Ia5String,
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tidegate_shared::name::{BadName, NamePattern};
use tidegate_shared::tls::PemFile;
use time::OffsetDateTime;

use crate::peer;

/// How far certificates are dated back, so that a clock that is a little slow accepts them.
pub const BACKDATED: Duration = Duration::from_secs(300);

/// How long an authority is valid: ten years, with the leap days.
pub const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3_652 * 86_400);

/// When a certificate is valid. Certificates count whole seconds; fractions are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First instant.
    pub not_before: SystemTime,
    /// Last instant.
    pub not_after: SystemTime,
}

impl Validity {
    /// From [`BACKDATED`] before this moment until `length` after it.
    #[must_use]
    pub fn lasting(length: Duration) -> Self {
        let here = SystemTime::now();
        Self {
            not_before: here - BACKDATED,
            not_after: here + length,
        }
    }

    /// As [`Validity::lasting`], in days.
    #[must_use]
    pub fn days(days: u32) -> Self {
        Self::lasting(Duration::from_secs(u64::from(days) * 86_400))
    }
}

/// An authority: its certificate, the chain above it, and its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
    certificate_pem: String,
    /// What a verifier that trusts the root only needs besides the leaf: empty for a root.
    intermediates: Vec<CertificateDer<'static>>,
    not_after: SystemTime,
}

impl Authority {
    /// A root with a fresh P-256 key. Its name carries part of its key's fingerprint, so that two authorities in
    /// one trust file can be told apart.
    ///
    /// # Errors
    /// The cryptography provider fails.
    pub fn create(validity: Validity) -> Result<Self, CaFault> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        dates(&mut params, validity);
        let print =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
        let name = format!("Tidegate CA {}", HEXLOWER.encode(&print.as_ref()[..4]));
        params.distinguished_name = common_name(&name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// An authority from PEM: its certificate first, then the ones above it, and its key.
    ///
    /// # Errors
    /// What is wrong with which of the two.
    pub fn from_pem(certificates: &str, key: &str) -> Result<Self, CaFault> {
        let chain = PemFile::parse(certificates.as_bytes())
            .map_err(CaFault::Certificate)?
            .certificates;
        let first = chain
            .first()
            .ok_or_else(|| CaFault::Certificate("there is none".into()))?;
        let parsed = peer::parse(first).map_err(|e| CaFault::Certificate(e.to_string()))?;
        if !parsed.is_ca() {
            return Err(CaFault::NotAnAuthority);
        }
        let not_after = peer::facts(&parsed).not_after;
        let key_pair = KeyPair::from_pem(key).map_err(|e| CaFault::Key(e.to_string()))?;
        if key_pair.subject_public_key_info() != parsed.public_key().raw {
            return Err(CaFault::KeyMismatch);
        }
        Ok(Self {
            key_pem: key.into(),
            certificate_pem: certificates.into(),
            intermediates: chain.iter().filter(|c| !is_root(c)).cloned().collect(),
            not_after,
            issuer: Issuer::from_ca_cert_der(first, key_pair)?,
        })
    }

    /// The authority's certificate (and those above it) as PEM: what `--ca` names.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's key as PEM. Whoever has it can be every agent and every gateway.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// When the authority itself ends.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// An agent's identity: the first name is the CN, all are DNS SANs; clientAuth only. Names are read as an
    /// operator types them; `*.example.com` is a name.
    ///
    /// # Errors
    /// A name that is none, no name at all, or dates that cannot be.
    pub fn issue_agent<S: AsRef<str>>(
        &self,
        names: &[S],
        validity: Validity,
    ) -> Result<Bundle, CaFault> {
        let names = subjects(names, Subject::dns)?;
        self.issue(&names, ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    /// A gateway's identity: as an agent's, for serverAuth, and names may be IP addresses.
    ///
    /// # Errors
    /// As [`Authority::issue_agent`].
    pub fn issue_gateway<S: AsRef<str>>(
        &self,
        names: &[S],
        validity: Validity,
    ) -> Result<Bundle, CaFault> {
        let names = subjects(names, Subject::dns_or_address)?;
        self.issue(&names, ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// Signs whatever `params` say with a fresh P-256 key, unchecked: for certificates that an authority of
    /// somebody else's might issue, as tests need them.
    ///
    /// # Errors
    /// rcgen cannot encode them.
    pub fn sign(&self, params: &CertificateParams) -> Result<Bundle, CaFault> {
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        let mut pem = leaf.pem();
        for certificate in &self.intermediates {
            pem.push_str(&certificate_pem(certificate));
        }
        pem.push_str(&key.serialize_pem());
        Ok(Bundle {
            pem,
            leaf: leaf.der().clone(),
            not_after: params.not_after.into(),
            clamped: false,
        })
    }

    fn issue(
        &self,
        names: &[Subject],
        usage: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Result<Bundle, CaFault> {
        let first = names.first().ok_or(CaFault::NoName)?;
        let clamped = validity.not_after > self.not_after;
        let validity = Validity {
            not_after: validity.not_after.min(self.not_after),
            ..validity
        };
        if validity.not_after <= validity.not_before {
            return Err(CaFault::Dates);
        }
        let mut params = CertificateParams::default();
        dates(&mut params, validity);
        params.distinguished_name = common_name(&first.to_string());
        params.subject_alt_names = alt_names(names)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let bundle = self.sign(&params)?;
        Ok(Bundle { clamped, ..bundle })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// An identity as PEM: leaf, the intermediates if any, then the key. HAProxy's `crt` form.
pub struct Bundle {
    pem: String,
    leaf: CertificateDer<'static>,
    not_after: SystemTime,
    clamped: bool,
}

impl Bundle {
    /// The PEM text, private key included.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The leaf certificate.
    #[must_use]
    pub const fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    /// When it ends.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it ends earlier than asked for, because the authority does.
    #[must_use]
    pub const fn clamped(&self) -> bool {
        self.clamped
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What an identity is issued to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A name or a wildcard.
    Dns(NamePattern),
    /// An address; gateways only.
    Address(IpAddr),
}

impl Subject {
    /// A name as an operator types it.
    ///
    /// # Errors
    /// It is none, an IP address for example.
    pub fn dns(text: &str) -> Result<Self, CaFault> {
        NamePattern::from_operator(text)
            .map(Self::Dns)
            .map_err(CaFault::Name)
    }

    /// A name or an address, the latter with or without brackets.
    ///
    /// # Errors
    /// It is neither.
    pub fn dns_or_address(text: &str) -> Result<Self, CaFault> {
        match text.trim_matches(['[', ']']).parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => Self::dns(text),
        }
    }
}

fn subjects<S: AsRef<str>>(
    names: &[S],
    read: impl Fn(&str) -> Result<Subject, CaFault>,
) -> Result<Vec<Subject>, CaFault> {
    names.iter().map(|name| read(name.as_ref())).collect()
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Why nothing was issued.
#[derive(Debug, Error)]
pub enum CaFault {
    /// Not a name.
    #[error("{0}")]
    Name(#[source] BadName),
    /// An empty list.
    #[error("no name was given")]
    NoName,
    /// The end would come before the beginning; or the authority has expired.
    #[error("the certificate would end before it begins; has the authority expired?")]
    Dates,
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate cannot be used: {0}")]
    Certificate(String),
    /// It is a leaf.
    #[error("the certificate is not that of an authority (basicConstraints CA:TRUE is missing)")]
    NotAnAuthority,
    /// The authority's key cannot be read.
    #[error("the authority's private key cannot be used: {0}")]
    Key(String),
    /// Key and certificate are not a pair.
    #[error("the authority's private key does not belong to its certificate")]
    KeyMismatch,
    /// The provider or the encoder failed.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

fn dates(params: &mut CertificateParams, validity: Validity) {
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Each name once, in the order given.
fn alt_names(names: &[Subject]) -> Result<Vec<SanType>, CaFault> {
    let mut sans = Vec::with_capacity(names.len());
    for name in names {
        let san = match name {
            Subject::Dns(dns) => SanType::DnsName(Ia5String::try_from(dns.to_string())?),
            Subject::Address(address) => SanType::IpAddress(*address),
        };
        if !sans.contains(&san) {
            sans.push(san);
        }
    }
    Ok(sans)
}

/// Roots stay out of bundles: whoever verifies has its own copy, or has no reason to believe ours.
fn is_root(certificate: &CertificateDer<'_>) -> bool {
    peer::parse(certificate).is_ok_and(|c| c.subject().as_raw() == c.issuer().as_raw())
}

/// One PEM block with lines of 64 characters (RFC 7468 §2).
fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    let text = data_encoding::BASE64.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for start in (0..text.len()).step_by(64) {
        pem.push_str(&text[start..text.len().min(start + 64)]);
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
