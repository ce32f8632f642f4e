//! TLS to servers: who is believed, what is shown, and files that change.

use std::fs;
use std::path::Path;

use tidegate_tests::HOST;
use tidegate_tests::apps::HttpApp;
use tidegate_tests::eventually::{SOON, eventually};
use tidegate_tests::pki::Pki;

use super::{at, world};

#[tokio::test]
async fn tls_to_a_server_is_checked_and_a_certificate_shown() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "own");
    let server = pki.server(&["app.internal"]);
    let app = HttpApp::start_tls("secure", pki.server_config(&server, true, &["http/1.1"])).await;
    let client = pki.agent(&["gateway.internal"]);
    let servers = [("one", at(app.address()))];
    let ca = pki.ca_file("own");
    let tls = |keys: &str| format!("retries = 0\ntls = {{ {keys} }}");
    let whole = format!(
        "ca = \"{}\", server_name = \"app.internal\", client_certificate = \"{}\"",
        ca.display(),
        client.display()
    );
    let good = world(&servers, &tls(&whole)).await;
    for _ in 0..2 {
        assert_eq!(good.get(HOST, "/hello").await.text(), "hello from secure\n");
    }
    let named = format!(
        "ca = \"{}\", server_name = \"other.internal\"",
        ca.display()
    );
    for (keys, why) in [
        (
            named.as_str(),
            "it names app.internal; if that is the right server, write a name that its certificate has as tls.server_name of backends.site (",
        ),
        ("server_name = \"app.internal\"", "tls.ca"),
    ] {
        let bad = world(&servers, &tls(keys)).await;
        let answer = bad.get(HOST, "/hello").await;
        assert_eq!(
            (answer.status(), answer.reason()),
            (502, "backend-unreachable")
        );
        bad.gateway
            .wait_log(&["server one", "cannot be reached", why])
            .await;
    }
    let bare = format!("ca = \"{}\", server_name = \"app.internal\"", ca.display());
    let bare = world(&servers, &tls(&bare)).await;
    assert_eq!(bare.get(HOST, "/hello").await.status(), 502);
    let said = [
        "server one",
        "demands a certificate",
        "tls.client_certificate",
    ];
    bare.gateway.wait_log(&said).await;
    let loose = format!(
        "verify = false, client_certificate = \"{}\"",
        client.display()
    );
    let loose = world(&servers, &tls(&loose)).await;
    assert_eq!(loose.get(HOST, "/hello").await.status(), 200);
    loose
        .gateway
        .wait_log(&["backend site", "NOT verified", "verify = false"])
        .await;
}

/// A session that began with the former certificate, and is resumed, would go on showing it.
#[tokio::test]
async fn what_tls_to_servers_goes_by_is_read_again() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let own = Pki::create(dirs[0].path(), "own");
    let other = Pki::create(dirs[1].path(), "other");
    let server = own.server(&["app.internal"]);
    let app = HttpApp::start_tls("secure", own.server_config(&server, true, &["http/1.1"])).await;
    let (shown, believed) = (
        dirs[0].path().join("shown.pem"),
        dirs[0].path().join("believed.crt"),
    );
    let replace = |with: &Path, what: &Path| {
        let beside = what.with_extension("new");
        fs::copy(with, &beside).unwrap();
        fs::rename(&beside, what).unwrap();
    };
    replace(&own.agent(&["gateway.internal"]), &shown);
    replace(&own.ca_file("own"), &believed);
    let keys = format!(
        "retries = 0\neject_after = 0\nkeep_alive = \"1ms\"\ntls = {{ ca = \"{}\", server_name = \"app.internal\", client_certificate = \"{}\" }}",
        believed.display(),
        shown.display()
    );
    let world = world(&[("one", at(app.address()))], &keys).await;
    for _ in 0..2 {
        assert_eq!(world.get(HOST, "/hello").await.status(), 200);
    }
    replace(&other.agent(&["gateway.internal"]), &shown);
    let said = ["backend site", "the client certificate was read again"];
    world.gateway.wait_log(&said).await;
    assert_eq!(world.get(HOST, "/hello").await.status(), 502);
    replace(&own.agent(&["gateway.internal"]), &shown);
    eventually(SOON, "the former certificate", async || {
        (world.get(HOST, "/hello").await.status() == 200).then_some(())
    })
    .await;
    replace(&other.ca_file("other"), &believed);
    let said = ["backend site", "the authorities in", "were read again"];
    world.gateway.wait_log(&said).await;
    let answer = world.get(HOST, "/hello").await;
    assert_eq!(
        (answer.status(), answer.reason()),
        (502, "backend-unreachable")
    );
}
