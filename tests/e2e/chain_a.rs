//! Chain A of issue 3, from end to end with real parts, and the incident that it had:
//!
//! ```text
//! visitor ─tls,http▶ cloud LB ─PROXY v2, tcp▶ tidegated (tcp) ─PROXY v2, tcp▶ Pages server (PROXY v2, tls, http)
//! curl               HAProxy                                               HAProxy, 2443; 1443 is TLS alone
//! ```

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use tidegate_tests::World;
use tidegate_tests::eventually::SOON;
use tidegate_tests::haproxy::{Haproxy, available, free_ports};
use tidegate_tests::program::{Finished, built, run};
use tidegate_tests::visitors::curl::curl;

const SITE: &str = "shop.pages.test";

/// The chain but for the gateway's file.
struct Chain {
    world: World,
    /// The Pages server's: a header and TLS, and TLS alone.
    pages: Haproxy,
    header: SocketAddr,
    tls: SocketAddr,
    balancer: Haproxy,
    visitors: SocketAddr,
    ca: PathBuf,
}

/// What the README has for this chain, with the test's own places.
fn file(listener: SocketAddr, server: SocketAddr) -> String {
    format!(
        "control = \"control\"\nstate_file = \"state.toml\"\n\
         [listeners.pages]\naddress = \"{listener}\"\nmode = \"tcp\"\nproxy = \"required\"\nproxy_from = [\"127.0.0.1\"]\n\
         [[routes]]\nsni = \"*.pages.test\"\nbackend = \"pages\"\n\
         [backends.pages]\nretries = 0\nsend_proxy = \"v2\"\nproxy_tlvs = [\"authority\", \"alpn\", \"unique-id\", \"received\"]\n\
         [backends.pages.servers]\none = \"{server}\"\n"
    )
}

/// The Pages server answers with what it was told: from where, to where, whom the visitor asks for, and the access line's id.
const TOLD: &str = "http-request return status 200 content-type text/plain lf-string \"%[src] %[dst]:%[dst_port] %[fc_pp_authority] %[fc_pp_unique_id]\"";

impl Chain {
    /// `None`, and a printed reason, where the machine lacks a part.
    async fn start(to_tls_port: bool) -> Option<Self> {
        let installed = available()?;
        let (some, more) = (free_ports().await, free_ports().await);
        let (header, tls) = (some.visitors, some.tunnels);
        let (gateway, visitors) = (more.visitors, more.tunnels);
        let server = if to_tls_port { tls } else { header };
        let text = file(gateway, server);
        let world = World::builder().config(&text).start().await;
        let identity = world.pki.server(&[SITE]);
        let crt = format!("ssl crt {} alpn http/1.1", identity.display());
        let pages = format!(
            "frontend pages-header\n    bind {header} accept-proxy {crt}\n    {TOLD}\n\
             frontend pages-tls\n    bind {tls} {crt}\n    {TOLD}\n"
        );
        let pages = Haproxy::start(&installed, world.dir(), "haproxy-pages", &pages);
        let balancer = format!(
            "frontend visitors\n    mode tcp\n    bind {visitors}\n    default_backend gateway\n\
             backend gateway\n    mode tcp\n    server gateway {gateway} send-proxy-v2\n"
        );
        let balancer = Haproxy::start(&installed, world.dir(), "haproxy-balancer", &balancer);
        pages.listening(tls).await;
        balancer.listening(visitors).await;
        let ca = world.pki.ca_file("ca");
        Some(Self {
            world,
            pages,
            header,
            tls,
            balancer,
            visitors,
            ca,
        })
    }

    /// curl, as a visitor of the site.
    async fn visit(&self) -> Option<Finished> {
        let port = self.visitors.port();
        let (resolve, url) = (
            format!("{SITE}:{port}:127.0.0.1"),
            format!("https://{SITE}:{port}/"),
        );
        let ca = self.ca.to_str().unwrap();
        curl(&["--http1.1", "--resolve", &resolve, "--cacert", ca, &url]).await
    }

    /// The same where the site answers: what its server was told.
    async fn told(&self) -> Option<String> {
        let finished = self.visit().await?;
        assert_eq!(finished.code, Some(0), "{finished:?}");
        Some(finished.stdout)
    }

    async fn tidegated(&self, words: &[&str]) -> Finished {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        run(&built("tidegated"), &words).await
    }
}

#[tokio::test]
async fn a_page_comes_through_and_its_server_knows_the_visitor() {
    let Some(mut chain) = Chain::start(false).await else {
        return;
    };
    for _ in 0..3 {
        let Some(told) = chain.told().await else {
            return;
        };
        // From whom, and at which address of the balancer: its header's word, and the gateway's own.
        let meant = format!("127.0.0.1 {} {SITE} ", chain.visitors);
        assert!(told.starts_with(&meant), "{told}; expected {meant}");
        let id = told.split(' ').nth(3).unwrap();
        let line = chain
            .world
            .gateway
            .wait_log(&[id, &format!("sni={SITE} to=pages backend=pages server=one")])
            .await;
        assert!(line.contains("ended=closed"), "{line}");
    }
    let metrics = chain.world.metrics().await;
    let labels = ["listener=\"pages\"", "version=\"v2\""];
    assert!(metrics.sum("tidegate_proxy_headers_total", &labels) >= 3.0);
    assert_eq!(metrics.sum("tidegate_backend_mismatches_total", &[]), 0.0);
    // Both hops have spoken to nobody wrongly.
    assert!(chain.pages.program.is_running() && chain.balancer.program.is_running());
}

/// The incident, had its gateway been this one: the server's port is changed in the file, and state of before is still there.
#[tokio::test]
async fn a_changed_port_counts_whatever_a_state_file_remembers() {
    let Some(mut chain) = Chain::start(true).await else {
        return;
    };
    let control = chain.world.file("control");
    let words = ["set", "pages/one", "weight=9", "--control"];
    let words = [&words[..], &[control.to_str().unwrap()]].concat();
    assert_eq!(chain.tidegated(&words).await.code, Some(0));
    let state = fs::read_to_string(chain.world.file("state.toml")).unwrap();
    assert!(!state.contains(&chain.tls.port().to_string()), "{state}");
    chain.world.gateway.terminate();
    assert!(chain.world.gateway.ended(SOON).await.success());
    let listener = chain.world.gateway.address("pages").unwrap();
    fs::write(
        chain.world.file("gateway.toml"),
        file(listener, chain.header),
    )
    .unwrap();
    chain.world.restart_gateway().await;
    chain
        .world
        .gateway
        .wait_log(&[
            "server one of backend pages is given up",
            "declared at another address",
        ])
        .await;
    let Some(told) = chain.told().await else {
        return;
    };
    assert!(told.contains(SITE), "{told}");
    let line = chain.world.gateway.wait_log(&["to=pages", "ended="]).await;
    assert!(line.contains("server=one ended=closed"), "{line}");
}

/// The incident itself: the header goes to the port that expects none. All that the visitor sees is a connection that ends; one
/// line of the log has all that took packet captures then, and `probe` tells the two ports apart.
#[tokio::test]
async fn a_header_at_the_tls_port_names_itself() {
    let Some(chain) = Chain::start(true).await else {
        return;
    };
    let Some(finished) = chain.visit().await else {
        return;
    };
    assert_eq!(finished.code, Some(35), "an SSL error: {finished:?}");
    let who = format!("backend pages: server one ({})", chain.tls);
    let line = chain
        .world
        .gateway
        .wait_log(&["WARN", &who, "does not fit how it is spoken to"])
        .await;
    let probe = format!("`tidegated probe {}`", chain.tls);
    for part in [
        "expected an answer behind our PROXY v2 header, got ",
        "set backends.pages.send_proxy (",
        "gateway.toml:13)",
        "or give the port that takes a header",
        &probe,
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let metrics = chain.world.metrics().await;
    let labels = [
        "backend=\"pages\"",
        "server=\"one\"",
        "why=\"header-unwanted\"",
    ];
    let count = metrics.sum("tidegate_backend_mismatches_total", &labels);
    assert_eq!(count, 1.0);
    for (port, advice) in [
        (chain.tls, "takes TLS without a PROXY header"),
        (
            chain.header,
            "takes TLS behind a PROXY header and not without",
        ),
    ] {
        let finished = chain.tidegated(&["probe", &port.to_string()]).await;
        let last = finished.stdout.lines().last().unwrap_or_default();
        assert!(last.contains(advice), "{advice}: {}", finished.stdout);
    }
}
