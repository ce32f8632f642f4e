//! Small uploads while addresses rotate: 549 octets, 200 times a second, as at the site whose load balancer is found by DNS and
//! whose uploads stalled (issue 3 §7). For some seconds; `TIDEGATE_TESTS_SECONDS` says for how many.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use rustls::ServerConfig;
use socket2::SockRef;
use tidegate_tests::conn::Conn;
use tidegate_tests::dns::Dns;
use tidegate_tests::eventually::within;
use tidegate_tests::http1::{Framing, Reader};
use tidegate_tests::pki::Pki;
use tidegate_tests::task::{Task, Tasks, spawn};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{HOST, World};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{NAME, at, ip, places, world_with};

/// How often each body was taken.
type Bodies = Arc<Mutex<HashMap<Vec<u8>, usize>>>;

const PER_SECOND: usize = 200;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// How long a server that is awkward keeps a connection between two requests.
const REST: Duration = Duration::from_millis(1_200);
/// The backend's `response_timeout` where servers are awkward.
const PATIENCE: &str = "2s";

fn seconds() -> usize {
    let said = std::env::var("TIDEGATE_TESTS_SECONDS").ok();
    said.map_or(5, |said| {
        said.parse()
            .expect("TIDEGATE_TESTS_SECONDS: a number of seconds")
    })
}

/// The body of an upload, and whose it is.
fn body(number: usize) -> String {
    format!("{:0<549}", format!("{number}-"))
}

fn number(body: &[u8]) -> usize {
    let digits = body.split(|octet| *octet == b'-').next().unwrap();
    str::from_utf8(digits).unwrap().parse().unwrap()
}

/// What an awkward server does with an upload that it has taken. All of it is known from the upload's number, to visitors too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    None,
    /// Answers, and ends the connection in the same segment, of which nothing has told: with TLS's farewell or without.
    Ends {
        farewell: bool,
    },
    /// Answers after some time.
    Late,
    /// Resets the connection.
    Resets,
    /// Never answers.
    Stalls,
}

impl Trick {
    fn of(number: usize) -> Self {
        match number % 101 {
            17 => Self::Resets,
            53 => Self::Stalls,
            29 | 71 => Self::Late,
            of if of % 4 == 0 => Self::Ends {
                farewell: of % 8 == 0,
            },
            _ => Self::None,
        }
    }

    /// What its visitor has to be told. An upload that a server has taken is sent to no other.
    fn told(self) -> (u16, &'static str) {
        match self {
            Self::Resets => (502, "backend-closed"),
            Self::Stalls => (504, "backend-timeout"),
            Self::None | Self::Ends { .. } | Self::Late => (200, ""),
        }
    }
}

/// A server that takes note of each body; with TLS it is an awkward one.
fn taking(listener: TcpListener, tls: Option<&Arc<ServerConfig>>, bodies: &Bodies) -> Task {
    let (bodies, tls) = (Arc::clone(bodies), tls.cloned());
    spawn(async move {
        let mut running = Tasks::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let (bodies, tls) = (Arc::clone(&bodies), tls.clone());
            running.spawn(async move {
                // What becomes of a connection is its visitor's to judge.
                let _over = match tls {
                    None => willing(Reader::new(Conn::Plain(tcp)), &bodies).await,
                    Some(tls) => match Conn::accept_tls(tcp, tls).await {
                        Ok(conn) => awkward(Reader::new(conn), &bodies).await,
                        Err(error) => Err(error),
                    },
                };
            });
        }
    })
}

async fn willing(mut reader: Reader<Conn>, bodies: &Bodies) -> io::Result<()> {
    while upload(&mut reader, bodies).await?.is_some() {
        reader.io.write_all(ANSWER).await?;
    }
    Ok(())
}

async fn awkward(mut reader: Reader<Conn>, bodies: &Bodies) -> io::Result<()> {
    while let Ok(taken) = timeout(REST, upload(&mut reader, bodies)).await {
        let Some(number) = taken? else { return Ok(()) };
        match Trick::of(number) {
            Trick::None => {}
            Trick::Late => sleep(Duration::from_millis(300)).await,
            Trick::Ends { farewell } => {
                SockRef::from(reader.io.tcp()).set_tcp_cork(true)?;
                reader.io.write_all(ANSWER).await?;
                reader.io.flush().await?;
                if farewell {
                    reader.io.shutdown().await?;
                }
                return Ok(());
            }
            Trick::Resets => {
                reader.io.reset();
                return Ok(());
            }
            Trick::Stalls => {
                reader.closed().await;
                return Ok(());
            }
        }
        reader.io.write_all(ANSWER).await?;
        reader.io.flush().await?;
    }
    Ok(())
}

/// The number of the next one; `None` where the connection ends before.
async fn upload(reader: &mut Reader<Conn>, bodies: &Bodies) -> io::Result<Option<usize>> {
    let Some(head) = reader.head().await? else {
        return Ok(None);
    };
    let mut framing = Framing::of_request(&head).unwrap();
    let body = reader.body(&mut framing).await?;
    let number = number(&body);
    *bodies.lock().unwrap().entry(body).or_default() += 1;
    Ok(Some(number))
}

/// Has the name lead to one pair after the other, of so many addresses.
fn rotating(dns: &Arc<Dns>, addresses: u8) -> Task {
    let dns = Arc::clone(dns);
    spawn(async move {
        let mut ticks = interval(Duration::from_millis(250));
        for turn in 0_usize.. {
            ticks.tick().await;
            let one = u8::try_from(turn % usize::from(addresses)).unwrap();
            let pair = [ip(one + 1), ip((one + 1) % addresses + 1)];
            dns.set_addresses(NAME, 0, &pair);
        }
    })
}

/// A gateway whose answers of DNS are old at once.
async fn gateway(dns: &Dns, port: u16, keys: &str) -> World {
    dns.set_addresses(NAME, 0, &[ip(1), ip(2)]);
    let more = "hold = 0\nleast_ttl = \"150ms\"\nmost_ttl = \"200ms\"";
    world_with(dns, &at(port, 2), more, keys).await
}

/// Waits for all visitors; each of `uploads` must have been taken once, and addresses have changed meanwhile.
async fn judged(
    mut visitors: Tasks,
    began: Instant,
    world: &World,
    bodies: &Bodies,
    uploads: usize,
) {
    let limit = Duration::from_secs(60 + 2 * seconds() as u64);
    while let Some(done) = within(limit, "uploads", visitors.join_next()).await {
        done.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    let bodies = bodies.lock().unwrap();
    let doubled = bodies.values().filter(|times| **times != 1).count();
    let turns = world
        .gateway
        .logged(&["backend site: app.internal: one-", "and was"])
        .len();
    assert_eq!((bodies.len(), doubled), (uploads, 0), "in {took:.1} s");
    assert!(turns >= 8, "addresses changed {turns} times");
}

#[tokio::test]
async fn no_upload_is_lost_or_doubled_while_addresses_rotate() {
    const VISITORS: usize = 4;
    let each = PER_SECOND * seconds() / VISITORS;
    let dns = Arc::new(Dns::start().await);
    let (port, listeners) = places(4).await;
    let bodies = Arc::default();
    let apps = listeners
        .into_iter()
        .map(|listener| taking(listener, None, &bodies));
    let _apps: Vec<Task> = apps.collect();
    let world = gateway(&dns, port, "retries = 0").await;
    let _rotating = rotating(&dns, 4);
    let (mut visitors, began) = (Tasks::new(), Instant::now());
    for visitor in 0..VISITORS {
        let to = world.visitors;
        visitors.spawn(async move {
            let mut conn = Visitor::connect(to).await;
            let mut ticks = interval(Duration::from_millis((1000 * VISITORS / PER_SECOND) as u64));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for nth in 0..each {
                ticks.tick().await;
                let number = visitor * each + nth;
                let head =
                    format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 549\r\n\r\n");
                conn.send(head + &body(number)).await;
                let answer = conn.answer("POST").await;
                assert_eq!((answer.status(), answer.reason()), (200, ""), "{number}");
            }
        });
    }
    judged(visitors, began, &world, &bodies, VISITORS * each).await;
}

/// Chain B: phones in HTTP/2 over TLS, servers in HTTP/1.1 over TLS, of which each is awkward in every way and one is not there.
/// What a server has taken and then not answered its visitor is told of, and it is sent to no other; everything else is answered.
#[tokio::test]
async fn no_upload_is_lost_or_doubled_where_servers_stall_reset_and_close() {
    const VISITORS: usize = 40;
    let each = PER_SECOND * seconds() / VISITORS;
    let dns = Arc::new(Dns::start().await);
    let (port, mut listeners) = places(5).await;
    // Whoever is sent there is refused.
    drop(listeners.pop());
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let tls = pki.server_config(&pki.server(&[NAME]), false, &["http/1.1"]);
    let bodies = Arc::default();
    let apps = listeners
        .into_iter()
        .map(|listener| taking(listener, Some(&tls), &bodies));
    let _apps: Vec<Task> = apps.collect();
    let keys = format!(
        "tls = {{ ca = \"{}\" }}\nresponse_timeout = \"{PATIENCE}\"",
        pki.ca_file("ca").display()
    );
    let world = gateway(&dns, port, &keys).await;
    let _rotating = rotating(&dns, 5);
    let (mut visitors, began) = (Tasks::new(), Instant::now());
    for visitor in 0..VISITORS {
        let (to, tls) = (world.visitors_tls, world.visitor_tls(&["h2"]));
        visitors.spawn(async move {
            let mut phone = H2Visitor::connect_tls(to, HOST, tls).await;
            let mut ticks = interval(Duration::from_millis((1000 * VISITORS / PER_SECOND) as u64));
            // Who has waited for a server makes up for it.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for nth in 0..each {
                ticks.tick().await;
                let number = nth * VISITORS + visitor;
                let head = phone.head(Method::POST, HOST, "/upload");
                let answer = phone.send(head, body(number)).await;
                let said = (answer.status.as_u16(), answer.field("tidegate-reason"));
                let trick = Trick::of(number);
                assert_eq!(said, trick.told(), "{number}, {trick:?}");
            }
        });
    }
    judged(visitors, began, &world, &bodies, VISITORS * each).await;
    let refused =
        world
            .gateway
            .logged(&["WARN", &format!("({}:{port})", ip(5)), "cannot be reached"]);
    assert!(
        !refused.is_empty(),
        "somebody was sent to the one that is not there"
    );
}
