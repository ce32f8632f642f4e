//! Visitors who begin, and do not go on.

use std::time::Duration;

use tidegate_tests::Site;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::peers::frame::{Frame, PREFACE, kind, setting};
use tidegate_tests::peers::{Peer, hpack};

use super::{get, served, visitor_with};

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
