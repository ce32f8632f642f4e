//! Interim responses without end: neither end keeps them, and nobody else notices (RFC 9110 §15.2 lets them be dropped).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_tests::apps::RawApp;
use tidegate_tests::bystander::Bystander;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{Frame, PREFACE};
use tidegate_tests::peers::{Event, Peer, field, hpack};
use tidegate_tests::task::{Task, spawn};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, World};
use tokio::io::AsyncWriteExt;

/// Octets of interim responses that are sent, or as many as are taken.
const FLOOD: u64 = 200 << 20;

/// What both ends together may grow by meanwhile.
const MOST_KIB: u64 = 48 * 1024;

/// An app that answers `/flood` with 103 after 103 and everything else with `ok`; and how much it has sent.
async fn app() -> (RawApp, Arc<AtomicU64>) {
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let app = RawApp::start(move |mut reader| {
        let counter = Arc::clone(&counter);
        async move {
            let one = format!(
                "HTTP/1.1 103 Early Hints\r\nLink: </{}>\r\n\r\n",
                "a".repeat(3000)
            );
            let twenty = one.repeat(20).into_bytes();
            while let Ok(Some(head)) = reader.head().await {
                while head.target() == "/flood" && counter.load(Ordering::Relaxed) < FLOOD {
                    if reader.io.write_all(&twenty).await.is_err() {
                        return;
                    }
                    counter.fetch_add(twenty.len() as u64, Ordering::Relaxed);
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if reader.io.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (app, sent)
}

/// A visitor who asks `host` for `/flood` and reads nothing, over HTTP/1 or HTTP/2.
async fn stuck_at(world: &World, host: &str, http2: bool) -> Conn {
    let visitor = Visitor::connect_narrow(world.visitors).await;
    if !http2 {
        let mut visitor = visitor;
        visitor.send_get(host, "/flood").await;
        return visitor.reader.io;
    }
    let mut peer = Peer::on(visitor.reader);
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", host),
        (":path", "/flood"),
    ];
    let opening = [
        PREFACE.as_slice(),
        &Frame::settings(&[]).encode(),
        &Frame::headers(1, hpack::encode(&head), true).encode(),
    ];
    peer.write(&opening.concat()).await.unwrap();
    peer.into_conn()
}

#[tokio::test]
async fn an_apps_endless_interim_responses_fill_nobodys_memory() {
    for http2 in [false, true] {
        let world = World::start().await;
        let (app, sent) = app().await;
        let agent = world.agent(HOST, &app.target()).await;
        assert_eq!(world.get(HOST, "/").await.text(), "ok");
        let before = world.gateway.resident_kib() + agent.resident_kib();
        let bystander = Bystander::watch(&world, "/", "ok");
        let _stuck = stuck_at(&world, HOST, http2).await;
        let mut last = 0;
        let rests = "all has been sent, or no more is taken";
        eventually(SOON * 2, rests, async || {
            let total = sent.load(Ordering::Relaxed);
            let rests =
                total > 0 && (total >= FLOOD || total == std::mem::replace(&mut last, total));
            rests.then_some(())
        })
        .await;
        bystander.noticed_nothing().await;
        let grown = (world.gateway.resident_kib() + agent.resident_kib()).saturating_sub(before);
        assert!(grown < MOST_KIB, "HTTP/2: {http2}: {grown} KiB");
    }
}

/// The same from an agent that is not ours.
fn flood(mut peer: Peer, sent: Arc<AtomicU64>) -> Task {
    spawn(async move {
        let link = "a".repeat(3000);
        let hint = hpack::encode(&[(":status", "103"), ("link", &link)]);
        while let Ok(event) = peer.event().await {
            let Event::Head { stream, fields, .. } = event else {
                continue;
            };
            let twenty = vec![Frame::headers(stream, hint.clone(), false); 20];
            while field(&fields, ":path") == Some("/flood") && sent.load(Ordering::Relaxed) < FLOOD
            {
                if peer.send_all(&twenty).await.is_err() {
                    return;
                }
                sent.fetch_add(20 * hint.len() as u64, Ordering::Relaxed);
            }
            if peer.respond(stream, "ok").await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn a_foreign_agents_endless_interim_responses_fill_nobodys_memory() {
    for http2 in [false, true] {
        let world = World::start().await;
        let identity = world.pki.agent(&[HOST]);
        let good = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
        let never = Arc::new(AtomicU64::new(FLOOD));
        let _good = flood(good, never);
        world.wait_filed(HOST, 1, SOON).await;
        assert_eq!(world.get(HOST, "/").await.text(), "ok");
        let evil = world.pki.agent(&["evil.test"]);
        let peer = RawAgent::dial(world.tunnels, &world.pki, &evil).await;
        world.wait_filed("evil.test", 1, SOON).await;
        let sent = Arc::new(AtomicU64::new(0));
        let _evil = flood(peer, Arc::clone(&sent));
        let before = world.gateway.resident_kib();
        let bystander = Bystander::watch(&world, "/", "ok");
        let _stuck = stuck_at(&world, "evil.test", http2).await;
        let mut last = 0;
        let rests = "all has been sent, or no more is taken";
        eventually(SOON * 2, rests, async || {
            let total = sent.load(Ordering::Relaxed);
            let rests =
                total > 0 && (total >= FLOOD || total == std::mem::replace(&mut last, total));
            rests.then_some(())
        })
        .await;
        bystander.noticed_nothing().await;
        let grown = world.gateway.resident_kib().saturating_sub(before);
        assert!(grown < MOST_KIB, "HTTP/2: {http2}: {grown} KiB");
    }
}
