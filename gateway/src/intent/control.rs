//! The socket that `tidegated set` and `get` ask. Whoever may connect is root or the gateway's own user: the socket is made in a
//! folder that nobody else can enter, gets its mode there, and only then its name.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_shared::drain::Drain;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Desk;
use super::keep::folder;
use super::talk::{Answer, Asked, LONGEST_QUESTION};
use crate::succession::{Handover, Part};

/// Connections at once. One more waits.
const MOST: usize = 128;

/// Those of them that may wait for the other end to say or to take something. One more, and the one that has been there the
/// longest goes, so that whoever talks is served whoever else is silent.
const MOST_SILENT: usize = 64;

/// How long the other end may take to ask, and to take the answer: `tidegated` does both at once.
const SILENCE: Duration = Duration::from_secs(3);

/// How long another gateway may take to give way: what it writes at that moment goes to its disk first.
const GIVEN_WITHIN: Duration = Duration::from_secs(5);

/// How soon one that has ended in the middle of that is looked for again.
const AGAIN: Duration = Duration::from_millis(20);

/// The longest answer to that, in octets.
const LONGEST_ANSWER: u64 = 4096;

/// What a socket is called until it has its mode.
const SOCKET: &str = "s";

/// Octets of a socket's longest path (`unix(7)`), without the NUL at its end.
const LONGEST_PATH: usize = 107;

/// The highest number of a process that Linux gives (`proc_sys_kernel(5)`, pid_max).
const MOST_PID: u32 = 1 << 22;

/// A socket that listens. Its name goes with it.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: what stands at the path later may be another gateway's.
    is: (u64, u64),
}

impl Control {
    /// Listens at `path`, where nobody else does, or one that ends gives way; whether one did. What a gateway left there that
    /// ended without its leave is replaced.
    ///
    /// # Errors
    /// Why not, as the rest of a sentence.
    pub async fn listen(path: &Path) -> Result<(Self, bool), String> {
        if let Some(why) = unfit(path) {
            return Err(why);
        }
        let given = made_room(path).await?;
        let control = bind(path).map_err(|error| error.to_string())?;
        Ok((control, given))
    }

    /// Answers whoever asks, until everything has finished, or another gateway takes the socket's place.
    pub async fn serve(self, desk: Arc<Desk>, handover: Arc<Handover>, until: Drain) {
        let closed = CancellationToken::new();
        let desk = Desks {
            desk,
            handover,
            closed: closed.clone(),
        };
        tokio::select! {
            () = until.finishing() => {}
            () = desk.handover.given(Part::Control) => {}
            () = self.accept(&desk, &until) => {}
        }
        // Its name goes first: whoever comes next is told when there is none.
        drop(self);
        closed.cancel();
    }

    async fn accept(&self, desk: &Desks, until: &Drain) {
        let seats = Arc::new(Semaphore::new(MOST));
        let mut here: VecDeque<oneshot::Sender<Infallible>> = VecDeque::new();
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            here.retain(|stays| !stays.is_closed());
            if here.len() >= MOST_SILENT {
                here.pop_front();
            }
            let (stays, leaves) = oneshot::channel();
            here.push_back(stays);
            let desk = desk.clone();
            until.spawn(async move {
                let _seat = seat;
                if let Err(error) = answer(stream, &desk, leaves).await {
                    debug!("a connection of the control socket failed: {error}");
                }
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.is)
        {
            let _gone = fs::remove_file(&self.path);
        }
    }
}

/// Whom questions are for.
#[derive(Clone, Debug)]
struct Desks {
    desk: Arc<Desk>,
    handover: Arc<Handover>,
    /// The socket is gone, and its name.
    closed: CancellationToken,
}

impl Desks {
    async fn answer(&self, asked: Asked, user: &str) -> Answer {
        match asked {
            Asked::Get(which) => self.desk.show(&which),
            Asked::Set(order) => self.desk.follow(order, user).await,
            Asked::GiveWay if self.handover.is_draining() => {
                self.desk.retire().await;
                self.handover.give(Part::Control);
                self.closed.cancelled().await;
                Answer::Done {
                    said: "gives way".to_owned(),
                    unsaved: None,
                }
            }
            Asked::GiveWay => Answer::Refused("it is not draining".to_owned()),
        }
    }
}

/// Has a gateway that ends give way, if there is one; whether it did.
async fn made_room(path: &Path) -> Result<bool, String> {
    let stays = || Err("another gateway answers there; choose another path".to_owned());
    let asking = async {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => match ask_to_give_way(stream).await {
                    Ok(Some(Answer::Done { .. })) => return Ok(true),
                    Ok(Some(_)) | Err(_) => return stays(),
                    // It has ended meanwhile: next time nobody is there.
                    Ok(None) => {}
                },
                // As many wait for it as may.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_nobody) => return Ok(false),
            }
            sleep(AGAIN).await;
        }
    };
    timeout(GIVEN_WITHIN, asking)
        .await
        .unwrap_or_else(|_elapsed| stays())
}

/// What whoever listens there says to that; nothing where it closed.
async fn ask_to_give_way(mut stream: UnixStream) -> io::Result<Option<Answer>> {
    let mut text = serde_json::to_vec(&Asked::GiveWay)?;
    text.push(b'\n');
    let mut answer = Vec::new();
    let asking = async {
        stream.write_all(&text).await?;
        stream.take(LONGEST_ANSWER).read_to_end(&mut answer).await
    };
    match asking.await {
        Ok(1..) => Ok(Some(serde_json::from_slice(&answer)?)),
        _gone => Ok(None),
    }
}

/// Why no socket can be made there, if that is so whoever listens there already.
pub(crate) fn unfit(path: &Path) -> Option<String> {
    let private = folder(path).join(private(MOST_PID)).join(SOCKET);
    let longest = [path, &private]
        .map(|path| path.as_os_str().len())
        .into_iter()
        .max()?;
    if let Some(beyond) = longest.checked_sub(LONGEST_PATH).filter(|more| *more > 0) {
        return Some(format!(
            "the path is longer than a socket's may be, by {beyond} octets; choose a shorter one"
        ));
    }
    let within = folder(path);
    match fs::metadata(within) {
        Err(error) => {
            return Some(format!(
                "its folder {} must be there, such as RuntimeDirectory= of systemd makes it: {error}",
                within.display()
            ));
        }
        Ok(there) if !there.is_dir() => {
            return Some(format!("{} is no folder", within.display()));
        }
        Ok(_folder) => {}
    }
    if path.file_name().is_none() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Some("this is a folder; name a socket in it".to_owned());
    }
    let there = fs::symlink_metadata(path).ok()?;
    (!there.file_type().is_socket()).then(|| {
        "something that is no socket stands there; remove it, or choose another path".to_owned()
    })
}

/// The folder that nobody else can enter.
fn private(pid: u32) -> String {
    format!(".tidegate-{pid}")
}

fn bind(path: &Path) -> io::Result<Control> {
    let private = folder(path).join(private(std::process::id()));
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let made = (|| {
        let inside = private.join(SOCKET);
        let listener = UnixListener::bind(&inside)?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))?;
        let there = fs::symlink_metadata(&inside)?;
        fs::rename(&inside, path)?;
        Ok(Control {
            listener,
            path: path.to_owned(),
            is: (there.dev(), there.ino()),
        })
    })();
    let _gone = fs::remove_dir_all(&private);
    made
}

/// Hears a question and answers it. Whoever is silent meanwhile may have to leave, and the gateway's own time does not count.
async fn answer(
    stream: UnixStream,
    desk: &Desks,
    mut leaves: oneshot::Receiver<Infallible>,
) -> io::Result<()> {
    let user = format!("uid {}", stream.peer_cred()?.uid());
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader).take(LONGEST_QUESTION);
    unless_silent(&mut leaves, reader.read_until(b'\n', &mut line)).await?;
    let answer = match serde_json::from_slice::<Asked>(&line) {
        Ok(asked) => desk.answer(asked, &user).await,
        Err(error) => Answer::Refused(format!("this is not understood: {error}")),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    unless_silent(&mut leaves, writer.write_all(&text)).await
}

/// What the other end has a part in: not for long, and not where others are waiting.
async fn unless_silent<T>(
    leaves: &mut oneshot::Receiver<Infallible>,
    io: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::select! {
        biased;
        done = io => done,
        _gone = leaves => Err(io::Error::other("it was silent while others came")),
        () = sleep(SILENCE) => Err(io::Error::other(format!("it was silent for {SILENCE:?}"))),
    }
}
