//! The state file: what holds, written so that a person can read it and no reader ever sees half of it. A file that cannot be
//! read or written never stops the gateway.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Identity;
use super::book::{Book, Entry, Mode, Note, moment};
use super::talk::Change;

/// More than anybody has servers for.
const LONGEST: u64 = 8 * 1024 * 1024;

const HEAD: &str = "# What operators asked of servers with `tidegated set`, kept by the gateway over its restarts. It is read at the start and\n\
                    # rewritten with each order. An entry counts for the server that it was made for, as long as that is declared at the same\n\
                    # address; where servers are stands in the configuration alone.\n";

/// All of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default)]
    intent: Vec<Line>,
}

/// One order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    backend: String,
    server: String,
    #[serde(with = "as_text")]
    identity: Identity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Mode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(with = "moment")]
    since: SystemTime,
    #[serde(
        default,
        with = "moment::maybe",
        skip_serializing_if = "Option::is_none"
    )]
    until: Option<SystemTime>,
}

mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use super::Identity;

    pub(super) fn serialize<S: Serializer>(identity: &Identity, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(identity)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Identity, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Pure: what the file's text says. The error names line and column.
pub(super) fn read(text: &str) -> Result<Book, String> {
    let whole: Whole = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        format!("{line}:{column}: {}", error.message())
    })?;
    let mut book = Book::default();
    for Line {
        backend,
        server,
        identity,
        mode,
        weight,
        who,
        why,
        since,
        until,
    } in whole.intent
    {
        let note = Note {
            who,
            why,
            since,
            until,
        };
        let name = (backend.as_str(), server.as_str());
        match (mode, weight) {
            (Some(mode), None) => book.write(identity, name, Change::Mode(mode), note),
            (None, Some(weight)) => book.write(identity, name, Change::Weight(Some(weight)), note),
            _ => {
                return Err(format!(
                    "an entry of server {server} of backend {backend} needs one of `mode` and `weight`"
                ));
            }
        }
    }
    Ok(book)
}

/// Pure: the file's text.
pub(super) fn text(book: &Book) -> Result<String, toml::ser::Error> {
    let mut text = HEAD.to_owned();
    for (identity, entry) in book.entries() {
        let Entry {
            backend,
            server,
            orders,
        } = entry;
        let line = |mode, weight, note: &Note| Line {
            backend: backend.clone(),
            server: server.clone(),
            identity,
            mode,
            weight,
            who: note.who.clone(),
            why: note.why.clone(),
            since: note.since,
            until: note.until,
        };
        let mode = orders.mode.as_ref();
        let weight = orders.weight.as_ref();
        let lines = mode
            .map(|held| line(Some(held.value), None, &held.note))
            .into_iter()
            .chain(weight.map(|held| line(None, Some(held.value), &held.note)));
        for line in lines {
            let _infallible = write!(text, "\n[[intent]]\n{}", toml::to_string(&line)?);
        }
    }
    Ok(text)
}

/// Where the file is.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    /// What stands there could not be read: it is set aside before anything is written over it.
    spoilt: bool,
}

impl Keeper {
    /// Reads the file. Where there is none, nothing holds; where it cannot be understood neither, and the second value says why.
    pub(super) fn open(path: &Path) -> (Self, Book, Option<String>) {
        let shown = path.display();
        let (book, wrong) = match slurp(path) {
            Ok(Some(text)) => match read(&text) {
                Ok(book) => (book, None),
                Err(why) => (Book::default(), Some(format!("{shown}:{why}"))),
            },
            Ok(None) => (Book::default(), None),
            Err(error) => (Book::default(), Some(format!("{shown}: {error}"))),
        };
        let keeper = Self {
            path: path.to_owned(),
            spoilt: wrong.is_some(),
        };
        (keeper, book, wrong)
    }

    /// Writes it, whole or not at all. Where it had not been understood it is kept beside, as `….unreadable`.
    pub(super) fn save(&mut self, text: &str) -> io::Result<()> {
        if self.spoilt {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".unreadable");
            match fs::rename(&self.path, &aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.spoilt = false,
            }
        }
        let mut next = self.path.clone().into_os_string();
        next.push(".next");
        let written = write_through(Path::new(&next), text.as_bytes())
            .and_then(|()| fs::rename(&next, &self.path));
        if written.is_err() {
            // Half a file on a full disk would only make it fuller.
            let _gone = fs::remove_file(&next);
            return written;
        }
        // The name as well is on the disk when this returns.
        File::open(folder(&self.path))?.sync_all()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn slurp(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A pipe or a device would be waited for, or never end.
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::other(format!(
            "it is longer than {LONGEST} octets"
        )));
    }
    Ok(Some(text))
}

fn write_through(path: &Path, octets: &[u8]) -> io::Result<()> {
    // What a crash left there is in nobody's way, and a link there leads nowhere.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn book() -> impl Strategy<Value = Book> {
        let note = (
            "[a-z ()0-9]{1,20}",
            proptest::option::of("\\PC{0,40}"),
            0u64..4_000_000_000,
        )
            .prop_map(|(who, why, since)| Note {
                who,
                why,
                since: UNIX_EPOCH + Duration::from_secs(since),
                until: (since % 2 == 0).then(|| UNIX_EPOCH + Duration::from_secs(since + 60)),
            });
        let change = prop_oneof![
            Just(Change::Mode(Mode::Drain)),
            Just(Change::Mode(Mode::Maintenance)),
            (0u16..=256).prop_map(|weight| Change::Weight(Some(weight))),
        ];
        proptest::collection::vec(("[a-c]", "[a-c]", change, note), 0..8).prop_map(|all| {
            let mut book = Book::default();
            for (backend, server, change, note) in all {
                let identity = Identity::of(&backend, &server, "10.0.0.1:80");
                book.write(identity, (&backend, &server), change, note);
            }
            book
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(book in book()) {
            prop_assert_eq!(read(&text(&book).unwrap()), Ok(book));
        }

        #[test]
        fn anything_else_is_refused_or_read_and_nothing_more(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _any = read(&String::from_utf8_lossy(&octets));
        }
    }

    #[test]
    fn a_mistake_has_its_place() {
        let good = "[[intent]]\nbackend = \"a\"\nserver = \"b\"\nidentity = \"00112233445566778899aabbccddeeff\"\nwho = \"x\"\nsince = \"2026-11-20T14:03:22Z\"\n";
        assert!(read(&format!("{good}mode = \"drain\"\n")).is_ok());
        for (text, said) in [
            (good.to_owned(), "needs one of"),
            (format!("{good}mode = \"gone\"\n"), ""),
            (format!("x = 1\n{good}"), "1:1"),
            (good.replace("2026-11-20T14", "yesterday"), ""),
            ("intent = 5\n".to_owned(), "1:10"),
            ("[[intent".to_owned(), "1:"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_kept_when_it_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.toml");
        fs::write(&path, "no state").unwrap();
        let (mut keeper, book, wrong) = Keeper::open(&path);
        assert_eq!(book, Book::default());
        assert!(wrong.unwrap().contains("state.toml:1:"));
        keeper.save("# new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "# new\n");
        let aside = folder.path().join("state.toml.unreadable");
        assert_eq!(fs::read_to_string(aside).unwrap(), "no state");
        let (_, _, wrong) = Keeper::open(folder.path());
        assert!(wrong.unwrap().contains("no file"), "a folder");
        assert_eq!(Keeper::open(&folder.path().join("none")).2, None);
    }
}
