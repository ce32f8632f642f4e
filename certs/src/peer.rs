//! DER to names, or to the reason why nothing is filed under this certificate.
//!
//! Pure. Called by the gateway for every tunnel after the handshake, by the agent for its own identity, and by
//! `show`. Chain, dates and signatures are rustls' part; names are ours, because rustls does not look at a client's.
//! The list of oddities is `reliability.md` §2.3: each of them got into the pool of the proxy that was measured.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use thiserror::Error;
use tidegate_shared::name::{BadName, NamePattern};
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{AttributeTypeAndValue, X509Name, X509Version};

/// The most names that one certificate may file a tunnel under. TLS allows a chain of 64 KiB, room for thousands.
pub const MAX_NAMES: usize = 256;

/// What is the same for agents and gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Facts {
    /// First instant of validity.
    pub not_before: SystemTime,
    /// Last instant of validity: a live tunnel ends with it.
    pub not_after: SystemTime,
    /// SHA-256 of the DER, in lower-case hex.
    pub fingerprint_sha256: String,
    /// The issuer's distinguished name, escaped for logs.
    pub issuer: String,
    /// `P-256`, `RSA 2048`, `Ed25519`, …
    pub key_type: String,
}

/// An agent's certificate in which nothing is odd.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCertificate {
    /// The common name.
    pub primary: NamePattern,
    /// What a tunnel is filed under: the common name, then the other DNS names in the certificate's order.
    pub names: Vec<NamePattern>,
    /// Dates, fingerprint, issuer, key.
    pub facts: Facts,
}

impl PeerCertificate {
    /// Reads an agent's leaf certificate. `wildcards` is whether agents may hold `*.example.com`.
    ///
    /// Without any DNS name in its SANs the common name alone is filed, as with certificates made for HAProxy.
    /// SANs that are not DNS names (addresses, e-mail, URIs) are not names of tunnels and do not count.
    ///
    /// # Errors
    /// Why nothing may be filed under it.
    pub fn read(der: &[u8], wildcards: bool) -> Result<Self, Refusal> {
        let certificate = parse(der)?;
        check_leaf(&certificate)?;
        if !allows(&certificate, |usage| usage.client_auth)? {
            return Err(Refusal::NotForClients);
        }
        let primary = common_name(&certificate)?;
        let names = filed_names(primary.clone(), dns_sans(&certificate)?)?;
        if let Some(wildcard) = names.iter().find(|name| name.is_wildcard() && !wildcards) {
            return Err(Refusal::WildcardNotAllowed(wildcard.clone()));
        }
        Ok(Self {
            primary,
            names,
            facts: facts(&certificate),
        })
    }
}

/// A gateway's certificate that agents can accept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayCertificate {
    /// DNS names and IP addresses, as text: what `--server-name` can be.
    pub names: Vec<String>,
    /// Dates, fingerprint, issuer, key.
    pub facts: Facts,
}

/// Reads a gateway's own leaf certificate, to tell the operator at start what every agent would otherwise find out.
///
/// # Errors
/// Why agents will not accept it: not for servers, or without a SAN (verifiers do not look at the common name).
pub fn gateway_identity(der: &[u8]) -> Result<GatewayCertificate, Refusal> {
    let certificate = parse(der)?;
    check_leaf(&certificate)?;
    if !allows(&certificate, |usage| usage.server_auth)? {
        return Err(Refusal::NotForServers);
    }
    let names = server_names(&certificate)?;
    if names.is_empty() {
        return Err(Refusal::NoServerName);
    }
    Ok(GatewayCertificate {
        names,
        facts: facts(&certificate),
    })
}

/// Why a certificate is refused although its chain is good. One sentence each, safe to log and to tell the peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a certificate, or with bytes after it.
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
    /// An X.509 v1 or v2 certificate, which has no extensions.
    #[error("the certificate is not X.509 version 3")]
    OldVersion,
    /// An authority's own certificate.
    #[error("this is the certificate of an authority (CA), not an identity")]
    Authority,
    /// Extended key usage without clientAuth.
    #[error("the certificate's extended key usage does not allow clientAuth")]
    NotForClients,
    /// Extended key usage without serverAuth.
    #[error("the certificate's extended key usage does not allow serverAuth")]
    NotForServers,
    /// A gateway's certificate without DNS name or address in its SANs.
    #[error(
        "the certificate has no DNS name or IP address among its SANs; agents do not look at the CN"
    )]
    NoServerName,
    /// No CN.
    #[error("the certificate has no common name (CN)")]
    NoCommonName,
    /// More than one CN: two readers would see two names.
    #[error("the certificate has {0} common names (CN); it must have one")]
    ManyCommonNames(usize),
    /// A BMPString, say: two readers would see two names.
    #[error("the common name (CN) is of type {0}; it must be a UTF8String or a PrintableString")]
    StringType(&'static str),
    /// The CN's bytes are not text.
    #[error("the common name (CN) is not valid UTF-8")]
    NotText,
    /// The CN is not a name.
    #[error("the common name (CN) is refused: {0}")]
    CommonName(#[source] BadName),
    /// A DNS SAN is not a name.
    #[error("a DNS name among the SANs is refused: {0}")]
    AltName(#[source] BadName),
    /// SANs that cannot be read.
    #[error("the certificate's SANs are malformed")]
    BadAltNames,
    /// CN and SANs disagree.
    #[error("the common name {0} is not among the certificate's DNS SANs")]
    CommonNameNotInSans(NamePattern),
    /// More than [`MAX_NAMES`].
    #[error("the certificate holds {0} names, {MAX_NAMES} is the limit")]
    TooManyNames(usize),
    /// A wildcard where agents may not hold any.
    #[error(
        "the certificate holds the wildcard {0}; the gateway was not told to allow wildcards (--allow-wildcards)"
    )]
    WildcardNotAllowed(NamePattern),
}

impl Refusal {
    /// A stable, short, kebab-case word for metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::OldVersion => "old-version",
            Self::Authority => "authority",
            Self::NotForClients | Self::NotForServers => "wrong-usage",
            Self::NoServerName => "no-server-name",
            Self::NoCommonName => "no-cn",
            Self::ManyCommonNames(_) => "many-cns",
            Self::StringType(_) => "cn-string-type",
            Self::NotText => "cn-not-text",
            Self::CommonName(_) => "bad-cn",
            Self::AltName(_) => "bad-san",
            Self::BadAltNames => "malformed-sans",
            Self::CommonNameNotInSans(_) => "cn-not-in-sans",
            Self::TooManyNames(_) => "too-many-names",
            Self::WildcardNotAllowed(_) => "wildcard",
        }
    }
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(Refusal::Malformed(format!(
            "{} bytes follow it",
            rest.len()
        ))),
        Err(e) => Err(Refusal::Malformed(escaped(&e.to_string()))),
    }
}

pub(crate) fn facts(certificate: &X509Certificate<'_>) -> Facts {
    let validity = certificate.validity();
    Facts {
        not_before: instant(validity.not_before),
        not_after: instant(validity.not_after),
        fingerprint_sha256: HEXLOWER.encode(digest(&SHA256, certificate.as_raw()).as_ref()),
        issuer: distinguished_name(certificate.issuer()),
        key_type: key_type(certificate),
    }
}

/// A distinguished name for people: RFC 4514 order as stored, control characters escaped.
pub(crate) fn distinguished_name(name: &X509Name<'_>) -> String {
    escaped(&name.to_string())
}

/// DNS names and addresses of a server certificate, as text. DNS names are not judged here, only escaped: verifiers
/// compare them literally.
pub(crate) fn server_names(certificate: &X509Certificate<'_>) -> Result<Vec<String>, Refusal> {
    let names = general_names(certificate)?
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some(escaped(dns)),
            GeneralName::IPAddress(octets) => address(octets),
            _ => None,
        });
    Ok(names.collect())
}

fn check_leaf(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    if certificate.version() != X509Version::V3 {
        return Err(Refusal::OldVersion);
    }
    if certificate.is_ca() {
        return Err(Refusal::Authority);
    }
    Ok(())
}

/// Whether the extended key usage permits what `purpose` looks at. Without the extension everything is permitted
/// (RFC 5280 §4.2.1.12); anyExtendedKeyUsage alone is not enough, as in rustls' verifier.
fn allows(
    certificate: &X509Certificate<'_>,
    purpose: impl Fn(&ExtendedKeyUsage<'_>) -> bool,
) -> Result<bool, Refusal> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|e| Refusal::Malformed(escaped(&e.to_string())))?;
    Ok(usage.is_none_or(|usage| purpose(usage.value)))
}

fn common_name(certificate: &X509Certificate<'_>) -> Result<NamePattern, Refusal> {
    let names: Vec<_> = certificate.subject().iter_common_name().collect();
    match names.as_slice() {
        [] => Err(Refusal::NoCommonName),
        [one] => NamePattern::parse(text_of(one)?).map_err(Refusal::CommonName),
        many => Err(Refusal::ManyCommonNames(many.len())),
    }
}

/// The text of a CN. Only the two string types that everyone decodes alike: what one reader takes for UTF-16 and
/// another for bytes with NULs in between is how HAProxy files a tunnel under the empty name.
fn text_of<'a>(attribute: &'a AttributeTypeAndValue<'_>) -> Result<&'a str, Refusal> {
    let value = attribute.attr_value();
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString => {
            str::from_utf8(value.data).map_err(|_| Refusal::NotText)
        }
        Tag::BmpString => Err(Refusal::StringType("BMPString")),
        Tag::UniversalString => Err(Refusal::StringType("UniversalString")),
        Tag::T61String => Err(Refusal::StringType("TeletexString")),
        Tag::Ia5String => Err(Refusal::StringType("IA5String")),
        _ => Err(Refusal::StringType("another kind")),
    }
}

fn dns_sans(certificate: &X509Certificate<'_>) -> Result<Vec<NamePattern>, Refusal> {
    general_names(certificate)?
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(dns) => Some(NamePattern::parse(dns).map_err(Refusal::AltName)),
            GeneralName::Invalid(..) => Some(Err(Refusal::BadAltNames)),
            _ => None,
        })
        .collect()
}

fn general_names<'c>(
    certificate: &'c X509Certificate<'_>,
) -> Result<&'c [GeneralName<'c>], Refusal> {
    let extension = certificate
        .subject_alternative_name()
        .map_err(|_| Refusal::BadAltNames)?;
    Ok(extension.map_or(&[], |sans| &sans.value.general_names))
}

/// CN first, each name once. Where there are DNS SANs the CN must be one of them, literally.
fn filed_names(primary: NamePattern, sans: Vec<NamePattern>) -> Result<Vec<NamePattern>, Refusal> {
    if sans.len() > MAX_NAMES {
        return Err(Refusal::TooManyNames(sans.len()));
    }
    if !sans.is_empty() && !sans.contains(&primary) {
        return Err(Refusal::CommonNameNotInSans(primary));
    }
    let mut names = vec![primary];
    for name in sans {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn instant(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance).unwrap_or(UNIX_EPOCH)
    } else {
        // ASN.1 ends with the year 9999, which every system's clock type holds.
        UNIX_EPOCH.checked_add(distance).unwrap_or(UNIX_EPOCH)
    }
}

fn key_type(certificate: &X509Certificate<'_>) -> String {
    let spki = certificate.public_key();
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => return "Ed25519".into(),
        "1.3.101.113" => return "Ed448".into(),
        _ => {}
    }
    if let Ok(PublicKey::RSA(rsa)) = spki.parsed() {
        return format!("RSA {}", rsa.key_size());
    }
    // Elliptic curves are named by the parameters; a point's length depends on whether it is compressed.
    let parameters = spki.algorithm.parameters.as_ref();
    let curve = parameters.and_then(|any| any.as_oid().ok());
    match curve.map(|oid| oid.to_id_string()).as_deref() {
        Some("1.2.840.10045.3.1.7") => "P-256".into(),
        Some("1.3.132.0.34") => "P-384".into(),
        Some("1.3.132.0.35") => "P-521".into(),
        Some(other) => format!("EC, curve {other}"),
        None => format!("unknown ({})", spki.algorithm.algorithm),
    }
}

fn address(octets: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(octets).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

/// Control characters escaped, and cut at a length that fits a log line.
fn escaped(text: &str) -> String {
    const MOST: usize = 256;
    let mut out: String = text
        .chars()
        .take(MOST)
        .flat_map(|c| {
            let escape = c.is_control().then(|| c.escape_default());
            let plain = (!c.is_control()).then_some(c);
            escape.into_iter().flatten().chain(plain)
        })
        .collect();
    if text.chars().nth(MOST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests;
