//! Asks DNS servers: one after the other until one has answered. Decides nothing about the answers; `reply` reads them.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::config::Resolver;
use super::reply::{ALIASES, Refused, Reply, What, read, read_error, too_many_aliases};

/// Questions at once: an answer that is lost among many is waited for in vain.
const AT_ONCE: usize = 64;

const SYSTEM: &str = "/etc/resolv.conf";

/// Whoever is asked.
#[derive(Debug)]
pub(crate) struct Asker {
    /// Empty for the system's.
    told: Vec<SocketAddr>,
    system: PathBuf,
    timeout: Duration,
    current: Mutex<Option<Arc<Servers>>>,
    at_once: Semaphore,
}

/// DNS servers, in the order in which they are asked.
struct Servers {
    /// When the system's were written.
    stamp: Option<SystemTime>,
    all: Vec<Server>,
    /// The one that answered last.
    best: AtomicUsize,
}

type Pool = NameServerPool<TokioRuntimeProvider>;

/// One DNS server, and the connections to it.
struct Server {
    at: SocketAddr,
    pool: Mutex<Arc<Pool>>,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all.iter().map(|server| server.at))
            .finish()
    }
}

/// Why nobody answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unheard {
    /// Of what servers did the same one, whoever of them is asked first.
    pub(super) kind: &'static str,
    /// What each server did, as one sentence.
    pub(super) why: String,
}

impl Unheard {
    /// There is nobody to ask.
    fn alone(why: String) -> Self {
        Self {
            kind: "unreachable",
            why,
        }
    }
}

impl Asker {
    pub(crate) fn new(terms: &Resolver) -> Self {
        Self {
            told: terms.servers.clone(),
            system: SYSTEM.into(),
            timeout: terms.timeout,
            current: Mutex::default(),
            at_once: Semaphore::new(AT_ONCE),
        }
    }

    /// Asks for a name's records, through aliases, until a server has answered. `count` is told what became of each question.
    pub(super) async fn ask(
        &self,
        name: &Name,
        of: RecordType,
        count: impl Fn(Result<&Reply, What>),
    ) -> Result<Reply, Unheard> {
        let servers = self.servers()?;
        let first = servers.best.load(Relaxed);
        let (mut kinds, mut whys) = (Vec::new(), Vec::new());
        for nth in 0..servers.all.len() {
            let index = (first + nth) % servers.all.len();
            let server = &servers.all[index];
            match self.ask_one(server, name, of, &count).await {
                Ok(reply) => {
                    servers.best.store(index, Relaxed);
                    return Ok(reply);
                }
                Err(refused) => {
                    kinds.push(refused.kind);
                    whys.push(format!("{} {}", server.at, refused.why));
                }
            }
        }
        Err(Unheard {
            kind: kinds.into_iter().max().unwrap_or_default(),
            why: whys.join(", "),
        })
    }

    async fn ask_one(
        &self,
        server: &Server,
        name: &Name,
        of: RecordType,
        count: impl Fn(Result<&Reply, What>),
    ) -> Result<Reply, Refused> {
        let mut name = name.clone();
        let mut lasts = Duration::MAX;
        for _ in 0..ALIASES {
            let reply = self.question(server, &name, of).await;
            count(reply.as_ref().map_err(|refused| refused.what));
            match reply? {
                Reply::Alias { name: next, ttl } => {
                    lasts = lasts.min(ttl);
                    name = next;
                }
                Reply::Records(mut records) => {
                    records.ttl = records.ttl.min(lasts);
                    return Ok(Reply::Records(records));
                }
                nothing @ Reply::Nothing(_) => return Ok(nothing),
            }
        }
        Err(too_many_aliases())
    }

    async fn question(
        &self,
        server: &Server,
        name: &Name,
        of: RecordType,
    ) -> Result<Reply, Refused> {
        // Never closed.
        let _turn = self.at_once.acquire().await;
        let mut options = DnsRequestOptions::default();
        let pool = server.pool();
        loop {
            let asked = pool.lookup(Query::query(name.clone(), of), options);
            let answer = timeout(self.timeout, asked.first_answer()).await;
            return match answer.unwrap_or(Err(NetError::Timeout)) {
                Ok(message) => read(&message, name, of),
                // Servers that know nothing of EDNS say so thus (RFC 6891 §7).
                Err(NetError::Dns(DnsError::ResponseCode(
                    ResponseCode::FormErr | ResponseCode::NotImp,
                ))) if options.use_edns => {
                    options.use_edns = false;
                    continue;
                }
                Err(error) => {
                    if matches!(error, NetError::Timeout) {
                        server.give_up(&pool);
                    }
                    read_error(&error, self.timeout)
                }
            };
        }
    }

    /// Those that are asked, the system's as they are at the moment.
    fn servers(&self) -> Result<Arc<Servers>, Unheard> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = if self.told.is_empty() {
            written(&self.system).ok()
        } else {
            None
        };
        if let Some(servers) = &*current
            && servers.stamp == stamp
        {
            return Ok(Arc::clone(servers));
        }
        let all = if self.told.is_empty() {
            match (system(&self.system), &*current) {
                (Ok(all), _) => all,
                // A file that is being replaced is no reason to forget what stood in it.
                (Err(_), Some(servers)) => return Ok(Arc::clone(servers)),
                (Err(why), None) => return Err(Unheard::alone(why)),
            }
        } else {
            self.told.clone()
        };
        let servers = Arc::new(Servers {
            stamp,
            all: all
                .into_iter()
                .map(|at| Server::new(at, self.timeout))
                .collect::<Result<_, NetError>>()
                .map_err(|error| Unheard::alone(format!("nobody can be asked: {error}")))?,
            best: AtomicUsize::new(0),
        });
        *current = Some(Arc::clone(&servers));
        Ok(servers)
    }
}

impl Server {
    fn new(at: SocketAddr, timeout: Duration) -> Result<Self, NetError> {
        let mut options = ResolverOpts::default();
        options.timeout = timeout;
        options.num_concurrent_reqs = 1;
        let context = PoolContext::new(options, TlsConfig::new()?);
        let pool = Mutex::new(pool(at, Arc::new(context)));
        Ok(Self { at, pool })
    }

    fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.lock())
    }

    /// Nothing was heard on these connections: questions to come do not go on them. A firewall may have forgotten one over TCP,
    /// or who has the address by now never known it; nobody closes it then, and its server is well.
    fn give_up(&self, silent: &Arc<Pool>) {
        let mut current = self.lock();
        // Of many questions that waited in vain the first has done it.
        if Arc::ptr_eq(&current, silent) {
            *current = pool(self.at, Arc::clone(silent.context()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Pool>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One server, over UDP, and over TCP where its answer is too long for that. Nothing is kept of what it says.
fn pool(at: SocketAddr, context: Arc<PoolContext>) -> Arc<Pool> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = at.port();
        connection
    });
    Arc::new(NameServerPool::from_config(
        [NameServerConfig::new(at.ip(), true, connections.into())],
        context,
        TokioRuntimeProvider::default(),
    ))
}

fn written(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

/// The servers that the system's resolver asks.
fn system(path: &Path) -> Result<Vec<SocketAddr>, String> {
    let remedy = "write `servers` in [resolver]";
    let shown = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| format!("{shown} cannot be read: {error}; {remedy}"))?;
    let all = nameservers(&text);
    if all.is_empty() {
        return Err(format!("{shown} names no DNS server; {remedy}"));
    }
    Ok(all)
}

/// What `resolv.conf` says of servers (resolv.conf(5)).
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    lines
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_systems_servers_are_read_and_read_again() {
        let text = "# comment\nsearch a.test\nnameserver 10.0.0.2\nnameserver\t::1 # x\nnameserver fe80::1%eth0\n";
        let all: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.0.0.2:53", "[::1]:53"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let asker = Asker {
            system: path.clone(),
            ..Asker::new(&Resolver::default())
        };
        let Err(Unheard { why, .. }) = asker.servers() else {
            panic!("there is no file")
        };
        assert!(why.contains("write `servers`"), "{why}");
        let at = |asker: &Asker| asker.servers().unwrap().all[0].at.to_string();
        let write = |text: &str, second: u64| {
            fs::write(&path, text).unwrap();
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
                .unwrap();
        };
        write("nameserver 10.0.0.2\n", 1);
        assert_eq!(at(&asker), "10.0.0.2:53");
        write("nameserver 10.0.0.3\n", 2);
        assert_eq!(at(&asker), "10.0.0.3:53");
        write("", 3);
        assert_eq!(at(&asker), "10.0.0.3:53", "the last ones stay");
        fs::remove_file(&path).unwrap();
        assert_eq!(at(&asker), "10.0.0.3:53", "the last ones stay");
    }
}
