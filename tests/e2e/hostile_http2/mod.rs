//! Visitors who attack with HTTP/2 frames: floods, resets, and heads that would smuggle (`reliability.md` §2.1, §2.2).

mod floods; // too much of everything

mod smuggling; // requests inside of requests

mod stalls; // what has no end

use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::frame::{Frame, PREFACE, kind};
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

/// During and after an attack another visitor is answered within a second.
async fn served(site: &Site) {
    for _ in 0..5 {
        site.answers_at_once("beside an attack").await;
    }
}
