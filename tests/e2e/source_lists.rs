//! Files of sources that are not served, and of those whom no limit concerns (issue 3 §6).

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use tidegate_tests::eventually::SOON;
use tidegate_tests::program::{built, run};
use tidegate_tests::visitors::Visitor;
use tidegate_tests::{HOST, World};

use super::rates::{get_from, limited, served_with};

fn list(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn lists_say_who_is_not_served_and_whom_no_limit_concerns() {
    let dir = tempfile::tempdir().unwrap();
    let deny = list(
        dir.path(),
        "deny.txt",
        "# bad\n127.0.0.4/30\n\n192.0.2.0/24 # never seen\n",
    );
    let allow = list(dir.path(), "allow.txt", "127.0.0.8\n");
    let listener =
        "[listeners.pg]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nservers = [\"127.0.0.1:1\"]\n";
    let options = [
        ("--deny", deny.as_str()),
        ("--allow", allow.as_str()),
        ("--request-rate", "1/1h"),
    ];
    let (world, app) = served_with(World::builder(), &options, listener).await;
    let pg = world.gateway.address("pg").unwrap();
    for to in [world.visitors, world.visitors_tls, pg] {
        let mut visitor = Visitor::connect_from(5, to).await;
        assert_eq!(visitor.closed_within(SOON).await, b"");
    }
    world
        .gateway
        .wait_log(&["tcp listener=pg", "ended=denied list=", "deny.txt:2 "])
        .await;
    world
        .gateway
        .wait_log(&[
            "a source on a list of `deny` was refused",
            "source=127.0.0.5 ",
            "limit=deny",
            "deny.txt:2",
        ])
        .await;
    assert_eq!(limited(&world, "deny", "refuse").await, 3.0);
    // The first is not all that there is to know in a minute.
    let mut another = Visitor::connect_from(6, world.visitors).await;
    assert_eq!(another.closed_within(SOON).await, b"");
    let named = ["on a list of `deny`", "source=127.0.0.6 ", "deny.txt:2"];
    world.gateway.wait_log(&named).await;
    let lines = world.gateway.logged(&["on a list of `deny` was refused"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for _ in 0..3 {
        assert_eq!(get_from(&world, 8, "/hello").await.status(), 200);
    }
    let mut here = Visitor::connect_from(9, world.visitors).await;
    here.send_get(HOST, "/hello").await;
    assert_eq!(here.answer("GET").await.status(), 200);
    let metrics = world.metrics().await;
    assert_eq!(
        metrics.sum("tidegate_source_list_ranges", &["deny.txt"]),
        2.0
    );
    // A list that cannot be read leaves the one in use.
    list(dir.path(), "deny.txt", "127.0.0.9\n127.0.0.300\n");
    world.gateway.signal(Signal::HUP);
    let words = [
        "WARN",
        "stays as it was",
        "deny.txt:2: `127.0.0.300` is not an address range",
    ];
    world.gateway.wait_log(&words).await;
    let mut visitor = Visitor::connect_from(5, world.visitors).await;
    assert_eq!(visitor.closed_within(SOON).await, b"");
    // One that can counts at once, for those who are here as well.
    list(dir.path(), "deny.txt", "127.0.0.9\n");
    world.gateway.signal(Signal::HUP);
    world
        .gateway
        .wait_log(&["deny.txt has changed", "ranges=1", "before=2"])
        .await;
    let before = app.requests().len();
    here.send_get(HOST, "/hello").await;
    assert_eq!(here.closed_within(SOON).await, b"");
    world
        .gateway
        .wait_log(&[
            "reason=denied limit=deny action=refuse list=",
            "deny.txt:1 ",
        ])
        .await;
    assert_eq!(app.requests().len(), before);
    assert_eq!(get_from(&world, 5, "/hello").await.status(), 200);
}

#[tokio::test]
async fn a_list_that_is_none_is_named_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    list(
        dir.path(),
        "deny.txt",
        "10.0.0.0/8\nnonsense\n10.0.0.0/33 # too long\n",
    );
    list(
        dir.path(),
        "gateway.toml",
        "[listeners.web]\naddress = 80\n[listeners.web.sources]\ndeny = [\"deny.txt\", \"gone.txt\"]\n\
         [backends.b.servers]\none = \"127.0.0.1:1\"\n[[routes]]\nbackend = \"b\"\n",
    );
    let file = dir.path().join("gateway.toml");
    let args = ["check", "--config", file.to_str().unwrap()].map(Into::into);
    let checked = run(&built("tidegated"), &args).await;
    for words in [
        "gateway.toml:4:8: listeners.web.sources.deny: ",
        "deny.txt:2: `nonsense` is not an address range; write it like 10.0.0.0/8",
        "deny.txt:3: `10.0.0.0/33` is not an address range",
        "gone.txt cannot be read: No such file",
    ] {
        assert!(
            checked.stderr.contains(words),
            "{words}: {}",
            checked.stderr
        );
    }
}
