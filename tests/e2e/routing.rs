//! A visitor reaches the tunnel of the name that was asked for, by every protocol, and never another (issue §3).

use std::time::Duration;

use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::SOON;
use tidegate_tests::link::Link;
use tidegate_tests::visitors::curl::curl;
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::world::launch_agent;
use tidegate_tests::{HOST, Site, World};

#[tokio::test]
async fn each_name_gets_its_own_app() {
    let site = Site::start().await;
    let shop = HttpApp::start("shop").await;
    let _agent = site.world.agent("shop.test", shop.target()).await;
    assert_eq!(
        site.world.get("blog.test", "/hello").await.text(),
        "hello from blog\n"
    );
    assert_eq!(
        site.world.get("shop.test", "/hello").await.text(),
        "hello from shop\n"
    );
    // One visitor connection may ask for both.
    let mut visitor = site.visitor().await;
    for (host, name) in [
        ("blog.test", "blog"),
        ("shop.test", "shop"),
        ("blog.test", "blog"),
    ] {
        visitor.send_get(host, "/hello").await;
        assert_eq!(
            visitor.answer("GET").await.text(),
            format!("hello from {name}\n")
        );
    }
}

#[tokio::test]
async fn every_visitor_protocol_reaches_the_app() {
    let site = Site::start().await;
    let world = &site.world;
    let hello = "hello from blog\n";

    assert_eq!(
        site.get("/hello").await.text(),
        hello,
        "HTTP/1.1 in clear text"
    );

    let old = format!("GET /hello HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    let mut visitor = site.visitor().await;
    visitor.send(old).await;
    assert_eq!(visitor.answer("GET").await.text(), hello, "HTTP/1.0");
    assert_eq!(visitor.closed_within(SOON).await, b"", "HTTP/1.0 closes");

    for alpn in [&["http/1.1"][..], &[]] {
        let tls = world.visitor_tls(alpn);
        let mut visitor = Visitor::connect_tls(world.visitors_tls, HOST, tls).await;
        visitor.send_get(HOST, "/hello").await;
        assert_eq!(
            visitor.answer("GET").await.text(),
            hello,
            "HTTP/1.1 over TLS, ALPN {alpn:?}"
        );
    }

    let tls = world.visitor_tls(&["h2", "http/1.1"]);
    let mut visitor = H2Visitor::connect_tls(world.visitors_tls, HOST, tls).await;
    assert_eq!(
        visitor.get(HOST, "/hello").await.text(),
        hello,
        "HTTP/2 over TLS"
    );

    let mut visitor = H2Visitor::connect(world.visitors).await;
    assert_eq!(
        visitor.get(HOST, "/hello").await.text(),
        hello,
        "h2c by prior knowledge"
    );
}

#[tokio::test]
async fn curl_reaches_the_app_over_http1_and_http2() {
    let site = Site::start().await;
    let (clear, tls) = (site.world.visitors.port(), site.world.visitors_tls.port());
    let ca = site.world.pki.ca_file("ca");
    let ca = ca.to_str().unwrap();
    let resolve = [clear, tls].map(|port| format!("{HOST}:{port}:127.0.0.1"));
    for (scheme, port, version) in [
        ("http", clear, "--http1.1"),
        ("http", clear, "--http1.0"),
        ("http", clear, "--http2-prior-knowledge"),
        ("https", tls, "--http1.1"),
        ("https", tls, "--http2"),
    ] {
        let url = format!("{scheme}://{HOST}:{port}/hello");
        let (one, two) = (&resolve[0], &resolve[1]);
        let args = [
            version,
            "--cacert",
            ca,
            "--resolve",
            one,
            "--resolve",
            two,
            &url,
        ];
        let Some(done) = curl(&args).await else {
            return;
        };
        assert_eq!(done.code, Some(0), "{version} {url}: {}", done.stderr);
        assert_eq!(done.stdout, "hello from blog\n", "{version} {url}");
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_sni() {
    let world = World::start().await;
    for name in ["blog.test", "shop.test"] {
        let tls = world.visitor_tls(&["http/1.1"]);
        // The handshake itself is the proof: the client accepts only a certificate for the name it asked for.
        let mut visitor = Visitor::connect_tls(world.visitors_tls, name, tls).await;
        visitor.send_get(name, "/").await;
        assert_eq!(visitor.answer("GET").await.status(), 503);
    }
}

#[tokio::test]
async fn a_host_that_the_certificate_does_not_cover_is_misdirected() {
    let site = Site::start().await;
    let world = &site.world;
    let tls = world.visitor_tls(&["http/1.1"]);
    let mut visitor = Visitor::connect_tls(world.visitors_tls, "shop.test", tls).await;
    visitor.send_get(HOST, "/hello").await;
    let answer = visitor.answer("GET").await;
    assert_eq!((answer.status(), answer.reason()), (421, "misdirected"));
    let tls = world.visitor_tls(&["h2"]);
    let mut visitor = H2Visitor::connect_tls(world.visitors_tls, "shop.test", tls).await;
    let answer = visitor.get(HOST, "/hello").await;
    assert_eq!(answer.field("tidegate-reason"), "misdirected");
    assert_eq!(answer.status, 421);
    assert_eq!(site.app.requests().len(), 0);
}

#[tokio::test]
async fn port_case_and_trailing_dot_do_not_matter() {
    let site = Site::start().await;
    for host in [
        "BLOG.Test",
        "blog.test:80",
        "blog.test.",
        "blog.test.:8443",
        "Blog.TEST.:1",
    ] {
        assert_eq!(site.world.get(host, "/hello").await.status(), 200, "{host}");
    }
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    for host in ["BLOG.Test", "blog.test:80", "blog.test."] {
        assert_eq!(
            visitor.get(host, "/hello").await.status,
            200,
            "{host} over HTTP/2"
        );
    }
}

#[tokio::test]
async fn a_bad_host_is_a_400_and_reaches_no_app() {
    let site = Site::start().await;
    let lines = [
        "",
        "Host: blog.test\r\nHost: blog.test\r\n",
        "Host: blog.test\r\nHost: other.test\r\n",
        "Host:\r\n",
        "Host: blog.test, other.test\r\n",
        "Host: user@blog.test\r\n",
        "Host: user:password@blog.test:80\r\n",
        "Host: blog.test/path\r\n",
        "Host: blog test\r\n",
        "Host: blog.test:port\r\n",
        "Host: blog.test:99999\r\n",
        "Host: blog.test..\r\n",
        "Host: .blog.test\r\n",
        "Host: blog..test\r\n",
        "Host: blog.test#x\r\n",
        "Host: blog.test?x\r\n",
        "Host: blog%2etest\r\n",
        "Host: blog.test\\\r\n",
        "Host: b\u{fc}cher.test\r\n",
    ];
    for host in lines {
        let answer = site
            .ask("GET", format!("GET /x HTTP/1.1\r\n{host}\r\n"))
            .await;
        assert_eq!(answer.status(), 400, "{host:?}");
    }
    let conflict = "GET http://other.test/x HTTP/1.1\r\nHost: blog.test\r\n\r\n";
    assert_eq!(
        site.ask("GET", conflict).await.status(),
        400,
        "absolute form against Host"
    );
    let answer = site.ask("GET", "GET /x HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status(), 400, "HTTP/1.0 without Host");
    assert_eq!(site.app.requests().len(), 0);
}

/// As HAProxy's `option httpchk` asks: a route that takes every host takes this one.
#[tokio::test]
async fn a_request_in_http_1_0_that_names_no_host_goes_where_none_is_asked_for() {
    let app = HttpApp::start("any").await;
    let text = format!(
        "[backends.any.servers]\none = \"{}\"\n[[routes]]\npath = \"/any\"\nbackend = \"any\"\n",
        app.address()
    );
    let world = World::builder().config(&text).start().await;
    for (request, status) in [
        ("GET /any/x HTTP/1.0\r\n\r\n", 200),
        ("GET /x HTTP/1.0\r\n\r\n", 400),
        ("GET /any/x HTTP/1.1\r\n\r\n", 400),
    ] {
        let mut visitor = world.visitor().await;
        visitor.send(request).await;
        assert_eq!(visitor.answer("GET").await.status(), status, "{request}");
    }
    let place = world.visitors.to_string();
    assert_eq!(app.last_request().get("host"), Some(&*place));
    assert_eq!(app.requests().len(), 1);
}

#[tokio::test]
async fn an_absolute_form_that_agrees_with_host_is_served() {
    let site = Site::start().await;
    let request = format!("GET http://{HOST}/headers?q=1 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let answer = site.ask("GET", request).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(site.app.last_request().target(), "/headers?q=1");
}

#[tokio::test]
async fn authority_and_host_of_http2_may_not_differ() {
    let site = Site::start().await;
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let mut head = visitor.head(http::Method::GET, HOST, "/x");
    head.headers_mut()
        .insert("host", "other.test".parse().unwrap());
    let (response, _) = visitor.begin(head, true).await;
    match response.await {
        Ok(response) => assert_eq!(response.status(), 400),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(site.app.requests().len(), 0);
}

#[tokio::test]
async fn an_unknown_name_is_told_so() {
    let site = Site::start().await;
    let ask = async |accept: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: nobody.test\r\nAccept: {accept}\r\n\r\n");
        site.ask("GET", request).await
    };
    let plain = ask("*/*").await;
    assert_eq!(plain.status(), 503);
    assert_eq!(plain.reason(), "no-such-name");
    assert!(
        plain
            .head
            .get("retry-after")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            > 0
    );
    assert!(
        plain
            .head
            .get("content-type")
            .unwrap()
            .starts_with("text/plain")
    );
    assert!(!plain.body.is_empty());
    let page = ask("text/html,application/xhtml+xml;q=0.9").await;
    assert_eq!((page.status(), page.reason()), (503, "no-such-name"));
    assert!(
        page.head
            .get("content-type")
            .unwrap()
            .starts_with("text/html")
    );
    assert!(page.text().contains("<html"), "{}", page.text());
    // The connection is still good for a name that exists.
    let mut visitor = site.visitor().await;
    visitor.send_get("nobody.test", "/").await;
    assert_eq!(visitor.answer("GET").await.status(), 503);
    visitor.send_get(HOST, "/hello").await;
    assert_eq!(visitor.answer("GET").await.status(), 200);
}

#[tokio::test]
async fn a_page_does_not_repeat_what_the_visitor_wrote() {
    let world = World::start().await;
    let request =
        "GET /<script>alert(1)</script> HTTP/1.1\r\nHost: nobody.test\r\nAccept: text/html\r\n\r\n";
    let mut visitor = world.visitor().await;
    visitor.send(request).await;
    assert!(!visitor.answer("GET").await.text().contains("<script>"));
}

#[tokio::test]
async fn more_visitors_than_tunnels_are_all_served_at_once() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let _agent = world
        .agent_with(HOST, app.target(), &["--tunnels", "1"])
        .await;
    let mut visitors = Vec::new();
    for _ in 0..20 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, "/slow/1000").await;
        visitors.push(visitor);
    }
    // HAProxy with two threads and one tunnel answers 18 of these with 503.
    for mut visitor in visitors {
        assert_eq!(visitor.answer("GET").await.status(), 200);
    }
    assert!(app.count("/slow/1000") == 20);
}

#[tokio::test]
async fn requests_go_to_the_tunnel_with_the_fewest_outstanding() {
    let world = World::start().await;
    let (one, two) = (HttpApp::start("one").await, HttpApp::start("two").await);
    let _first = world
        .agent_with(HOST, one.target(), &["--tunnels", "1"])
        .await;
    let _second = world
        .agent_with(HOST, two.target(), &["--tunnels", "1"])
        .await;
    let mut waiting = Vec::new();
    for sent in 1..=8 {
        let mut visitor = world.visitor().await;
        visitor.send_get(HOST, "/never").await;
        waiting.push(visitor);
        let arrived = async || (one.count("/never") + two.count("/never") == sent).then_some(());
        tidegate_tests::eventually(SOON, "the request is at an app", arrived).await;
    }
    assert_eq!((one.count("/never"), two.count("/never")), (4, 4));
}

/// HAProxy closes three of four idle tunnels after 5 s and the last after 15 s.
#[tokio::test]
async fn idle_tunnels_are_never_purged() {
    let world = World::start().await;
    let app = HttpApp::start("blog").await;
    let link = Link::to(world.tunnels).await;
    let gateway = format!("localhost:{}", link.address().port());
    let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
    let mut agent = launch_agent(&[], &gateway, &identity, &ca, app.target(), &[]);
    agent.ready().await;
    world.wait_filed(HOST, 4, SOON).await;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..18 {
        every.tick().await;
        assert_eq!(link.opened(), 4, "the four first tunnels are the only ones");
    }
    assert_eq!(world.filed(HOST).await, 4);
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
}
