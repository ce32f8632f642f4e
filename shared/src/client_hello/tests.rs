use std::sync::Arc;

use proptest::prelude::*;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;

use super::*;

/// A hello as rustls writes it: with a post-quantum key share or without one, for TLS 1.2 alone or for both.
fn by_rustls(host: &str, alpn: &[&str], post_quantum: bool, old: bool) -> Vec<u8> {
    let mut provider = default_provider();
    if post_quantum {
        provider.kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519];
    } else {
        provider.kx_groups = vec![kx_group::X25519];
    }
    let versions: &[&rustls::SupportedProtocolVersion] = if old {
        &[&rustls::version::TLS12]
    } else {
        rustls::DEFAULT_VERSIONS
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Nobody))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut wire = Vec::new();
    connection.write_tls(&mut wire).unwrap();
    wire
}

/// Never asked: no server answers.
#[derive(Debug)]
struct Nobody;

impl ServerCertVerifier for Nobody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Err(rustls::Error::General("nobody answers".into()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nobody answers".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("nobody answers".into()))
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ED25519]
    }
}

fn u16_of(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

fn vector16(octets: &[u8]) -> Vec<u8> {
    [&u16_of(octets.len())[..], octets].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(value)].concat()
}

fn named(host: &[u8]) -> Vec<u8> {
    let entry = [&[HOST][..], &vector16(host)].concat();
    extension(0, &vector16(&entry))
}

const HOST: u8 = 0;

/// A hello with these extensions, as a handshake message.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 0x01, 1, 0]);
    body.extend(vector16(extensions));
    handshake(&body)
}

fn handshake(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, length[1], length[2], length[3]][..], body].concat()
}

/// In records of so many octets.
fn records(message: &[u8], each: usize) -> Vec<u8> {
    message
        .chunks(each)
        .flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat())
        .collect()
}

/// The message that rustls' records carry.
fn unrecorded(wire: &[u8]) -> Vec<u8> {
    let Message::Whole(message) = message(wire).unwrap() else {
        panic!("rustls' hello is whole");
    };
    message.into_owned()
}

fn whole(octets: &[u8]) -> ClientHello {
    match parse(octets) {
        Ok(Parsed::Whole(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

fn refusal(extensions: &[u8]) -> String {
    match parse(&records(&hello(extensions), 1000)) {
        Err(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_rustls_asks_for_is_read_whatever_the_records() {
    for (post_quantum, old) in [(false, false), (true, false), (false, true)] {
        let wire = by_rustls("App.Example.COM", &["h2", "http/1.1"], post_quantum, old);
        assert_eq!(wire.len() > 1200, post_quantum, "{}", wire.len());
        let message = unrecorded(&wire);
        for each in [1, 2, 3, 5, 100, 1000, RECORD_MOST] {
            let found = whole(&records(&message, each));
            assert_eq!(found.server_name.as_deref(), Some("app.example.com"));
            let alpn: Vec<&[u8]> = found.alpn.iter().map(AsRef::as_ref).collect();
            assert_eq!(alpn, [b"h2".as_slice(), b"http/1.1"]);
        }
    }
}

#[test]
fn no_name_is_no_mistake() {
    let wire = by_rustls("127.0.0.1", &[], true, false);
    assert_eq!(whole(&wire), ClientHello::default());
    // Before TLS 1.3 there need be no extensions at all.
    let message = hello(&[]);
    let bare = handshake(&message[MESSAGE_HEAD..message.len() - 2]);
    assert_eq!(whole(&records(&bare, 100)), ClientHello::default());
    assert_eq!(whole(&records(&message, 100)), ClientHello::default());
}

#[test]
fn what_follows_the_hello_in_records_of_its_own_is_not_looked_at() {
    let mut wire = by_rustls("a.test", &[], false, false);
    // Early data (RFC 8446 §4.2.10).
    wire.extend([23, 3, 3, 0, 1, 0]);
    assert_eq!(whole(&wire).server_name.as_deref(), Some("a.test"));
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let host = named(b"a.test");
    let entry = |kind: u8, name: &[u8]| [&[kind][..], &vector16(name)].concat();
    let list = |entries: &[u8]| extension(0, &vector16(entries));
    let twice = [host.clone(), host.clone()].concat();
    let two = list(&[entry(0, b"a.test"), entry(0, b"b.test")].concat());
    for (extensions, reason) in [
        (twice, "same extension twice"),
        (
            [extension(43, b"x"), host.clone(), extension(43, b"x")].concat(),
            "same extension twice",
        ),
        (two, "more than one server name"),
        (list(&entry(1, b"a.test")), "no host name"),
        (list(&[]), "none in it"),
        (list(&entry(0, b"")), "not the name of a host"),
        (list(&entry(0, b"127.0.0.1")), "not the name of a host"),
        (list(&entry(0, b"[::1]")), "not the name of a host"),
        (list(&entry(0, b"a.test:443")), "not the name of a host"),
        (list(&entry(0, b"a.test:")), "not the name of a host"),
        (list(&entry(0, b"a..test")), "not the name of a host"),
        (list(&entry(0, b"a.test\0b")), "not the name of a host"),
        (
            list(&entry(0, b"b\xc3\xbccher.test")),
            "not the name of a host",
        ),
        (list(&entry(0, &[b'a'; 254])), "not the name of a host"),
        (list(&[0, 0, 9, b'a']), "longer than its list"),
        (extension(0, &[0, 9, 0]), "does not fill its extension"),
        (
            extension(0, &[&vector16(&entry(0, b"a.test"))[..], &[0]].concat()),
            "does not fill its extension",
        ),
        (extension(0, &[]), "does not fill its extension"),
        (vec![0, 0, 0, 9, 0], "longer than their list"),
        (vec![0, 0, 0], "longer than their list"),
        (
            extension(16, &vector16(&[2, b'h'])),
            "longer than their list",
        ),
        (extension(16, &vector16(&[0])), "without a name"),
        (extension(16, &vector16(&[])), "none in it"),
        (
            extension(16, &[0, 3, 2, b'h', b'2', 0]),
            "does not fill its extension",
        ),
    ] {
        let said = refusal(&extensions);
        assert!(said.contains(reason), "{said}; expected {reason}");
    }
    let behind = |octets: &[u8]| {
        let mut body = hello(&host)[MESSAGE_HEAD..].to_vec();
        body.extend_from_slice(octets);
        parse(&records(&handshake(&body), 1000)).unwrap_err()
    };
    assert!(behind(&[0]).to_string().contains("behind its extensions"));
}

#[test]
fn a_body_that_is_cut_short_is_no_hello() {
    let message = hello(&named(b"a.test"));
    // Up to the extensions' length, where a hello without any would end.
    let extensions = 2 + named(b"a.test").len();
    for end in MESSAGE_HEAD..message.len() {
        let cut = handshake(&message[MESSAGE_HEAD..end]);
        let verdict = parse(&records(&cut, 1000));
        if end == message.len() - extensions {
            assert_eq!(verdict, Ok(Parsed::Whole(ClientHello::default())));
        } else {
            assert!(
                matches!(verdict, Err(NoHello::Malformed(_))),
                "{end}: {verdict:?}"
            );
        }
    }
}

#[test]
fn what_is_no_tls_is_named_at_once() {
    for (octets, refusal) in [
        (&b"GET / HTTP/1.1"[..], NoHello::NotTls),
        (b"\x16\x02\x01", NoHello::NotTls),
        (b"\x15\x03\x01\0\x02\x01\0", NoHello::NotTls),
        (b"\x16\x03\x01\0\x04\x02", NoHello::NotTls),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", NoHello::NotTls),
        (b"\x80\x2e\x01\x03\x01", NoHello::Ssl2),
        (b"\x80\x2e\x01\0\x02", NoHello::Ssl2),
        (b"\x80\x2e\x04\0\x01", NoHello::NotTls),
        (b"\x80\x2e\x01\x09", NoHello::NotTls),
    ] {
        assert_eq!(parse(octets), Err(refusal), "{octets:?}");
        assert!(!refusal.is_tls());
    }
}

#[test]
fn records_that_no_sender_may_make_are_refused() {
    let message = hello(&named(b"a.test"));
    let said = |octets: &[u8]| parse(octets).unwrap_err().to_string();
    assert!(said(&[22, 3, 1, 0, 0]).contains("nothing in it"));
    assert!(said(&[22, 3, 1, 0x40, 1]).contains("longer than 16384"));
    let mut split = records(&message, 30);
    // An alert between two parts of the hello.
    split.splice(35..35, [21, 3, 1, 0, 2, 1, 0]);
    assert_eq!(parse(&split), Err(NoHello::NotTls));
    let more = [message, vec![0]].concat();
    assert!(said(&records(&more, 1000)).contains("followed by more"));
}

#[test]
fn what_is_read_is_bounded() {
    let message = hello(&extension(21, &vec![0; MOST]));
    assert_eq!(
        parse(&records(&message, 1000)),
        Err(NoHello::TooLong {
            octets: message.len() - MESSAGE_HEAD
        })
    );
    let long = hello(&extension(21, &vec![0; MOST - 60]));
    assert_eq!(whole(&records(&long, RECORD_MOST)), ClientHello::default());
    let shreds = records(&long, 1);
    assert_eq!(parse(&shreds), Err(NoHello::Shredded));
    let first = (0..shreds.len()).find(|end| parse(&shreds[..*end]).is_err());
    assert_eq!(first, Some(MOST_ON_WIRE));
}

#[test]
fn every_prefix_asks_for_more() {
    for post_quantum in [false, true] {
        let message = unrecorded(&by_rustls("a.test", &["h2"], post_quantum, false));
        for each in [1, 7, 500, RECORD_MOST] {
            let wire = records(&message, each);
            let mut asked = 0;
            for cut in 0..wire.len() {
                match parse(&wire[..cut]) {
                    Ok(Parsed::More { at_least }) => {
                        assert!(at_least > cut && at_least <= wire.len());
                        // It never asked to be left alone for longer than is right.
                        assert!(asked <= at_least);
                        asked = at_least;
                    }
                    other => panic!("{each}, {cut}: {other:?}"),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_verdict_does_not_depend_on_what_follows_or_how_it_is_cut(
        mut octets in prop::collection::vec(any::<u8>(), 0..400),
        like in 0usize..4,
        each in 1usize..300,
    ) {
        // As likely as not, something that is nearly a hello.
        match like {
            0 => {}
            1 => octets = records(&handshake(&octets), each),
            2 => octets = records(&hello(&octets), each),
            _ => octets = records(&hello(&extension(0, &octets)), each),
        }
        let verdict = parse(&octets);
        for end in 0..octets.len() {
            match parse(&octets[..end]) {
                Ok(Parsed::More { .. }) => {}
                earlier => {
                    prop_assert_eq!(earlier, verdict, "after {} octets", end);
                    break;
                }
            }
        }
    }

    #[test]
    fn a_name_survives_every_way_of_cutting(
        host in "[a-z0-9][a-z0-9-]{0,20}(\\.[a-z][a-z0-9]{0,10}){0,4}",
        alpn in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..4),
        each in 1usize..200,
        before in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let list: Vec<u8> = alpn
            .iter()
            .flat_map(|name| [&[u8::try_from(name.len()).unwrap()][..], name].concat())
            .collect();
        let extensions = [
            extension(51, &before),
            named(host.as_bytes()),
            extension(16, &vector16(&list)),
        ]
        .concat();
        let found = whole(&records(&hello(&extensions), each));
        prop_assert_eq!(found.server_name.as_deref(), Some(host.as_str()));
        let offered: Vec<Vec<u8>> = found.alpn.iter().map(|name| name.to_vec()).collect();
        prop_assert_eq!(offered, alpn);
    }
}
