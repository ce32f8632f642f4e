//! Who asks the wrong port, or in the wrong protocol, is told what to change; and what an app gets wrong stands in the
//! agent's log, where its address may stand, and not on the visitors' page.

use std::ffi::OsString;
use std::time::Duration;

use tidegate_tests::apps::{AbsentApp, H2cApp, HttpApp, RawApp};
use tidegate_tests::eventually::SOON;
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Program, built, run};
use tidegate_tests::visitors::http1::Visitor;
use tidegate_tests::world::{VISITOR_NAMES, launch_agent};
use tidegate_tests::{HOST, World};
use time::OffsetDateTime;

/// As an app with TLS does that knows HTTP when it sees it, such as nginx.
#[tokio::test]
async fn an_app_that_has_answered_nothing_but_400_may_speak_tls() {
    let world = World::start().await;
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    let app = RawApp::answering(answer, true).await;
    let agent = world.agent(HOST, &app.target()).await;
    for _ in 0..5 {
        assert_eq!(world.get(HOST, "/").await.status(), 400);
    }
    let words = [
        "has answered nothing but 400 yet",
        "write https:// in TARGET",
    ];
    agent.wait_log(&words).await;
    assert_eq!(agent.logged(&words).len(), 1);
}

#[tokio::test]
async fn what_an_app_gets_wrong_is_in_the_agents_log_once_and_its_address_on_no_page() {
    let world = World::start().await;
    let fields = |count: usize| "x-some: field\r\n".repeat(count);
    let head = |more: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{more}\r\nok");
    let long = format!("x-long: {}\r\n", "x".repeat(65_400));
    let longer = format!("x-long: {}\r\n", "x".repeat(66_000));
    for (name, answer, reason, said) in [
        (
            "closed.test",
            String::new(),
            "app-closed",
            "without an answer",
        ),
        (
            "fields.test",
            head(&fields(100)),
            "app-invalid-response",
            "more than 100 fields",
        ),
        (
            "head.test",
            head(&longer),
            "app-invalid-response",
            "its head has",
        ),
        ("fits.test", head(&fields(98)), "", ""),
        ("long.test", head(&long[2..]), "", ""),
    ] {
        let app = RawApp::answering(answer, true).await;
        let target = app.target();
        let agent = world.agent(name, &target).await;
        let address = target.trim_start_matches("http://");
        for _ in 0..3 {
            let answer = world.get(name, "/").await;
            assert_eq!(answer.reason(), reason, "{name}: {}", answer.text());
            assert!(!answer.text().contains(address), "{}", answer.text());
        }
        if !reason.is_empty() {
            let words = [target.as_str(), said, reason, "the visitor got 502"];
            agent.wait_log(&words).await;
            assert_eq!(agent.logged(&words[3..]).len(), 1, "{:?}", agent.log());
        }
    }
}

/// The gateway can only say `response-cut`: who broke it off is known at the agent.
#[tokio::test]
async fn an_app_that_breaks_off_an_answer_is_named_once() {
    let world = World::start().await;
    for (name, answer) in [
        ("length.test", "Content-Length: 10\r\n\r\nabc"),
        (
            "chunks.test",
            "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
    ] {
        let app = RawApp::answering(format!("HTTP/1.1 200 OK\r\n{answer}"), true).await;
        let agent = world.agent(name, &app.target()).await;
        for _ in 0..3 {
            let answer = world.get(name, "/").await;
            assert_eq!(
                (answer.text().as_str(), answer.cut.is_some()),
                ("abc", true)
            );
        }
        let target = app.target();
        agent.wait_log(&[&target, "broke off its answer"]).await;
        assert_eq!(agent.logged(&["broke off"]).len(), 1, "{:?}", agent.log());
    }
}

#[tokio::test]
async fn an_app_that_is_not_there_has_no_address_on_the_page() {
    let world = World::start().await;
    let absent = AbsentApp::new();
    let socket = format!("unix:{}", world.file("nobody.sock").display());
    for (name, target) in [
        ("tcp.test", format!("http://{}", absent.address())),
        ("unix.test", socket),
        ("dns.test", "http://nowhere.invalid:1".to_owned()),
    ] {
        let agent = world.agent(name, &target).await;
        let text = world.get(name, "/").await.text();
        assert!(text.contains("cannot be reached"), "{text}");
        for part in ["127.0.0.1", "nobody.sock", "nowhere"] {
            assert!(!text.contains(part), "{target}: {text}");
        }
        agent.wait_log(&[&target, "cannot be reached"]).await;
    }
}

#[tokio::test]
async fn an_app_that_speaks_another_protocol_is_recognised() {
    let world = World::start().await;
    let identity = world.pki.server(&["localhost"]);
    let config = |alpn: &[&str]| world.pki.server_config(&identity, false, alpn);
    let only_h2 = HttpApp::start_tls("h2", config(&["h2"])).await;
    let tls = HttpApp::start_tls("tls", config(&["http/1.1"])).await;
    let (h2c, plain) = (H2cApp::start().await, HttpApp::start("plain").await);
    let ca = world.pki.ca_file("ca");
    let ca = ["--target-ca", ca.to_str().unwrap()];
    let clear = tls.target().replace("https:", "http:");
    let wrong = plain.target().replace("http:", "https:");
    for (name, target, options, hint) in [
        ("h2.test", only_h2.target().to_owned(), &ca[..], "add --h2"),
        (
            "h2c.test",
            h2c.target(),
            &[],
            "if it speaks HTTP/2 only, add --h2",
        ),
        ("tls.test", clear, &[], "if it speaks TLS, write https://"),
        ("plain.test", wrong, &ca, "does it speak TLS there?"),
        (
            "h1.test",
            plain.target().to_owned(),
            &["--h2"],
            "leave --h2 out",
        ),
        (
            "tls1.test",
            tls.target().to_owned(),
            &[ca[0], ca[1], "--h2"],
            "leave --h2 out",
        ),
    ] {
        let agent = world.agent_with(name, &target, options).await;
        let answer = world.get(name, "/hello").await;
        assert_eq!(answer.status(), 502, "{name}: {}", answer.text());
        agent.wait_log(&["WARN", hint]).await;
    }
    let agent = world.agent(HOST, plain.target()).await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    assert_eq!(agent.logged(&["WARN"]).len(), 0, "{:?}", agent.log());
}

#[tokio::test]
async fn an_agent_at_the_wrong_port_is_told_which_one_it_is() {
    let world = World::builder()
        .option("--tunnels-clear", "127.0.0.1:0")
        .option("--tunnels-clear-name", "clear.test")
        .start()
        .await;
    let app = HttpApp::start("app").await;
    let (identity, ca) = (world.pki.agent(&[HOST]), world.pki.ca_file("ca"));
    let clear_port = world.gateway.address("tunnels-clear").unwrap();
    let to = |port: u16| format!("localhost:{port}");

    let options = ["--tunnels", "1", "--server-name", VISITOR_NAMES[0]];
    let gateway = to(world.visitors_tls.port());
    let visitors = launch_agent(&[], &gateway, &identity, &ca, app.target(), &options);
    let words = ["WARN", "did not ask for the certificate", "--visitors-tls"];
    visitors.wait_log(&words).await;

    let gateway = to(clear_port.port());
    let tls = launch_agent(&[], &gateway, &identity, &ca, app.target(), &[]);
    tls.wait_log(&["[TLS]", "does it speak TLS"]).await;
    let words = ["tunnel refused", "TLS handshake", "takes clear text"];
    world.gateway.wait_log(&words).await;

    let in_clear = |port: u16| {
        let gateway = to(port);
        let words = ["http", app.target(), "--gateway", &gateway, "--clear"];
        Program::start("tidegate", &built("tidegate"), &words.map(Into::into))
    };
    let clear = in_clear(world.tunnels.port());
    clear.wait_log(&["[reversal]", "leave out --clear"]).await;

    let clear_visitors = in_clear(world.visitors.port());
    let words = ["WARN", "as an HTTP/2 server", "the port of --visitors?"];
    clear_visitors.wait_log(&words).await;

    let mut clear = in_clear(clear_port.port());
    clear.ready().await;
    assert!(!clear.log_contains("--visitors"), "{:?}", clear.log());

    let right = world.agent(HOST, app.target()).await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    assert_eq!(right.logged(&["WARN"]).len(), 0, "{:?}", right.log());
}

/// Each is named with what to change, once, and answered like any other rubbish.
#[tokio::test]
async fn a_visitor_that_speaks_no_http_is_named_in_the_log() {
    let world = World::start().await;
    let v2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01\x1f\x90\x1f\x91GET / HTTP/1.1\r\n\r\n";
    for (octets, words) in [
        (
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            ["a TLS handshake", "--visitors-tls and --visitors-cert"],
        ),
        (
            b"PROXY TCP4 127.0.0.1 127.0.0.1 8080 8081\r\nGET / HTTP/1.1\r\n\r\n",
            ["PROXY v1", "without send-proxy; nginx"],
        ),
        (v2, ["PROXY v2", "send-proxy-v2"]),
        (b"SSH-2.0-OpenSSH_9.9\r\n", ["SSH", "HTTP is served here"]),
    ] {
        for _ in 0..3 {
            let mut visitor = world.visitor().await;
            visitor.send(octets).await;
            let answer = visitor.answer("GET").await;
            assert_eq!(
                (answer.status(), answer.reason()),
                (400, "malformed-request")
            );
        }
        world.gateway.wait_log(&["WARN", words[0], words[1]]).await;
        assert_eq!(world.gateway.logged(&["WARN", words[0]]).len(), 1);
    }
    let mut clear = Visitor::connect(world.visitors_tls).await;
    clear.send_get(HOST, "/").await;
    let words = [
        "WARN",
        "expected TLS, got an HTTP/1.1 request",
        "by --visitors",
    ];
    world.gateway.wait_log(&words).await;
}

#[tokio::test]
async fn a_file_without_a_key_has_none_that_others_could_read() {
    let world = World::start().await;
    let ca = world.pki.ca_file("ca");
    let mut words = ["http", "3000", "--gateway", "localhost:1"]
        .map(Into::into)
        .to_vec();
    for option in ["--identity", "--ca"] {
        words.extend([option.into(), ca.clone().into_os_string()]);
    }
    let ended = run(&built("tidegate"), &words).await;
    assert!(
        ended.stderr.contains("holds no private key"),
        "{}",
        ended.stderr
    );
    assert!(
        !ended.stderr.contains("read by other users"),
        "{}",
        ended.stderr
    );
}

/// Development servers like to sign for themselves. Each case's file for `--target-ca`, if there is one, and what the log says.
#[tokio::test]
async fn an_app_whose_certificate_nobody_vouches_for_is_told_of_once_with_the_options_that_help() {
    let world = World::start().await;
    let pki = &world.pki;
    let params = || Pki::server_params(&["localhost"]);
    let issued = pki.server(&["localhost"]);
    let (own, own_alone) = pki.self_signed(params(), "own");
    let (_, others) = pki.self_signed(params(), "others");
    let (elsewhere, elsewhere_alone) =
        pki.self_signed(Pki::server_params(&["elsewhere.test"]), "elsewhere");
    let mut old = params();
    old.not_after = OffsetDateTime::now_utc() - Duration::from_secs(3600);
    let (old, old_alone) = pki.self_signed(old, "old");
    let helps = "with --target-ca, or write --target-insecure";
    let system = format!("SSL_CERT_FILE={}", others.display());
    let system = ["env".into(), OsString::from(system)];
    for (shown, trusted, said) in [
        (&issued, None, helps),
        (&own, None, helps),
        (&issued, Some(&others), "authority in the --target-ca file"),
        (&own, Some(&others), "not the one in the --target-ca file"),
        (&old, Some(&old_alone), "its certificate expired"),
        (
            &elsewhere,
            Some(&elsewhere_alone),
            "it names elsewhere.test",
        ),
        (&own, Some(&own_alone), ""),
    ] {
        let config = pki.server_config(shown, false, &["http/1.1"]);
        let app = HttpApp::start_tls("blog", config).await;
        let options: Vec<&str> = match trusted {
            Some(file) => vec!["--target-ca", file.to_str().unwrap()],
            None => Vec::new(),
        };
        let mut agent = launch_agent(
            &system,
            &format!("localhost:{}", world.tunnels.port()),
            &pki.agent(&[HOST]),
            &pki.ca_file("ca"),
            app.target(),
            &options,
        );
        agent.ready().await;
        for _ in 0..3 {
            let answer = world.get(HOST, "/hello").await;
            let reason = if said.is_empty() {
                ""
            } else {
                "app-unreachable"
            };
            assert_eq!(answer.reason(), reason, "{shown:?}: {:?}", agent.log());
        }
        if !said.is_empty() {
            agent.wait_log(&["cannot be reached", said]).await;
            assert_eq!(agent.logged(&["cannot be reached"]).len(), 1);
            assert_eq!(agent.logged(&["ERROR"]).len(), 0, "{:?}", agent.log());
        }
        drop(agent);
        world.wait_filed(HOST, 0, SOON).await;
    }
}
