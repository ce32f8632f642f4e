//! Heads and bodies that would be another request at the app.

use std::collections::BTreeMap;

use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::peers::frame::Frame;
use tidegate_tests::peers::hpack;
use tidegate_tests::{HOST, Site};

use super::{Fate, fate, get, visitor};

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
    let mut expected = BTreeMap::new();
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
