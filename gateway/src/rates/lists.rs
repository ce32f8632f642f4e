//! Lists of addresses that stand in files: read at the start, and again when the operator says so. One that cannot be used any
//! more is reported, and the one in use stays.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::ranges::Ranges;
use crate::range::Range;

/// Octets of the longest file: some four million lines.
const MOST: u64 = 64 << 20;

/// One file.
#[derive(Debug)]
pub struct Listed {
    pub path: PathBuf,
    ranges: ArcSwap<Ranges>,
}

/// Why a file is no list: one sentence for each of its mistakes, each beginning with where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub Vec<String>);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

fn read(path: &Path) -> Result<Ranges, Unusable> {
    let name = path.display();
    let one = |text: String| Unusable(vec![text]);
    let unread = |error: std::io::Error| one(format!("{name} cannot be read: {error}"));
    let missing = |error| match range_of(path) {
        Some(range) => one(format!(
            "{range} is a range of addresses, and the name of a file of them is due; write it into one, one to a line, and the file's name here"
        )),
        None => unread(error),
    };
    // A pipe would have this wait for whoever writes into it, and could be read but once.
    if !std::fs::metadata(path).map_err(missing)?.is_file() {
        return Err(one(format!(
            "{name} is not a file; a list is read again on SIGHUP"
        )));
    }
    let mut text = String::new();
    let octets = File::open(path)
        .and_then(|file| file.take(MOST + 1).read_to_string(&mut text))
        .map_err(unread)?;
    if octets as u64 > MOST {
        return Err(one(format!("{name} has more than {} MiB", MOST >> 20)));
    }
    Ranges::parse(&text).map_err(|bad| {
        let lines = bad.into_iter();
        let told = lines.map(|bad| format!("{name}:{}: {}", bad.line, bad.text));
        Unusable(told.collect())
    })
}

/// The range that somebody wrote in the place of a file's name. A file's folder may stand before it.
fn range_of(path: &Path) -> Option<&str> {
    let mut folders = path.ancestors().skip(1);
    let folders = [folders.next(), folders.next()];
    let written = folders
        .into_iter()
        .flatten()
        .filter_map(|folder| path.strip_prefix(folder).ok()?.to_str());
    let is_range = |text: &&str| text.parse::<Range>().is_ok();
    written.into_iter().find(is_range)
}

impl Listed {
    /// Reads a file for the first time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Arc<Self>, Unusable> {
        Ok(Arc::new(Self {
            path: path.to_owned(),
            ranges: ArcSwap::from_pointee(read(path)?),
        }))
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.load().contains(address)
    }

    /// The line that an address is in, if it is in any.
    pub fn line_of(&self, address: IpAddr) -> Option<u32> {
        self.ranges.load().line_of(address)
    }

    /// Ranges in it.
    pub fn len(&self) -> usize {
        self.ranges.load().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A line of one of the lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which list, in their order.
    file: usize,
    line: u32,
}

/// All of them, each file once.
#[derive(Debug, Default)]
pub struct Lists {
    files: Vec<Arc<Listed>>,
    /// How often any of them has changed.
    changes: AtomicU64,
}

impl Lists {
    pub fn new(files: Vec<Arc<Listed>>) -> Self {
        Self {
            files,
            changes: AtomicU64::new(0),
        }
    }

    pub fn all(&self) -> &[Arc<Listed>] {
        &self.files
    }

    /// The list of a file.
    pub fn of(&self, path: &Path) -> Option<Arc<Listed>> {
        self.files.iter().find(|file| file.path == path).cloned()
    }

    /// A line of this list, which is one of them.
    pub fn entry(&self, list: &Arc<Listed>, line: u32) -> Option<Entry> {
        let file = self
            .files
            .iter()
            .position(|known| Arc::ptr_eq(known, list))?;
        Some(Entry { file, line })
    }

    /// `/etc/tidegate/blocked.txt:12`.
    pub fn place(&self, Entry { file, line }: Entry) -> Option<String> {
        let file = self.files.get(file)?;
        Some(format!("{}:{line}", file.path.display()))
    }

    /// Differs from what it was before whenever a list has changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// Reads all of them again, and says what came of it. Takes as long as the disk does.
    pub fn look(&self) {
        for file in &self.files {
            let name = file.path.display();
            match read(&file.path) {
                // Where they stand may have changed, which is nobody's affair but the log's.
                Ok(next) if next.is_same(&file.ranges.load()) => file.ranges.store(Arc::new(next)),
                Ok(next) => {
                    let (before, ranges) = (file.len(), next.len());
                    file.ranges.store(Arc::new(next));
                    self.changes.fetch_add(1, Relaxed);
                    info!(ranges, before, "the list {name} has changed");
                }
                Err(unusable) => {
                    let ranges = file.len();
                    warn!(ranges, "the list {name} stays as it was: {unusable}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_becomes_unusable_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deny.txt");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("10.0.0.0/8\n");
        let lists = Lists::new(vec![Listed::load(&path).unwrap()]);
        let list = lists.of(&path).unwrap();
        let contains = |address: &str| list.contains(address.parse().unwrap());
        assert!(contains("10.1.1.1") && !contains("192.0.2.1"));
        write("192.0.2.0/24\nnonsense\n");
        lists.look();
        assert!(contains("10.1.1.1") && !contains("192.0.2.1"));
        assert_eq!(lists.changes(), 0);
        let wrong = Listed::load(&path).unwrap_err().0;
        assert!(
            wrong[0].contains("deny.txt:2: `nonsense` is not an address range"),
            "{wrong:?}"
        );
        write("192.0.2.0/24\n");
        lists.look();
        assert!(!contains("10.1.1.1") && contains("192.0.2.1"));
        assert_eq!(lists.changes(), 1);
        let none = Listed::load(dir.path()).unwrap_err().0;
        assert!(none[0].contains("is not a file"), "{none:?}");
        std::fs::remove_file(&path).unwrap();
        lists.look();
        assert!(contains("192.0.2.1"));
    }
}
