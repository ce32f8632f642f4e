//! Which connections a request goes on that cannot be repeated, and what says how a server ends them.

use super::*;

/// The number of the connection that such a request went on.
async fn asked(world: &World) -> String {
    let (_, answer) = world.ask(Method::POST, None).await.unwrap();
    text(answer).await.unwrap()
}

/// Asks until a connection is used twice in a row: the server is trusted to keep them. What came before.
async fn until_trusted(world: &World) -> usize {
    let (mut before, mut times) = (asked(world).await, 0);
    let until = Instant::now() + SOON;
    loop {
        let next = asked(world).await;
        if next == before {
            return times;
        }
        before = next;
        times += 1;
        assert!(Instant::now() < until, "{times} connections");
    }
}

#[tokio::test]
async fn a_server_that_keeps_connections_has_them_used() {
    let world = world(&[echo("a")], |_| {});
    until_trusted(&world).await;
    let mut before = asked(&world).await;
    for _ in 0..50 {
        let began = Instant::now();
        let next = asked(&world).await;
        // On a machine that stands still it may have rested for too long.
        assert!(next == before || began.elapsed() > Duration::from_secs(1));
        before = next;
    }
}

/// Where every connection is closed for the next request none is ever seen to be kept.
#[tokio::test]
async fn a_server_with_no_room_for_one_that_rests_is_trusted_in_time() {
    let world = world(&[echo("a")], |config| {
        config.servers[0].max_connections = NonZeroUsize::new(1);
    });
    let began = Instant::now();
    let replaced = until_trusted(&world).await;
    // On a machine that stands still one has rested for long enough.
    assert!(replaced > 0 || began.elapsed() >= Duration::from_millis(50));
}

/// Neither sent elsewhere nor held against the server, nor taken for its way to end connections.
#[tokio::test]
async fn an_upload_that_breaks_off_is_not_the_servers_doing() {
    let world = world(&[echo("a"), echo("b")], |config| {
        config.servers[1].backup = true;
    });
    until_trusted(&world).await;
    for part in [Some("half"), None] {
        let post = world.ask(Method::POST, Some(Sent::broken_off(part))).await;
        assert_eq!(post.err(), Some(Failure::VisitorGone));
        let fresh = asked(&world).await;
        let began = Instant::now();
        let next = asked(&world).await;
        assert!(next == fresh || began.elapsed() > Duration::from_secs(1));
    }
    let [server, other] = world.backend.servers() else {
        panic!("two servers")
    };
    assert_eq!(world.failed(0, What::Closed), 0);
    assert!(!server.is_out());
    assert_eq!(server.outstanding(), 0);
    assert_eq!(other.counts.requests.get(), 0, "it goes nowhere else");
}
