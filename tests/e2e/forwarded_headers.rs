//! What the gateway adds to a request, what it takes away, and that nothing else changes (issue §3).

use tidegate_tests::apps::{H2cApp, HttpApp};
use tidegate_tests::http1::Head;
use tidegate_tests::peers::gateway::{answer, request};
use tidegate_tests::visitors::{H2Visitor, Visitor};
use tidegate_tests::{ByHand, HOST, Site, World};

/// The request as the app saw it, for a visitor who sent `fields` after Host.
async fn seen(site: &Site, fields: &str) -> Head {
    let request = format!("GET /headers HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    assert_eq!(site.ask("GET", request).await.status(), 200, "{fields:?}");
    site.app.last_request()
}

#[tokio::test]
async fn the_app_learns_who_the_visitor_is() {
    let site = Site::start().await;
    let head = seen(&site, "").await;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some(HOST));
    assert_eq!(
        head.get("host"),
        Some(HOST),
        "the app sees the visitor's Host"
    );
    let forwarded = head.get("forwarded").unwrap().to_lowercase();
    for part in ["for=127.0.0.1", "proto=http", "host=blog.test"] {
        assert!(
            forwarded.replace('"', "").contains(part),
            "{part} in {forwarded}"
        );
    }
    assert!(
        head.get("via").unwrap().starts_with("1.1 "),
        "{:?}",
        head.get("via")
    );
}

#[tokio::test]
async fn the_app_learns_the_scheme_and_version() {
    let site = Site::start().await;
    let tls = site.world.visitor_tls(&["h2"]);
    let mut visitor = H2Visitor::connect_tls(site.world.visitors_tls, HOST, tls).await;
    assert_eq!(visitor.get(HOST, "/headers").await.status, 200);
    let head = site.app.last_request();
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert!(head.get("forwarded").unwrap().contains("proto=https"));
    let via = head.get("via").unwrap();
    assert!(via.starts_with("2 ") || via.starts_with("2.0 "), "{via}");
}

#[tokio::test]
async fn what_a_visitor_claims_is_dropped() {
    let site = Site::start().await;
    let head = seen(
        &site,
        "X-Forwarded-For: 9.9.9.9\r\nx-forwarded-for: 8.8.8.8\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil.test\r\nForwarded: for=9.9.9.9;host=evil.test\r\n",
    )
    .await;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some(HOST));
    let all: String = head
        .fields
        .iter()
        .map(|(_, value)| value.as_str())
        .collect();
    assert!(
        !all.contains("9.9.9.9") && !all.contains("evil.test"),
        "{all}"
    );
}

/// CGI and WSGI read `_` in a name as `-`: an app behind them would believe the visitor.
#[tokio::test]
async fn what_a_visitor_claims_with_underscores_is_dropped() {
    let site = Site::start().await;
    let head = seen(
        &site,
        "X_Forwarded_For: 9.9.9.9\r\nX-Forwarded_For: 9.9.9.9\r\nX_Forwarded-Proto: evil\r\n\
         X_Forwarded_Host: evil.test\r\nX_Real_IP: 9.9.9.9\r\nX-Real_IP: 9.9.9.9\r\n\
         X_Forwarded_Prefix: /evil\r\nX_Own: stays\r\nmy_field: stays\r\n",
    )
    .await;
    let evil = |(_, value): &&(String, String)| value.contains("9.9.9.9") || value.contains("evil");
    let passed: Vec<_> = head.fields.iter().filter(evil).collect();
    assert!(passed.is_empty(), "{passed:?}");
    assert_eq!(
        (head.get("x_own"), head.get("my_field")),
        (Some("stays"), Some("stays"))
    );
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn hop_by_hop_fields_end_at_the_gateway() {
    let site = Site::start().await;
    let head = seen(
        &site,
        "Connection: keep-alive, X-Private\r\nKeep-Alive: timeout=5\r\nX-Private: secret\r\n\
         Proxy-Connection: keep-alive\r\nTE: gzip\r\nX-Public: stays\r\n",
    )
    .await;
    for gone in ["keep-alive", "x-private", "proxy-connection"] {
        assert_eq!(head.get(gone), None, "{gone}");
    }
    assert_eq!(head.get("x-public"), Some("stays"));
    assert!(!head.lists("te", "gzip"));
}

/// `Connection` names fields to remove: never those that say who and what the request is.
#[tokio::test]
async fn connection_cannot_remove_what_matters() {
    let site = Site::start().await;
    let request = format!(
        "POST /headers HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\
         Connection: Host, Content-Length, X-Forwarded-For, X-Forwarded-Proto, Forwarded, Via\r\n\r\n12345"
    );
    assert_eq!(site.ask("POST", request).await.status(), 200);
    let head = site.app.last_request();
    assert_eq!(head.get("host"), Some(HOST));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    assert!(head.get("forwarded").is_some() && head.get("via").is_some());
    tidegate_tests::eventually(tidegate_tests::eventually::SOON, "the body", async || {
        (site.app.body_bytes() == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_answer_loses_only_its_hop_by_hop_fields() {
    let site = Site::start().await;
    let answer = site.get("/multi").await;
    assert_eq!(answer.head.all("set-cookie"), ["b=2", "a=1; Path=/"]);
    assert_eq!(answer.head.all("x-list"), ["one", "two"]);
    assert_eq!(answer.head.get("x-empty"), Some(""));
}

#[tokio::test]
async fn targets_pass_as_they_were_written() {
    let site = Site::start().await;
    for target in [
        "/",
        "/a%2Fb//c/./d/../e",
        "/%zz%",
        "/x?y=%20+&&;=?#".trim_end_matches('#'),
        "/~tilde:colon@at!$&'()*+,;=",
        "/[brackets]{braces}|pipe^caret\"quote",
        "/?",
        "//double",
        "/..;/..%5c",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let answer = site.ask("GET", request).await;
        if answer.status() == 400 {
            // RFC 9112 §3.2 lets a recipient refuse octets that no URI has; what it may not do is to change them.
            assert!(target.contains(['[', '{', '"', '|']), "{target} is refused");
            continue;
        }
        assert_eq!(answer.status(), 200, "{target}");
        assert_eq!(site.app.last_request().target(), target);
    }
}

#[tokio::test]
async fn field_values_pass_and_keep_their_order() {
    let site = Site::start().await;
    let long = "v".repeat(8000);
    let fields = format!(
        "X-A: 1\r\nX-B: two  spaces, \"quoted\", comma\r\nX-A: 2\r\nX-Long: {long}\r\nX-A: 3\r\n\
         X-Empty:\r\nX-Colon: a:b:c\r\nUser-Agent: Mozilla/5.0 (X11)\r\nCookie: a=1; b=2\r\n"
    );
    let head = seen(&site, &fields).await;
    assert_eq!(head.all("x-a"), ["1", "2", "3"]);
    assert_eq!(head.get("x-b"), Some("two  spaces, \"quoted\", comma"));
    assert_eq!(head.get("x-long"), Some(long.as_str()));
    assert_eq!(head.get("x-empty"), Some(""));
    assert_eq!(head.get("x-colon"), Some("a:b:c"));
    assert_eq!(head.get("cookie"), Some("a=1; b=2"));
    assert_eq!(
        head.get("accept-encoding"),
        None,
        "nothing is added that was not there"
    );
}

#[tokio::test]
async fn octets_above_ascii_pass_in_values() {
    let site = Site::start().await;
    let mut visitor = site.visitor().await;
    visitor
        .send(format!(
            "GET /headers HTTP/1.1\r\nHost: {HOST}\r\nX-Name: J\u{f6}rg\r\n\r\n"
        ))
        .await;
    assert!(visitor.answer("GET").await.text().contains("J\u{f6}rg"));
}

#[tokio::test]
async fn unknown_methods_pass() {
    let site = Site::start().await;
    for method in [
        "PURGE", "PROPFIND", "X-TIDE", "get", "DELETE", "OPTIONS", "PATCH",
    ] {
        let request = format!("{method} /headers HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        assert_eq!(site.ask(method, request).await.status(), 200, "{method}");
        assert_eq!(site.app.last_request().method(), method);
    }
}

#[tokio::test]
async fn cookie_crumbs_of_http2_are_one_field_for_the_app() {
    let site = Site::start().await;
    let mut visitor = H2Visitor::connect(site.world.visitors).await;
    let mut head = visitor.head(http::Method::GET, HOST, "/headers");
    for crumb in ["a=1", "b=2", "c=3"] {
        head.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    let (response, _) = visitor.begin(head, true).await;
    assert_eq!(
        tidegate_tests::visitors::http2::answer(response)
            .await
            .status,
        200
    );
    // RFC 9113 §8.2.3: crumbs are joined before they reach something that is not HTTP/2.
    assert_eq!(site.app.last_request().get("cookie"), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn a_visitor_of_a_name_without_agent_learns_nothing_of_others() {
    let world = World::start().await;
    let mut visitor = Visitor::connect(world.visitors).await;
    visitor.send_get("nobody.test", "/").await;
    let answer = visitor.answer("GET").await;
    assert_eq!(
        answer.head.get("server"),
        None,
        "no product and version for scanners"
    );
}

#[tokio::test]
async fn each_addition_can_be_switched_off() {
    let gateway = World::builder()
        .option("--no-x-forwarded", "")
        .option("--no-forwarded", "")
        .option("--no-via", "");
    let site = Site::start_with(gateway, &[]).await;
    let head = seen(
        &site,
        "X-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\n",
    )
    .await;
    for name in [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "via",
    ] {
        assert_eq!(
            head.get(name),
            None,
            "{name}: neither ours nor the visitor's"
        );
    }
}

#[tokio::test]
async fn a_trusted_range_is_believed() {
    let gateway = World::builder().option("--trust", "127.0.0.0/8");
    let site = Site::start_with(gateway, &[]).await;
    let head = seen(
        &site,
        "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n",
    )
    .await;
    let list = head.all("x-forwarded-for").join(", ");
    assert_eq!(list, "203.0.113.9, 127.0.0.1", "the chain grows by one");
    assert_eq!(head.get("x-forwarded-proto"), Some("https"));
    assert_eq!(head.get("x-forwarded-host"), Some("shop.example"));
    let asked_for = [" access ", " for=203.0.113.9 "];
    site.world.gateway.wait_log(&asked_for).await;
}

#[tokio::test]
async fn an_untrusted_range_is_not_believed() {
    let gateway = World::builder().option("--trust", "10.0.0.0/8");
    let site = Site::start_with(gateway, &[]).await;
    let head = seen(&site, "X-Forwarded-For: 203.0.113.9\r\n").await;
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    let line = site.world.gateway.wait_log(&[" access ", "status=200"]);
    assert!(!line.await.contains(" for="));
}

/// Gateway and agent talk to each other in fields of their own, and apps behind CGI read `_` as `-`.
#[tokio::test]
async fn what_would_be_taken_for_ours_or_for_framing_does_not_reach_the_app() {
    let site = Site::start().await;
    let fields = "Content_Length: 5\r\nTransfer_Encoding: chunked\r\n\
                  Tidegate-Upgrade-Optional: 1\r\nTidegate-Other: 2\r\nX_Other: 3\r\n";
    let head = seen(&site, fields).await;
    for gone in [
        "content_length",
        "transfer_encoding",
        "tidegate-upgrade-optional",
        "tidegate-other",
    ] {
        assert_eq!(head.get(gone), None, "{gone}");
    }
    assert_eq!(head.get("x_other"), Some("3"), "it says nothing of ours");

    // Other gateways pass whatever a visitor sends.
    let scene = ByHand::start().await;
    let mut peer = scene.gateway.reversed().await;
    let mut fields = request("GET", HOST, "/hello");
    fields.extend([("tidegate-upgrade-optional", "1"), ("tidegate-other", "2")]);
    peer.send_head(1, &fields, true).await;
    assert_eq!(answer(&mut peer, 1).await.1, b"hello from blog\n");
    let head = scene.app.last_request();
    assert!(
        head.fields
            .iter()
            .all(|(name, _)| !name.to_lowercase().starts_with("tidegate-")),
        "{head:?}"
    );
}

/// Through a tunnel, to a server in HTTP/1.1, and to one in HTTP/2 as `:path` (RFC 9113 §8.3.1).
#[tokio::test]
async fn a_host_without_a_path_is_for_options_the_asterisk() {
    let ask = |target: &str| {
        format!(
            "OPTIONS http://{HOST}{target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        )
    };
    let site = Site::start().await;
    for (target, seen) in [("", "*"), ("/", "/"), ("?x", "/?x"), ("/a", "/a")] {
        assert_eq!(site.ask("OPTIONS", ask(target)).await.status(), 200);
        assert_eq!(site.app.last_request().target(), seen, "{target}");
    }
    let (plain, http2) = (HttpApp::start("app").await, H2cApp::start().await);
    for (protocol, address) in [("http/1.1", plain.address()), ("h2", http2.address())] {
        let config = format!(
            "[[routes]]\nhost = \"{HOST}\"\nbackend = \"site\"\n[backends.site]\nprotocol = \"{protocol}\"\n[backends.site.servers]\none = \"{address}\"\n"
        );
        let world = World::builder().config(&config).start().await;
        let mut visitor = world.visitor().await;
        visitor.send(ask("")).await;
        let answer = visitor.answer("OPTIONS").await;
        assert_eq!(answer.status(), 200);
        if protocol == "h2" {
            assert_eq!(answer.head.get("x-path"), Some("*"));
        }
    }
    assert_eq!(plain.last_request().target(), "*");
}
