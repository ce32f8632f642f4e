//! Certificates for one run: an authority that lives in memory only, and the two identities that it issued, in a directory
//! that only this user can enter and that goes when this is dropped.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use tidegate_certs::ca::{Authority, Subject, Validity};
use tidegate_certs::store::{self, CA_CERTIFICATE, StoreFault};
use tidegate_gateway::app::Trouble;

use crate::args::NAME;

/// Longer than anybody watches a demo.
const DAYS: u32 = 30;

/// How the agent dials the gateway.
const GATEWAY: &str = "127.0.0.1";

#[derive(Debug)]
pub(crate) struct Certificates {
    dir: TempDir,
    gateway: PathBuf,
    agent: PathBuf,
}

impl Certificates {
    /// # Errors
    /// The directory for temporary files cannot be written.
    pub(crate) fn make() -> Result<Self, Trouble> {
        let dir = tempfile::Builder::new()
            .prefix("tidegate-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()
            .map_err(|error| {
                Trouble::Ours(format!(
                    "no directory for certificates in {} (TMPDIR): {error}",
                    std::env::temp_dir().display()
                ))
            })?;
        let make = || -> Result<_, StoreFault> {
            let authority = Authority::create(Validity::days(DAYS))?;
            let bundle = authority.issue_gateway(&[GATEWAY], Validity::days(DAYS))?;
            let gateway =
                store::write_identity(dir.path(), &Subject::dns_or_address(GATEWAY)?, &bundle)?;
            let bundle = authority.issue_agent(&[NAME], Validity::days(DAYS))?;
            let agent = store::write_identity(dir.path(), &Subject::dns(NAME)?, &bundle)?;
            let file = dir.path().join(CA_CERTIFICATE);
            fs::write(&file, authority.certificate_pem()).map_err(|source| StoreFault::Io {
                what: "write",
                path: file,
                source,
            })?;
            Ok((gateway, agent))
        };
        let (gateway, agent) = make()
            .map_err(|fault| Trouble::Ours(format!("certificates could not be made: {fault}")))?;
        Ok(Self {
            dir,
            gateway,
            agent,
        })
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join(CA_CERTIFICATE)
    }

    pub(crate) fn gateway(&self) -> PathBuf {
        self.gateway.clone()
    }

    pub(crate) fn agent(&self) -> PathBuf {
        self.agent.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_reads_the_keys_and_nothing_stays() {
        let made = Certificates::make().unwrap();
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = made.dir.path().to_owned();
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&made.gateway()), 0o600);
        assert_eq!(mode(&made.agent()), 0o600);
        assert!(made.ca().is_file());
        drop(made);
        assert!(!dir.exists());
    }
}
