//! Whether a renewed certificate of our own will do for those to whom it is shown. Judges by what is known here: their
//! authorities are named on the other machine, and ours may be others. Called before a renewal is taken up. The file of
//! authorities is looked at again, too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::identity::Identity;
use super::pem::Stamp;
use super::{Authorities, TlsFault, provider};

/// Why a certificate is not to be used, although it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// For good, and why.
    ForGood(String),
    /// Only before this moment.
    Before(SystemTime),
}

impl<T: Into<String>> From<T> for Unfit {
    fn from(why: T) -> Self {
        Self::ForGood(why.into())
    }
}

/// Which end shows the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Agent,
    Gateway,
}

/// Says why certificates cannot be authorities.
pub type Fit = fn(&[CertificateDer<'_>]) -> Result<(), String>;

/// The authorities in the file of `--ca`. They issue the *other* end's certificates; where they issue ours as well, as
/// `tidegate-certs` has it, they tell a renewal that was issued by somebody else.
#[derive(Debug)]
pub struct Anchors {
    path: PathBuf,
    end: End,
    fit: Fit,
    current: ArcSwap<Authorities>,
    seen: Mutex<Option<Stamp>>,
}

impl Anchors {
    /// Reads the authorities. `fit` says why what the file holds is none.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub fn load(ca: &Path, end: End, fit: Fit) -> Result<Self, TlsFault> {
        // The stamp is taken first: a change between the two is then seen by the next look, not lost.
        let stamp = Stamp::of(ca);
        Ok(Self {
            current: ArcSwap::from_pointee(read(ca, fit)?),
            path: ca.into(),
            end,
            fit,
            seen: Mutex::new(stamp),
        })
    }

    /// The file of authorities.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a verifier wants of them.
    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.current.load().roots)
    }

    /// Looks at the file, and reads it if it is not the one seen before. True when it names other authorities. Blocking,
    /// and short: a `stat`, rarely a read.
    ///
    /// # Errors
    /// As [`Anchors::load`], once per state of the file; the authorities in use stay.
    pub(super) fn reload_if_changed(&self) -> Result<bool, TlsFault> {
        let stamp = Stamp::of(&self.path);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if *seen == stamp {
                return Ok(false);
            }
            *seen = stamp;
        }
        let fresh = read(&self.path, self.fit)?;
        let same = fresh.certificates == self.current.load().certificates;
        self.current.store(Arc::new(fresh));
        Ok(!same)
    }

    /// Judges a renewal that is valid between these moments. Its authority counts only where that of the certificate in
    /// use ends at ours: otherwise nothing is known here of who has to trust it.
    ///
    /// # Errors
    /// Why, or until when, the certificate in use has to stay.
    pub fn judge(
        &self,
        present: &Identity,
        fresh: &Identity,
        (from, until): (SystemTime, SystemTime),
        now: SystemTime,
    ) -> Result<(), Unfit> {
        if until <= now {
            return Err("it has expired already".into());
        }
        if self.hold(present, now) && !self.hold(fresh, from.max(now)) {
            return Err(
                "its chain does not end at the authorities in --ca, and that of the one in use does; \
                 renew it there, or name its authority in --ca as well"
                    .into(),
            );
        }
        if now < from {
            return Err(Unfit::Before(from));
        }
        Ok(())
    }

    /// Whether the chain of `identity` ends here, and is good at this moment for the end that shows it.
    fn hold(&self, identity: &Identity, at: SystemTime) -> bool {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let usage = match self.end {
            End::Agent => KeyUsage::client_auth(),
            End::Gateway => KeyUsage::server_auth(),
        };
        let chain = &identity.certified().cert;
        let roots = self.roots();
        EndEntityCert::try_from(identity.leaf()).is_ok_and(|leaf| {
            leaf.verify_for_usage(
                provider().signature_verification_algorithms.all,
                &roots.roots,
                &chain[1..],
                UnixTime::since_unix_epoch(since),
                usage,
                None,
                None,
            )
            .is_ok()
        })
    }
}

fn read(path: &Path, fit: Fit) -> Result<Authorities, TlsFault> {
    let read = Authorities::read(path)?;
    fit(&read.certificates).map_err(|why| TlsFault::Unfit {
        path: path.into(),
        why,
    })?;
    Ok(read)
}
