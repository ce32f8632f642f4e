//! Whoever connects to the control socket, however it behaves, and those who are served meanwhile.

use std::time::{Duration, Instant};

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, within};
use tidegate_tests::{HOST, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::intent::{ask_well, world};

/// Two questions take less than this on the slowest machine, and waiting for so many who are silent would take longer.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn connect(world: &World) -> UnixStream {
    UnixStream::connect(world.file("control")).await.unwrap()
}

#[tokio::test]
async fn whoever_talks_is_served_while_others_are_silent() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    let mut silent = Vec::new();
    for count in 0..400 {
        let mut stream = connect(&world).await;
        if count % 2 == 1 {
            // Half a question is none.
            let _gone_already = stream.write_all(b"{\"get\":").await;
        }
        silent.push(stream);
    }
    let began = Instant::now();
    let said = ask_well(&world, &["set", "site/one", "drain"]).await;
    assert!(said.contains("is drained"), "{said}");
    let shown = ask_well(&world, &["get"]).await;
    assert!(shown.contains("drain"), "{shown}");
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    // And they are let go, each of them.
    for mut stream in silent {
        let mut answer = Vec::new();
        let _reset = within(SOON, "the end of it", stream.read_to_end(&mut answer)).await;
        assert!(answer.is_empty());
    }
    assert_eq!(world.get(HOST, "/").await.status(), 503);
}
