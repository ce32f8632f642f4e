//! The state file: what holds, written so that a person can read it and no reader ever sees half of it. A file that cannot be
//! read or written never stops the gateway.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Identity;
use super::book::{Book, Entry, Mode, Note, moment};
use super::talk::{Change, asked_share, tidied};
use super::there::{There, followed, is_expendable, look};

const HEAD: &str = "# What operators asked of servers with `tidegated set`, kept by the gateway over its restarts. It is read at the start and\n\
                    # rewritten with each order. An entry counts for the server that it was made for, as long as that is declared at the same\n\
                    # address, or where DNS finds servers for the machine at the same address; where servers are stands elsewhere.\n";

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
    #[serde(
        default,
        deserialize_with = "asked_share",
        skip_serializing_if = "Option::is_none"
    )]
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
        // Whoever wrote the file by hand may have copied it from anywhere.
        let note = Note {
            who: tidied(&who),
            why: why.map(|why| tidied(&why)),
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
    closed: bool,
}

impl Keeper {
    /// Looks at what stands there.
    pub(super) fn open(path: &Path) -> (Self, There) {
        let there = match followed(path) {
            Ok(at) => look(&at),
            Err(error) => There::Foreign(format!("is something that cannot be read: {error}")),
        };
        let keeper = Self {
            path: path.to_owned(),
            closed: false,
        };
        (keeper, there)
    }

    /// The file is another gateway's from here on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Writes it, whole or not at all; where a link leads, for the link may be all that its folder is to have. A state file that
    /// cannot be understood is kept beside, as `….unreadable`, and what is none stays as it is.
    ///
    /// # Errors
    /// Why it is not written, as a sentence.
    pub(super) fn save(&self, text: &str) -> Result<(), String> {
        let shown = self.path.display();
        let failed = |error: io::Error| format!("{shown} cannot be written: {error}");
        let at = followed(&self.path).map_err(failed)?;
        match look(&at) {
            There::Nothing | There::State(_) => {}
            There::Damaged(_) => {
                let aside = beside(&at, ".unreadable");
                make_room(&aside)?;
                fs::rename(&at, &aside).map_err(failed)?;
            }
            There::Foreign(what) => return Err(left_alone(&self.path, &what)),
        }
        let next = beside(&at, ".next");
        make_room(&next)?;
        let written = write_through(&next, text.as_bytes()).and_then(|()| fs::rename(&next, &at));
        if written.is_err() {
            // Half a file on a full disk would only make it fuller.
            let _gone = fs::remove_file(&next);
        }
        written
            // The name as well is on the disk when this returns.
            .and_then(|()| File::open(folder(&at))?.sync_all())
            .map_err(failed)
    }
}

/// That something stands at the state file's place and stays there, as a sentence.
pub(super) fn left_alone(path: &Path, what: &str) -> String {
    format!(
        "at {} {what}; it is left alone: move it away, or name another file (--state-file, in a file `state_file`)",
        path.display()
    )
}

/// The file of this name and an ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

/// Removes what a crash has left there, and nothing else.
fn make_room(path: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("{} cannot be written: {error}", path.display());
    if !is_expendable(path).map_err(failed)? {
        return Err(left_alone(path, "stands something that is no state file"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// The folder that a file is in.
pub(crate) fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn write_through(path: &Path, octets: &[u8]) -> io::Result<()> {
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
                who: tidied(&who),
                why: why.map(|why: String| tidied(&why)),
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
            (
                format!("{good}weight = 257\n"),
                "7:10: `257` is not a whole number from 0 to 256",
            ),
            ("intent = 5\n".to_owned(), "1:10"),
            ("[[intent".to_owned(), "1:"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_was_written_by_hand_is_one_line_like_the_rest() {
        let line = "[[intent]]\nbackend = \"a\"\nserver = \"b\"\nidentity = \"00112233445566778899aabbccddeeff\"\nwho = \"x\\u202Ey\"\n\
                    since = \"2026-11-20T14:03:22Z\"\nmode = \"drain\"\nwhy = \"\\u001b[31m\\nb\"\n";
        let book = read(line).unwrap();
        let (_, entry) = book.entries().next().unwrap();
        let note = &entry.orders.mode.as_ref().unwrap().note;
        assert_eq!(note.who, "x\\u{202e}y");
        assert_eq!(note.why.as_deref(), Some("\\u{1b}[31m b"));
    }

    #[test]
    fn a_state_file_that_cannot_be_understood_is_kept_when_it_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.toml");
        let (damaged, good) = (format!("{HEAD}[[intent"), format!("{HEAD}# good\n"));
        fs::write(&path, &damaged).unwrap();
        let (keeper, there) = Keeper::open(&path);
        assert!(matches!(there, There::Damaged(why) if why.starts_with("4:")));
        let kept = |ending: &str| fs::read_to_string(beside(&path, ending)).unwrap();
        keeper.save(&good).unwrap();
        assert_eq!((kept(""), kept(".unreadable")), (good.clone(), damaged));
        // Once more, in the place of the one before.
        fs::write(&path, format!("{HEAD}x")).unwrap();
        keeper.save(&good).unwrap();
        assert_eq!(kept(".unreadable"), format!("{HEAD}x"));
        let none = folder.path().join("none");
        assert_eq!(Keeper::open(&none).1, There::Nothing);
    }

    #[test]
    fn what_is_no_state_file_is_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.toml");
        for beside_it in ["", ".next"] {
            let there = beside(&path, beside_it);
            fs::write(&there, "somebody's").unwrap();
            let (keeper, _) = Keeper::open(&path);
            let why = keeper.save(HEAD).unwrap_err();
            assert!(why.contains("left alone"), "{why}");
            assert_eq!(fs::read_to_string(&there).unwrap(), "somebody's");
            fs::remove_file(&there).unwrap();
            // A folder is not even opened.
            fs::create_dir(&there).unwrap();
            let why = Keeper::open(&path).0.save(HEAD).unwrap_err();
            assert!(why.contains("left alone"), "{why}");
            assert!(there.is_dir());
            fs::remove_dir(&there).unwrap();
        }
        let aside = beside(&path, ".unreadable");
        fs::create_dir(&aside).unwrap();
        fs::write(&path, format!("{HEAD}x")).unwrap();
        assert!(Keeper::open(&path).0.save(HEAD).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{HEAD}x"));
        // What a crash has left of one that was being written is no reason to write none.
        fs::remove_dir(&aside).unwrap();
        fs::write(beside(&path, ".next"), &HEAD[..20]).unwrap();
        Keeper::open(&path).0.save(HEAD).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), HEAD);
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (link, file) = (folder.path().join("link"), folder.path().join("real"));
        std::os::unix::fs::symlink("real", &link).unwrap();
        for _ in 0..2 {
            Keeper::open(&link).0.save(HEAD).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(&file).unwrap(), HEAD);
        }
    }
}
