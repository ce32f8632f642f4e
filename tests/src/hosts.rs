//! A program that sees names of the test's own: a mount namespace in which `/etc/hosts` is a file of the test. Needs root,
//! `unshare` and `mount`.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file that stands in the place of `/etc/hosts`.
#[derive(Debug)]
pub struct Hosts {
    file: PathBuf,
}

impl Hosts {
    /// An empty one in `dir`, or `None` and a printed reason where this machine cannot mount it.
    #[must_use]
    pub fn available(dir: &Path) -> Option<Self> {
        let hosts = Self {
            file: dir.join("hosts"),
        };
        fs::write(&hosts.file, "").unwrap();
        let words = hosts.prefix();
        let tried = Command::new(&words[0])
            .args(&words[1..])
            .arg("true")
            .output();
        match tried {
            Ok(output) if output.status.success() => Some(hosts),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!(
                    "skipped: cannot mount an /etc/hosts of the test: {}",
                    why.trim()
                );
                None
            }
            Err(error) => {
                eprintln!("skipped: cannot run `unshare`: {error}");
                None
            }
        }
    }

    /// The words to put before a command that is to see these names.
    #[must_use]
    pub fn prefix(&self) -> Vec<OsString> {
        let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
        let mut words = ["unshare", "--mount", "sh", "-c", script]
            .map(OsString::from)
            .to_vec();
        words.push(self.file.clone().into());
        words
    }

    /// From here on `name` has these addresses and no others.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let lines: String = addresses
            .iter()
            .map(|address| format!("{address} {name}\n"))
            .collect();
        // In place: a mount shows the file, not the name that it had.
        fs::write(&self.file, lines).unwrap();
    }
}
