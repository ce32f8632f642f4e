//! `tidegated probe`: what a port takes, against real programs and our own ports, and what it says where there is nothing.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tidegate_tests::apps::{AbsentApp, H2cApp, RawApp};
use tidegate_tests::haproxy::{Haproxy, available, free_ports};
use tidegate_tests::nginx::nginx;
use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Finished, built, run};
use tidegate_tests::{HOST, Site, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// What is taken in clear text by HTTP/1.1, by HTTP/2, and over TLS: without a header, behind v1, behind v2.
type Taken = [[bool; 3]; 3];

const NO: [bool; 3] = [false; 3];
const BARE: [bool; 3] = [true, false, false];
const BEHIND: [bool; 3] = [false, true, true];
const PLAIN: Taken = [BARE, NO, NO];
const HEADER: Taken = [BEHIND, NO, NO];
const HTTP2: Taken = [NO, BARE, NO];
const HEADER_HTTP2: Taken = [NO, BEHIND, NO];
const TLS: Taken = [NO, NO, BARE];
const HEADER_TLS: Taken = [NO, NO, BEHIND];

/// What is said of a port that wants to see a certificate.
const DEMANDED: &str = "takes TLS without a PROXY header, and demands a certificate: give a backend `tls.client_certificate`";

async fn probe(address: impl ToString, options: &[&str]) -> Finished {
    let mut words = vec!["probe".to_owned(), address.to_string()];
    words.extend(options.iter().map(ToString::to_string));
    let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    run(&built("tidegated"), &words).await
}

/// Probes, for machines and for people: both say the same, and `advice` is the last line.
async fn takes(address: SocketAddr, expected: Taken, advice: &str) {
    let finished = probe(address, &["--json"]).await;
    let said: Value = serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    let tries = said["tries"].as_array().unwrap();
    let taken: Vec<bool> = tries
        .iter()
        .map(|one| one["taken"].as_bool().unwrap())
        .collect();
    assert_eq!(taken, expected.concat(), "{}", finished.stdout);
    let any = taken.contains(&true);
    assert_eq!(said["taken"].as_bool(), Some(any));
    assert_eq!(said["address"], address.to_string());
    assert_eq!(finished.code, Some(i32::from(!any)), "{finished:?}");

    let finished = probe(address, &[]).await;
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 10, "{}", finished.stdout);
    for (line, (name, taken)) in lines.iter().zip(
        [
            "plain HTTP ",
            "PROXY v1, then plain HTTP ",
            "PROXY v2, then plain HTTP ",
            "plain HTTP/2 ",
            "PROXY v1, then plain HTTP/2 ",
            "PROXY v2, then plain HTTP/2 ",
            "TLS ",
            "PROXY v1, then TLS ",
            "PROXY v2, then TLS ",
        ]
        .iter()
        .zip(expected.concat()),
    ) {
        assert!(line.starts_with(name), "{line}");
        let yes = if taken { " yes  " } else { " no   " };
        assert!(line.contains(yes), "{line}");
    }
    assert!(lines[9].contains(advice), "{advice}: {}", lines[9]);
    assert_eq!(said["advice"], lines[9]);
    assert_eq!(finished.code, Some(i32::from(!any)));
}

#[tokio::test]
async fn haproxys_ports_are_told_apart() {
    let Some(installed) = available() else { return };
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let identity = pki.server(&["localhost"]);
    let (some, more) = (free_ports().await, free_ports().await);
    let last = free_ports().await;
    let ports = [some.visitors, some.tunnels, more.visitors, more.tunnels];
    let ports = [&ports[..], &[last.visitors, last.tunnels]].concat();
    let ssl = format!("ssl crt {}", identity.display());
    let verify = format!(
        "{ssl} verify required ca-file {}",
        pki.ca_file("ca").display()
    );
    let binds = [
        String::new(),
        "accept-proxy".to_owned(),
        ssl.clone(),
        format!("accept-proxy {ssl}"),
        format!("{verify} alpn h2"),
        format!("accept-proxy {verify} ssl-max-ver TLSv1.2"),
    ];
    let mut body = "frontend app\n\x20   http-request return status 200\n".to_owned();
    for (at, how) in ports.iter().zip(binds) {
        body.push_str(&format!("\x20   bind {at} {how}\n"));
    }
    let haproxy = Haproxy::start(&installed, dir.path(), "ports", &body);
    for (at, expected, advice) in [
        (
            ports[0],
            // It takes HTTP/2 at the same ports.
            [BARE, BARE, NO],
            format!("`tidegate http http://{}`", ports[0]),
        ),
        (
            ports[1],
            [BEHIND, BEHIND, NO],
            format!("`tidegate http http://{} --proxy-protocol v2`", ports[1]),
        ),
        (
            ports[2],
            TLS,
            format!("`tidegate http https://{}`", ports[2]),
        ),
        (
            ports[3],
            HEADER_TLS,
            format!("`tidegate http https://{} --proxy-protocol v2`", ports[3]),
        ),
        (ports[4], TLS, DEMANDED.to_owned()),
        (
            ports[5],
            HEADER_TLS,
            "not without, and demands a certificate: give a backend `tls.client_certificate`, a file with one that it takes and \
             its key and `send_proxy = \"v2\"`"
                .to_owned(),
        ),
    ] {
        haproxy.listening(at).await;
        takes(at, expected, &advice).await;
    }
}

/// They begin HTTP/2 by themselves, whatever is said to them: that is no answer to a header.
#[tokio::test]
async fn ports_for_http2_in_clear_text_take_a_header_only_where_they_read_one() {
    let dir = tempfile::tempdir().unwrap();
    let app = H2cApp::start().await;
    let to = |at: SocketAddr| format!("`tidegate http http://{at} --h2`");
    takes(app.address(), HTTP2, &to(app.address())).await;
    for (listen, expected, advice) in [
        (" http2", HTTP2, "or a backend with `protocol = \"h2\"`"),
        (
            " http2 proxy_protocol",
            HEADER_HTTP2,
            "--h2 --proxy-protocol v2` does",
        ),
    ] {
        let at = free_ports().await.visitors;
        let Some(_nginx) = nginx(dir.path(), at, listen).await else {
            return;
        };
        takes(at, expected, advice).await;
    }
    let Some(installed) = available() else { return };
    let ports = free_ports().await;
    let body = format!(
        "frontend app\n    http-request return status 200\n    bind {} proto h2\n    bind {} accept-proxy proto h2\n",
        ports.visitors, ports.tunnels
    );
    let haproxy = Haproxy::start(&installed, dir.path(), "h2c", &body);
    haproxy.listening(ports.tunnels).await;
    takes(ports.visitors, HTTP2, &to(ports.visitors)).await;
    takes(ports.tunnels, HEADER_HTTP2, "send v1 or v2").await;
}

#[tokio::test]
async fn nginxs_ports_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let identity = pki.server(&["localhost"]).display().to_string();
    let ssl = format!(" ssl; ssl_certificate {identity}; ssl_certificate_key {identity}");
    let ca = pki.ca_file("ca").display().to_string();
    let verify = format!("ssl_verify_client on; ssl_client_certificate {ca}");
    let old = format!("{ssl}; ssl_protocols TLSv1.2");
    for (listen, expected, advice) in [
        (String::new(), PLAIN, "send none"),
        (" proxy_protocol".to_owned(), HEADER, "send v1 or v2"),
        (ssl.clone(), TLS, "TLS without a PROXY header"),
        (
            format!(" proxy_protocol{ssl}"),
            HEADER_TLS,
            "TLS behind a PROXY header and not without",
        ),
        (format!("{ssl}; {verify}"), TLS, DEMANDED),
        (format!(" http2{ssl}; {verify}"), TLS, DEMANDED),
        (format!("{old}; {verify}"), TLS, DEMANDED),
        // Where one is welcome and not demanded, none is needed.
        (
            format!("{ssl}; {}", verify.replace(" on", " optional")),
            TLS,
            "TLS without a PROXY header: send none",
        ),
    ] {
        let at = free_ports().await.visitors;
        let Some(_nginx) = nginx(dir.path(), at, &listen).await else {
            return;
        };
        takes(at, expected, advice).await;
    }
}

#[tokio::test]
async fn our_own_ports_are_told_apart() {
    let site = Site::start().await;
    takes(site.world.visitors, [BARE, BARE, NO], "send none").await;
    takes(site.world.visitors_tls, TLS, "https://").await;
    takes(site.world.tunnels, TLS, DEMANDED).await;
    let address = format!("localhost:{}", site.world.visitors_tls.port());
    let finished = probe(&address, &["--server-name", HOST]).await;
    let words = ["TLSv1.3, ALPN h2", &address];
    for word in words {
        assert!(finished.stdout.contains(word), "{}", finished.stdout);
    }

    let strict = World::builder()
        .option("--visitors-proxy", "optional")
        .option("--visitors-tls-proxy", "required")
        .option("--proxy-from", "127.0.0.1")
        .start()
        .await;
    takes(
        strict.visitors,
        [[true; 3], [true; 3], NO],
        "listed sources only",
    )
    .await;
    takes(strict.visitors_tls, HEADER_TLS, "send v1 or v2").await;
}

#[tokio::test]
async fn a_port_in_tcp_mode_that_requires_a_header_says_so() {
    let echo = RawApp::start(|reader| async move {
        let (mut from, mut to) = tokio::io::split(reader.io);
        let _ended = tokio::io::copy(&mut from, &mut to).await;
    })
    .await;
    let config = format!(
        "[listeners.raw]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nproxy = \"required\"\nproxy_from = [\"127.0.0.1\"]\nservers = [\"{}\"]\n",
        echo.target().replace("http://", "")
    );
    let world = World::builder().config(&config).start().await;
    let raw = world.gateway.address("raw").unwrap();
    let finished = probe(raw, &[]).await;
    let last = finished.stdout.lines().last().unwrap();
    let wants = format!("{raw} wants a PROXY header, and closes what has none");
    for part in [&*wants, "send v1 or v2", "`send_proxy = \"v2\"`"] {
        assert!(last.contains(part), "{last}");
    }
}

/// An app in clear text that reads a question and says `what` in pieces of so many octets.
async fn saying(what: &'static [u8], pieces: usize) -> RawApp {
    RawApp::start(move |mut reader| async move {
        for piece in what.chunks(pieces) {
            if reader.io.write_all(piece).await.is_err() {
                return;
            }
            // Each leaves as a packet of its own.
            tokio::task::yield_now().await;
        }
        reader.closed().await;
    })
    .await
}

#[tokio::test]
async fn answers_in_pieces_and_answers_of_others_are_told_apart() {
    for (what, pieces, code, said) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"[..],
            1,
            0,
            "takes plain HTTP",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n", 11, 0, "takes plain HTTP"),
        (
            b"HTTP/1",
            1,
            1,
            "began its answer with `HTTP/1`, and did not go on in time: is the program behind it stuck, or slow? `--within`",
        ),
        (
            b"ICY 200 OK\r\n\r\n",
            3,
            1,
            "takes none of these; it answers with `ICY 200 OK`, which is neither HTTP/1 nor TLS",
        ),
        (
            b"RTSP/1.0 400 Bad\r\n",
            64,
            1,
            "answers with `RTSP/1.0 400 Bad`",
        ),
        (b"220 mail\r\n", 64, 1, "answers with `220 mail`"),
    ] {
        let app = saying(what, pieces).await;
        let address = app.target().replace("http://", "");
        let finished = probe(&address, &["--within", "300ms"]).await;
        let last = finished.stdout.lines().last().unwrap();
        assert!(last.contains(said), "{said}: {}", finished.stdout);
        assert_eq!(finished.code, Some(code), "{finished:?}");
    }
}

/// Whether it asks for a certificate or not: what was agreed on is no less so for the silence behind it.
#[tokio::test]
async fn a_port_of_tls_that_falls_silent_takes_tls() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    let silent = pki.server_config(&pki.server(&["localhost"]), false, &[]);
    let provider = Arc::clone(silent.crypto_provider());
    let welcome =
        WebPkiClientVerifier::builder_with_provider(Arc::new(pki.roots()), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
    let asking = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(welcome)
        .with_cert_resolver(Arc::clone(&silent.cert_resolver));
    for config in [silent, Arc::new(asking)] {
        let acceptor = TlsAcceptor::from(config);
        let app = RawApp::start(move |reader| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(mut tls) = acceptor.accept(reader.io).await {
                    let _ended = tokio::io::copy(&mut tls, &mut tokio::io::sink()).await;
                }
            }
        })
        .await;
        let at = app.target().replace("http://", "");
        let finished = probe(&at, &["--within", "400ms"]).await;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let lines: Vec<&str> = finished.stdout.lines().collect();
        let seen = "yes  TLSv1.3, no ALPN; then said nothing in time";
        assert!(lines[6].contains(seen), "{}", finished.stdout);
        let advice = format!(
            "{at} takes TLS without a PROXY header: send none, as `tidegate http https://{at}` does, or a backend with `tls = true`; but asked in HTTP inside TLS it said nothing in time: where it speaks something else, have its TLS passed on untouched, by `tidegate tcp {at}`"
        );
        assert!(lines[9].starts_with(&advice), "{}", finished.stdout);
    }
}

/// Its version is the one thing that it says of a server; what it says in clear text is the same alert.
#[tokio::test]
async fn a_port_that_speaks_no_tls_of_ours_is_said_to_speak_tls() {
    let hello = b"\x16\x03\x02\0\x2a\x02\0\0\x26\x03\x02";
    let server_hello = [&hello[..], &[7; 32], &[0, 0, 0x2f, 0]].concat();
    let alert = b"\x15\x03\x02\0\x02\x02\x46".to_vec();
    for answer in [server_hello, alert] {
        let app = RawApp::start(move |mut reader| {
            let answer = answer.clone();
            async move {
                let mut first = [0; 1];
                // Whatever is no record is hung up on.
                if reader.io.read_exact(&mut first).await.is_ok() && first == [0x16] {
                    let _gone = reader.io.write_all(&answer).await;
                    reader.closed().await;
                }
            }
        })
        .await;
        let at = app.target().replace("http://", "");
        let finished = probe(&at, &["--within", "300ms"]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let lines: Vec<&str> = finished.stdout.lines().collect();
        let seen = "no   speaks TLS, and none of ours: the peer ";
        assert!(lines[6].contains(seen), "{}", finished.stdout);
        let said = format!("{at} speaks TLS, and none that is spoken here, which is 1.2 and 1.3: ");
        assert!(lines[9].starts_with(&said), "{}", finished.stdout);
    }
}

#[tokio::test]
async fn what_takes_nothing_is_described() {
    let silent = RawApp::start(|mut reader| async move { reader.closed().await }).await;
    let closing = RawApp::start(|_closed| async {}).await;
    let greeting = RawApp::start(|mut reader| async move {
        let hello = b"SSH-2.0-OpenSSH_9.2\r\n";
        reader.io.write_all(hello).await.unwrap();
        reader.closed().await;
    })
    .await;
    for (app, said) in [
        (silent, "accepts connections and says nothing"),
        (closing, "closes every connection"),
        (greeting, "an SSH greeting"),
    ] {
        let address = app.target().replace("http://", "");
        let finished = probe(&address, &["--within", "200ms"]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let last = finished.stdout.lines().last().unwrap();
        assert!(last.contains(said), "{last}");
        assert_eq!(finished.stdout.matches(" no   ").count(), 9);
    }
    let absent = AbsentApp::new();
    for (address, said) in [
        (absent.address().to_string(), "connection refused"),
        ("nowhere.invalid:80".to_owned(), "cannot be resolved"),
    ] {
        let finished = probe(&address, &[]).await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stdout.is_empty(), "{finished:?}");
        let words = format!("no connection to {address}: ");
        assert!(
            finished.stderr.contains(&words) && finished.stderr.contains(said),
            "{finished:?}"
        );
    }
    for words in [
        &["127.0.0.1"][..],
        &["127.0.0.1:0"],
        &[":80"],
        &["h:1", "--within", "0"],
    ] {
        let finished = probe(words[0], &words[1..]).await;
        assert_eq!(finished.code, Some(64), "{finished:?}");
    }
}
