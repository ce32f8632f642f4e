//! Visitors who attack with HTTP/2 frames: floods, resets, and heads that would smuggle (`reliability.md` §2.1, §2.2).

use std::time::{Duration, Instant};

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::pattern;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::frame::{Frame, PREFACE, code, flag, kind, setting};
use tidegate_tests::peers::{Event, Peer, field, hpack};
use tidegate_tests::{HOST, Site, within};

/// A visitor of frames on the clear-text port.
async fn visitor(site: &Site) -> Peer {
    visitor_with(site, &[]).await
}

async fn visitor_with(site: &Site, settings: &[(u16, u32)]) -> Peer {
    let mut peer = Peer::over(Conn::plain(site.world.visitors).await.unwrap());
    let opening = [PREFACE.as_slice(), &Frame::settings(settings).encode()].concat();
    peer.write(&opening).await.unwrap();
    peer
}

fn get(path: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", path),
    ]
}

/// What becomes of a request on `stream`: its status, or the code of its reset, or the end of the connection.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Status(u16),
    Reset(u32),
    Closed,
}

async fn fate(peer: &mut Peer, stream: u32) -> Fate {
    within(SOON, "a request's fate", async {
        loop {
            match peer.event().await {
                Ok(Event::Head {
                    stream: on, fields, ..
                }) if on == stream => {
                    return Fate::Status(field(&fields, ":status").unwrap().parse().unwrap());
                }
                Ok(Event::Frame(frame))
                    if frame.stream == stream && frame.kind == kind::RST_STREAM =>
                {
                    return Fate::Reset(frame.code());
                }
                Ok(_) => {}
                Err(_) => return Fate::Closed,
            }
        }
    })
    .await
}

fn post(host: &str, path: &str) -> Frame {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", host),
        (":path", path),
    ];
    Frame::headers(1, hpack::encode(&fields), false)
}

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

/// Heads with which an HTTP/2 visitor would write another request into HTTP/1, or confuse the routing.
#[tokio::test]
async fn heads_that_would_smuggle_do_not_reach_the_app() {
    let site = Site::start().await;
    let with = |name: &'static str, value: &'static str| {
        let mut fields = get("/x");
        fields.push((name, value));
        fields
    };
    let replaced = |name: &'static str, value: &'static str| {
        let fields = get("/x").into_iter();
        fields
            .map(|(n, v)| if n == name { (n, value) } else { (n, v) })
            .collect::<Vec<_>>()
    };
    let cases = [
        (
            "CRLF in a value",
            with(
                "x",
                "a\r\nGET /smuggled HTTP/1.1\r\nHost: blog.test\r\n\r\n",
            ),
        ),
        ("LF in a value", with("x", "a\nX-Owned: 1")),
        ("NUL in a value", with("x", "a\0b")),
        ("CRLF in a name", with("x: y\r\nx-owned", "1")),
        ("space in a name", with("x y", "1")),
        ("colon in a name", with("x:y", "1")),
        ("an empty name", with("", "1")),
        ("an upper-case name", with("X-Upper", "1")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("connection", with("connection", "close")),
        ("proxy-connection", with("proxy-connection", "close")),
        ("keep-alive", with("keep-alive", "1")),
        ("upgrade", with("upgrade", "h2c")),
        ("te of more than trailers", with("te", "gzip")),
        (
            "space in the path",
            replaced(
                ":path",
                "/x HTTP/1.1\r\nHost: blog.test\r\n\r\nGET /smuggled",
            ),
        ),
        ("a path without slash", replaced(":path", "x")),
        ("an empty path", replaced(":path", "")),
        ("an absolute path", replaced(":path", "http://other.test/")),
        (
            "space in the method",
            replaced(":method", "GET /smuggled HTTP/1.1"),
        ),
        ("an empty method", replaced(":method", "")),
        (
            "a scheme of words",
            replaced(":scheme", "http://other.test/?x="),
        ),
        (
            "userinfo in the authority",
            replaced(":authority", "user@blog.test"),
        ),
        (
            "a slash in the authority",
            replaced(":authority", "blog.test/x"),
        ),
        (
            "space in the authority",
            replaced(":authority", "blog.test x"),
        ),
        ("two paths", with(":path", "/y")),
        ("two methods", with(":method", "POST")),
        ("two authorities", with(":authority", "other.test")),
        ("an unknown pseudo-field", with(":owned", "1")),
        ("a response's pseudo-field", with(":status", "200")),
        ("another host", with("host", "other.test")),
        (
            "no path",
            get("/x")
                .into_iter()
                .filter(|(name, _)| *name != ":path")
                .collect(),
        ),
        (
            "no method",
            get("/x")
                .into_iter()
                .filter(|(name, _)| *name != ":method")
                .collect(),
        ),
        (
            "no authority",
            get("/x")
                .into_iter()
                .filter(|(name, _)| *name != ":authority")
                .collect(),
        ),
    ];
    for (what, fields) in cases {
        let mut peer = visitor(&site).await;
        peer.send_head(1, &fields, true).await;
        let fate = fate(&mut peer, 1).await;
        let refused = matches!(
            fate,
            Fate::Status(400 | 405 | 501) | Fate::Reset(_) | Fate::Closed
        );
        assert!(refused, "{what}: {fate:?}");
        let seen = site.app.requests();
        assert!(seen.is_empty(), "{what} reached the app: {seen:?}");
    }
}

/// Behind `h2c`, or behind a line that the value itself ends, requests would reach the app that nobody has seen.
#[tokio::test]
async fn an_app_is_not_asked_to_change_to_what_hides_requests() {
    let site = Site::start().await;
    for protocol in [
        "h2c",
        "H2C",
        "h2",
        "h2c-14",
        "tls/1.0",
        "HTTP/2.0",
        "http",
        "a b",
        "a,h2c",
        "",
        "websocket\r\nX-Owned: 1",
        "foo/",
        "a/b/c",
    ] {
        let mut peer = visitor(&site).await;
        let mut fields = vec![(":method", "CONNECT"), (":protocol", protocol)];
        fields.extend(get("/internal").into_iter().skip(1));
        fields.push(("http2-settings", "AAMAAABkAAQAAP__"));
        peer.send_head(1, &fields, false).await;
        assert_eq!(fate(&mut peer, 1).await, Fate::Status(400), "{protocol:?}");
        let seen = site.app.requests();
        assert!(seen.is_empty(), "{protocol:?} reached the app: {seen:?}");
    }
    // Those that only frames can show pass, to be ignored by this app.
    let mut peer = visitor(&site).await;
    let mut fields = vec![(":method", "CONNECT"), (":protocol", "foo/1.0")];
    fields.extend(get("/hello").into_iter().skip(1));
    peer.send_head(1, &fields, false).await;
    assert_eq!(fate(&mut peer, 1).await, Fate::Status(502));
    assert_eq!(site.app.last_request().get("upgrade"), Some("foo/1.0"));
}

/// HTTP/1 at the app would have them: a length that is said twice, or is none, is for every reader to guess.
#[tokio::test]
async fn a_length_that_is_not_one_number_does_not_reach_the_app() {
    let site = Site::start().await;
    let cases: [(&[&str], &str, &str); 7] = [
        (&["2", "2"], "xx", "ambiguous-framing"),
        (&["2", "02"], "xx", "ambiguous-framing"),
        (&["0", "0"], "", "ambiguous-framing"),
        (&["0", "00"], "", "ambiguous-framing"),
        (&["", ""], "", "ambiguous-framing"),
        (&["", "0"], "", "ambiguous-framing"),
        (&[""], "", "malformed-request"),
    ];
    for (number, (lengths, body, reason)) in cases.into_iter().enumerate() {
        let path = format!("/upload?{number}");
        let mut fields = get(&path);
        fields[0].1 = "POST";
        fields.extend(lengths.iter().map(|length| ("content-length", *length)));
        let mut peer = visitor(&site).await;
        peer.send_head(1, &fields, body.is_empty()).await;
        if !body.is_empty() {
            peer.send(Frame::data(1, body.as_bytes(), true)).await;
        }
        assert_eq!(fate(&mut peer, 1).await, Fate::Status(400), "{lengths:?}");
        let line = site.world.gateway.wait_log(&["access", &path]).await;
        assert!(line.contains(&format!("reason={reason}")), "{line}");
        let seen = site.app.requests();
        assert!(seen.is_empty(), "{lengths:?} reached the app: {seen:?}");
    }
    // `h2` itself resets for these; nothing of them may be seen either.
    let told = ["access", "reason=malformed-request"];
    let before = site.world.gateway.logged(&told).len();
    let lengths = [
        "+",
        "+2",
        "2, 2",
        "-1",
        "0x2",
        "18446744073709551614",
        "18446744073709551615",
        "18446744073709551616",
    ];
    for (nth, length) in (1..).zip(lengths) {
        let mut fields = get("/upload");
        fields[0].1 = "POST";
        fields.push(("content-length", length));
        let mut peer = visitor(&site).await;
        peer.send_head(1, &fields, true).await;
        let fate = fate(&mut peer, 1).await;
        assert!(
            matches!(fate, Fate::Status(400) | Fate::Reset(_)),
            "{length}: {fate:?}"
        );
        assert!(site.app.requests().is_empty(), "{length}");
        eventually(SOON, &format!("{length} is told of"), async || {
            (site.world.gateway.logged(&told).len() == before + nth).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_would_smuggle_is_counted_by_its_form() {
    let site = Site::start().await;
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("", "1")], "malformed-http2"),
        (&[("x", "a\r\nb: c")], "malformed-http2"),
        (&[("transfer-encoding", "chunked")], "malformed-http2"),
        (&[("upgrade", "h2c")], "malformed-http2"),
        (
            &[("content-length", "0"), ("content-length", "0")],
            "several-lengths",
        ),
        (&[("content-length", "")], "odd-length"),
    ];
    let mut expected = std::collections::BTreeMap::new();
    for (added, form) in cases {
        let mut fields = get("/upload");
        fields[0].1 = "POST";
        fields.extend(added);
        let mut peer = visitor(&site).await;
        peer.send_head(1, &fields, true).await;
        fate(&mut peer, 1).await;
        let count = expected.entry(form).or_insert(0.0);
        *count += 1.0;
        let label = format!("form=\"{form}\"");
        eventually(SOON, &format!("{form} {count}"), async || {
            let metrics = site.world.metrics().await;
            (metrics.sum("tidegate_smuggling_refused_total", &[&label]) == *count).then_some(())
        })
        .await;
    }
    let all = site.world.metrics().await;
    assert_eq!(all.sum("tidegate_smuggling_refused_total", &[]), 6.0);
    assert_eq!(site.app.requests().len(), 0);
}

/// A body that does not have the length that it declared is not complete for the app, and its connection is not reused.
#[tokio::test]
async fn a_body_of_another_length_is_not_passed_as_whole() {
    let site = Site::start().await;
    let mut head = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", HOST),
        (":path", "/upload"),
    ];
    head.push(("content-length", "10"));
    let endings: [(&str, Vec<Frame>); 3] = [
        ("too short", vec![Frame::data(1, b"short", true)]),
        (
            "too long",
            vec![Frame::data(1, b"0123456789 and more", true)],
        ),
        (
            "ended by trailers",
            vec![
                Frame::data(1, b"short", false),
                Frame::headers(1, hpack::encode(&[("x", "1")]), true),
            ],
        ),
    ];
    for (what, frames) in endings {
        let mut peer = visitor(&site).await;
        peer.send_head(1, &head, false).await;
        peer.send_all(&frames).await.unwrap();
        let fate = fate(&mut peer, 1).await;
        assert_ne!(fate, Fate::Status(200), "{what}");
        assert_eq!(
            site.get("/hello").await.text(),
            "hello from blog\n",
            "{what}"
        );
    }
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

/// A window of zero: the visitor's own streams wait, and nobody else's.
#[tokio::test]
async fn a_window_of_zero_costs_little() {
    let site = Site::start().await;
    let memory = site.world.gateway.resident_kib();
    let mut peer = visitor_with(&site, &[(setting::INITIAL_WINDOW_SIZE, 0)]).await;
    for count in 0..50 {
        peer.send_head(count * 2 + 1, &get("/size/1000000"), true)
            .await;
    }
    eventually(SOON, "the requests are at the app", async || {
        (site.app.count("/size/1000000") == 50).then_some(())
    })
    .await;
    served(&site).await;
    let grown = site.world.gateway.resident_kib().saturating_sub(memory);
    assert!(
        grown < 50 * (256 + 512) + 8 * 1024,
        "{grown} KiB for 50 streams"
    );
}

/// Half a preface, no SETTINGS, HEADERS without their end: none may hold a connection for ever (all at once, ~10 s).
#[tokio::test]
async fn openings_that_stall_are_ended() {
    let site = Site::start().await;
    let limit = Duration::from_secs(14);
    let stalled = async |what: &'static str, bytes: Vec<u8>| {
        let mut peer = Peer::over(Conn::plain(site.world.visitors).await.unwrap());
        peer.write(&bytes).await.unwrap();
        let closed = async { while peer.frame().await.is_ok() {} };
        tokio::time::timeout(limit, closed)
            .await
            .is_err()
            .then_some(what)
    };
    let settings = [PREFACE.as_slice(), &Frame::settings(&[]).encode()].concat();
    let block = hpack::encode(&get("/x"));
    let open = [
        settings.as_slice(),
        &Frame::new(kind::HEADERS, 0, 1, block).encode(),
    ]
    .concat();
    let held = tokio::join!(
        stalled("half a preface", PREFACE[..10].to_vec()),
        stalled("no SETTINGS", PREFACE.to_vec()),
        stalled("HEADERS without end", open),
    );
    assert_eq!(held, (None, None, None), "held for more than {limit:?}");
    let gateway = &site.world.gateway;
    gateway
        .wait_log(&[" access ", "HTTP/2", "status=408 reason=head-timeout"])
        .await;
    assert_eq!(site.app.count("/x"), 0);
}

/// During and after an attack another visitor is answered within a second.
async fn served(site: &Site) {
    for _ in 0..5 {
        site.answers_at_once("beside an attack").await;
    }
}
