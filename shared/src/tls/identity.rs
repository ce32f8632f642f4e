//! One certificate and its key, which can be swapped while connections use it.
//!
//! A gateway or an agent has one identity. It is read from a file, handed to rustls through [`SwapIdentity`], and
//! replaced when the file changes: handshakes take the one that is current, connections keep theirs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::anchors::Unfit;
use super::fault::of_our_own;
use super::pem::{PemFile, Stamp, warn_if_readable_by_others};
use super::{TlsFault, provider};

/// A certificate chain with its private key. `Debug` names the file only.
#[derive(Clone)]
pub struct Identity {
    path: PathBuf,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads a PEM bundle: certificates and exactly one key, in any order. The certificate that belongs to the key
    /// is the leaf wherever it stands; the others follow in the order of the file.
    ///
    /// Warns in the log when users other than the owner may read the file.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn load(path: &Path) -> Result<Self, TlsFault> {
        let file = PemFile::read(path)?;
        if !file.keys.is_empty() {
            warn_if_readable_by_others(path);
        }
        Self::from_pem_file(path, file, &provider())
    }

    pub(super) fn from_pem_file(
        path: &Path,
        mut file: PemFile,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsFault> {
        let here = || path.to_path_buf();
        if file.certificates.is_empty() {
            return Err(TlsFault::NoCertificate(here()));
        }
        let key = match (file.keys.len(), file.encrypted_key) {
            (0, false) => return Err(TlsFault::NoKey(here())),
            (0, true) => return Err(TlsFault::EncryptedKey(here())),
            (1, _) => file.keys.remove(0),
            (many, _) => return Err(TlsFault::ManyKeys(here(), many)),
        };
        let certified = certify(path, file.certificates, key, provider)?;
        Ok(Self {
            path: here(),
            certified: Arc::new(certified),
        })
    }

    /// The leaf certificate, for `certs::peer` to read.
    #[must_use]
    pub fn leaf(&self) -> &CertificateDer<'static> {
        // `certify` only returns chains that begin with the leaf.
        &self.certified.cert[0]
    }

    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Joins key and chain, with the leaf brought to the front.
fn certify(
    path: &Path,
    mut chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFault> {
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|e| TlsFault::BadKey {
            path: path.into(),
            what: of_our_own(&e),
        })?;
    let mut unread = None;
    for position in 0..chain.len() {
        let one = CertifiedKey::new(vec![chain[position].clone()], key.clone());
        match one.keys_match() {
            // A key that cannot tell its public half is taken on trust, with the first certificate.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
                chain[..=position].rotate_right(1);
                return Ok(CertifiedKey::new(chain, key));
            }
            Err(Error::InconsistentKeys(_)) => {}
            // The key may belong to another one, and this be an authority's.
            Err(e) => {
                unread.get_or_insert_with(|| TlsFault::BadCertificate {
                    path: path.into(),
                    position: position + 1,
                    what: of_our_own(&e),
                });
            }
        }
    }
    Err(unread.unwrap_or_else(|| TlsFault::KeyMismatch(path.into())))
}

/// An identity that can be replaced while it is in use. Give it to [`super::tunnel_server`] or
/// [`super::agent_client`], and call [`SwapIdentity::reload_if_changed`] from a timer.
pub struct SwapIdentity {
    path: PathBuf,
    current: ArcSwap<Identity>,
    seen: Mutex<Seen>,
}

/// The latest attempt, good or bad: a bad file is reported once per state.
#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    /// When a certificate that was read too early is to be read again.
    again: Option<SystemTime>,
}

impl SwapIdentity {
    /// Reads the identity for the first time.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn load(path: &Path) -> Result<Arc<Self>, TlsFault> {
        // The stamp is taken first: a change between the two is then seen by the next look, not lost.
        let stamp = Stamp::of(path);
        let identity = Identity::load(path)?;
        Ok(Arc::new(Self {
            path: path.into(),
            current: ArcSwap::from_pointee(identity),
            seen: Mutex::new(Seen { stamp, again: None }),
        }))
    }

    /// The identity that the next handshake will use.
    #[must_use]
    pub fn current(&self) -> Arc<Identity> {
        self.current.load_full()
    }

    /// Looks at the file, and reads it if it is not the one seen before. True when another certificate is in use
    /// from here on. `fit` says why a certificate would be refused by those whom it is shown to, and is asked before it
    /// is used; one that is not valid yet is read again once it is. Blocking, and short: a `stat`, rarely a read.
    ///
    /// # Errors
    /// As [`Identity::load`], or what `fit` said, once per state of the file; the identity in use stays.
    pub fn reload_if_changed(
        &self,
        fit: impl FnOnce(&Identity) -> Result<(), Unfit>,
    ) -> Result<bool, TlsFault> {
        let stamp = Stamp::of(&self.path);
        {
            let mut seen = self.seen();
            let due = seen.again.is_some_and(|at| at <= SystemTime::now());
            if seen.stamp == stamp && !due {
                return Ok(false);
            }
            *seen = Seen { stamp, again: None };
        }
        let fresh = Identity::load(&self.path)?;
        let same = fresh.certified.cert == self.current.load().certified.cert;
        if !same {
            fit(&fresh).map_err(|unfit| self.unfit(unfit))?;
        }
        self.current.store(Arc::new(fresh));
        Ok(!same)
    }

    /// Has the next look read the file again: what it was judged by has changed.
    pub(super) fn judge_again(&self) {
        self.seen().stamp = None;
    }

    fn unfit(&self, unfit: Unfit) -> TlsFault {
        let path = self.path.clone();
        match unfit {
            Unfit::ForGood(why) => TlsFault::Unfit { path, why },
            Unfit::Before(from) => {
                self.seen().again = Some(from);
                TlsFault::Early { path, from }
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SwapIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwapIdentity")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for SwapIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }
}

impl ResolvesClientCert for SwapIdentity {
    /// Always the identity: the gateway's hints about authorities only decide whether nothing is sent, and a
    /// refusal that names the certificate is worth more to the operator than "no certificate".
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
