//! What visitors are served, and whom an agent believes about its app.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use tidegate_certs::ca::Validity;
use tidegate_shared::tls::{AppTrust, TlsFault, app_client, visitor_server};

use crate::world::{World, meet};

/// What `client` is served in a full handshake: a resumed session would show the certificate of its first one.
fn served(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &'static str) -> Vec<u8> {
    let mut client = ClientConfig::clone(client);
    client.resumption = Resumption::disabled();
    let met = meet(&client.into(), server, name);
    met.assert_done();
    met.client.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn visitors_get_the_certificate_of_their_host() {
    let world = World::new();
    let write = |file: &str, names: &[&str]| {
        let bundle = world
            .authority
            .issue_gateway(names, Validity::days(1))
            .unwrap();
        (world.write(file, bundle.pem()), bundle.leaf().to_vec())
    };
    let (first_path, first) = write("1.pem", &["first.test"]);
    let (wild_path, wild) = write("2.pem", &["*.example.com", "example.com"]);
    let (exact_path, exact) = write("3.pem", &["exact.example.com", "192.0.2.7"]);
    let (server, certs) = visitor_server(&[first_path, wild_path.clone(), exact_path]).unwrap();
    let client = app_client(&AppTrust::File(world.ca()), &[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(served(&client, &server, "first.test"), first);
    assert_eq!(served(&client, &server, "exact.example.com"), exact);
    assert_eq!(served(&client, &server, "EXACT.example.com"), exact);
    assert_eq!(served(&client, &server, "other.example.com"), wild);
    assert_eq!(served(&client, &server, "example.com"), wild);
    let anyone = app_client(&AppTrust::Insecure, &[]).unwrap();
    assert_eq!(served(&anyone, &server, "a.other.example.com"), first);
    assert_eq!(served(&anyone, &server, "127.0.0.1"), first, "no SNI");

    for (sni, host, covered) in [
        (Some("first.test"), "first.test", true),
        (Some("first.test"), "example.com", false),
        (Some("a.example.com"), "b.example.com", true),
        (Some("a.example.com"), "example.com", true),
        (Some("a.example.com"), "a.b.example.com", false),
        (Some("a.example.com"), "first.test", false),
        (Some("exact.example.com"), "a.example.com", false),
        (Some("exact.example.com"), "192.0.2.7", true),
        (Some("exact.example.com"), "192.0.2.8", false),
        (Some("unknown.test"), "unknown.test", true),
        (Some("unknown.test"), "first.test", true),
        (None, "first.test", true),
        (None, "example.com", false),
    ] {
        assert_eq!(certs.covers(sni, host), covered, "{sni:?} {host}");
    }

    assert!(certs.reload_if_changed().unwrap().is_empty());
    let (_, renewed) = write("2.pem", &["*.example.com"]);
    let read = certs.reload_if_changed().unwrap();
    assert!(
        matches!(&read[..], [file] if file.ends_with("2.pem")),
        "{read:?}"
    );
    assert_eq!(served(&client, &server, "other.example.com"), renewed);
    assert!(!certs.covers(Some("a.example.com"), "example.com"));
    fs::write(wild_path, "broken").unwrap();
    assert!(certs.reload_if_changed().is_err());
    assert_eq!(
        served(&client, &server, "other.example.com"),
        renewed,
        "the old ones stay"
    );
}

/// Two certificates for one host: who cannot verify the first is served the second.
#[test]
fn the_key_that_a_visitor_can_verify_is_chosen() {
    let world = World::new();
    let params = rcgen::CertificateParams::new(["both.test".to_owned()]).unwrap();
    let bundle = |file: &str, algorithm| {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let leaf = params.self_signed(&key).unwrap();
        let path = world.write(file, &format!("{}{}", leaf.pem(), key.serialize_pem()));
        (path, leaf.der().to_vec())
    };
    let (ed_path, ed) = bundle("ed.pem", &rcgen::PKCS_ED25519);
    let (ec_path, ec) = bundle("ec.pem", &rcgen::PKCS_ECDSA_P256_SHA256);
    let (server, _) = visitor_server(&[ed_path, ec_path]).unwrap();
    let all = app_client(&AppTrust::Insecure, &[]).unwrap();
    assert_eq!(served(&all, &server, "both.test"), ed);

    let mut narrow = (*all).clone();
    narrow
        .dangerous()
        .set_certificate_verifier(Arc::new(EcdsaOnly));
    assert_eq!(served(&Arc::new(narrow), &server, "both.test"), ec);
}

/// A visitor that knows ECDSA on P-256 only.
#[derive(Debug)]
struct EcdsaOnly;

impl ServerCertVerifier for EcdsaOnly {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[test]
fn whom_the_agent_believes_about_its_app_is_the_operators_choice() {
    let world = World::new();
    let other = World::new();
    world.gateway();
    let (server, _) = visitor_server(&[world.path("gateway.pem")]).unwrap();
    let trusting = |trust: AppTrust| app_client(&trust, &[b"http/1.1"]);
    let known = trusting(AppTrust::File(world.ca())).unwrap();
    let met = meet(&known, &server, "gw.test");
    met.assert_done();
    assert_eq!(met.client.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(
        meet(&known, &server, "gw2.test").by_client().label,
        "wrong-name"
    );

    let unknown = trusting(AppTrust::File(other.ca())).unwrap();
    assert_eq!(
        meet(&unknown, &server, "gw.test").by_client().label,
        "unknown-ca"
    );
    let anyone = trusting(AppTrust::Insecure).unwrap();
    meet(&anyone, &server, "gw2.test").assert_done();

    // A system without authorities says so; one with them does not know ours.
    match trusting(AppTrust::System) {
        Ok(system) => assert_eq!(
            meet(&system, &server, "gw.test").by_client().label,
            "unknown-ca"
        ),
        Err(fault) => assert!(matches!(fault, TlsFault::SystemTrust(_)), "{fault:?}"),
    }
    assert!(trusting(AppTrust::File(Path::new("/does/not/exist").into())).is_err());
}
