//! Requests that the HTTP/2 library refuses by itself, and connections that it ends: each has its access line, and is counted
//! (issue §8: one record per request, whatever became of it).

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::frame::{Frame, PREFACE, code, kind};
use tidegate_tests::peers::{Event, Peer, field, hpack};
use tidegate_tests::{HOST, Site, eventually};

async fn visitor(site: &Site) -> Peer {
    let mut peer = Peer::over(Conn::plain(site.world.visitors).await.unwrap());
    let opening = [PREFACE.as_slice(), &Frame::settings(&[]).encode()].concat();
    peer.write(&opening).await.unwrap();
    peer
}

/// A GET with one field in place of its own, or beside them.
fn get<'a>(path: &'a str, name: &'a str, value: &'a [u8]) -> Vec<(&'a str, &'a [u8])> {
    let mut fields: Vec<(&str, &[u8])> = vec![
        (":method", b"GET"),
        (":scheme", b"http"),
        (":authority", HOST.as_bytes()),
        (":path", path.as_bytes()),
    ];
    match fields.iter_mut().find(|(own, _)| *own == name) {
        Some(own) => own.1 = value,
        None => fields.push((name, value)),
    }
    fields
}

/// Waits until exactly so many requests have failed for `reason`, in the metrics and in the log.
async fn counted(site: &Site, reason: &str, count: u32) {
    let label = format!("reason=\"{reason}\"");
    eventually(SOON, &format!("{count} times {reason}"), async || {
        let metrics = site.world.metrics().await;
        let failed = metrics.sum("tidegate_requests_failed_total", &[&label]);
        let word = format!("reason={reason} ");
        let lines = site.world.gateway.logged(&[" access ", &word]).len();
        (failed == f64::from(count) && lines == count as usize).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_malformed_request_has_a_line_and_its_neighbours_an_answer() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    let cases: [(&str, &[u8]); 7] = [
        (":authority", b"a b"),
        (":authority", "sh\u{f6}p.example.com".as_bytes()),
        (":authority", b""),
        (":path", b"/?q=\"x\""),
        (":path", b"/a b"),
        ("connection", b"close"),
        ("te", b"gzip"),
    ];
    let mut stream = 1;
    for (count, (name, value)) in (1..).zip(cases) {
        peer.send_head(stream, &get("/x", name, value), true).await;
        peer.send_head(stream + 2, &get("/hello", "x", b"1"), true)
            .await;
        let (mut refused, mut answered) = (false, false);
        while !(refused && answered) {
            match peer.event().await.unwrap() {
                Event::Head {
                    stream: on, fields, ..
                } if on == stream => {
                    refused = field(&fields, ":status") == Some("400");
                }
                Event::Head {
                    stream: on, fields, ..
                } if on == stream + 2 => {
                    answered = field(&fields, ":status") == Some("200");
                }
                Event::Frame(frame) if frame.kind == kind::RST_STREAM => {
                    refused |= frame.stream == stream;
                }
                _ => {}
            }
        }
        counted(&site, "malformed-request", count).await;
        stream += 4;
    }
    assert_eq!(site.app.count("/x"), 0);
}

/// A body that is longer or shorter than its head says (RFC 9113 §8.1.1): it ends its stream, and looks like nobody's leaving.
#[tokio::test]
async fn a_body_of_another_length_is_malformed() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    for (count, length) in [(1, b"5"), (2, b"2")] {
        let stream = count * 2 - 1;
        let mut head = get("/upload", "content-length", length);
        head[0].1 = b"POST";
        peer.send_head(stream, &head, false).await;
        peer.send(Frame::data(stream, b"abc", true)).await;
        counted(&site, "malformed-request", count).await;
        let metrics = site.world.metrics().await;
        let form = ["form=\"malformed-http2\""];
        let forms = metrics.sum("tidegate_smuggling_refused_total", &form);
        assert_eq!(forms, f64::from(count));
    }
    // The visitor's other requests do not notice.
    peer.send_head(5, &get("/hello", "x", b"1"), true).await;
    peer.head().await;
    site.world.gateway.wait_log(&["/hello", "status=200"]).await;
}

/// Heads that end the connection, and with it a request that has done nothing wrong.
#[tokio::test]
async fn a_broken_head_has_a_line_and_so_has_what_it_breaks() {
    let site = Site::start().await;
    let cases: [(&str, &[u8]); 3] = [("X-Upper", b"1"), ("x", b"a\nb"), (":path", b"/?q=\xe9")];
    for (count, (name, value)) in (1..).zip(cases) {
        let mut peer = visitor(&site).await;
        let path = format!("/never?{count}");
        peer.send_head(1, &get(&path, "x", b"1"), true).await;
        site.app.wait_request(&path).await;
        peer.send_head(3, &get("/x", name, value), true).await;
        peer.until_closed(SOON).await;
        counted(&site, "malformed-request", count).await;
        counted(&site, "connection-error", count).await;
        let gateway = &site.world.gateway;
        gateway
            .wait_log(&[" access ", &path, "status=499 reason=connection-error"])
            .await;
    }
    assert_eq!(site.app.count("/x"), 0);
}

/// What is no HTTP/2 at all is one line, as it is over HTTP/1.
#[tokio::test]
async fn a_connection_that_breaks_the_protocol_has_a_line() {
    let site = Site::start().await;
    let mut peer = visitor(&site).await;
    peer.send(Frame::data(0, b"x", true)).await;
    peer.until_closed(SOON).await;
    counted(&site, "malformed-request", 1).await;
    // Who leaves in peace has none.
    let mut peer = visitor(&site).await;
    peer.send_head(1, &get("/hello", "x", b"1"), true).await;
    peer.head().await;
    drop(peer);
    site.world.gateway.wait_log(&["/hello", "status=200"]).await;
    let lines = site.world.gateway.logged(&[" access "]);
    assert_eq!(lines.len(), 2, "{lines:?}");
}

#[tokio::test]
async fn a_burst_of_cancelled_requests_is_counted_request_by_request() {
    let site = Site::start().await;
    let block = hpack::encode(&get("/never", "x", b"1"));
    let cancelled = |streams: std::ops::Range<u32>| -> Vec<u8> {
        let frames = streams.flat_map(|count| {
            let stream = count * 2 + 1;
            [
                Frame::headers(stream, block.clone(), true),
                Frame::reset(stream, code::CANCEL),
            ]
        });
        frames.flat_map(|frame| frame.encode()).collect()
    };
    // So many are nobody's attack.
    let mut peer = visitor(&site).await;
    peer.write(&cancelled(0..150)).await.unwrap();
    peer.send_head(301, &get("/hello", "x", b"1"), true).await;
    peer.head().await;
    counted(&site, "visitor-gone", 150).await;
    let mut peer = visitor(&site).await;
    // It may be ended before all of it is written.
    let _either = peer.write(&cancelled(0..600)).await;
    let frames = peer.until_closed(SOON).await;
    let told = frames.iter().any(|frame| frame.kind == kind::GOAWAY);
    assert!(told, "{frames:?}");
    let gateway = &site.world.gateway;
    gateway
        .wait_log(&[" access ", "status=429 reason=too-many-cancelled"])
        .await;
    eventually(SOON, "a line of each of them", async || {
        (gateway.logged(&[" access ", "HTTP/2"]).len() > 350).then_some(())
    })
    .await;
}
