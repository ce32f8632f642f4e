//! Handshake errors in words: a layer and a label for metrics, a sentence for the operator, and who refused whom.
//!
//! Serves both ends and both directions: our check of the peer failed, or the peer refused us with an alert. With
//! TLS 1.3 an agent learns of the gateway's refusal only from its first read, so that errors after the handshake
//! are to be passed through here as well.

use std::borrow::Cow;
use std::io::{self, ErrorKind};

use rustls::{Error, InvalidMessage};
use thiserror::Error as ThisError;

mod certificate; // our verdict on the peer's certificate

mod own; // rustls's verdict on a file of ours

mod peer; // the peer's verdict on us, and what it did wrong

pub(super) use own::of_our_own;

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
            Error::AlertReceived(alert) => peer::from_alert(*alert),
            Error::InvalidCertificate(why) => certificate::from_certificate(why),
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
            Error::PeerIncompatible(why) => peer::from_incompatible(why),
            error => match peer::violation(error) {
                Some(what) => fault(
                    (Layer::Tls, "protocol-violation", By::Us),
                    format!("the peer broke the TLS protocol: {what}"),
                ),
                None => fault(
                    (Layer::Tls, "internal", By::Us),
                    format!("TLS failed on our side: {error}"),
                ),
            },
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

/// A variant's name in words, for what is too rare for a sentence of its own: `MissingData("Finished")` is `missing data
/// (Finished)`.
fn words(variant: &impl std::fmt::Debug) -> String {
    let debug = format!("{variant:?}");
    let (name, rest) = debug.split_at(
        debug
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(debug.len()),
    );
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::with_capacity(debug.len() + 8);
    for (at, letter) in letters.iter().enumerate() {
        let next_is_small = letters.get(at + 1).is_some_and(char::is_ascii_lowercase);
        let last_is_small = at > 0 && !letters[at - 1].is_ascii_uppercase();
        // A word begins at a capital, and a run of capitals is one word.
        let begins = letter.is_ascii_uppercase() && (next_is_small || last_is_small);
        if begins && at > 0 {
            text.push(' ');
        }
        text.push(if next_is_small || !begins && last_is_small {
            letter.to_ascii_lowercase()
        } else {
            *letter
        });
    }
    let about = rest.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if !about.is_empty() {
        text.push_str(&format!(" ({})", about.escape_debug()));
    }
    text
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
    fn the_name_of_a_variant_becomes_words() {
        assert_eq!(
            words(&rustls::PeerMisbehaved::TooManyEmptyFragments),
            "too many empty fragments"
        );
        assert_eq!(
            words(&InvalidMessage::MissingData("Finished")),
            "missing data (Finished)"
        );
        assert_eq!(words(&rustls::AlertDescription::UnknownCA), "unknown CA");
        assert_eq!(
            words(&InvalidMessage::DuplicateExtension(16)),
            "duplicate extension (16)"
        );
    }
}
