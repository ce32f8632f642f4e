//! Small uploads while addresses rotate.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_tests::HOST;
use tidegate_tests::conn::Conn;
use tidegate_tests::dns::Dns;
use tidegate_tests::eventually::within;
use tidegate_tests::http1::{Framing, Reader};
use tidegate_tests::task::{Task, Tasks, spawn};
use tidegate_tests::visitors::Visitor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};

use super::{NAME, at, ip, places, world_with};

/// An app that takes note of each body.
fn taking(listener: TcpListener, bodies: &Arc<Mutex<HashMap<Vec<u8>, usize>>>) -> Task {
    let bodies = Arc::clone(bodies);
    spawn(async move {
        let mut running = Tasks::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let (bodies, mut reader) = (Arc::clone(&bodies), Reader::new(Conn::Plain(tcp)));
            running.spawn(async move {
                while let Ok(Some(head)) = reader.head().await {
                    let mut framing = Framing::of_request(&head).unwrap();
                    let Ok(body) = reader.body(&mut framing).await else {
                        return;
                    };
                    *bodies.lock().unwrap().entry(body).or_default() += 1;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if reader.io.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    })
}

/// The site whose load balancer is found by DNS, and whose small uploads stalled (issue 3 §7): 549 octets, 200 times a second,
/// while its addresses change several times a second.
#[tokio::test]
async fn no_upload_is_lost_or_doubled_while_addresses_rotate() {
    const VISITORS: usize = 4;
    const EACH: usize = 250;
    let dns = Arc::new(Dns::start().await);
    let (port, listeners) = places(4).await;
    let bodies = Arc::default();
    let _apps: Vec<Task> = listeners
        .into_iter()
        .map(|listener| taking(listener, &bodies))
        .collect();
    dns.set_addresses(NAME, 0, &[ip(1), ip(2)]);
    let more = "hold = 0\nleast_ttl = \"150ms\"\nmost_ttl = \"200ms\"";
    let world = world_with(&dns, &at(port, 2), more, "retries = 0").await;
    let rotating = {
        let dns = Arc::clone(&dns);
        spawn(async move {
            let mut ticks = interval(Duration::from_millis(250));
            for turn in 0_u8.. {
                ticks.tick().await;
                let (one, two) = (turn % 4 + 1, (turn + 1) % 4 + 1);
                dns.set_addresses(NAME, 0, &[ip(one), ip(two)]);
            }
        })
    };
    let mut visitors = Tasks::new();
    for visitor in 0..VISITORS {
        let to = world.visitors;
        visitors.spawn(async move {
            let mut conn = Visitor::connect(to).await;
            let mut ticks = interval(Duration::from_millis(20));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for nth in 0..EACH {
                ticks.tick().await;
                let body = format!("{:0<549}", format!("{visitor}-{nth}-"));
                let head =
                    format!("POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 549\r\n\r\n");
                conn.send(head + &body).await;
                let answer = conn.answer("POST").await;
                let said = (answer.status(), answer.reason());
                assert_eq!(said, (200, ""), "{visitor}-{nth}");
            }
        });
    }
    while let Some(done) = within(Duration::from_secs(60), "uploads", visitors.join_next()).await {
        done.unwrap();
    }
    drop(rotating);
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), VISITORS * EACH);
    assert!(bodies.values().all(|times| *times == 1), "doubled");
    let turns = world
        .gateway
        .logged(&["backend site: app.internal: one-", "and was"])
        .len();
    assert!(turns >= 8, "addresses changed {turns} times");
}
