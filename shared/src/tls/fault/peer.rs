//! Why a peer refused us, what it has not in common with us, and what it did that TLS forbids, as sentences that say what to
//! do. Pure. Called by the parent; our verdict on its certificate is `certificate`'s.

use std::borrow::Cow;

use rustls::{AlertDescription, Error, PeerIncompatible};

use super::{By, HandshakeFault, Layer, fault, words};

/// The peer's verdict on us, or on what we offer.
pub(super) fn from_alert(alert: AlertDescription) -> HandshakeFault {
    use AlertDescription as A;
    let (layer, label, reason) = match alert {
        A::CertificateExpired => (
            Layer::Certificate,
            "certificate-expired",
            "the peer refuses our certificate: expired, or not valid yet by its clock",
        ),
        A::UnknownCA => (
            Layer::Certificate,
            "unknown-ca",
            "the peer refuses our certificate: it does not trust the authority that issued it",
        ),
        A::CertificateRevoked => (
            Layer::Certificate,
            "certificate-revoked",
            "the peer refuses our certificate: revoked",
        ),
        A::UnsupportedCertificate => (
            Layer::Certificate,
            "wrong-usage",
            "the peer refuses our certificate: not meant for this (gateways need serverAuth, agents clientAuth)",
        ),
        A::BadCertificate => (
            Layer::Certificate,
            "certificate-refused",
            "the peer refuses our certificate: malformed, or not for the name that it expects",
        ),
        A::CertificateUnknown | A::AccessDenied => (
            Layer::Certificate,
            "certificate-refused",
            "the peer refuses our certificate without saying why; its own log should tell",
        ),
        A::CertificateRequired | A::NoCertificate => (
            Layer::Certificate,
            "no-certificate",
            "the peer demands a certificate and got none",
        ),
        A::NoApplicationProtocol => (
            Layer::Alpn,
            "alpn-mismatch",
            "the peer refuses our protocols; does that port speak HTTP/2 (ALPN h2)?",
        ),
        A::ProtocolVersion | A::InsufficientSecurity => (
            Layer::Tls,
            "version-mismatch",
            "the peer speaks no TLS version or cipher of ours (1.2 and 1.3)",
        ),
        A::HandshakeFailure => (
            Layer::Tls,
            "handshake-failure",
            "the peer ended the handshake without saying why; its own log should tell",
        ),
        A::UnrecognisedName => (
            Layer::Tls,
            "unknown-server-name",
            "the peer has no certificate for the server name that was asked for",
        ),
        A::CloseNotify | A::UserCanceled => (
            Layer::Tls,
            "peer-closed",
            "the peer closed the connection during the handshake",
        ),
        A::DecodeError | A::IllegalParameter | A::UnexpectedMessage => (
            Layer::Tls,
            "alert",
            "the peer does not understand our TLS messages; its own log should tell",
        ),
        A::BadRecordMac | A::DecryptionFailed | A::DecryptError => (
            Layer::Tls,
            "alert",
            "the peer cannot decrypt what we sent; is something between us changing it?",
        ),
        A::InternalError => (
            Layer::Tls,
            "alert",
            "the peer failed at TLS for a reason of its own; its log should tell",
        ),
        other => {
            return fault(
                (Layer::Tls, "alert", By::Peer),
                format!(
                    "the peer ended the handshake with the TLS alert {}",
                    named(other)
                ),
            );
        }
    };
    fault((layer, label, By::Peer), reason)
}

/// What the peer lacks, or we do, for a handshake.
pub(super) fn from_incompatible(why: &PeerIncompatible) -> HandshakeFault {
    use PeerIncompatible as P;
    let what = match why {
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => {
            return fault(
                (Layer::Tls, "version-mismatch", By::Us),
                format!("{NOTHING_IN_COMMON}: it speaks neither TLS 1.2 nor 1.3"),
            );
        }
        P::NoCipherSuitesInCommon => "it knows no cipher suite of ours".into(),
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired | P::KeyShareExtensionRequired => {
            "it knows no key exchange group of ours".into()
        }
        P::NoSignatureSchemesInCommon
        | P::NoCertificateRequestSignatureSchemesInCommon
        | P::SignatureAlgorithmsExtensionRequired => {
            "it can check no signature that our certificate's key can make".into()
        }
        P::ExtendedMasterSecretExtensionRequired => {
            "it does not know the extended master secret (RFC 7627), which TLS 1.2 must not go without".into()
        }
        P::NullCompressionRequired => "it wants its records compressed".into(),
        P::EcPointsExtensionRequired
        | P::NoEcPointFormatsInCommon
        | P::UncompressedEcPointsRequired => {
            "it does not take uncompressed points on curves".into()
        }
        P::IncorrectCertificateTypeExtension | P::UnsolicitedCertificateTypeExtension => {
            "it wants another type of certificate than X.509".into()
        }
        other => Cow::Owned(words(other)),
    };
    fault(
        (Layer::Tls, "no-common-cipher", By::Us),
        format!("{NOTHING_IN_COMMON}: {what}"),
    )
}

const NOTHING_IN_COMMON: &str = "the peer and we have no TLS parameters in common";

/// The alert's name, or its number where it has none.
fn named(alert: AlertDescription) -> String {
    let number = u8::from(alert);
    match words(&alert) {
        // Those without a name are shown as the type and a number.
        text if text.starts_with("alert description") => format!("number {number}"),
        text => format!("`{text}` ({number})"),
    }
}

/// What the peer did that TLS forbids; `None` where it was not the peer.
pub(super) fn violation(error: &Error) -> Option<String> {
    Some(match error {
        Error::InvalidMessage(why) => format!("a message is malformed, {}", words(why)),
        Error::InappropriateMessage { got_type, .. } => {
            format!("a message came out of turn, {}", words(got_type))
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            format!("a handshake message came out of turn, {}", words(got_type))
        }
        Error::PeerMisbehaved(why) => words(why),
        Error::PeerSentOversizedRecord => "a record is larger than allowed".to_owned(),
        Error::DecryptError => {
            "a record cannot be decrypted; is something between us changing it?".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{ContentType, InvalidMessage, PeerMisbehaved};

    #[test]
    fn no_alert_shows_how_the_program_spells_it() {
        for code in 0..=u8::MAX {
            let text = from_alert(code.into()).to_string();
            assert!(
                !text.contains("0x") && !text.contains("Description"),
                "{text}"
            );
        }
        let told = from_alert(AlertDescription::NoRenegotiation).to_string();
        assert!(
            told.ends_with("the TLS alert `no renegotiation` (100)"),
            "{told}"
        );
        let told = from_alert(AlertDescription::from(200)).to_string();
        assert!(told.ends_with("the TLS alert number 200"), "{told}");
    }

    #[test]
    fn what_is_missing_in_common_and_what_is_forbidden_is_said_in_words() {
        let ciphers = from_incompatible(&PeerIncompatible::NoCipherSuitesInCommon);
        assert!(
            ciphers.reason.ends_with("it knows no cipher suite of ours"),
            "{ciphers}"
        );
        let rare = from_incompatible(&PeerIncompatible::Tls13RequiredForQuic);
        assert!(!rare.reason.contains("Required"), "{rare}");
        for (error, said) in [
            (
                Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests),
                "too many key update requests",
            ),
            (
                Error::InvalidMessage(InvalidMessage::TrailingData("x")),
                "trailing data (x)",
            ),
            (
                Error::InappropriateMessage {
                    expect_types: vec![ContentType::Handshake],
                    got_type: ContentType::ApplicationData,
                },
                "out of turn, application data",
            ),
        ] {
            let told = violation(&error).unwrap();
            assert!(told.contains(said), "{told}");
        }
        assert_eq!(violation(&Error::FailedToGetCurrentTime), None);
    }
}
