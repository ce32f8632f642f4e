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

/// Octets of interim responses that are sent, or as many as are taken: large ones, and such as have no fields.
const FLOOD: u64 = 200 << 20;
const FLOOD_OF_SMALL: u64 = 16 << 20;

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
    let mut visitor = Visitor::connect_narrow(world.visitors).await;
    if http2 {
        return asking(visitor, host, "/flood").await.into_conn();
    }
    visitor.send_get(host, "/flood").await;
    visitor.reader.io
}

/// A visitor who has asked `host` for `path` over HTTP/2, on stream 1.
async fn asking(visitor: Visitor, host: &str, path: &str) -> Peer {
    let mut peer = Peer::on(visitor.reader);
    let head = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", host),
        (":path", path),
    ];
    let opening = [
        PREFACE.as_slice(),
        &Frame::settings(&[]).encode(),
        &Frame::headers(1, hpack::encode(&head), true).encode(),
    ];
    peer.write(&opening.concat()).await.unwrap();
    peer
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

/// The same from an agent that is not ours: answers `/flood` with `most` octets of one interim response.
fn flood(mut peer: Peer, hint: Vec<u8>, most: u64, sent: Arc<AtomicU64>) -> Task {
    spawn(async move {
        while let Ok(event) = peer.event().await {
            let Event::Head { stream, fields, .. } = event else {
                continue;
            };
            let count = 60_000 / hint.len();
            let many = vec![Frame::headers(stream, hint.clone(), false); count];
            while field(&fields, ":path") == Some("/flood") && sent.load(Ordering::Relaxed) < most {
                if peer.send_all(&many).await.is_err() {
                    return;
                }
                sent.fetch_add((count * (9 + hint.len())) as u64, Ordering::Relaxed);
            }
            if peer.respond(stream, "ok").await.is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn a_foreign_agents_endless_interim_responses_fill_nobodys_memory() {
    let link = "a".repeat(3000);
    let large = hpack::encode(&[(":status", "103"), ("link", &link)]);
    let small = hpack::encode(&[(":status", "103")]);
    let go_on = hpack::encode(&[(":status", "100")]);
    let floods = [
        ("large", large, FLOOD),
        ("small", small, FLOOD_OF_SMALL),
        ("100", go_on, FLOOD_OF_SMALL),
    ];
    for (what, hint, most) in &floods {
        for http2 in [false, true] {
            let what = format!("{what}, HTTP/2: {http2}");
            a_foreign_agents_flood_is_bounded(&what, hint, *most, http2).await;
        }
    }
}

async fn a_foreign_agents_flood_is_bounded(what: &str, hint: &[u8], most: u64, http2: bool) {
    let world = World::start().await;
    let identity = world.pki.agent(&[HOST]);
    let good = RawAgent::dial(world.tunnels, &world.pki, &identity).await;
    let _good = flood(good, hint.to_vec(), 0, Arc::default());
    world.wait_filed(HOST, 1, SOON).await;
    assert_eq!(world.get(HOST, "/").await.text(), "ok");
    let (evil, peer) = evil(&world).await;
    let sent = Arc::new(AtomicU64::new(0));
    let _evil = flood(peer, hint.to_vec(), most, Arc::clone(&sent));
    let before = world.gateway.resident_kib();
    // The flood, and who answers the bystander, share a process with it.
    let bystander = Bystander::watch_for(&world, "/", "ok", SOON / 3);
    let _stuck = stuck_at(&world, evil, http2).await;
    let mut grown = 0;
    let over = "all has been sent, or the tunnel is over";
    eventually(SOON * 2, over, async || {
        grown = grown.max(world.gateway.resident_kib().saturating_sub(before));
        let all = sent.load(Ordering::Relaxed) >= most;
        (all || world.filed(evil).await == 0).then_some(())
    })
    .await;
    assert!(grown < MOST_KIB, "{what}: {grown} KiB");
    bystander.noticed_nothing().await;
}

/// A hostile agent's name, and its tunnel.
async fn evil(world: &World) -> (&'static str, Peer) {
    let peer = world.raw_agent("evil.test").await;
    ("evil.test", peer)
}

/// The status of every head that comes to an end with a response that is no interim one.
async fn statuses(visitor: &mut Peer) -> Vec<String> {
    let mut statuses = Vec::new();
    while statuses
        .last()
        .is_none_or(|status: &String| status.starts_with('1'))
    {
        let (_, fields) = visitor.head().await;
        statuses.push(field(&fields, ":status").unwrap().to_owned());
    }
    statuses
}

#[tokio::test]
async fn interim_responses_frame_nothing_and_change_no_protocol() {
    let world = World::start().await;
    let (evil, mut peer) = evil(&world).await;
    let _evil = spawn(async move {
        while let Ok(event) = peer.event().await {
            let Event::Head { stream, .. } = event else {
                continue;
            };
            let heads: [&[(&str, &str)]; 3] = [
                &[(":status", "100")],
                &[(":status", "101")],
                &[
                    (":status", "103"),
                    ("link", "style.css"),
                    ("content-length", "2"),
                    ("trailer", "x-sum"),
                ],
            ];
            let heads = heads.map(|head| Frame::headers(stream, hpack::encode(head), false));
            if peer.send_all(&heads).await.is_err() || peer.respond(stream, "ok").await.is_err() {
                return;
            }
        }
    });
    let mut visitor = world.visitor().await;
    visitor.send_get(evil, "/").await;
    let hints = visitor.head().await;
    assert_eq!(hints.status(), 103, "nobody waited for 100: {hints:?}");
    assert_eq!(hints.get("link"), Some("style.css"));
    for absent in ["content-length", "trailer"] {
        assert_eq!(hints.get(absent), None, "{hints:?}");
    }
    assert_eq!(visitor.answer("GET").await.text(), "ok");
    let mut visitor = asking(world.visitor().await, evil, "/").await;
    assert_eq!(statuses(&mut visitor).await, ["103", "200"]);
}

#[tokio::test]
async fn a_request_whose_interim_responses_have_no_end_has_an_answer_of_ours() {
    let world = World::start().await;
    let (evil, peer) = evil(&world).await;
    let hint = hpack::encode(&[(":status", "103")]);
    let _evil = flood(peer, hint, 1 << 20, Arc::default());
    let mut visitor = asking(world.visitor().await, evil, "/flood").await;
    let statuses = statuses(&mut visitor).await;
    let (last, hints) = statuses.split_last().unwrap();
    assert_eq!(last, "502");
    assert_eq!(hints, ["103"; 64], "a share of them is passed");
    world.gateway.wait_log(&["reason=bad-response"]).await;
    assert_eq!(world.listed().await.len(), 1, "the tunnel lives");
}
