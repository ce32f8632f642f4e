//! A DNS server whose answers a test changes while it runs, over UDP and TCP, octet by octet (RFC 1035 §4): it lies, breaks off and
//! keeps silent as it is told, and notes what it was asked, and when.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::Instant;

use crate::eventually::{SOON, eventually};
use crate::task::{Task, Tasks, spawn};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// IPv4 addresses.
    A = 1,
    /// Another name.
    Cname = 5,
    /// IPv6 addresses.
    Aaaa = 28,
    /// A service's hosts and ports.
    Srv = 33,
}

impl Kind {
    fn of(number: u16) -> Option<Self> {
        [Self::A, Self::Cname, Self::Aaaa, Self::Srv]
            .into_iter()
            .find(|kind| *kind as u16 == number)
    }
}

/// A record's content.
#[derive(Clone, Debug)]
pub enum Data {
    /// An address, of either family.
    Address(IpAddr),
    /// An alias of that name.
    Alias(String),
    /// A host and a port of a service.
    Service {
        /// Lower ones come first.
        priority: u16,
        /// Its part among those of the same priority.
        weight: u16,
        /// Where the host listens.
        port: u16,
        /// The host.
        target: String,
    },
}

/// A record, of any name: a server that lies gives those of others.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whose it is.
    pub name: String,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What becomes of a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// These; none of them: the name has no such records. Over UDP cut short where they are too long for it.
    Records(Vec<Record>),
    /// There is no such name.
    NoName,
    /// A code, such as 2 for SERVFAIL and 5 for REFUSED.
    Code(u8),
    /// Nothing at all.
    Silence,
    /// Octets that are no message, behind the question's id.
    Garbage,
    /// A false answer with another id, and then these records.
    FalseFirst(Vec<Record>),
}

/// A question that came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Lower-case, without a dot at its end.
    pub name: String,
    /// What of it.
    pub kind: Kind,
    /// When.
    pub at: Instant,
    /// Over TCP.
    pub tcp: bool,
}

#[derive(Debug, Default)]
struct State {
    zone: HashMap<(String, Kind), Answer>,
    /// What becomes of every question.
    mood: Option<Answer>,
    asked: Vec<Asked>,
    /// Connections over TCP so far.
    connections: usize,
    /// So many of them are not answered any more.
    silent: usize,
}

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub struct Dns {
    /// Where it is asked, over UDP and TCP.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: [Task; 2],
}

impl Dns {
    /// Starts one that knows no name.
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Somebody may have the port for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let tasks = [
            spawn(over_udp(udp, Arc::clone(&state))),
            spawn(over_tcp(tcp, Arc::clone(&state))),
        ];
        Self {
            address,
            state,
            _tasks: tasks,
        }
    }

    /// From here on this is answered to a question.
    pub fn set(&self, name: &str, kind: Kind, answer: Answer) {
        let key = (name.to_owned(), kind);
        self.state.lock().unwrap().zone.insert(key, answer);
    }

    /// From here on a name has these addresses, and no others.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        let of = |v4: bool| {
            let family = addresses.iter().filter(|ip| ip.is_ipv4() == v4);
            let records = family.map(|ip| Record {
                name: name.to_owned(),
                ttl,
                data: Data::Address(*ip),
            });
            Answer::Records(records.collect())
        };
        self.set(name, Kind::A, of(true));
        self.set(name, Kind::Aaaa, of(false));
    }

    /// From here on there is no such name.
    pub fn remove(&self, name: &str) {
        for kind in [Kind::A, Kind::Aaaa, Kind::Srv] {
            self.set(name, kind, Answer::NoName);
        }
    }

    /// From here on this is answered to whatever is asked; `None` for what was set.
    pub fn set_mood(&self, mood: Option<Answer>) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Reads what comes on the TCP connections that are open, and says nothing on them from here on; others are answered.
    pub fn silence_connections(&self) {
        let mut state = self.state.lock().unwrap();
        state.silent = state.connections;
    }

    /// How many TCP connections there have been.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// Everything that was asked of a name so far.
    #[must_use]
    pub fn asked(&self, name: &str, kind: Kind) -> Vec<Asked> {
        let state = self.state.lock().unwrap();
        let all = state.asked.iter();
        all.filter(|asked| asked.name == name && asked.kind == kind)
            .cloned()
            .collect()
    }

    /// Waits until it has been asked so many more times from here on.
    pub async fn wait_asked(&self, name: &str, kind: Kind, more: usize) {
        let due = self.asked(name, kind).len() + more;
        let what = format!("{name} is asked for {more} more times");
        eventually(SOON, &what, async || {
            (self.asked(name, kind).len() >= due).then_some(())
        })
        .await;
    }
}

async fn over_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    let mut buffer = [0; 2048];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        for answer in answers(&buffer[..length], false, &state) {
            // Who asked may have gone.
            let _gone = socket.send_to(&answer, from).await;
        }
    }
}

async fn over_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut running = Tasks::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let number = {
            let mut state = state.lock().unwrap();
            state.connections += 1;
            state.connections
        };
        running.spawn(one_connection(tcp, number, Arc::clone(&state)));
    }
}

async fn one_connection(mut tcp: TcpStream, number: usize, state: Arc<Mutex<State>>) {
    while let Ok(length) = tcp.read_u16().await {
        let mut question = vec![0; length.into()];
        if tcp.read_exact(&mut question).await.is_err() {
            return;
        }
        let answers = answers(&question, true, &state);
        if number <= state.lock().unwrap().silent {
            continue;
        }
        for answer in answers {
            let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
            framed.extend(answer);
            if tcp.write_all(&framed).await.is_err() {
                return;
            }
        }
    }
}

/// What is sent for a question, in order.
fn answers(question: &[u8], tcp: bool, state: &Mutex<State>) -> Vec<Vec<u8>> {
    let Some(asked) = Question::read(question) else {
        return Vec::new();
    };
    let mut state = state.lock().unwrap();
    let Some(kind) = Kind::of(asked.kind) else {
        return vec![asked.message(4, false, &[])];
    };
    state.asked.push(Asked {
        name: asked.name.clone(),
        kind,
        at: Instant::now(),
        tcp,
    });
    let key = (asked.name.clone(), kind);
    let answer = state.mood.clone().or_else(|| state.zone.get(&key).cloned());
    drop(state);
    match answer.unwrap_or(Answer::NoName) {
        Answer::Records(records) => vec![asked.records(&records, tcp)],
        Answer::NoName => vec![asked.message(3, false, &[])],
        Answer::Code(code) => vec![asked.message(code, false, &[])],
        Answer::Silence => Vec::new(),
        Answer::Garbage => {
            let mut octets = asked.id.to_vec();
            octets.extend([0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0xc0, 0x0c, 0xc0]);
            vec![octets]
        }
        Answer::FalseFirst(records) => {
            let mut lie = asked.message(3, false, &[]);
            lie[0] ^= 0xff;
            vec![lie, asked.records(&records, tcp)]
        }
    }
}

/// A question as it came.
struct Question {
    id: [u8; 2],
    name: String,
    kind: u16,
    /// The question section.
    section: Vec<u8>,
    /// The longest answer over UDP: 512, or what EDNS says.
    most: usize,
}

impl Question {
    fn read(octets: &[u8]) -> Option<Self> {
        let id = octets.get(..2)?.try_into().ok()?;
        let mut at = 12;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*octets.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            labels.push(std::str::from_utf8(octets.get(at..at + length)?).ok()?);
            at += length;
        }
        let kind = u16::from_be_bytes(octets.get(at..at + 2)?.try_into().ok()?);
        // Behind the class: an OPT record, of the root, whose class is the size (RFC 6891 §6.1.2).
        let edns = octets
            .get(at + 4..)
            .filter(|rest| rest.len() >= 11 && rest[..3] == [0, 0, 41]);
        let most = edns.map_or(512, |opt| usize::from(u16::from_be_bytes([opt[3], opt[4]])));
        Some(Self {
            id,
            name: labels.join(".").to_ascii_lowercase(),
            kind,
            section: octets.get(12..at + 4)?.to_vec(),
            most,
        })
    }

    fn records(&self, records: &[Record], tcp: bool) -> Vec<u8> {
        let whole = self.message(0, false, records);
        if tcp || whole.len() <= self.most {
            whole
        } else {
            self.message(0, true, &[])
        }
    }

    fn message(&self, code: u8, cut: bool, records: &[Record]) -> Vec<u8> {
        let mut message = self.id.to_vec();
        message.extend([0x81 | if cut { 2 } else { 0 }, 0x80 | code]);
        let count = u16::try_from(records.len()).unwrap();
        for number in [1, count, 0, 0] {
            message.extend(number.to_be_bytes());
        }
        message.extend(&self.section);
        for record in records {
            let (kind, data) = match &record.data {
                Data::Address(IpAddr::V4(ip)) => (Kind::A, ip.octets().to_vec()),
                Data::Address(IpAddr::V6(ip)) => (Kind::Aaaa, ip.octets().to_vec()),
                Data::Alias(target) => (Kind::Cname, encoded(target)),
                Data::Service {
                    priority,
                    weight,
                    port,
                    target,
                } => {
                    let numbers = [*priority, *weight, *port].map(u16::to_be_bytes);
                    (Kind::Srv, [numbers.concat(), encoded(target)].concat())
                }
            };
            message.extend(encoded(&record.name));
            message.extend((kind as u16).to_be_bytes());
            message.extend(1_u16.to_be_bytes());
            message.extend(record.ttl.to_be_bytes());
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(data);
        }
        message
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets
}
