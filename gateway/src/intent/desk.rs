//! Orders are written down, kept, and carried out; and struck out when their time is over.

mod away; // for machines that DNS finds, or does not

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tidegate_shared::drain::Drain;
use tidegate_shared::when;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::book::{Book, Entry, Orders};
use super::keep::{self, Keeper};
use super::talk::{Answer, Change, Order, Place, Row, Which, tidied};
use super::there::There;
use super::words::{asked, holds};
use super::{Bidding, Identity, Note};
use crate::backend::{Backend, Seated, Server};

/// How often orders are looked at whose time may be over.
const EVERY: Duration = Duration::from_secs(1);

/// How often what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How long somebody waits for a disk.
const DISK_WITHIN: Duration = Duration::from_secs(5);

/// See the module's head.
#[derive(Debug)]
pub struct Desk {
    backends: Arc<[Arc<Backend>]>,
    book: Arc<Mutex<Book>>,
    /// `None` where nothing is kept.
    keeper: Option<Arc<Mutex<Keeper>>>,
    /// What holds is not in the file, for this.
    unsaved: Arc<Mutex<Option<String>>>,
    /// The file says more than holds, since it was read.
    outdated: bool,
    /// Another gateway has taken this one's place.
    retired: AtomicBool,
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Reads the state file, if one is kept, and has the servers do what it says. Says in the log what of it does not count.
    pub fn open(backends: Arc<[Arc<Backend>]>, state: Option<&Path>) -> Arc<Self> {
        let mut book = Book::default();
        let mut unsaved = None;
        let keeper = state.map(|path| {
            let (keeper, there) = Keeper::open(path);
            let shown = path.display();
            match there {
                There::Nothing => {}
                There::State(kept) => book = kept,
                There::Damaged(wrong) => error!(
                    "the state file cannot be read, and nothing of it holds: {shown}:{wrong}; everything runs as it is declared, and the file is kept as {shown}.unreadable when the next order is written"
                ),
                There::Foreign(what) => {
                    let why = keep::left_alone(path, &what);
                    error!(
                        "there is no state file: {why}; everything runs as it is declared, and what is asked holds until the gateway ends"
                    );
                    unsaved = Some(why);
                }
            }
            Arc::new(Mutex::new(keeper))
        });
        let mut desk = Self {
            backends,
            book: Arc::new(Mutex::new(book)),
            keeper,
            unsaved: Arc::new(Mutex::new(unsaved)),
            outdated: false,
            retired: AtomicBool::new(false),
        };
        let strangers = desk.give_up_strangers();
        desk.outdated = desk.expire() || strangers;
        desk.carry_out();
        desk.tell_at_start();
        Arc::new(desk)
    }

    /// Shows what there is.
    pub(super) fn show(&self, which: &Which) -> Answer {
        self.get(which)
            .map_or_else(Answer::Refused, Answer::Servers)
    }

    /// Does what somebody orders whom the system knows as `user`.
    pub(super) async fn follow(&self, order: Order, user: &str) -> Answer {
        if self.retired.load(Relaxed) {
            return Answer::Refused(format!("{SUCCEEDED}: ask that one"));
        }
        match self.set(order, user) {
            Ok(said) => Answer::Done {
                said,
                unsaved: self.save().await,
            },
            Err(why) => Answer::Refused(why),
        }
    }

    /// Leaves orders and their file to another gateway. Ready when what is being written is on the disk.
    pub(crate) async fn retire(&self) {
        self.retired.store(true, Relaxed);
        if let Some(keeper) = self.keeper.clone() {
            let closing = tokio::task::spawn_blocking(move || locked(&keeper).close());
            let _on_a_slow_disk = timeout(DISK_WITHIN, closing).await;
        }
    }

    fn get(&self, which: &Which) -> Result<Vec<Row>, String> {
        let wanted =
            |named: &Option<String>, name: &str| named.as_ref().is_none_or(|named| named == name);
        let backends: Vec<_> = self
            .backends
            .iter()
            .filter(|backend| wanted(&which.backend, &backend.name))
            .collect();
        if let (Some(name), true) = (&which.backend, backends.is_empty()) {
            return Err(self.no_such_backend(name));
        }
        let rows: Vec<Row> = backends
            .iter()
            .flat_map(|backend| backend.servers())
            .filter(|server| {
                wanted(&which.server, &server.name) || wanted(&which.server, server.called())
            })
            .map(|server| self.row(server))
            .chain(self.absent(which))
            .collect();
        match (&which.backend, &which.server) {
            (Some(backend), Some(server)) if rows.is_empty() => {
                Err(self.no_such_server(backend, server))
            }
            _ => Ok(rows),
        }
    }

    fn row(&self, server: &Server) -> Row {
        let orders = server
            .seated()
            .map(|seated| locked(&self.book).orders(seated.identity));
        let Orders { mode, weight } = orders.unwrap_or_default();
        Row {
            mode: mode.map(|held| held.note),
            weighed: weight.map(|held| held.note),
            ..server.row()
        }
    }

    fn set(&self, order: Order, user: &str) -> Result<String, String> {
        let Order {
            place,
            change,
            seconds,
            why,
            who,
        } = order;
        let backend = self.backend(&place.backend)?;
        if let Some(answer) = self.set_of_absent(backend, &place.server, change) {
            return answer.inspect(|said| info!("{said}, by {user}"));
        }
        let mut servers = backend.servers().iter();
        let server = servers
            .find(|server| server.name == place.server)
            .ok_or_else(|| self.no_such_server(&place.backend, &place.server))?;
        let Seated { identity, address } = server.seated().ok_or_else(|| no_address(&place))?;
        // Times that a file could not say are no times that anybody means.
        let now = SystemTime::now();
        let until = seconds.map(|seconds| now + Duration::from_secs(seconds.min(LONGEST_SECONDS)));
        let who = who.map(|who| tidied(&who)).filter(|who| !who.is_empty());
        let note = Note {
            who: who.map_or_else(|| user.to_owned(), |who| format!("{who} ({user})")),
            why: why.map(|why| tidied(&why)).filter(|why| !why.is_empty()),
            since: now,
            until,
        };
        let name = (server.backend(), server.called());
        let bidding = {
            let mut book = locked(&self.book);
            book.write(identity, name, change, note.clone());
            book.orders(identity).bidding()
        };
        let holds = holds(change, bidding, server.declared_weight());
        let pardoned = change == Change::Ready && server.pardon();
        let said = format!(
            "backend {}: server {} ({address}) {holds}{}",
            server.backend(),
            server.name,
            if pardoned {
                ", and no longer left out for its failures"
            } else {
                ""
            }
        );
        info!("{said}, {note}");
        // DNS may have given the address to another slot meanwhile.
        let called = server.called();
        let alike = backend.servers().iter();
        for server in alike.filter(|server| server.called() == called) {
            self.carry_out_for(server);
        }
        let until = until.map(|until| format!(", until {}", when::utc(until)));
        let goes = (server.is_slot() && bidding != Bidding::default())
            .then_some("; this goes with the address, whichever server has it");
        Ok(said + &until.unwrap_or_default() + goes.unwrap_or_default())
    }

    fn backend(&self, name: &str) -> Result<&Arc<Backend>, String> {
        let mut all = self.backends.iter();
        all.find(|backend| *backend.name == *name)
            .ok_or_else(|| self.no_such_backend(name))
    }

    fn no_such_backend(&self, name: &str) -> String {
        let all: Vec<&str> = self.backends.iter().map(|backend| &*backend.name).collect();
        if all.is_empty() {
            return "this gateway has no backends".to_owned();
        }
        format!("there is no backend `{name}`; there is {}", all.join(", "))
    }

    fn no_such_server(&self, backend: &str, server: &str) -> String {
        let servers = self.backend(backend).map(|backend| backend.servers());
        let all: Vec<&str> = servers
            .unwrap_or_default()
            .iter()
            .map(|server| server.name.as_str())
            .collect();
        format!(
            "backend `{backend}` has no server `{server}`; it has {}",
            all.join(", ")
        )
    }

    fn servers(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.backends.iter().flat_map(|backend| backend.servers())
    }

    /// Has every server do what holds.
    fn carry_out(&self) {
        for server in self.servers() {
            self.carry_out_for(server);
        }
    }

    fn carry_out_for(&self, server: &Server) {
        server.obey(&|identity| self.bidding(identity));
    }

    /// Strikes out what was asked of servers that are not, or are somewhere else by now; whether there was any.
    fn give_up_strangers(&self) -> bool {
        let known = |identity: Identity, entry: &Entry| {
            self.server_of(identity).is_some() || self.may_come(entry)
        };
        let all_gone = locked(&self.book).keep_known(known);
        for gone in &all_gone {
            let (backend, server) = (&gone.backend, &gone.server);
            let there = self
                .servers()
                .find(|one| one.name == *server && one.backend() == backend);
            let why = match there {
                Some(there) => format!(
                    "it is declared at another address by now, {}",
                    there.address()
                ),
                None => "there is no such server any more".to_owned(),
            };
            warn!(
                "state file: what was asked of server {server} of backend {backend} is given up: {why}"
            );
        }
        !all_gone.is_empty()
    }

    fn tell_at_start(&self) {
        for (_, entry) in locked(&self.book).entries() {
            let (backend, server) = (&entry.backend, &entry.server);
            let whose = if self.may_come(entry) {
                format!("of what DNS finds for {server}, the machine of which it was asked")
            } else {
                format!("server {server}")
            };
            for (change, note) in entry.orders.each() {
                info!(
                    "backend {backend}: {whose} {}, {note} (state file)",
                    asked(change)
                );
            }
        }
    }

    /// The server at whose place there is this machine.
    fn server_of(&self, identity: Identity) -> Option<&Arc<Server>> {
        let is = |server: &Server| {
            server
                .seated()
                .is_some_and(|seated| seated.identity == identity)
        };
        self.servers().find(|server| is(server))
    }

    /// Ends what has an end; whether there was any.
    fn expire(&self) -> bool {
        let over = locked(&self.book).expire(SystemTime::now());
        for over in &over {
            let (backend, what, note) = (&over.backend, &over.what, &over.note);
            let Some(server) = self.server_of(over.identity) else {
                info!(
                    "backend {backend}: the {what} asked of an address of {} that DNS does not give is over, {note}",
                    over.server
                );
                continue;
            };
            info!(
                "backend {backend}: the {what} of server {} ({}) is over, {note}",
                server.name,
                server.address()
            );
            self.carry_out_for(server);
        }
        !over.is_empty()
    }

    /// Writes what holds into the file. The value is why it is not there.
    async fn save(&self) -> Option<String> {
        let keeper = Arc::clone(self.keeper.as_ref()?);
        let (book, unsaved) = (Arc::clone(&self.book), Arc::clone(&self.unsaved));
        let before = Instant::now();
        let writing = tokio::task::spawn_blocking(move || {
            let keeper = locked(&keeper);
            if keeper.is_closed() {
                // What is there is newer than what holds here, and nothing is wrong with that.
                return Some(SUCCEEDED.to_owned());
            }
            // What holds by then: whoever writes last must not write what somebody else has changed since.
            let text = keep::text(&locked(&book));
            let written = text.map_err(|error| error.to_string());
            let written = written.and_then(|text| keeper.save(&text));
            note(&unsaved, written.err())
        });
        match timeout(DISK_WITHIN, writing).await {
            Ok(Ok(why)) => why,
            Ok(Err(error)) => note(&self.unsaved, Some(error.to_string())),
            Err(_elapsed) => {
                let why = format!("the disk took longer than {:?}", before.elapsed());
                note(&self.unsaved, Some(why))
            }
        }
    }

    /// Whether there is a state file.
    pub fn keeps(&self) -> bool {
        self.keeper.is_some()
    }

    /// Whether what holds would be lost with the process, though it is to be kept.
    pub fn is_unsaved(&self) -> bool {
        locked(&self.unsaved).is_some()
    }
}

/// Why nothing is written any more.
const SUCCEEDED: &str = "another gateway has taken this one's place";

/// A century.
const LONGEST_SECONDS: u64 = 100 * 366 * 86_400;

/// Tells the log whether the file is up to date, where that has changed, and hands on why it is not.
fn note(unsaved: &Mutex<Option<String>>, why: Option<String>) -> Option<String> {
    let known = std::mem::replace(&mut *locked(unsaved), why.clone());
    match (&known, &why) {
        (None, Some(why)) => error!(
            "the state file is not up to date: {why}; what was asked holds until the gateway ends, and writing it is tried again every {AGAIN:?}"
        ),
        (Some(_), None) => info!("the state file is up to date again"),
        _ => {}
    }
    why
}

/// Why nothing can be asked of a slot.
fn no_address(place: &Place) -> String {
    format!(
        "DNS gives {place} no address for the time being, and an order is for the machine at an address: `tidegated get {}` shows those that have one",
        place.backend
    )
}

/// Ends orders whose time is over, and writes what could not be written, until everything finishes. That an order is over is
/// written by no gateway whose `listeners` have ended: another one may keep the file already, which sees as much for itself.
pub async fn attend(desk: Arc<Desk>, listeners: Drain, until: Drain) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tried = Instant::now();
    let mut outdated = desk.outdated;
    loop {
        tokio::select! {
            () = until.finishing() => return,
            _ = ticks.tick() => {}
        }
        let again = desk.is_unsaved() && tried.elapsed() >= AGAIN;
        let changed = desk.expire() || std::mem::take(&mut outdated);
        if (changed && !listeners.is_finishing()) || again {
            tried = Instant::now();
            let _told = desk.save().await;
        }
    }
}
