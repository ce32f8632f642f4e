//! The configuration file as it was when it was read, for whoever has changed it since and waits for something to happen.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Digest, SHA256, digest};

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Loaded {
    path: PathBuf,
    digest: Digest,
}

impl Loaded {
    pub(super) fn of(path: &Path, octets: &[u8]) -> Self {
        Self {
            path: path.to_owned(),
            digest: digest(&SHA256, octets),
        }
    }

    /// What there is to say to somebody who asks for files to be read again, where this one says something else by now.
    pub fn changed(&self) -> Option<String> {
        let shown = self.path.display();
        let kept = "what it said at the start counts until the gateway is restarted";
        match octets(&self.path) {
            Ok(octets) if digest(&SHA256, &octets).as_ref() == self.digest.as_ref() => None,
            Ok(_) => Some(format!(
                "{shown} has changed since it was read, and {kept}; `tidegated check --config {shown}` says whether it can be"
            )),
            Err(error) => Some(format!(
                "{shown} cannot be read any more ({error}), and {kept}"
            )),
        }
    }
}

/// Octets of the longest file: some 500,000 routes.
pub(super) const MOST: u64 = 64 << 20;

/// A file's octets, and one more than [`MOST`] of one that is longer. A pipe is waited for until somebody writes, and a device may
/// have no end.
pub(super) fn octets(path: &Path) -> io::Result<Vec<u8>> {
    let is = fs::metadata(path)?.file_type();
    if !is.is_file() {
        let what = match is {
            _ if is.is_dir() => "a folder",
            _ if is.is_fifo() => "a pipe",
            _ if is.is_socket() => "a socket",
            _ => "a device",
        };
        let told =
            format!("it is {what}, and no regular file; name one that holds the configuration");
        return Err(io::Error::other(told));
    }
    let mut octets = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut octets)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_and_what_is_the_same_again_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, "admin = 1\n").unwrap();
        let loaded = Loaded::of(&path, &octets(&path).unwrap());
        assert_eq!(loaded.changed(), None);
        fs::write(&path, "admin = 2\n").unwrap();
        assert!(loaded.changed().unwrap().contains("is restarted"));
        fs::write(&path, "admin = 1\n").unwrap();
        assert_eq!(loaded.changed(), None);
        fs::remove_file(&path).unwrap();
        assert!(loaded.changed().unwrap().contains("any more"));
    }
}
