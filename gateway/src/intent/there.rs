//! What stands where the state file is to be. Whoever names the wrong path there must not lose what it leads to: only what is
//! recognised as a state file, however damaged, is ever replaced or renamed. Reads alone; `keep` writes, `files` judges before.

use std::fs::{self, File, FileType};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::book::Book;
use super::keep::{folder, read};

/// What every state file begins with.
pub(super) const MARK: &str = "# What operators asked of servers with `tidegated set`";

/// Octets of the longest state file; more than anybody has servers for.
const LONGEST: u64 = 8 * 1024 * 1024;

/// As many links as the system follows.
const MOST_LINKS: usize = 40;

/// See the module's head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    /// Not so much as a word: the file can be written.
    Nothing,
    State(Book),
    /// A state file by its first line, of which the rest cannot be understood, for this.
    Damaged(String),
    /// Something else, or something that cannot be looked at: it is left alone. In words, after "there".
    Foreign(String),
}

/// What stands at a path behind which no link does.
pub(super) fn look(path: &Path) -> There {
    slurp(path).map_or_else(|there| there, |octets| judge(&octets))
}

/// Why nothing would be read from a path or kept at it, as a sentence, if that is so.
pub(crate) fn unusable(path: &Path) -> Option<String> {
    match look(&followed(path).ok()?) {
        There::Nothing | There::State(_) => None,
        There::Damaged(why) => Some(format!(
            "the state file cannot be understood, and nothing of it holds: {why}"
        )),
        There::Foreign(what) => Some(format!(
            "there {what}, which is left alone: what is asked of servers ends with the gateway"
        )),
    }
}

/// What octets at that place are. Pure.
fn judge(octets: &[u8]) -> There {
    if octets.trim_ascii().is_empty() {
        return There::Nothing;
    }
    let ours = octets.starts_with(MARK.as_bytes());
    let damaged = |why: String| {
        if ours {
            There::Damaged(why)
        } else {
            There::Foreign("stands something that is no state file, by its first line".to_owned())
        }
    };
    if octets.len() as u64 > LONGEST {
        return damaged(format!("it is longer than {LONGEST} octets"));
    }
    let text = match std::str::from_utf8(octets) {
        Ok(text) => text,
        Err(error) => return damaged(error.to_string()),
    };
    match read(text) {
        // What says nothing may be anybody's: a list with nothing but comments in it.
        Ok(book) if ours || book.entries().next().is_some() => There::State(book),
        Ok(_empty) => damaged(String::new()),
        Err(why) => damaged(why),
    }
}

fn slurp(path: &Path) -> Result<Vec<u8>, There> {
    let unseen = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => There::Nothing,
        _ => There::Foreign(format!("is something that cannot be read: {error}")),
    };
    // Looked at before it is opened: a pipe would be waited for, and a device may do anything then.
    let kind = fs::symlink_metadata(path).map_err(unseen)?.file_type();
    if let Some(what) = no_file(kind) {
        return Err(There::Foreign(format!("stands {what}")));
    }
    let mut octets = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LONGEST + 1).read_to_end(&mut octets))
        .map_err(unseen)?;
    Ok(octets)
}

/// What something is that is no file.
fn no_file(kind: FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a pipe"),
        _ if kind.is_socket() => Some("a socket"),
        _ if kind.is_symlink() => Some("a link"),
        _ => Some("a device"),
    }
}

/// Where a path leads in the end, whether or not anything stands there; the links before it stay what they are.
///
/// # Errors
/// Links that lead round, and folders that may not be entered.
pub(crate) fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        match fs::read_link(&at) {
            Ok(next) => at = folder(&at).join(next),
            // No link, or nothing at all.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(at);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("its links lead round"))
}

/// What stands at the end of a path where a file is due, if it is none.
pub(crate) fn in_the_way(path: &Path) -> Option<String> {
    let at = match followed(path) {
        Ok(at) => at,
        Err(error) => return Some(error.to_string()),
    };
    // What may not be looked at by whoever checks may be well for whoever runs.
    let kind = fs::symlink_metadata(at).ok()?.file_type();
    no_file(kind).map(|what| format!("{what} stands there"))
}

/// Whether a file may be replaced by what is set aside, or by what is about to be written: it is a state file, or the beginning
/// of one that a crash has left.
pub(super) fn is_expendable(path: &Path) -> io::Result<bool> {
    let kind = match fs::symlink_metadata(path) {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    if !kind.is_file() {
        return Ok(false);
    }
    let mut octets = Vec::new();
    let most = MARK.len() as u64;
    File::open(path)?.take(most).read_to_end(&mut octets)?;
    Ok(MARK.as_bytes().starts_with(&octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_state_file_is_taken_for_one() {
        let line = "[[intent]]\nbackend = \"a\"\nserver = \"b\"\nidentity = \"00112233445566778899aabbccddeeff\"\nwho = \"x\"\nsince = \"2026-11-20T14:03:22Z\"\nmode = \"drain\"\n";
        for empty in ["", " \n\n"] {
            assert_eq!(judge(empty.as_bytes()), There::Nothing);
        }
        for good in [format!("{MARK}, kept\n"), line.to_owned()] {
            assert!(matches!(judge(good.as_bytes()), There::State(_)), "{good}");
        }
        for damaged in ["\n[[intent", "\n[[intent]]\nx = 1\n", "\u{0}"] {
            let text = format!("{MARK}{damaged}");
            assert!(matches!(judge(text.as_bytes()), There::Damaged(_)));
        }
        let cut = [MARK.as_bytes(), b"\xff\xfe"].concat();
        assert!(matches!(judge(&cut), There::Damaged(_)));
        for foreign in [
            "# 10.0.0.0/8\n",
            "-----BEGIN CERTIFICATE-----\n",
            "[[intent",
            "[[routes]]\nhost = \"a.test\"\n",
            "\0\0\0",
        ] {
            assert!(
                matches!(judge(foreign.as_bytes()), There::Foreign(_)),
                "{foreign:?}"
            );
        }
    }

    #[test]
    fn links_are_followed_to_where_a_file_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("second", at("first")).unwrap();
        std::os::unix::fs::symlink(at("third"), at("second")).unwrap();
        assert_eq!(followed(&at("first")).unwrap(), at("third"));
        assert_eq!(in_the_way(&at("first")), None);
        fs::create_dir(at("third")).unwrap();
        assert!(in_the_way(&at("first")).unwrap().contains("a directory"));
        std::os::unix::fs::symlink("round", at("round")).unwrap();
        assert!(in_the_way(&at("round")).unwrap().contains("lead round"));
    }
}
