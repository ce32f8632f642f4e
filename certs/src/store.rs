//! Identities and authorities as files in a directory: `ca.crt`, `ca.key`, `NAME.pem`.
//!
//! Files appear whole or not at all: they are written beside their place, with their final mode from the start, and
//! renamed. Keys are 0600. What the files mean is `ca`'s and `peer`'s business. Called by the command line and by
//! whoever sets up a gateway and agents in one go, the demo for instance.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;
use thiserror::Error;
use tidegate_shared::tls::{PemFile, read_bounded};

use crate::ca::{Authority, Bundle, CaFault, Subject, Validity};
use crate::peer::{self, PeerCertificate, Refusal};

/// The authority's certificate: what `--ca` names.
pub const CA_CERTIFICATE: &str = "ca.crt";

/// The authority's private key.
pub const CA_KEY: &str = "ca.key";

/// Creates an authority in `dir`, which is created as well where it does not exist.
///
/// # Errors
/// There is one already, or half of one; it is never overwritten. Or a file cannot be written.
pub fn init(dir: &Path, validity: Validity) -> Result<Authority, StoreFault> {
    let [certificate, key] = [CA_CERTIFICATE, CA_KEY].map(|name| dir.join(name));
    for path in [&certificate, &key] {
        if path.symlink_metadata().is_ok() {
            return Err(StoreFault::Exists(path.clone()));
        }
    }
    fs::create_dir_all(dir).map_err(|e| StoreFault::io("create", dir, e))?;
    let authority = Authority::create(validity)?;
    // The key first: a certificate without its key would be handed out and could never issue anything.
    write(&key, authority.key_pem(), 0o600, Replace::Never)?;
    write(
        &certificate,
        authority.certificate_pem(),
        0o644,
        Replace::Never,
    )
    .inspect_err(|_| {
        // Ours, and of no use alone. If it cannot be removed the next `init` names it.
        let _ = fs::remove_file(&key);
    })?;
    Ok(authority)
}

/// Loads the authority in `dir`.
///
/// # Errors
/// There is none, or its files are damaged or not a pair.
pub fn open(dir: &Path) -> Result<Authority, StoreFault> {
    let [certificate, key] = [CA_CERTIFICATE, CA_KEY].map(|name| dir.join(name));
    let text = |path: &Path| {
        let octets = read_bounded(path)?;
        String::from_utf8(octets)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is no text"))
    };
    let read = |path: &Path| match text(path) {
        Ok(text) => Ok(text),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(StoreFault::NoAuthority(path.into())),
        Err(e) => Err(StoreFault::io("read", path, e)),
    };
    Ok(Authority::from_pem(&read(&certificate)?, &read(&key)?)?)
}

/// Writes an identity to `DIR/NAME.pem`, the star of a wildcard as `_wildcard`, and returns the path.
///
/// An identity of the same kind that is already there is replaced, in one step: that is how one is renewed.
///
/// # Errors
/// The file there is something else, which is then left alone. Or it cannot be written.
pub fn write_identity(dir: &Path, name: &Subject, bundle: &Bundle) -> Result<PathBuf, StoreFault> {
    let path = dir.join(file_name(name));
    if path.symlink_metadata().is_ok() && kind_of_file(&path) != kind_of(bundle.leaf()) {
        return Err(StoreFault::AnotherKind(path));
    }
    write(&path, bundle.pem(), 0o600, Replace::Whole)?;
    Ok(path)
}

/// The names of the identity in a file; none where there is no identity.
pub fn names(path: &Path) -> Vec<String> {
    let Ok(file) = PemFile::read(path) else {
        return Vec::new();
    };
    let Some(leaf) = file.certificates.first() else {
        return Vec::new();
    };
    match (kind_of(leaf), PeerCertificate::read(leaf, true)) {
        (Some(Kind::Agent), Ok(agent)) => agent.names.iter().map(ToString::to_string).collect(),
        _ => peer::gateway_identity(leaf).map_or_else(|_| Vec::new(), |gateway| gateway.names),
    }
}

/// `NAME.pem`. Parsed names hold nothing that a path could take for more than a file's name.
pub fn file_name(name: &Subject) -> String {
    let name = name.to_string();
    match name.strip_prefix('*') {
        Some(rest) => format!("_wildcard{rest}.pem"),
        None => format!("{name}.pem"),
    }
}

/// Whose identity a leaf is. `None` for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Agent,
    Gateway,
}

fn kind_of_file(path: &Path) -> Option<Kind> {
    let file = PemFile::read(path).ok()?;
    (!file.keys.is_empty()).then(|| kind_of(file.certificates.first()?))?
}

fn kind_of(leaf: &[u8]) -> Option<Kind> {
    match (
        PeerCertificate::read(leaf, true),
        peer::gateway_identity(leaf),
    ) {
        (Ok(_), Err(Refusal::NotForServers)) => Some(Kind::Agent),
        (_, Ok(_)) => Some(Kind::Gateway),
        _ => None,
    }
}

enum Replace {
    Never,
    Whole,
}

fn write(path: &Path, text: &str, mode: u32, replace: Replace) -> Result<(), StoreFault> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    let fault = |e| StoreFault::io("write", path, e);
    let mut file = Builder::new()
        .prefix(".tidegate-certs-")
        .permissions(permissions(mode))
        .tempfile_in(dir)
        .map_err(fault)?;
    file.write_all(text.as_bytes()).map_err(fault)?;
    // The process's umask may have taken bits from the mode asked for.
    file.as_file()
        .set_permissions(permissions(mode))
        .map_err(fault)?;
    file.as_file().sync_all().map_err(fault)?;
    let persisted = match replace {
        Replace::Never => file.persist_noclobber(path),
        Replace::Whole => file.persist(path),
    };
    persisted.map_err(|e| match e.error.kind() {
        ErrorKind::AlreadyExists => StoreFault::Exists(path.into()),
        _ => fault(e.error),
    })?;
    // A rename outlives a power cut only when the directory is written too.
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(fault)
}

fn permissions(mode: u32) -> Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// Why files were not read or written.
#[derive(Debug, Error)]
pub enum StoreFault {
    /// There is an authority, or part of one.
    #[error(
        "{0} exists already; an authority is never overwritten, because every identity it issued would be lost; choose another --dir or move it away"
    )]
    Exists(PathBuf),
    /// There is no authority.
    #[error("{0} does not exist; create an authority first: tidegate-certs init --dir DIR")]
    NoAuthority(PathBuf),
    /// A gateway's identity where an agent's would go, or the reverse, or no identity at all.
    #[error(
        "{0} exists and is not an identity of the kind that would replace it; move it away, or use another first name"
    )]
    AnotherKind(PathBuf),
    /// The authority or the names.
    #[error(transparent)]
    Ca(#[from] CaFault),
    /// The file system.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// `read`, `write` or `create`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl StoreFault {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source,
        }
    }

    /// Whether the person at the keyboard can mend it by typing something else. A full disk is none of theirs.
    #[must_use]
    pub fn is_users(&self) -> bool {
        match self {
            Self::Exists(_) | Self::NoAuthority(_) | Self::AnotherKind(_) => true,
            Self::Ca(fault) => !matches!(fault, CaFault::Make(_)),
            Self::Io { source, .. } => is_users(source.kind()),
        }
    }
}

/// Whether a failure of the file system comes from the path that was given, and not from the machine.
pub(crate) const fn is_users(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists
            | ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
            | ErrorKind::ReadOnlyFilesystem
    )
}
