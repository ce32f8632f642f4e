//! Reading certificates and keys out of PEM files, in whatever order the blocks stand.
//!
//! The form is HAProxy's `crt`: chain and key in one file. Blocks of other kinds (EC and DH parameters, CRLs) are
//! skipped, as HAProxy does. Called by the rest of `tls`, and by `certs` to show a file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, FileType, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustls_pki_types::pem::{Error, PemObject, SectionKind};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use super::TlsFault;

/// The most that is read of one file. The authorities that a system trusts take a quarter of that.
const MOST: u64 = 1 << 20;

/// What one PEM file holds. Neither printed nor logged: `Debug` counts only.
#[non_exhaustive]
pub struct PemFile {
    /// The certificates, in the order of the file.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The private keys: PKCS#8, PKCS#1 and SEC1.
    pub keys: Vec<PrivateKeyDer<'static>>,
    /// Whether there is an encrypted private key, which nobody here can read.
    pub encrypted_key: bool,
}

impl PemFile {
    /// Reads `path` whole, as [`read_bounded`] does.
    ///
    /// # Errors
    /// The file cannot be read, is none or is too large, or a block in it is damaged. A file without any block is not an error here.
    pub fn read(path: &Path) -> Result<Self, TlsFault> {
        let bytes = read_bounded(path).map_err(|source| TlsFault::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&bytes).map_err(|what| TlsFault::Pem {
            path: path.into(),
            what,
        })
    }

    /// Reads PEM text.
    ///
    /// # Errors
    /// A sentence about the block that is damaged.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut file = Self {
            certificates: Vec::new(),
            keys: Vec::new(),
            encrypted_key: contains(bytes, b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
                || contains(bytes, b"Proc-Type: 4,ENCRYPTED"),
        };
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
            match section {
                Ok((kind, der)) => file.take(kind, der),
                // The legacy encrypted form has header lines in its block, which do not decode.
                Err(_) if file.encrypted_key => break,
                Err(error) => return Err(damage(&error)),
            }
        }
        Ok(file)
    }

    fn take(&mut self, kind: SectionKind, der: Vec<u8>) {
        match kind {
            SectionKind::Certificate => self.certificates.push(der.into()),
            SectionKind::PrivateKey => self.keys.push(PrivatePkcs8KeyDer::from(der).into()),
            SectionKind::RsaPrivateKey => self.keys.push(PrivatePkcs1KeyDer::from(der).into()),
            SectionKind::EcPrivateKey => self.keys.push(PrivateSec1KeyDer::from(der).into()),
            _ => {}
        }
    }
}

/// What is wrong with a block. Of the file itself only a block's kind is shown: where line breaks are lost, a line that begins
/// a block holds a key.
fn damage(error: &Error) -> String {
    let joined = "a line that begins a block does not end with it; are its line breaks lost?";
    match error {
        Error::MissingSectionEnd { end_marker } => match str::from_utf8(end_marker) {
            Ok(kind) if is_kind(kind) => format!(
                "a block is not ended: there is no `-----END {kind}-----`; is the file cut short?"
            ),
            _ => joined.to_owned(),
        },
        Error::IllegalSectionStart { .. } => joined.to_owned(),
        other => other.to_string(),
    }
}

/// Whether a text is a block's label as anybody writes it.
fn is_kind(text: &str) -> bool {
    let letters = |octet: u8| octet.is_ascii_uppercase() || octet.is_ascii_digit() || octet == b' ';
    text.len() <= 32 && text.bytes().all(letters)
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemFile")
            .field("certificates", &self.certificates.len())
            .field("keys", &self.keys.len())
            .field("encrypted_key", &self.encrypted_key)
            .finish()
    }
}

/// Reads a file whose size is not to be trusted: a regular one, of at most 1 MiB. Anything else may have no end (a
/// device), or no beginning (a pipe that nobody writes to), and could not be looked at again when it changes.
///
/// # Errors
/// The system's own, or a sentence about what stands in the file's place.
pub fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    // Looked at before it is opened, because opening a pipe waits for its writer.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        let what = describe(kind);
        return Err(refused(format!("it is {what}; give the path of a file")));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(refused(format!(
            "it is larger than {} MiB, which no file of certificates and keys is; give the right one",
            MOST >> 20
        )));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn describe(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn describe(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else {
        "no file"
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// What tells one state of a file from the next without reading it: time, length, and the inode, because a
/// renewal by rename may keep the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Stamp {
    /// `None` when the file cannot be looked at; reading it then tells why.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            modified: meta.modified().ok(),
            len: meta.len(),
            inode: inode(&meta),
        })
    }
}

/// A file that is read again when it changes.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    seen: Mutex<Option<Stamp>>,
}

impl FileWatch {
    /// To be made before the file is read: a change between the two is then seen by the next look.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            seen: Mutex::new(Stamp::of(path)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is another one than at the last look.
    pub fn has_changed(&self) -> bool {
        let stamp = Stamp::of(&self.path);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, stamp) != stamp
    }
}

/// Of which files it has been said, in which state: one that several settings name is read for each of them.
static SAID: Mutex<BTreeMap<PathBuf, (Stamp, u32)>> = Mutex::new(BTreeMap::new());

/// Says once per state of a file that a key can be read by others. A warning and no refusal: the mode may be what the
/// operator's secret store imposes.
pub(super) fn warn_if_readable_by_others(path: &Path) {
    let (Ok(meta), Some(stamp)) = (fs::metadata(path), Stamp::of(path)) else {
        return;
    };
    // What nobody hears, as before there is a log, is said later.
    if mode(&meta) & BY_OTHERS == 0 || !tracing::enabled!(tracing::Level::WARN) {
        return;
    }
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let state = (stamp, mode(&meta));
    if said.insert(path.to_owned(), state) != Some(state) {
        tracing::warn!(file = %path.display(), "the private key can be read by other users; chmod 600 the file");
    }
}

/// Whether users other than the owner may read a file.
#[must_use]
pub fn is_readable_by_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| mode(&meta) & BY_OTHERS != 0)
}

/// The bits of a mode that let the group or everybody read.
const BY_OTHERS: u32 = 0o044;

#[cfg(unix)]
fn inode(meta: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> u64 {
    0
}

#[cfg(unix)]
fn mode(meta: &Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::mode(meta)
}

#[cfg(not(unix))]
fn mode(_: &Metadata) -> u32 {
    0
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::Permissions;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_is_cut_short_is_told_of_in_text() {
        let cut = "-----BEGIN CERTIFICATE-----\nMIIB\n";
        let said = PemFile::parse(cut.as_bytes()).unwrap_err();
        assert!(said.contains("no `-----END CERTIFICATE-----`"), "{said}");
        let joined = "-----BEGIN PRIVATE KEY----- c2VjcmV0 -----END PRIVATE KEY-----\n";
        let said = PemFile::parse(joined.as_bytes()).unwrap_err();
        assert!(
            said.contains("line breaks") && !said.contains("c2V"),
            "{said}"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_warned_about() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, warned) in [(0o600, false), (0o640, true), (0o604, true), (0o400, false)] {
            file.as_file()
                .set_permissions(Permissions::from_mode(mode))
                .unwrap();
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_writer(move || writer.clone())
                .finish();
            // Before there is a log, and then for whoever names the file, and once more for somebody else.
            warn_if_readable_by_others(file.path());
            tracing::subscriber::with_default(subscriber, || {
                warn_if_readable_by_others(file.path());
                warn_if_readable_by_others(file.path());
            });
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            assert_eq!(
                text.matches("can be read by other users").count(),
                usize::from(warned),
                "{mode:o}: {text}"
            );
            assert_eq!(is_readable_by_others(file.path()), warned);
        }
    }

    #[test]
    fn other_blocks_are_skipped_and_damage_is_told() {
        let other =
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let file = PemFile::parse(other).unwrap();
        assert!(file.certificates.is_empty() && file.keys.is_empty() && !file.encrypted_key);
        assert!(PemFile::parse(b"-----BEGIN CERTIFICATE-----\nAAAA\n").is_err());
        assert!(
            PemFile::parse(b"-----BEGIN CERTIFICATE-----\n#\n-----END CERTIFICATE-----\n").is_err()
        );
        let legacy = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(PemFile::parse(legacy).unwrap().encrypted_key);
    }
}
