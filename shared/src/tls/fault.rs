//! Handshake errors in words: a layer and a label for metrics, a sentence for the operator, and who refused whom.
//!
//! Serves both ends and both directions: our check of the peer failed, or the peer refused us with an alert. With
//! TLS 1.3 an agent learns of the gateway's refusal only from its first read, so that errors after the handshake
//! are to be passed through here as well.

use std::borrow::Cow;
use std::io::{self, ErrorKind};
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};
use rustls_pki_types::UnixTime;
use thiserror::Error as ThisError;

/// Which layer failed, as agents log it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// The connection under TLS.
    Tcp,
    /// TLS itself: versions, ciphers, what is not TLS at all.
    Tls,
    /// A certificate, ours or the peer's.
    Certificate,
    /// The protocol inside TLS.
    Alpn,
}

impl Layer {
    /// A stable word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Certificate => "certificate",
            Self::Alpn => "alpn",
        }
    }
}

/// Who ended the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// We did: what the peer sent is not acceptable.
    Us,
    /// The peer did, by an alert or by closing.
    Peer,
}

/// A failed handshake. Displays as one sentence.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error("{reason}")]
#[non_exhaustive]
pub struct HandshakeFault {
    /// Where it failed.
    pub layer: Layer,
    /// A stable, short, kebab-case word: `certificate-expired`, `unknown-ca`, `no-certificate`, `alpn-mismatch`,
    /// `peer-closed`, `not-tls`, … Fit for a metric's label: there are some thirty of them.
    pub label: &'static str,
    /// Who ended it.
    pub by: By,
    /// The sentence.
    pub reason: Cow<'static, str>,
}

impl HandshakeFault {
    /// Explains what a TLS stream's handshake, read or write returned.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Self {
        if let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
        {
            return Self::from_rustls(tls);
        }
        match error.kind() {
            ErrorKind::UnexpectedEof => fault(
                (Layer::Tls, "peer-closed", By::Peer),
                "the peer closed the connection during the handshake; is its port the right one, and does it speak TLS?",
            ),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                fault(
                    (Layer::Tcp, "peer-reset", By::Peer),
                    "the peer reset the connection during the handshake",
                )
            }
            ErrorKind::TimedOut => Self::timed_out(),
            _ => fault(
                (Layer::Tcp, "io", By::Us),
                format!("the connection failed during the handshake: {error}"),
            ),
        }
    }

    /// Explains what rustls returned.
    #[must_use]
    pub fn from_rustls(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => from_alert(*alert),
            Error::InvalidCertificate(why) => from_certificate(why),
            Error::NoCertificatesPresented => fault(
                (Layer::Certificate, "no-certificate", By::Us),
                "the peer sent no certificate",
            ),
            Error::NoApplicationProtocol => Self::no_alpn(),
            Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => fault(
                (Layer::Tls, "not-tls", By::Us),
                "the peer sent something that is not TLS; is it a clear-text port or client?",
            ),
            Error::InvalidMessage(
                InvalidMessage::CertificatePayloadTooLarge
                | InvalidMessage::HandshakePayloadTooLarge,
            ) => fault(
                (Layer::Tls, "too-large", By::Us),
                "the peer's handshake messages are too large",
            ),
            Error::PeerIncompatible(why) => from_incompatible(why),
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::PeerMisbehaved(_)
            | Error::PeerSentOversizedRecord
            | Error::DecryptError => fault(
                (Layer::Tls, "protocol-violation", By::Us),
                format!("the peer broke the TLS protocol: {error}"),
            ),
            _ => fault(
                (Layer::Tls, "internal", By::Us),
                format!("TLS failed on our side: {error}"),
            ),
        }
    }

    /// The peer agreed on no protocol, or on one that is not ours.
    #[must_use]
    pub fn no_alpn() -> Self {
        fault(
            (Layer::Alpn, "alpn-mismatch", By::Us),
            "the peer does not offer HTTP/2 by ALPN; it needs the protocol h2 (HAProxy: alpn h2)",
        )
    }

    /// The deadline for the handshake has passed.
    #[must_use]
    pub fn timed_out() -> Self {
        fault(
            (Layer::Tls, "timeout", By::Us),
            "the handshake was not finished in time",
        )
    }
}

fn fault(
    (layer, label, by): (Layer, &'static str, By),
    reason: impl Into<Cow<'static, str>>,
) -> HandshakeFault {
    HandshakeFault {
        layer,
        label,
        by,
        reason: reason.into(),
    }
}

/// Our verifier's verdict on the peer.
fn from_certificate(why: &CertificateError) -> HandshakeFault {
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
        other => ("certificate-refused", format!("the peer's certificate is not acceptable: {other}").into()),
    };
    fault((Layer::Certificate, label, By::Us), reason)
}

/// The peer's verdict on us, or on what we offer.
fn from_alert(alert: AlertDescription) -> HandshakeFault {
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
        other => {
            return fault(
                (Layer::Tls, "alert", By::Peer),
                format!("the peer ended the handshake with the alert {other:?}"),
            );
        }
    };
    fault((layer, label, By::Peer), reason)
}

fn from_incompatible(why: &PeerIncompatible) -> HandshakeFault {
    use PeerIncompatible as P;
    let place = match why {
        P::ServerDoesNotSupportTls12Or13
        | P::ServerTlsVersionIsDisabledByOurConfig
        | P::SupportedVersionsExtensionRequired
        | P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled => (Layer::Tls, "version-mismatch", By::Us),
        _ => (Layer::Tls, "no-common-cipher", By::Us),
    };
    fault(
        place,
        format!("the peer and we have no TLS parameters in common: {why:?}"),
    )
}

/// At most a few names of a certificate, escaped: they are the peer's to choose.
fn listed(names: &[String]) -> String {
    const MOST: usize = 5;
    if names.is_empty() {
        return "no DNS name at all".into();
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

    #[test]
    fn every_alert_has_a_layer_a_label_and_a_sentence() {
        for code in 0..=u8::MAX {
            let fault = HandshakeFault::from_rustls(&Error::AlertReceived(code.into()));
            assert_eq!(fault.by, By::Peer);
            assert!(
                fault
                    .label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(fault.reason.contains("peer"), "{fault}");
        }
    }

    #[test]
    fn io_errors_are_told_apart() {
        let wrapped = io::Error::new(ErrorKind::InvalidData, Error::NoCertificatesPresented);
        for (error, label, by) in [
            (wrapped, "no-certificate", By::Us),
            (ErrorKind::UnexpectedEof.into(), "peer-closed", By::Peer),
            (ErrorKind::ConnectionReset.into(), "peer-reset", By::Peer),
            (ErrorKind::TimedOut.into(), "timeout", By::Us),
            (ErrorKind::OutOfMemory.into(), "io", By::Us),
        ] {
            let fault = HandshakeFault::from_io(&error);
            assert_eq!((fault.label, fault.by), (label, by), "{error}");
        }
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
        let names: Vec<String> = (0..9).map(|n| format!("n{n}\r\n")).collect();
        let text = listed(&names);
        assert!(
            !text.contains('\n') && text.contains("n4") && !text.contains("n5"),
            "{text}"
        );
        assert_eq!(listed(&[]), "no DNS name at all");
    }
}
