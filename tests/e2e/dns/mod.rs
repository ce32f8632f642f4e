//! Servers whose addresses come from DNS (issue 3 §4): answers that change, resolvers that fail and lie, and nobody who notices.

mod odd; // long, false and useless answers

mod orders; // what operators ask of whom

mod uploads; // what is lost meanwhile: nothing

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::process::Signal;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::dns::{Answer, Data, Dns, Kind, Record};
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::http1::Framing;
use tidegate_tests::pki::Pki;
use tidegate_tests::visitors::Visitor;
use tidegate_tests::visitors::http1::get;
use tidegate_tests::{HOST, World, sockets};
use tokio::net::TcpListener;

const NAME: &str = "app.internal";

/// A gateway whose [`HOST`] is a backend with this server, and whose resolver is this one; `more` are keys of `[resolver]`.
async fn world(dns: &Dns, server: &str, more: &str) -> World {
    world_with(dns, server, more, "").await
}

/// As [`world`], with keys of the backend.
async fn world_with(dns: &Dns, server: &str, more: &str, keys: &str) -> World {
    let text = format!(
        "[backends.site]\n{keys}\n[backends.site.servers]\none = {server}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n\
         [resolver]\nservers = \"{}\"\n{more}\n",
        dns.address
    );
    World::builder().config(&text).start().await
}

/// So many addresses of loopback with one port, and a listener at each.
async fn places(count: u8) -> (u16, Vec<TcpListener>) {
    loop {
        let first = TcpListener::bind("127.0.9.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for last in 2..=count {
            // Somebody may have the port at one of them.
            all.extend(TcpListener::bind((ip(last), port)).await.ok());
        }
        if all.len() == usize::from(count) {
            return (port, all);
        }
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 9, last])
}

/// Apps called after their addresses' last octet, at one port.
async fn apps(count: u8) -> (u16, Vec<HttpApp>) {
    let (port, listeners) = places(count).await;
    let named = (1_u8..).zip(listeners);
    let start = |(last, listener): (u8, _)| HttpApp::start_at(&last.to_string(), listener);
    (port, named.map(start).collect())
}

/// Which app answers.
async fn who(world: &World) -> String {
    let text = world.get(HOST, "/hello").await.text();
    text.trim_start_matches("hello from ").trim().to_owned()
}

fn at(port: u16, slots: u8) -> String {
    format!("{{ address = \"{NAME}:{port}\", slots = {slots} }}")
}

#[tokio::test]
async fn addresses_come_and_go_and_what_is_in_flight_finishes() {
    let dns = Dns::start().await;
    let (port, apps) = apps(3).await;
    dns.set_addresses(NAME, 1, &[ip(1)]);
    let world = world(&dns, &at(port, 2), "hold = 0").await;
    assert_eq!(who(&world).await, "1", "the first answer was waited for");
    world
        .gateway
        .wait_log(&[
            "GET blog.test/hello",
            &format!("server=one-1 at=127.0.9.1:{port} status=200"),
        ])
        .await;
    let mut slow = world.visitor().await;
    slow.send_get(HOST, "/sse").await;
    let head = slow.head().await;
    let mut events = Framing::of_answer(&head, "GET").unwrap();
    dns.set_addresses(NAME, 1, &[ip(1), ip(2)]);
    eventually(SOON, "the second one takes traffic", async || {
        (who(&world).await == "2").then_some(())
    })
    .await;
    dns.set_addresses(NAME, 1, &[ip(2), ip(3)]);
    world
        .gateway
        .wait_log(&[
            "backend site: app.internal: one-1 ",
            &format!("is 127.0.9.3:{port} and was 127.0.9.1:{port}"),
        ])
        .await;
    let seen = apps[0].requests().len();
    let mut names = HashSet::new();
    for _ in 0..8 {
        names.insert(who(&world).await);
    }
    assert_eq!(names, HashSet::from(["2".to_owned(), "3".to_owned()]));
    assert_eq!(
        apps[0].requests().len(),
        seen,
        "nothing more for the first one"
    );
    // The one with the request, and none that rests.
    let former = SocketAddr::new(ip(1), port);
    let open = || {
        let all = sockets::connections();
        all.iter()
            .filter(|socket| socket.local == former && socket.remote.port() != 0)
            .count()
    };
    eventually(SOON, "resting connections are closed", async || {
        (open() == 1).then_some(())
    })
    .await;
    for _ in 0..3 {
        assert!(slow.piece(&mut events).await.is_some());
    }
    drop(slow);
    eventually(SOON, "what was in flight has ended", async || {
        (open() == 0).then_some(())
    })
    .await;
    let metrics = world.metrics().await;
    let one = ["backend=\"site\"", "server=\"one\""];
    assert_eq!(metrics.sum("tidegate_backend_dns_addresses", &one), 2.0);
    assert_eq!(metrics.sum("tidegate_backend_dns_failing", &one), 0.0);
    let answers = ["server=\"one\"", "result=\"answer\""];
    assert!(metrics.sum("tidegate_backend_dns_queries_total", &answers) >= 3.0);
}

#[tokio::test]
async fn a_failing_resolver_keeps_the_last_answer_and_says_so_once() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(1).await;
    dns.set_addresses(NAME, 1, &[ip(1)]);
    let more = "timeout = \"300ms\"\nhold = 0\nleast_ttl = \"100ms\"\nmost_ttl = \"200ms\"";
    let world = world(&dns, &at(port, 2), more).await;
    assert_eq!(who(&world).await, "1");
    let failing = async |due: f64| {
        eventually(SOON, "the gauge", async || {
            let metrics = world.metrics().await;
            (metrics.sum("tidegate_backend_dns_failing", &[]) == due).then_some(())
        })
        .await;
    };
    for (mood, why, result) in [
        (Answer::Code(2), "answered SERVFAIL", "error"),
        (Answer::Code(5), "answered REFUSED", "error"),
        (Answer::Silence, "gave no answer within 300ms", "timeout"),
        (
            Answer::Garbage,
            "answered what cannot be understood",
            "invalid",
        ),
    ] {
        dns.set_mood(Some(mood));
        let told = ["backend site: app.internal cannot be looked up", why];
        let line = world.gateway.wait_log(&told).await;
        assert!(line.contains(&dns.address.to_string()), "{line}");
        assert!(line.contains("what is known of it stays in use"), "{line}");
        failing(1.0).await;
        dns.wait_asked(NAME, Kind::A, 3).await;
        assert_eq!(who(&world).await, "1");
        dns.set_mood(None);
        failing(0.0).await;
        let well = ["backend site: app.internal is looked up again, after"];
        world.gateway.wait_log(&well).await;
        assert_eq!(world.gateway.logged(&told).len(), 1, "once");
        let metrics = world.metrics().await;
        let result = format!("result=\"{result}\"");
        assert!(metrics.sum("tidegate_backend_dns_queries_total", &[&result]) >= 1.0);
    }
}

#[tokio::test]
async fn the_next_dns_server_is_asked_where_one_fails() {
    let (bad, good) = (Dns::start().await, Dns::start().await);
    bad.set_mood(Some(Answer::Code(2)));
    let (port, _apps) = apps(1).await;
    good.set_addresses(NAME, 1, &[ip(1)]);
    let text = format!(
        "[backends.site.servers]\none = {}\n[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n\
         [resolver]\nservers = [\"{}\", \"{}\"]\n",
        at(port, 1),
        bad.address,
        good.address
    );
    let world = World::builder().config(&text).start().await;
    assert_eq!(who(&world).await, "1");
    good.wait_asked(NAME, Kind::A, 1).await;
    let asked = bad.asked(NAME, Kind::A).len();
    assert_eq!(asked, 1, "the one that answers is asked first from then on");
    assert!(!world.gateway.log_contains("cannot be looked up"));
}

#[tokio::test]
async fn a_ttl_is_kept_within_its_bounds() {
    let between = async |ttl: u32, more: &str| {
        let dns = Dns::start().await;
        dns.set_addresses(NAME, ttl, &[ip(1)]);
        let _world = world(&dns, &at(80, 1), more).await;
        dns.wait_asked(NAME, Kind::A, 3).await;
        let asked = dns.asked(NAME, Kind::A);
        let between = asked.windows(2).map(|two| two[1].at - two[0].at);
        between.min().unwrap()
    };
    let (honoured, least, most, absurd) = tokio::join!(
        between(2, ""),
        between(0, "least_ttl = \"700ms\""),
        between(
            i32::MAX.unsigned_abs(),
            "most_ttl = \"600ms\"\nleast_ttl = \"100ms\""
        ),
        between(u32::MAX, "most_ttl = \"600ms\"\nleast_ttl = \"500ms\""),
    );
    // `wait_asked` has seen that none is later than it should be by more than a loaded machine explains.
    assert!(honoured >= Duration::from_secs(2), "{honoured:?}");
    assert!(least >= Duration::from_millis(700), "{least:?}");
    assert!(most >= Duration::from_millis(600), "{most:?}");
    assert!(absurd >= Duration::from_millis(500), "{absurd:?}");
}

#[tokio::test]
async fn until_the_first_answer_visitors_are_told() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(1).await;
    dns.set_mood(Some(Answer::Silence));
    let mut world = world(&dns, &at(port, 2), "timeout = \"200ms\"").await;
    let answer = world.get(HOST, "/hello").await;
    assert_eq!((answer.status(), answer.reason()), (503, "no-address"));
    assert!(answer.head.get("retry-after").is_some());
    assert!(
        answer.text().contains("no address at the moment"),
        "{}",
        answer.text()
    );
    world
        .gateway
        .wait_log(&[
            "app.internal cannot be looked up",
            "nothing is sent to it until it can be",
        ])
        .await;
    world
        .gateway
        .wait_log(&["server=- status=503 reason=no-address"])
        .await;
    dns.set_mood(None);
    dns.set_addresses(NAME, 1, &[ip(1)]);
    eventually(SOON, "the app answers", async || {
        (who(&world).await == "1").then_some(())
    })
    .await;
    dns.set_mood(Some(Answer::Silence));
    dns.wait_asked(NAME, Kind::A, 1).await;
    world.gateway.signal(Signal::TERM);
    assert!(world.gateway.ended(SOON).await.success());
}

#[tokio::test]
async fn a_name_that_is_gone_is_held_and_then_dropped() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(1).await;
    dns.set_addresses(NAME, 1, &[ip(1)]);
    let more = "hold = \"2s\"\nleast_ttl = \"100ms\"\nmost_ttl = \"200ms\"";
    let world = world(&dns, &at(port, 2), more).await;
    assert_eq!(who(&world).await, "1");
    dns.remove(NAME);
    world
        .gateway
        .wait_log(&[
            "app.internal does not exist (NXDOMAIN); the addresses that it had stay in use for 2s",
        ])
        .await;
    assert_eq!(who(&world).await, "1", "held");
    world
        .gateway
        .wait_log(&[
            "one-1 has no address any more and was 127.0.9.1",
            "there is no other",
        ])
        .await;
    let answer = world.get(HOST, "/hello").await;
    assert_eq!((answer.status(), answer.reason()), (503, "no-address"));
    assert_eq!(world.gateway.logged(&["does not exist"]).len(), 1, "once");
    // There, and without an address: the same to whoever wants one.
    dns.set_addresses(NAME, 1, &[]);
    world
        .gateway
        .wait_log(&["app.internal has no address; nothing is sent to `one`"])
        .await;
    dns.set_addresses(NAME, 1, &[ip(1)]);
    eventually(SOON, "it is back", async || {
        (who(&world).await == "1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn services_have_ports_weights_and_backups() {
    const SERVICE: &str = "_http._tcp.app.internal";
    let dns = Dns::start().await;
    let (_, mut heavy) = apps(1).await;
    let (light, backup) = (
        HttpApp::start("light").await,
        HttpApp::start("backup").await,
    );
    let heavy = heavy.remove(0);
    let service = |priority, weight, app: &HttpApp| Record {
        name: SERVICE.to_owned(),
        ttl: 1,
        data: Data::Service {
            priority,
            weight,
            port: app.address().port(),
            target: format!("h{}.internal", app.address().port()),
        },
    };
    for app in [&heavy, &light, &backup] {
        let target = format!("h{}.internal", app.address().port());
        dns.set_addresses(&target, 1, &[app.address().ip()]);
    }
    let all = vec![
        service(20, 9, &backup),
        service(10, 1, &light),
        service(10, 3, &heavy),
    ];
    dns.set(SERVICE, Kind::Srv, Answer::Records(all));
    let server = format!("{{ srv = \"{SERVICE}\", slots = 4 }}");
    let world = world(&dns, &server, "hold = 0").await;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..12 {
        *seen.entry(who(&world).await).or_default() += 1;
    }
    assert_eq!(
        seen,
        HashMap::from([("1".to_owned(), 9), ("light".to_owned(), 3)])
    );
    dns.set(
        SERVICE,
        Kind::Srv,
        Answer::Records(vec![service(20, 9, &backup), service(10, 1, &light)]),
    );
    world
        .gateway
        .wait_log(&["app.internal: one-", "has no address any more"])
        .await;
    drop(light);
    eventually(SOON, "the backup takes over", async || {
        (who(&world).await == "backup").then_some(())
    })
    .await;
    // That there is no such service (RFC 2782).
    let none = Record {
        name: SERVICE.to_owned(),
        ttl: 1,
        data: Data::Service {
            priority: 0,
            weight: 0,
            port: 0,
            target: String::new(),
        },
    };
    dns.set(SERVICE, Kind::Srv, Answer::Records(vec![none]));
    world.gateway.wait_log(&[SERVICE, "has no server"]).await;
}

#[tokio::test]
async fn a_certificate_is_the_names() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "own");
    let server = pki.server(&[NAME]);
    let app = HttpApp::start_tls("secure", pki.server_config(&server, false, &["http/1.1"])).await;
    let dns = Dns::start().await;
    dns.set_addresses(NAME, 1, &[app.address().ip()]);
    let keys = format!("tls = {{ ca = \"{}\" }}", pki.ca_file("own").display());
    let world = world_with(&dns, &at(app.address().port(), 2), "", &keys).await;
    assert_eq!(
        world.get(HOST, "/hello").await.text(),
        "hello from secure\n"
    );
}

/// A backend is one in TCP mode too.
#[tokio::test]
async fn connections_in_tcp_mode_go_where_dns_says() {
    let dns = Dns::start().await;
    let (port, _apps) = apps(2).await;
    dns.set_addresses(NAME, 1, &[ip(1)]);
    let text = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nbackend = \"site\"\n[backends.site.servers]\none = {}\n\
         [resolver]\nservers = \"{}\"\nhold = 0\n",
        at(port, 1),
        dns.address
    );
    let world = World::builder().config(&text).start().await;
    let raw = world.gateway.address("raw").unwrap();
    let who = async || get(raw, HOST, "/hello").await.text();
    assert_eq!(who().await, "hello from 1\n");
    world
        .gateway
        .wait_log(&[
            "tcp listener=raw",
            &format!("server=one-1 at=127.0.9.1:{port} "),
        ])
        .await;
    dns.set_addresses(NAME, 1, &[ip(2)]);
    eventually(SOON, "it goes to the other", async || {
        (who().await == "hello from 2\n").then_some(())
    })
    .await;
    dns.remove(NAME);
    world
        .gateway
        .wait_log(&["app.internal does not exist"])
        .await;
    let mut refused = Visitor::connect(raw).await;
    assert_eq!(refused.closed_within(SOON).await, b"");
    world
        .gateway
        .wait_log(&["tcp listener=raw", "ended=no-address"])
        .await;
}

#[tokio::test]
async fn what_checks_find_is_the_addresses_and_not_the_slots() {
    let dns = Dns::start().await;
    let (port, mut listeners) = places(2).await;
    // Nobody is at the first.
    drop(listeners.remove(0));
    let _app = HttpApp::start_at("2", listeners.remove(0));
    dns.set_addresses(NAME, 1, &[ip(1)]);
    let check = "check = { interval = \"200ms\", fast_interval = \"200ms\", timeout = \"200ms\", fall = 1, rise = 100 }";
    let world = world_with(&dns, &at(port, 1), "hold = 0", check).await;
    let down = format!("server one-1 (127.0.9.1:{port}) is down");
    world.gateway.wait_log(&[&down]).await;
    let answer = world.get(HOST, "/hello").await;
    assert_eq!((answer.status(), answer.reason()), (503, "servers-down"));
    dns.set_addresses(NAME, 1, &[ip(2)]);
    // A hundred checks would have to pass if the former address's verdict were its own.
    eventually(SOON, "the other address is used", async || {
        (who(&world).await == "2").then_some(())
    })
    .await;
    let up = world.metrics().await;
    assert_eq!(up.sum("tidegate_backend_server_up", &[]), 1.0);
    // Where there is no address there is nothing that could be up.
    dns.remove(NAME);
    eventually(SOON, "nothing is said to be up", async || {
        let metrics = world.metrics().await;
        let shown = |gauge: &str| metrics.iter().any(|(series, _)| series.starts_with(gauge));
        let gauges = ["tidegate_backend_server_up", "tidegate_backend_server_out"];
        (!gauges.into_iter().any(shown)).then_some(())
    })
    .await;
}
