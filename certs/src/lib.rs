//! Certificates: reading whom one names, and the private authority that issues them.
//!
//! The only crate that sees rcgen and x509-parser. Handshakes and configurations are `tidegate_shared::tls`'s;
//! by the time a certificate comes here, its chain, its dates and its purpose have been verified.

/// DER to names, or to the reason why nothing is filed under this certificate.
pub mod peer;

/// Whether a file's certificates can be what chains end at.
pub mod anchor;

/// The private authority: create it, load it, issue identities.
pub mod ca;

/// Identities and authorities as files in a directory.
pub mod store;

/// How old one is, and when that is worth a line in a log.
pub mod life;

/// A file's certificates in words.
pub mod show;

/// The command line of `tidegate-certs`.
pub mod cli;
