//! Backends against real sockets: servers that are scripts, octet by octet, and a visitor's side that waits for ever.

mod answers; // what comes back

mod manners; // how a server ends connections

mod retries; // what is asked for again

mod upgrades; // what is no HTTP any more

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HeaderValue;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Response, StatusCode, response};
use http_body::{Body, Frame};
use tidegate_shared::log::Format;
use tokio::time::timeout;

use super::config::{Server, Terms};
use super::server::What;
use super::{Backend, Caller, config, exchange};
use crate::access::Access;
use crate::answer::{Answer, Cut, Rest};
use crate::exchange::{Ask, Gateway, Side, Target};
use crate::failure::Failure;
use crate::forward::{Outgoing, Policy};
use crate::lasting::Lasting;
use crate::metrics::Metrics;
use crate::pool::{Limits, Pool};

const SOON: Duration = Duration::from_secs(10);

/// A request's body of which everything is there, or which comes through a channel.
#[derive(Debug)]
enum Sent {
    Ready(VecDeque<Frame<Bytes>>),
    Channel(tokio::sync::mpsc::UnboundedReceiver<Bytes>),
    /// The visitor has gone behind these.
    BrokenOff(VecDeque<Frame<Bytes>>),
}

impl Sent {
    fn of(text: &'static str) -> Self {
        Self::Ready([Frame::data(Bytes::from_static(text.as_bytes()))].into())
    }

    fn broken_off(part: Option<&'static str>) -> Self {
        let part = part.map(|part| Frame::data(Bytes::from_static(part.as_bytes())));
        Self::BrokenOff(part.into_iter().collect())
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Ready(frames) => Poll::Ready(frames.pop_front().map(Ok)),
            Self::Channel(chunks) => chunks
                .poll_recv(cx)
                .map(|chunk| chunk.map(Frame::data).map(Ok)),
            Self::BrokenOff(frames) => {
                let gone = || Err(io::ErrorKind::UnexpectedEof.into());
                Poll::Ready(Some(frames.pop_front().map_or_else(gone, Ok)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ready(frames) if frames.is_empty())
    }
}

/// A visitor who waits for ever, and takes note.
#[derive(Debug, Default)]
struct Waits {
    interims: Vec<StatusCode>,
    told_to_go_on: bool,
}

impl Side for Waits {
    fn interim(&mut self, response: Response<()>) {
        self.interims.push(response.status());
    }

    fn go_on(&mut self) {
        self.told_to_go_on = true;
    }

    fn body_due(&mut self, _moved: Option<u64>) {}

    fn held(&mut self, _holds: bool) {}

    fn poll_over(&mut self, _cx: &mut Context<'_>) -> Poll<Failure> {
        Poll::Pending
    }
}

struct World {
    gateway: Gateway,
    backend: Arc<Backend>,
}

fn gateway() -> Gateway {
    let metrics = Arc::new(Metrics::new());
    let limits = Limits {
        tunnels: 1,
        tunnels_per_name: 1,
        tunnels_per_source: 1,
        held: 1,
        held_per_name: 1,
        held_octets: 1,
        hold: Duration::ZERO,
    };
    Gateway {
        pool: Arc::new(Pool::new(limits, Arc::clone(&metrics))),
        access: Arc::new(Access::new(None, Format::Human, Arc::clone(&metrics), 1)),
        metrics,
        policy: Policy {
            x_forwarded: true,
            forwarded: true,
            via: false,
            trusted: Vec::new(),
        },
        max_body: Some(1 << 20),
        lasting: Lasting::default(),
        has_tunnels: true,
    }
}

/// A world with one server per address; `change` for what is not as usual.
fn world(addresses: &[SocketAddr], change: impl FnOnce(&mut config::Backend)) -> World {
    let mut config = config::Backend {
        name: "alb".to_owned(),
        balance: config::Balance::RoundRobin,
        tls: None,
        send_proxy: None,
        place: "gateway.toml:1:1".to_owned(),
        protocol: config::Protocol::default(),
        terms: Terms::default(),
        check: None,
        servers: addresses
            .iter()
            .enumerate()
            .map(|(n, address)| Server::new(&format!("s{n}"), address.to_string().parse().unwrap()))
            .collect(),
    };
    change(&mut config);
    assert_eq!(config.problems(), []);
    World {
        gateway: gateway(),
        backend: Backend::new(&config, 1).unwrap(),
    }
}

type Opened = Result<(response::Parts, Answer<Sent>), Failure>;

impl World {
    async fn ask(&self, method: Method, body: Option<Sent>) -> Opened {
        self.ask_as(&mut Waits::default(), method, body, &[]).await
    }

    async fn ask_as(
        &self,
        side: &mut Waits,
        method: Method,
        body: Option<Sent>,
        fields: &[(&'static str, &'static str)],
    ) -> Opened {
        let mut record =
            self.gateway
                .access
                .record(&Arc::new("192.0.2.1:5".into()), false, Instant::now());
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let ask = Ask {
            target: Target::Tunnel("app.test".to_owned()),
            head: Box::new(Outgoing {
                method,
                scheme: Scheme::HTTP,
                authority: HeaderValue::from_static("app.test"),
                path: PathAndQuery::from_static("/path?q=1"),
                headers,
            }),
            body,
            protocol: None,
            expects: fields.contains(&("expect", "100-continue")),
            octets: 0,
            mark: None,
        };
        let caller = Caller::from([192, 0, 2, 1].into());
        let opening = exchange::open(
            &self.gateway,
            &self.backend,
            ask,
            &caller,
            &mut record,
            side,
        );
        match timeout(SOON, opening).await.expect("in time") {
            Ok(opened) => Ok(Answer::of(opened, record)),
            Err(unavailable) => Err(unavailable.failure),
        }
    }

    /// The whole answer to a GET.
    async fn get(&self) -> Result<String, Failure> {
        let (_, answer) = self.ask(Method::GET, None).await?;
        Ok(text(answer).await.expect("a whole answer"))
    }

    fn failed(&self, server: usize, what: What) -> u64 {
        self.backend.servers[server].counts.failures[what as usize].get()
    }
}

async fn frames(answer: &mut Answer<Sent>) -> Result<(Vec<u8>, Option<HeaderMap>), Cut> {
    let mut octets = Vec::new();
    let mut trailers = None;
    loop {
        let next = poll_fn(|cx| Pin::new(&mut *answer).poll_frame(cx));
        match timeout(SOON, next).await.expect("in time") {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => octets.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(cut)) => return Err(cut),
            None => return Ok((octets, trailers)),
        }
    }
}

async fn text(mut answer: Answer<Sent>) -> Result<String, Cut> {
    let (octets, _) = frames(&mut answer).await?;
    Ok(String::from_utf8(octets).unwrap())
}

/// A server whose connections are each given to `script`, with their number from 0.
fn server(script: impl Fn(usize, BufReader<TcpStream>) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let script = Arc::clone(&script);
            thread::spawn(move || script(number, BufReader::new(stream)));
        }
    });
    address
}

/// Where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The head of the next request; `None` at the connection's end.
fn head(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    loop {
        let begin = head.len();
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if &head[begin..] == "\r\n" {
            return Some(head);
        }
    }
}

fn say(stream: &mut BufReader<TcpStream>, octets: &str) {
    stream.get_mut().write_all(octets.as_bytes()).unwrap();
}

fn answer(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    )
}

/// Answers every request with the number of its connection and its name.
fn echo(name: &'static str) -> SocketAddr {
    server(move |number, mut stream| {
        while head(&mut stream).is_some() {
            say(&mut stream, &answer(&format!("{name}{number}")));
        }
    })
}

#[tokio::test]
async fn a_request_goes_as_it_is_and_its_connection_is_used_again() {
    let (heads, seen) = mpsc::channel();
    let address = server(move |number, mut stream| {
        while let Some(head) = head(&mut stream) {
            heads.send((number, head)).unwrap();
            say(&mut stream, &answer("hello"));
        }
    });
    let world = world(&[address], |_| {});
    for _ in 0..3 {
        assert_eq!(world.get().await.unwrap(), "hello");
    }
    for _ in 0..3 {
        let (number, head) = seen.recv_timeout(SOON).unwrap();
        assert_eq!(number, 0, "one connection");
        assert_eq!(head, "GET /path?q=1 HTTP/1.1\r\nhost: app.test\r\n\r\n");
    }
    let server = &world.backend.servers[0];
    assert_eq!((server.open(), server.outstanding()), (1, 0));
    assert_eq!(server.counts.requests.get(), 3);
}

#[tokio::test]
async fn servers_take_turns_and_one_that_is_gone_is_left_out_until_it_is_back() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = gone.local_addr().unwrap();
    drop(gone);
    let world = world(&[echo("a"), place], |config| {
        config.terms.eject = Duration::from_millis(1);
        config.terms.eject_most = Duration::from_millis(1);
    });
    for _ in 0..6 {
        assert_eq!(world.get().await.unwrap(), "a0");
    }
    assert!(world.failed(1, What::Unreachable) >= 3);
    // It comes back, and is found out by a request once its time is over.
    let listener = TcpListener::bind(place).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            thread::spawn(move || {
                while head(&mut stream).is_some() {
                    say(&mut stream, &answer("b"));
                }
            });
        }
    });
    let until = Instant::now() + SOON;
    while world.get().await.unwrap() != "b" {
        assert!(Instant::now() < until);
        tokio::task::yield_now().await;
    }
    assert!(!world.backend.servers[1].is_out());
}

#[tokio::test]
async fn where_nobody_is_there_it_is_tried_as_often_as_allowed_and_said() {
    let world = world(&[nobody()], |config| config.terms.retries = 1);
    assert_eq!(world.get().await.unwrap_err(), Failure::BackendUnreachable);
    assert_eq!(world.failed(0, What::Unreachable), 2);
    assert_eq!(world.gateway.metrics.retries.get(), 1);
    assert_eq!(world.backend.servers[0].open(), 0);
}

/// A server that reads requests and closes without a word; counts them.
fn mute() -> (SocketAddr, Arc<AtomicUsize>) {
    let met = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&met);
    let address = server(move |_, mut stream| {
        if head(&mut stream).is_some() {
            count.fetch_add(1, SeqCst);
        }
    });
    (address, met)
}

#[tokio::test]
async fn what_cannot_be_repeated_is_not_and_what_can_goes_elsewhere() {
    let (address, met) = mute();
    let world = world(&[address, echo("b")], |_| {});
    let post = world.ask(Method::POST, Some(Sent::of("once"))).await;
    assert_eq!(post.err(), Some(Failure::BackendClosed));
    let patch = world.ask(Method::PATCH, None).await.unwrap();
    assert_eq!(text(patch.1).await.unwrap(), "b0");
    assert_eq!(met.load(SeqCst), 1);
    // The turn is the mute one's again.
    assert_eq!(world.get().await.unwrap(), "b0");
    assert_eq!(met.load(SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_the_server_has_closed_costs_no_request() {
    let (closed, close) = mpsc::channel();
    let bodies = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&bodies);
    let closed = std::sync::Mutex::new(closed);
    let address = server(move |_, mut stream| {
        let head = head(&mut stream).unwrap();
        if head.starts_with("POST") {
            let mut body = [0; 11];
            stream.read_exact(&mut body).unwrap();
            count.fetch_add(1, SeqCst);
        }
        say(&mut stream, &answer("x"));
        // As servers do whose keep-alive is over at the wrong moment: no `Connection: close` has announced it.
        drop(stream);
        closed.lock().unwrap().send(()).unwrap();
    });
    let world = world(&[address], |config| config.terms.retries = 0);
    for n in 1..=20 {
        // `1\r\nx\r\n0\r\n\r\n`
        let (_, answer) = world
            .ask(Method::POST, Some(Sent::of("x")))
            .await
            .unwrap_or_else(|failure| panic!("{n}: {failure:?}"));
        assert_eq!(text(answer).await.unwrap(), "x");
        close.recv_timeout(SOON).unwrap();
    }
    assert_eq!(bodies.load(SeqCst), 20);
}

/// What the server has read may be repeated, where it is idempotent, and as often as the operator says: a kept connection, which
/// might have been closed by chance, is no exception.
#[tokio::test]
async fn a_request_is_repeated_as_often_as_is_said() {
    for retries in [0, 1, 2] {
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        let address = server(move |number, mut stream| {
            if number == 0 {
                let _first = head(&mut stream).unwrap();
                say(&mut stream, &answer("x"));
            }
            if head(&mut stream).is_some() {
                count.fetch_add(1, SeqCst);
            }
        });
        let world = world(&[address], |config| config.terms.retries = retries);
        assert_eq!(world.get().await.unwrap(), "x");
        assert_eq!(world.get().await.unwrap_err(), Failure::BackendClosed);
        assert_eq!(met.load(SeqCst), 1 + retries as usize);
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time_and_not_tried_again() {
    let (address, met) = {
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        let address = server(move |_, mut stream| {
            while head(&mut stream).is_some() {
                count.fetch_add(1, SeqCst);
            }
        });
        (address, met)
    };
    let world = world(&[address], |config| {
        config.terms.response = Some(Duration::from_millis(50));
    });
    assert_eq!(world.get().await.unwrap_err(), Failure::BackendTimeout);
    assert_eq!(met.load(SeqCst), 1);
    assert_eq!(world.backend.servers[0].open(), 0, "closed");
}

#[tokio::test]
async fn a_limit_of_connections_is_kept_and_whoever_waits_takes_turns() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let address = server(move |number, mut stream| {
        while head(&mut stream).is_some() {
            gate.lock().unwrap().recv_timeout(SOON).unwrap();
            say(&mut stream, &answer(&number.to_string()));
        }
    });
    let world = world(&[address], |config| {
        config.servers[0].max_connections = NonZeroUsize::new(1);
        config.terms.queued = 1;
    });
    let first = world.get();
    let second = world.get();
    let third = async {
        while world.backend.queue.count() == 0 {
            tokio::task::yield_now().await;
        }
        let third = world.get().await;
        go.send(()).unwrap();
        go.send(()).unwrap();
        third
    };
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!(
        third.unwrap_err(),
        Failure::BackendBusy,
        "nobody else may wait"
    );
    assert_eq!((first.unwrap(), second.unwrap()), ("0".into(), "0".into()));
    assert_eq!(world.backend.servers[0].open(), 1);
}

#[tokio::test]
async fn waiting_for_a_connection_ends_in_time() {
    let address = server(|_, mut stream| while head(&mut stream).is_some() {});
    let world = world(&[address], |config| {
        config.servers[0].max_connections = NonZeroUsize::new(1);
        config.terms.queue = Duration::from_millis(50);
        config.terms.response = Some(Duration::from_secs(1));
    });
    let (first, second) = tokio::join!(world.get(), world.get());
    assert_eq!(first.unwrap_err(), Failure::BackendTimeout);
    assert_eq!(second.unwrap_err(), Failure::BackendBusy);
}

#[tokio::test]
async fn backups_serve_only_while_nobody_else_can() {
    let world = world(&[echo("a"), echo("b")], |config| {
        config.servers[1].backup = true
    });
    for _ in 0..4 {
        assert_eq!(world.get().await.unwrap(), "a0");
    }
    let alone = self::world(&[nobody(), echo("b")], |config| {
        config.servers[1].backup = true;
    });
    for _ in 0..4 {
        assert_eq!(alone.get().await.unwrap(), "b0");
    }
}
