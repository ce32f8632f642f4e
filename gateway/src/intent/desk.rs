//! Orders are written down, kept, and carried out; and struck out when their time is over.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tidegate_shared::drain::Drain;
use tidegate_shared::when;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info, warn};

use super::book::{Book, Orders};
use super::keep::{self, Keeper};
use super::talk::{Answer, Asked, Change, Order, Row, Which, tidied};
use super::there::There;
use super::{Identity, Mode, Note};
use crate::backend::{Backend, Server};

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
    book: Mutex<Book>,
    /// `None` where nothing is kept.
    keeper: Option<Arc<Mutex<Keeper>>>,
    /// What holds is not in the file, for this.
    unsaved: Mutex<Option<String>>,
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
        let desk = Self {
            backends,
            book: Mutex::new(book),
            keeper,
            unsaved: Mutex::new(unsaved),
        };
        desk.give_up_strangers();
        desk.expire();
        desk.carry_out();
        desk.tell_at_start();
        Arc::new(desk)
    }

    /// Answers a question of somebody whom the system knows as `user`.
    pub(super) async fn answer(&self, asked: Asked, user: &str) -> Answer {
        match asked {
            Asked::Get(which) => self
                .get(&which)
                .map_or_else(Answer::Refused, Answer::Servers),
            Asked::Set(order) => match self.set(order, user) {
                Ok(said) => Answer::Done {
                    said,
                    unsaved: self.save().await,
                },
                Err(why) => Answer::Refused(why),
            },
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
            .filter(|server| wanted(&which.server, &server.name))
            .map(|server| self.row(server))
            .collect();
        match (&which.backend, &which.server) {
            (Some(backend), Some(server)) if rows.is_empty() => {
                Err(self.no_such_server(backend, server))
            }
            _ => Ok(rows),
        }
    }

    fn row(&self, server: &Server) -> Row {
        let Orders { mode, weight } = locked(&self.book).orders(server.identity());
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
        let mut servers = backend.servers().iter();
        let server = servers
            .find(|server| server.name == place.server)
            .ok_or_else(|| self.no_such_server(&place.backend, &place.server))?;
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
        let said = format!(
            "backend {}: server {} ({}) {}",
            server.backend(),
            server.name,
            server.address(),
            asked(change)
        );
        info!("{said}, {note}");
        let name = (server.backend(), server.name.as_str());
        locked(&self.book).write(server.identity(), name, change, note);
        self.carry_out_for(server);
        Ok(match until {
            Some(until) => format!("{said}, until {}", when::utc(until)),
            None => said,
        })
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
        let Orders { mode, weight } = locked(&self.book).orders(server.identity());
        server.obey(mode.map(|held| held.value), weight.map(|held| held.value));
    }

    /// Strikes out what was asked of servers that are not, or are somewhere else by now.
    fn give_up_strangers(&self) {
        let known = |identity: Identity| self.servers().any(|server| server.identity() == identity);
        for gone in locked(&self.book).keep_known(known) {
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
    }

    fn tell_at_start(&self) {
        for (_, entry) in locked(&self.book).entries() {
            let (backend, server, orders) = (&entry.backend, &entry.server, &entry.orders);
            let mode = orders
                .mode
                .as_ref()
                .map(|held| (Change::Mode(held.value), &held.note));
            let weight = orders.weight.as_ref();
            let weight = weight.map(|held| (Change::Weight(Some(held.value)), &held.note));
            for (change, note) in mode.into_iter().chain(weight) {
                info!(
                    "backend {backend}: server {server} {}, {note} (state file)",
                    asked(change)
                );
            }
        }
    }

    /// Ends what has an end; whether there was any.
    fn expire(&self) -> bool {
        let over = locked(&self.book).expire(SystemTime::now());
        for over in &over {
            let Some(server) = self
                .servers()
                .find(|server| server.identity() == over.identity)
            else {
                continue;
            };
            info!(
                "backend {}: the {} of server {} ({}) is over, {}",
                server.backend(),
                over.what,
                server.name,
                server.address(),
                over.note
            );
            self.carry_out_for(server);
        }
        !over.is_empty()
    }

    /// Writes what holds into the file. The value is why it is not there.
    async fn save(&self) -> Option<String> {
        let keeper = Arc::clone(self.keeper.as_ref()?);
        let text = keep::text(&locked(&self.book));
        let before = Instant::now();
        let writing = tokio::task::spawn_blocking(move || {
            let text = text.map_err(|error| error.to_string())?;
            locked(&keeper).save(&text)
        });
        let outcome = match timeout(DISK_WITHIN, writing).await {
            Ok(Ok(written)) => written,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("the disk took longer than {:?}", before.elapsed())),
        };
        let why = outcome.err();
        let known = std::mem::replace(&mut *locked(&self.unsaved), why.clone());
        match (&known, &why) {
            (None, Some(why)) => error!(
                "the state file is not up to date: {why}; what was asked holds until the gateway ends, and writing it is tried again every {AGAIN:?}"
            ),
            (Some(_), None) => info!("the state file is up to date again"),
            _ => {}
        }
        why
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

/// A century.
const LONGEST_SECONDS: u64 = 100 * 366 * 86_400;

/// What a server does from then on, in words.
fn asked(change: Change) -> String {
    match change {
        Change::Ready => "is used as declared".to_owned(),
        Change::Mode(Mode::Drain) => "is drained: it gets no new requests".to_owned(),
        Change::Mode(Mode::Maintenance) => {
            "is in maintenance: it gets no new requests and no checks".to_owned()
        }
        Change::Weight(Some(weight)) => format!("has weight {weight}"),
        Change::Weight(None) => "has its declared weight".to_owned(),
    }
}

/// Ends orders whose time is over, and writes what could not be written, until everything finishes.
pub async fn attend(desk: Arc<Desk>, drain: Drain) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tried = Instant::now();
    loop {
        tokio::select! {
            () = drain.finishing() => return,
            _ = ticks.tick() => {}
        }
        let again = desk.is_unsaved() && tried.elapsed() >= AGAIN;
        if desk.expire() || again {
            tried = Instant::now();
            let _told = desk.save().await;
        }
    }
}
