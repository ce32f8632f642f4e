//! Places on a tunnel: who waits for one is told of the limit, and not that the app is slow.

use tidegate_tests::eventually::SOON;
use tidegate_tests::peers::agent::RawAgent;
use tidegate_tests::peers::field;
use tidegate_tests::peers::frame::{Frame, flag, kind, setting};
use tidegate_tests::visitors::H2Visitor;
use tidegate_tests::{HOST, World, within};

/// A request that waits for a place is not one whose app is slow.
#[tokio::test]
async fn waiting_for_a_place_has_its_own_limit_and_answer() {
    let builder = World::builder().option("--response-timeout", "1s");
    let world = builder.option("--hold", "2s").start().await;
    let settings = |most| Frame::settings(&[(setting::MAX_CONCURRENT_STREAMS, most)]);
    let identity = world.pki.agent(&[HOST]);
    let mut peer = RawAgent::dial_with(world.tunnels, &world.pki, &identity, settings(1)).await;
    world.wait_filed(HOST, 1, SOON).await;
    let mut first = world.visitor().await;
    first.send_get(HOST, "/first").await;
    let (taken, _) = peer.head().await;
    peer.send_head(taken, &[(":status", "200")], false).await;
    first.head().await;
    let waits = async || {
        let mut http2 = H2Visitor::connect(world.visitors).await;
        let (over_h1, over_h2) =
            tokio::join!(world.get(HOST, "/second"), http2.get(HOST, "/second"));
        assert_eq!((over_h1.status(), over_h1.reason()), (503, "limit"));
        assert_eq!(over_h2.status, 503);
        assert_eq!(over_h2.field("tidegate-reason"), "limit");
    };
    waits().await;
    // The same where the agent allows no more streams than before, and none at all, while it is in use.
    peer.send(Frame::data(taken, b"", true)).await;
    peer.send(settings(0)).await;
    let acknowledged = async {
        loop {
            if peer.wait_frame(kind::SETTINGS).await.has(flag::ACK) {
                break;
            }
        }
    };
    within(SOON, "the gateway has read the SETTINGS", acknowledged).await;
    waits().await;
    // Who still waits when there is room again is served, and has all of the time for its response.
    let mut late = world.visitor().await;
    late.send_get(HOST, "/late").await;
    world.wait_held(1).await;
    peer.send(settings(5)).await;
    let (stream, fields) = peer.head().await;
    assert_eq!(field(&fields, ":path"), Some("/late"));
    peer.respond(stream, "late").await.unwrap();
    assert_eq!(late.answer("GET").await.text(), "late");
}
