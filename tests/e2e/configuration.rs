//! The configuration file of a running gateway: its listeners, its routes, the names that agents may bring, and the example that
//! the README gives.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Program, built, run};
use tidegate_tests::visitors::http1::get;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{HOST, World};

#[tokio::test]
async fn the_most_specific_route_says_whose_a_request_is() {
    let world = World::builder()
        .config(
            r#"
            [listeners.second]
            address = "127.0.0.1:0"
            [[routes]]
            host = "www.test"
            tunnel = "blog.test"
            [[routes]]
            host = "*.apps.test"
            path = "/beta"
            headers = { x-team = "qa" }
            tunnel = "shop.test"
            [[routes]]
            host = "blog.test"
            listeners = ["second"]
            tunnel = "shop.test"
            "#,
        )
        .start()
        .await;
    let (blog, shop) = (HttpApp::start("blog").await, HttpApp::start("shop").await);
    let _blog = world.agent("blog.test", blog.target()).await;
    let _shop = world.agent("shop.test", shop.target()).await;
    let second = world.gateway.address("second").unwrap();
    for (to, host, app) in [
        (world.visitors, "www.test", "blog"),
        (world.visitors, "WWW.test.:80", "blog"),
        (world.visitors, "blog.test", "blog"),
        (second, "www.test", "blog"),
        (second, "blog.test", "shop"),
        (second, "shop.test", "shop"),
    ] {
        let answer = get(to, host, "/hello").await;
        assert_eq!(answer.text(), format!("hello from {app}\n"), "{host}");
    }
    let mut visitor = world.visitor().await;
    for (path, team, status) in [
        ("/beta/hello", "qa", 200),
        ("/beta?x", "qa", 200),
        ("/betahello", "qa", 503),
        ("/beta/hello", "other", 503),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.apps.test\r\nX-Team: {team}\r\n\r\n");
        visitor.send(request).await;
        let answer = visitor.answer("GET").await;
        // The app has nothing at most of these paths, and says so itself.
        let ours = !answer.reason().is_empty();
        assert_eq!(ours, status == 503, "{path} {team}: {}", answer.text());
    }
    let mut http2 = H2Visitor::connect(second).await;
    let answer = http2.get("blog.test", "/hello").await;
    assert_eq!(answer.text(), "hello from shop\n");
}

#[tokio::test]
async fn a_route_to_a_name_without_a_tunnel_says_so_of_that_name() {
    let world = World::builder()
        .config("[[routes]]\nhost = \"www.test\"\ntunnel = \"gone.test\"\n")
        .start()
        .await;
    let answer = world.get("www.test", "/").await;
    assert_eq!((answer.status(), answer.reason()), (503, "no-such-name"));
    world.gateway.wait_log(&["no-such-name", "www.test"]).await;
}

/// Without tunnels there is no name that an agent could still bring.
#[tokio::test]
async fn what_no_route_takes_is_told_so_where_there_are_no_tunnels() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.toml");
    let text = "[listeners.web]\naddress = \"127.0.0.1:0\"\n[[routes]]\nhost = \"www.test\"\nbackend = \"b\"\n\
                [backends.b.servers]\none = \"127.0.0.1:1\"\n";
    fs::write(&file, text).unwrap();
    let args = ["run".into(), "--config".into(), file.into_os_string()];
    let mut gateway = Program::start("tidegated", &built("tidegated"), &args);
    gateway.ready().await;
    let to = gateway.address("web").unwrap();
    let answer = get(to, "shop.test", "/").await;
    assert_eq!((answer.status(), answer.reason()), (404, "no-route"));
    let told = ["shop.test/", "status=404 reason=no-route"];
    gateway.wait_log(&told).await;
}

#[tokio::test]
async fn an_agent_that_brings_no_name_that_is_served_is_told_so() {
    let world = World::builder()
        .config("[tunnels]\nnames = [\"blog.test\", \"*.apps.test\"]\n")
        .start()
        .await;
    let app = HttpApp::start("blog").await;
    let strangers = world.launch_agent(&world.pki.agent(&["shop.test"]), app.target(), &[]);
    strangers
        .wait_log(&["refused-by-gateway", "does not serve shop.test"])
        .await;
    world
        .gateway
        .wait_log(&[
            "tunnel refused",
            "does not serve shop.test",
            "tunnels.names",
        ])
        .await;
    // Of several names those that are served count.
    let identity = world.pki.agent(&["blog.test", "shop.test", "a.apps.test"]);
    let mut agent = world.launch_agent(&identity, app.target(), &[]);
    agent.ready().await;
    world.wait_filed(HOST, 4, SOON).await;
    world.wait_filed("a.apps.test", 4, SOON).await;
    let left_out = ["tunnel filed without", "nothing in tunnels.names covers"];
    let line = world.gateway.wait_log(&left_out).await;
    assert!(line.contains("not_served=shop.test"), "{line}");
    eventually(SOON, "a line of each tunnel", async || {
        (world.gateway.logged(&left_out).len() == 4).then_some(())
    })
    .await;
    assert_eq!(world.filed("shop.test").await, 0);
    assert_eq!(world.get("shop.test", "/").await.reason(), "no-such-name");
}

#[tokio::test]
async fn what_is_wrong_at_a_listener_of_the_file_names_its_key() {
    let world = World::builder()
        .config(
            "[listeners.lb]\naddress = \"127.0.0.1:0\"\nproxy = \"required\"\nproxy_from = \"192.0.2.0/24\"\n\
             [listeners.plain]\naddress = \"127.0.0.1:0\"\n",
        )
        .start()
        .await;
    let mut visitor = Visitor::connect(world.gateway.address("lb").unwrap()).await;
    visitor.send_get(HOST, "/").await;
    assert_eq!(visitor.closed_within(SOON).await, b"");
    world
        .gateway
        .wait_log(&[
            "listener=lb",
            "add it to listeners.lb.proxy_from (",
            "gateway.toml:4)",
            "listeners.lb.proxy = \"off\"",
        ])
        .await;
    let mut visitor = Visitor::connect(world.gateway.address("plain").unwrap()).await;
    visitor
        .send("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n")
        .await;
    assert_eq!(visitor.answer("GET").await.status(), 400);
    world
        .gateway
        .wait_log(&["PROXY v1 header", "listeners.plain.proxy = \"required\""])
        .await;
    let mismatches = "tidegate_proxy_header_mismatches_total";
    for label in ["listener=\"lb\"", "listener=\"plain\""] {
        assert!(
            world.metrics().await.sum(mismatches, &[label]) >= 1.0,
            "{label}"
        );
    }
}

/// The block of the README that begins with this line.
fn block_of_the_readme(first: &str) -> String {
    let lines = include_str!("../../README.md").lines();
    let block: Vec<&str> = lines
        .skip_while(|line| line.trim() != first)
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .map(str::trim_start)
        .collect();
    assert!(block.len() > 3, "no block {first}");
    block.join("\n")
}

/// `table.key` of every setting of a file, those in comments as well; `sources` of a listener are those of all.
fn keys(text: &str) -> BTreeSet<String> {
    let mut table = "";
    let mut keys = BTreeSet::new();
    for line in text.lines().map(str::trim_start) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start_matches('[').split(']').next().unwrap();
            table = match name.strip_suffix(".sources") {
                Some(_) => "sources",
                None => name.split('.').next().unwrap(),
            };
        }
        let setting = line.strip_prefix("# ").unwrap_or(line);
        if let Some((key, _)) = setting.split_once(" =")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            keys.insert(format!("{table}.{key}"));
        }
    }
    keys
}

#[tokio::test]
async fn the_example_of_the_readme_is_fine_and_has_every_key() {
    let text = block_of_the_readme("# gateway.toml");
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    for (name, file) in [
        ("gw.example.com", "gw.example.com.pem"),
        ("www.example.com", "site.pem"),
    ] {
        fs::copy(pki.server(&[name]), dir.path().join(file)).unwrap();
    }
    for list in ["office.txt", "blocked.txt"] {
        fs::write(dir.path().join(list), "192.0.2.0/24\n").unwrap();
    }
    // As it stands, and with everything that is commented out.
    let named = keys(&text);
    let is_setting = |line: &str| !keys(line).is_empty();
    let mut all = String::new();
    for line in text.lines() {
        let setting = line.strip_prefix("# ").filter(|rest| is_setting(rest));
        all.push_str(setting.unwrap_or(line));
        all.push('\n');
    }
    // One key that the file has in its other form.
    let all = all.replace("proxy = \"off\"", "proxy = \"required\"");
    let all = all.replace("tls = true ", "# tls = true ");
    // A folder that a machine has whose service manager was told to make it.
    let all = all.replace("/run/tidegate/control.sock", "control.sock");
    for text in [&text, &all] {
        let file = dir.path().join("gateway.toml");
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let checked = run(
            &built("tidegated"),
            &["check", "--config", file].map(Into::into),
        )
        .await;
        assert!(
            checked
                .stdout
                .ends_with("ok: 3 for visitors, 4 routes, 1 backends\n"),
            "{}",
            checked.stderr
        );
        let shown = run(
            &built("tidegated"),
            &["config", "--effective", "--config", file].map(Into::into),
        )
        .await;
        // A listener leads on by the keys of a route.
        let is_named = |key: &String| {
            named.contains(key) || named.contains(&key.replace("listeners.", "routes."))
        };
        let shown = keys(&shown.stdout);
        let missing: Vec<_> = shown.iter().filter(|key| !is_named(key)).collect();
        assert!(missing.is_empty(), "the README's example lacks {missing:?}");
    }
}

/// TLS by name to servers that take a PROXY header, as the README has it.
#[tokio::test]
async fn the_example_for_servers_behind_tcp_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let identity = pki.server(&["gw.example.com"]);
    fs::copy(identity, dir.path().join("gw.example.com.pem")).unwrap();
    let file = dir.path().join("pages.toml");
    fs::write(&file, block_of_the_readme("# pages.toml")).unwrap();
    let args = ["check", "--config", file.to_str().unwrap()].map(Into::into);
    let checked = run(&built("tidegated"), &args).await;
    assert_eq!(
        checked.stdout, "ok: 1 for visitors, 1 routes, 1 backends\n",
        "{}",
        checked.stderr
    );
}

/// A load balancer that DNS finds, as the README has it.
#[tokio::test]
async fn the_example_for_a_load_balancer_found_by_dns_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    fs::copy(
        pki.server(&["shop.example.com"]),
        dir.path().join("site.pem"),
    )
    .unwrap();
    let file = dir.path().join("shop.toml");
    fs::write(&file, block_of_the_readme("# shop.toml")).unwrap();
    let args = ["check", "--config", file.to_str().unwrap()].map(Into::into);
    let checked = run(&built("tidegated"), &args).await;
    assert_eq!(
        checked.stdout, "ok: 1 for visitors, 1 routes, 1 backends\n",
        "{}",
        checked.stderr
    );
}

/// Whoever changes the file and sends SIGHUP hears what that does, and what it does not.
#[tokio::test]
async fn a_changed_file_is_told_of_at_a_sighup() {
    let world = World::builder()
        .config("[[routes]]\nhost = \"www.test\"\ntunnel = \"shop.test\"\n")
        .start()
        .await;
    let seen = ["SIGHUP: looking at the files"];
    let changed = [
        "gateway.toml has changed since it was read",
        "until the gateway is restarted",
    ];
    world.gateway.signal(Signal::HUP);
    world.gateway.wait_log(&seen).await;
    let file = world.file("gateway.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "# more\n").unwrap();
    world.gateway.signal(Signal::HUP);
    let line = world.gateway.wait_log(&changed).await;
    assert!(
        line.contains("certificates and lists of sources alone"),
        "{line}"
    );
    assert_eq!(
        world.gateway.logged(&changed).len(),
        1,
        "not where it was the same"
    );
}
