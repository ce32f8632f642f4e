//! Frames, streams, resets and fields without number or measure.

use std::time::{Duration, Instant};

use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::pattern;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{Frame, code, flag, kind, setting};
use tidegate_tests::peers::{Event, hpack};
use tidegate_tests::{HOST, Site, within};

use super::{Fate, fate, get, post, served, visitor};

/// A body cut into single octets, faster than anybody could take them, is a body like any other.
#[tokio::test]
async fn a_body_of_single_octets_arrives() {
    let site = Site::start().await;
    let mut visitor = visitor(&site).await;
    let octets = pattern(30_000);
    let mut frames = vec![post(HOST, "/upload")];
    frames.extend(octets.iter().map(|octet| Frame::data(1, &[*octet], false)));
    frames.push(Frame::data(1, b"", true));
    visitor.send_all(&frames).await.unwrap();
    assert_eq!(fate(&mut visitor, 1).await, Fate::Status(200));
    let body = visitor.wait_frame(kind::DATA).await.payload;
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(text.contains("30000"), "{text}");
}

/// Frames that nobody takes cost far more than their octets: a connection may have few of them.
#[tokio::test]
async fn single_octets_that_nobody_takes_end_the_connection_and_fill_no_memory() {
    let site = Site::start().await;
    let stuck = "stuck.test";
    let identity = site.world.pki.agent(&[stuck]);
    let settings = Frame::settings(&[
        (setting::ENABLE_PUSH, 0),
        (setting::INITIAL_WINDOW_SIZE, 0),
        (setting::MAX_CONCURRENT_STREAMS, 100),
    ]);
    let agent = RawAgent::dial_with(site.world.tunnels, &site.world.pki, &identity, settings).await;
    let _agent = agent.idle();
    site.world.wait_filed(stuck, 1, SOON).await;
    let memory = site.world.gateway.resident_kib();
    let mut wire = post(stuck, "/").encode();
    wire.extend(Frame::data(1, b"u", false).encode().repeat(60_000));
    let mut visitors = Vec::new();
    for _ in 0..20 {
        let mut visitor = visitor(&site).await;
        // A connection that is ended meanwhile takes no more.
        let _ended = within(SOON, "frames are taken", visitor.write(&wire)).await;
        visitors.push(visitor);
    }
    let grown = site.world.gateway.resident_kib().saturating_sub(memory);
    assert!(grown < 48 * 1024, "{grown} KiB more");
    for visitor in &mut visitors {
        visitor.until_closed(SOON).await;
    }
    assert_eq!(site.get("/hello").await.status(), 200);
    assert_eq!(site.world.filed(stuck).await, 1, "the tunnel lives");
}

#[tokio::test]
async fn a_rapid_reset_starts_few_requests_and_stops_nobody() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    let cpu = site.world.gateway.cpu_time();
    let block = hpack::encode(&get("/never"));
    let mut stream = 1;
    'attack: for _ in 0..100 {
        let mut frames = Vec::new();
        for _ in 0..100 {
            frames.push(Frame::headers(stream, block.clone(), true));
            frames.push(Frame::reset(stream, code::CANCEL));
            stream += 2;
        }
        if peer.send_all(&frames).await.is_err() {
            break 'attack;
        }
    }
    served(&site).await;
    let started = site.app.count("/never");
    assert!(started <= 200, "{started} requests at the app");
    let used = site.world.gateway.cpu_time() - cpu;
    assert!(used < Duration::from_secs(3), "{used:?} of CPU");
    let gateway = &site.world.gateway;
    gateway
        .wait_log(&[" access ", "status=429 reason=too-many-cancelled"])
        .await;
}

/// Making the gateway reset, and not resetting oneself (CVE-2025-8671).
#[tokio::test]
async fn a_made_reset_cancels_what_it_started() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    let block = hpack::encode(&get("/never"));
    let mut stream = 1;
    for _ in 0..1000 {
        let frames = [
            Frame::headers(stream, block.clone(), true),
            Frame::window(stream, 0),
        ];
        if peer.send_all(&frames).await.is_err() {
            break;
        }
        stream += 2;
    }
    served(&site).await;
    drop(peer);
    // Whatever was started is ended with its visitor.
    eventually(SOON, "no stream is left on the tunnels", async || {
        (site.world.streams(HOST).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn floods_are_absorbed_or_ended() {
    let site = Site::start().await;
    let memory = site.world.gateway.resident_kib();
    let floods: [(&str, Vec<Frame>); 6] = [
        ("PING", vec![Frame::ping([1; 8], false); 200]),
        (
            "SETTINGS",
            vec![Frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 1)]); 200],
        ),
        (
            "table size to and fro",
            vec![Frame::settings(&[(1, 0)]), Frame::settings(&[(1, 1 << 20)])],
        ),
        ("PRIORITY", vec![Frame::new(2, 0, 1, [0, 0, 0, 0, 16]); 200]),
        ("WINDOW_UPDATE", vec![Frame::window(0, 1); 200]),
        (
            "unknown frames",
            vec![Frame::new(0xbb, 0xff, 0, vec![0; 50]); 200],
        ),
    ];
    for (what, frames) in floods {
        let mut peer = visitor(&site).await;
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            // Nothing is read: what the gateway wants to answer must not pile up in it.
            let sent =
                tokio::time::timeout(Duration::from_millis(300), peer.send_all(&frames)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        served(&site).await;
        let grown = site.world.gateway.resident_kib().saturating_sub(memory);
        assert!(grown < 64 * 1024, "{what}: {grown} KiB more");
    }
}

#[tokio::test]
async fn endless_field_blocks_are_ended() {
    let site = Site::start().await;
    for payload in [0, 1, 16_000] {
        let mut peer = visitor(&site).await;
        let block = hpack::encode(&get("/x"));
        peer.send(Frame::new(kind::HEADERS, flag::END_STREAM, 1, block))
            .await;
        let more = Frame::new(kind::CONTINUATION, 0, 1, vec![0; payload])
            .encode()
            .repeat(64);
        // What the kernel's buffers take says nothing: the end of the connection does.
        for _ in 0..300 {
            let sent = tokio::time::timeout(Duration::from_secs(1), peer.write(&more)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        peer.until_closed(Duration::from_secs(5)).await;
        served(&site).await;
    }
    assert_eq!(site.app.count("/x"), 0);
}

/// 3.9 KB that are referred to 4,000 times (CVE-2016-6581).
#[tokio::test]
async fn a_compressed_bomb_is_refused() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    let mut block = hpack::encode(&get("/bomb"));
    // 0x40: a literal with incremental indexing and a name of its own; then its index, 62, again and again.
    block.extend([0x40, 1, b'x', 0x7f]);
    let mut rest = 3900 - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
    block.extend([b'v'; 3900]);
    block.extend([0x80 | 62; 4000]);
    peer.send(Frame::headers(1, block, true)).await;
    let fate = fate(&mut peer, 1).await;
    assert!(
        matches!(fate, Fate::Status(431) | Fate::Reset(_) | Fate::Closed),
        "{fate:?}"
    );
    assert_eq!(site.app.count("/bomb"), 0);
    served(&site).await;
}

/// More streams than the gateway offers are refused; those within the limit are served.
#[tokio::test]
async fn too_many_streams_are_refused() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    let Event::Frame(settings) = peer.event().await.unwrap() else {
        panic!("the gateway's SETTINGS come first")
    };
    let offered = settings
        .payload
        .chunks(6)
        .find(|entry| entry[..2] == setting::MAX_CONCURRENT_STREAMS.to_be_bytes())
        .map(|entry| u32::from_be_bytes(entry[2..6].try_into().unwrap()));
    assert!(
        offered.is_some_and(|most| (10..=1000).contains(&most)),
        "{offered:?}"
    );
    let block = hpack::encode(&get("/never"));
    let frames: Vec<Frame> = (0..5000)
        .map(|count| Frame::headers(count * 2 + 1, block.clone(), true))
        .collect();
    let _ = peer.send_all(&frames).await;
    served(&site).await;
    assert!(
        site.app.count("/never") <= offered.unwrap() as usize,
        "{}",
        site.app.count("/never")
    );
    let gateway = &site.world.gateway;
    gateway
        .wait_log(&[" access ", "status=503 reason=limit"])
        .await;
}
