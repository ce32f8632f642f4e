//! Where the control socket and the state file may be, whose the socket is, and how it is found.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, within};
use tidegate_tests::program::{built, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{ask, ask_well, world};

/// `check` and `run` refuse such a path, and nothing there changes.
#[tokio::test]
async fn paths_that_the_gateway_may_not_write_over_are_refused() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    let text = fs::read_to_string(world.file("gateway.toml")).unwrap()
        + "[listeners.a]\naddress = 0\n[listeners.a.sources]\ndeny = [\"deny.txt\"]\n";
    fs::write(world.file("deny.txt"), "10.0.0.0/8\n").unwrap();
    fs::create_dir(world.file("dir")).unwrap();
    std::os::unix::fs::symlink("dir", world.file("link")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(world.file("fifo"))
        .status();
    assert!(fifo.unwrap().success());
    let long = format!("dir/{}", "x".repeat(120));
    for (key, value, said) in [
        ("state_file", "dir", "a directory stands there"),
        ("state_file", "none/", "name a file in it"),
        ("state_file", "link", "a directory stands there"),
        ("state_file", "fifo", "a pipe stands there"),
        ("state_file", "/dev/null", "a device stands there"),
        ("state_file", "second.toml", "the file of --config as well"),
        (
            "state_file",
            "dir/../deny.txt",
            "the file of listeners.a.sources.deny as well",
        ),
        ("state_file", "socket", "the path of `control` as well"),
        ("control", "dir", "no socket stands there"),
        ("control", "none/socket", "must be there"),
        ("control", "second.toml", "no socket stands there"),
        ("control", &long, "longer than a socket's may be, by "),
    ] {
        let own = |known: &str, usual: &str| {
            let value = if known == key { value } else { usual };
            format!("{known} = \"{value}\"\n")
        };
        let text = text
            .replace(
                "state_file = \"state.toml\"\n",
                &own("state_file", "s.toml"),
            )
            .replace("control = \"control\"\n", &own("control", "socket"));
        let second = world.file("second.toml");
        fs::write(&second, &text).unwrap();
        for command in ["check", "run"] {
            let words = [command.into(), "--config".into(), second.clone().into()];
            let finished = run(&built("tidegated"), &words).await;
            let line = text.lines().position(|line| line.starts_with(key)).unwrap() + 1;
            let place = format!("second.toml:{line}:");
            assert_eq!(finished.code, Some(64), "{value}: {}", finished.stdout);
            assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
            for part in [place.as_str(), key, said] {
                assert!(
                    finished.stderr.contains(part),
                    "{part}: {}",
                    finished.stderr
                );
            }
        }
        assert_eq!(fs::read_to_string(&second).unwrap(), text);
    }
    assert!(world.file("dir").is_dir());
    // What is no mistake by itself is told of.
    for (value, said) in [
        (
            "deny2.txt",
            "no state file, by its first line, which is left alone",
        ),
        ("none/s.toml", "is not there"),
    ] {
        fs::write(world.file("deny2.txt"), "10.0.0.0/8\n").unwrap();
        let text = text.replace("\"state.toml\"", &format!("\"{value}\""));
        fs::write(
            world.file("second.toml"),
            text.replace("\"control\"", "\"c2\""),
        )
        .unwrap();
        let words = [
            "check".into(),
            "--config".into(),
            world.file("second.toml").into(),
        ];
        let finished = run(&built("tidegated"), &words).await;
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert!(finished.stdout.contains("advice: "), "{}", finished.stdout);
        assert!(finished.stdout.contains(said), "{}", finished.stdout);
    }
}

#[tokio::test]
async fn the_socket_is_the_owners_and_nobody_holds_it_up() {
    let one = HttpApp::start("one").await;
    let mut world = world(&[("one", one.address())]).await;
    let path = world.file("control");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Silent ones, and one that says too much.
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(UnixStream::connect(&path).await.unwrap());
    }
    for said in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"set\":{}}\n",
        &[b'['; 15_000],
        &[b'x'; 100_000],
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The gateway may have answered before it was all there.
        let _all = stream.write_all(said).await;
        let _closed = stream.shutdown().await;
        let mut answer = String::new();
        if within(SOON, "an answer", stream.read_to_string(&mut answer))
            .await
            .is_ok()
        {
            assert!(answer.contains("not understood"), "{answer}");
        }
    }
    for (words, said) in [
        (
            ["set", "site/two", "drain"],
            "backend `site` has no server `two`; it has one",
        ),
        (
            ["set", "shop/one", "drain"],
            "there is no backend `shop`; there is site",
        ),
        (
            ["set", "site/one", "stop"],
            "write ready, drain, maintenance",
        ),
        (["set", "site", "drain"], "write BACKEND/SERVER"),
        (["set", "site/one", "weight=999"], "from 0 to 256"),
    ] {
        let finished = ask(&world, &words).await;
        assert_eq!(finished.code, Some(64), "{words:?}");
        assert!(finished.stderr.contains(said), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
    }
    // A second gateway at the same socket does not start, and the first keeps it.
    let second = [
        "run",
        "--visitors",
        "127.0.0.1:0",
        "--tunnels-clear",
        "127.0.0.1:0",
        "--tunnels-clear-name",
        "a.test",
        "--control",
    ];
    let words = second
        .map(Into::into)
        .into_iter()
        .chain([path.clone().into()]);
    let words: Vec<_> = words.collect();
    let finished = run(&built("tidegated"), &words).await;
    assert_eq!(finished.code, Some(64));
    assert!(
        finished.stderr.contains("another gateway answers there"),
        "{}",
        finished.stderr
    );
    ask_well(&world, &["get"]).await;
    // What one leaves that was killed is replaced; one that ends in peace takes it along.
    world.gateway.kill().await;
    assert!(path.exists());
    let finished = ask(&world, &["get"]).await;
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("no gateway answers at"),
        "{}",
        finished.stderr
    );
    world.restart_gateway().await;
    ask_well(&world, &["get"]).await;
    world.gateway.signal(Signal::TERM);
    assert!(world.gateway.ended(SOON).await.success());
    assert!(!path.exists());
    fs::write(&path, "no socket").unwrap();
    let finished = run(&built("tidegated"), &words).await;
    assert!(
        finished.stderr.contains("no socket stands there"),
        "{}",
        finished.stderr
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "no socket");
}

/// `--config` is as good as `--control`.
#[tokio::test]
async fn the_gateway_is_found_by_its_file() {
    let one = HttpApp::start("one").await;
    let world = world(&[("one", one.address())]).await;
    let file = world.file("gateway.toml");
    let words = ["get".into(), "--config".into(), file.clone().into()];
    // That it is not enough to run a gateway is another matter.
    let finished = run(&built("tidegated"), &words).await;
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains("site/one"), "{}", finished.stdout);
    fs::write(&file, "admin = 0\n").unwrap();
    let finished = run(&built("tidegated"), &words).await;
    assert_eq!(finished.code, Some(64));
    assert!(
        finished.stderr.contains("has no `control`"),
        "{}",
        finished.stderr
    );
    let finished = run(&built("tidegated"), &["get".into()]).await;
    assert!(
        finished.stderr.contains("--control PATH"),
        "{}",
        finished.stderr
    );
}
