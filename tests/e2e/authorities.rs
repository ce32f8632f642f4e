//! The file of `--ca`: what it must hold (README, Certificates).

use std::path::Path;

use tidegate_tests::pki::Pki;
use tidegate_tests::program::{Finished, built, run};

/// Runs the gateway, and the agent, with this file as `--ca`; both are to refuse it.
async fn refused(pki: &Pki, ca: &Path) -> [Finished; 2] {
    let (gateways, agents) = (pki.server(&["localhost"]), pki.agent(&["blog.test"]));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let common = |identity: &Path| ["--identity".into(), path(identity), "--ca".into(), path(ca)];
    let mut gateway = vec!["run".to_owned(), "--tunnels=127.0.0.1:0".into()];
    gateway.push("--visitors=127.0.0.1:0".into());
    gateway.extend(common(&gateways));
    let mut agent = vec![
        "http".to_owned(),
        "1".into(),
        "--gateway=localhost:1".into(),
    ];
    agent.extend(common(&agents));
    let words = |all: Vec<String>| all.into_iter().map(Into::into).collect::<Vec<_>>();
    [
        run(&built("tidegated"), &words(gateway)).await,
        run(&built("tidegate"), &words(agent)).await,
    ]
}

/// It would start, and then fail every handshake and blame the other end.
#[tokio::test]
async fn a_file_without_an_authority_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::create(dir.path(), "ca");
    // The authority's certificate stands in it as well; the file of a careless hand has the first alone.
    let bundle = std::fs::read_to_string(pki.agent(&["shop.test"])).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let leaf = &bundle[..bundle.find(end).unwrap() + end.len()];
    let wrong = dir.path().join("wrong.crt");
    std::fs::write(&wrong, leaf).unwrap();
    for refused in refused(&pki, &wrong).await {
        assert_eq!(refused.code, Some(64), "{}", refused.stderr);
        for part in ["wrong.crt", "CN=shop.test", "Tidegate test CA ca", "ca.crt"] {
            assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
        }
    }
}
