//! What is wrong with a certificate that the peer showed: rustls's and webpki's verdicts as sentences that say what to do.
//! Pure. Called by the parent for our own verifier's verdict; a peer's verdict on us is `peer`'s.

use std::borrow::Cow;
use std::time::Duration;

use rustls::{CertificateError, OtherError};
use rustls_pki_types::UnixTime;

use super::{By, HandshakeFault, Layer, fault, words};

/// Our verifier's verdict on the peer.
pub(super) fn from_certificate(why: &CertificateError) -> HandshakeFault {
    use CertificateError as E;
    let (label, reason): (_, Cow<'static, str>) = match why {
        E::Expired => ("certificate-expired", "the peer's certificate has expired".into()),
        E::ExpiredContext { time, not_after } => (
            "certificate-expired",
            format!("the peer's certificate expired {} ago", apart(*not_after, *time)).into(),
        ),
        E::NotValidYet => (
            "certificate-not-yet-valid",
            "the peer's certificate is not valid yet; compare the clocks".into(),
        ),
        E::NotValidYetContext { time, not_before } => (
            "certificate-not-yet-valid",
            format!(
                "the peer's certificate is valid only in {}; compare the clocks",
                apart(*time, *not_before)
            )
            .into(),
        ),
        E::Revoked => ("certificate-revoked", "the peer's certificate is revoked".into()),
        E::UnknownRevocationStatus | E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => (
            "revocation-unknown",
            "no current revocation list covers the peer's certificate".into(),
        ),
        E::UnknownIssuer => (
            "unknown-ca",
            "the peer's certificate does not end at an authority that is trusted here; compare the --ca files".into(),
        ),
        E::BadSignature => (
            "bad-signature",
            "the signature on the peer's certificate or handshake is wrong".into(),
        ),
        E::NotValidForName => (
            "wrong-name",
            "the peer's certificate is not valid for the expected server name".into(),
        ),
        // Browsers and servers of old looked at the CN, so people still issue such certificates.
        E::NotValidForNameContext { expected, presented } if presented.is_empty() => (
            "nameless",
            format!(
                "the peer's certificate is not valid for {}: it has no SAN (subjectAltName), and a CN alone does not count; issue it again with this name as a SAN",
                expected.to_str()
            )
            .into(),
        ),
        E::NotValidForNameContext { expected, presented } => (
            "wrong-name",
            format!(
                "the peer's certificate is not valid for {}; it names {}",
                expected.to_str(),
                listed(presented)
            )
            .into(),
        ),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => (
            "wrong-usage",
            "the peer's certificate is not meant for this (gateways need serverAuth, agents clientAuth)".into(),
        ),
        E::BadEncoding => ("bad-encoding", "the peer's certificate is malformed".into()),
        E::UnhandledCriticalExtension => (
            "certificate-refused",
            "the peer's certificate has a critical extension that is not known here; issue it without".into(),
        ),
        #[expect(deprecated, reason = "the verifier still returns it")]
        E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "certificate-refused",
            "the peer's certificate is signed by an algorithm that is not accepted here; issue it with ECDSA, Ed25519 or RSA and SHA-2".into(),
        ),
        E::InvalidOcspResponse => (
            "revocation-unknown",
            "what the peer says about its certificate's revocation (OCSP) is wrong".into(),
        ),
        E::ApplicationVerificationFailure => (
            "certificate-refused",
            "the peer's certificate was refused by a rule of this program".into(),
        ),
        E::Other(OtherError(cause)) => {
            let below = cause.downcast_ref();
            let label = match below {
                Some(webpki::Error::CaUsedAsEndEntity) => "authority-shown",
                _ => "certificate-refused",
            };
            let sentence = below.and_then(from_webpki).map_or_else(
                || format!("the peer's certificate is not acceptable: {}", words(cause)).into(),
                Cow::Borrowed,
            );
            (label, sentence)
        }
        other => (
            "certificate-refused",
            format!("the peer's certificate is not acceptable: {}", words(other)).into(),
        ),
    };
    fault((Layer::Certificate, label, By::Us), reason)
}

/// What only the library below rustls tells apart.
fn from_webpki(why: &webpki::Error) -> Option<&'static str> {
    use webpki::Error as E;
    Some(match why {
        E::CaUsedAsEndEntity => {
            "the peer's certificate is an authority's own; give the peer one that the authority issued"
        }
        E::EndEntityUsedAsCa => {
            "the peer's certificate was issued by one that is not an authority's (basicConstraints)"
        }
        E::NameConstraintViolation => {
            "the peer's certificate has a name that its authority may not issue (nameConstraints)"
        }
        E::PathLenConstraintViolated | E::MaximumPathDepthExceeded => {
            "there are more authorities above the peer's certificate than are allowed"
        }
        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded => {
            "the peer's chain of certificates takes too long to check; send the certificate and its issuers alone"
        }
        E::UnsupportedCertVersion => {
            "the peer's certificate is not of version 3 (X.509v3), as it is without extensions; issue it again with one (openssl x509 -req … -extfile FILE)"
        }
        E::InvalidSerialNumber => {
            "the serial number of the peer's certificate is not a positive one of 20 octets at most"
        }
        E::EmptyEkuExtension => {
            "the peer's certificate lists its uses (extendedKeyUsage) and names none"
        }
        E::SignatureAlgorithmMismatch => {
            "the peer's certificate names two different algorithms for its one signature"
        }
        E::ExtensionValueInvalid | E::MalformedExtensions => {
            "an extension of the peer's certificate is malformed"
        }
        E::MalformedDnsIdentifier | E::UnsupportedNameType => {
            "a name in the peer's certificate is malformed"
        }
        E::MalformedNameConstraint | E::InvalidNetworkMaskConstraint => {
            "what an authority above the peer's certificate may issue is written malformed (nameConstraints)"
        }
        _ => return None,
    })
}

/// At most a few names of a certificate, escaped: they are the peer's to choose.
fn listed(names: &[String]) -> String {
    const MOST: usize = 5;
    let names: Vec<&str> = names.iter().filter_map(|name| bare(name)).collect();
    if names.is_empty() {
        return "no host at all".into();
    }
    let shown: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| {
            name.chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect()
        })
        .collect();
    let more = if names.len() > MOST { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// A name out of how the verifier shows it: `DnsName("example.com")`, `IpAddress(192.0.2.1)`. `None` for what names no host.
fn bare(shown: &str) -> Option<&str> {
    ["DnsName(", "IpAddress("]
        .iter()
        .find_map(|kind| shown.strip_prefix(kind)?.strip_suffix(')'))
        .map(|name| name.trim_matches('"'))
}

/// The time from `earlier` to `later` in its largest unit.
fn apart(earlier: UnixTime, later: UnixTime) -> String {
    let apart = Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()));
    let seconds = apart.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_a_peer_can_cause_is_a_sentence() {
        use webpki::Error as E;
        let below = [
            E::CaUsedAsEndEntity,
            E::EndEntityUsedAsCa,
            E::NameConstraintViolation,
            E::PathLenConstraintViolated,
            E::MaximumPathBuildCallsExceeded,
            E::UnsupportedCertVersion,
            E::InvalidSerialNumber,
            E::EmptyEkuExtension,
            E::SignatureAlgorithmMismatch,
            E::MalformedExtensions,
            E::MalformedDnsIdentifier,
            E::MalformedNameConstraint,
            // What has no sentence of its own falls back to words.
            E::CertDistrusted,
        ];
        let of_ours = [
            CertificateError::UnhandledCriticalExtension,
            CertificateError::InvalidOcspResponse,
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: vec![6, 1, 42],
                supported_algorithms: Vec::new(),
            },
        ];
        let below = below.map(|why| CertificateError::Other(OtherError(Arc::new(why))));
        for why in of_ours.into_iter().chain(below) {
            let text = from_certificate(&why).to_string();
            let debug = |word: &str| {
                let inside = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
                word.contains(['{', '[', '"']) || inside.chars().any(|c| c.is_ascii_uppercase())
            };
            let known = [
                "basicConstraints",
                "nameConstraints",
                "extendedKeyUsage",
                "FILE",
            ];
            let raw = text
                .split([' ', '(', ')', ';', ','])
                .find(|word| !known.contains(word) && !word.starts_with("X.509") && debug(word));
            assert_eq!(raw, None, "{text}");
            assert!(text.contains("peer"), "{text}");
        }
        let authority = CertificateError::Other(OtherError(Arc::new(E::CaUsedAsEndEntity)));
        let told = HandshakeFault::from_rustls(&authority.into());
        assert!(told.reason.contains("an authority's own"), "{told}");
    }

    #[test]
    fn dates_are_told_in_words() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext {
            time: at(3 * 86_400 + 50),
            not_after: at(40),
        };
        let fault = HandshakeFault::from_rustls(&expired.into());
        assert_eq!(
            fault.to_string(),
            "the peer's certificate expired 3 days ago"
        );
        let early = CertificateError::NotValidYetContext {
            time: at(0),
            not_before: at(90),
        };
        let fault = HandshakeFault::from_rustls(&early.into());
        assert!(fault.reason.contains("only in 90 s"), "{fault}");
    }

    #[test]
    fn the_peers_names_are_escaped_and_few() {
        let names: Vec<String> = (0..9).map(|n| format!("DnsName(\"n{n}\r\n\")")).collect();
        let text = listed(&names);
        assert!(
            !text.contains('\n') && text.contains("n4") && !text.contains("n5"),
            "{text}"
        );
        let mixed = [
            "DnsName(\"a.test\")",
            "DirectoryName",
            "Unsupported(0x81)",
            "IpAddress(192.0.2.1)",
        ];
        assert_eq!(listed(&mixed.map(str::to_owned)), "a.test, 192.0.2.1");
        for none in [&[][..], &["DirectoryName".to_owned()]] {
            assert_eq!(listed(none), "no host at all");
        }
    }

    #[test]
    fn a_certificate_that_has_a_cn_only_is_told_what_it_lacks() {
        let fault = |presented: &[&str]| {
            HandshakeFault::from_rustls(
                &CertificateError::NotValidForNameContext {
                    expected: "gw.test".try_into().unwrap(),
                    presented: presented.iter().map(ToString::to_string).collect(),
                }
                .into(),
            )
        };
        let nameless = fault(&[]);
        assert_eq!(nameless.label, "nameless");
        assert!(
            nameless.reason.contains("a CN alone does not count"),
            "{nameless}"
        );
        let other = fault(&["DnsName(\"other.test\")"]);
        assert_eq!(other.label, "wrong-name");
        assert!(
            other.reason.contains("gw.test; it names other.test"),
            "{other}"
        );
    }
}
