//! Identities from files: read in any order, refused by name, replaced while in use, never printed.

use std::fs;
use std::time::{Duration, SystemTime};

use tidegate_certs::anchor;
use tidegate_certs::ca::Validity;
use tidegate_shared::tls::{
    Anchors, End, Identity, PemFile, SwapIdentity, TlsFault, Unfit, agent_client, tunnel_server,
    visitor_server,
};

use crate::world::{World, meet};

/// The DER inside a PKCS#8 key: SEC1 for elliptic curves, PKCS#1 for RSA.
fn inner_key(pkcs8: &[u8]) -> Vec<u8> {
    let (_, info) = x509_parser::der_parser::parse_der(pkcs8).unwrap();
    info[2].as_slice().unwrap().to_vec()
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|l| str::from_utf8(l).unwrap())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

#[test]
fn a_bundle_is_read_whatever_its_order_and_kind_of_key() {
    let world = World::new();
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let p256 = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["app1".to_owned()]).unwrap();
    let ca = world.authority.certificate_pem();
    for (key, inner) in [
        (&rsa, "RSA PRIVATE KEY"),
        (&p384, "EC PRIVATE KEY"),
        (&p256, "EC PRIVATE KEY"),
    ] {
        let leaf = params.self_signed(key).unwrap();
        let (cert, pkcs8) = (leaf.pem(), key.serialize_pem());
        let traditional = pem(inner, &inner_key(key.serialized_der()));
        let parameters = pem("EC PARAMETERS", &[6, 8, 42, 134, 72, 206, 61, 3, 1, 7]);
        for text in [
            format!("{cert}{ca}{pkcs8}"),
            format!("{pkcs8}{cert}{ca}"),
            format!("{ca}{pkcs8}{cert}"),
            format!("some words\r\n{cert}{parameters}{traditional}"),
            format!("{cert}{ca}{pkcs8}").replace('\n', "\r\n"),
        ] {
            let path = world.write("bundle.pem", &text);
            let identity = Identity::load(&path).unwrap();
            assert_eq!(identity.leaf(), leaf.der());
        }
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_reason() {
    let world = World::new();
    let [one, two] = ["app1", "app2"].map(|name| {
        let bundle = world
            .authority
            .issue_agent(&[name], Validity::days(1))
            .unwrap();
        let key = bundle.pem().find("-----BEGIN PRIVATE").unwrap();
        (
            bundle.pem()[..key].to_owned(),
            bundle.pem()[key..].to_owned(),
        )
    });
    let encrypted = pem("ENCRYPTED PRIVATE KEY", b"whatever");
    let rubbish = pem("PRIVATE KEY", b"whatever");
    let not_a_certificate = pem("CERTIFICATE", b"whatever");
    type Expected = fn(&TlsFault) -> bool;
    let cases: [(String, Expected); 9] = [
        (one.1.clone(), |f| matches!(f, TlsFault::NoCertificate(_))),
        (one.0.clone(), |f| matches!(f, TlsFault::NoKey(_))),
        (String::new(), |f| matches!(f, TlsFault::NoCertificate(_))),
        (format!("{}{}", one.0, two.1), |f| {
            matches!(f, TlsFault::KeyMismatch(_))
        }),
        (format!("{}{}{}", one.0, one.1, two.1), |f| {
            matches!(f, TlsFault::ManyKeys(_, 2))
        }),
        (format!("{}{encrypted}", one.0), |f| {
            matches!(f, TlsFault::EncryptedKey(_))
        }),
        (format!("{}{rubbish}", one.0), |f| {
            matches!(f, TlsFault::BadKey { .. })
        }),
        (format!("{not_a_certificate}{}", one.1), |f| {
            matches!(f, TlsFault::BadCertificate { position: 1, .. })
        }),
        (one.0[..200].to_owned(), |f| {
            matches!(f, TlsFault::Pem { .. })
        }),
    ];
    for (text, expected) in cases {
        let path = world.write("odd.pem", &text);
        let fault = Identity::load(&path).unwrap_err();
        assert!(expected(&fault), "{fault:?}");
        assert!(fault.to_string().contains("odd.pem"), "{fault}");
    }
    let missing = Identity::load(&world.path("none.pem")).unwrap_err();
    assert!(missing.to_string().contains("none.pem"), "{missing}");
    let empty = world.write("empty.crt", "");
    assert!(matches!(
        Anchors::load(&empty, End::Gateway, anchor::require),
        Err(TlsFault::NoCertificate(_))
    ));
    let odd = world.write(
        "odd.crt",
        &format!("{}{not_a_certificate}", world.authority.certificate_pem()),
    );
    assert!(matches!(
        Anchors::load(&odd, End::Agent, anchor::require),
        Err(TlsFault::BadCertificate { position: 2, .. })
    ));
    assert!(matches!(visitor_server(&[]), Err(TlsFault::NoFiles)));
}

/// Self-signed, of version 1: `openssl x509 -req -signkey`.
const OLD: &str = "-----BEGIN CERTIFICATE-----
MIIBHjCBxQIUHMKkpRCjzeUxkR9cFrxtWcUGjKgwCgYIKoZIzj0EAwIwETEPMA0G
A1UEAwwGT2xkIENBMCAXDTI2MTEyMTExMTUzMVoYDzIxMjYxMDI4MTExNTMxWjAR
MQ8wDQYDVQQDDAZPbGQgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARr+lO4
eDRSWmXG/7WhJOOMpklykLp718DD3EtiWor+i8fs80CIqSqXgay9zHhQCODrqL58
PVyvDewxQBIfKy4+MAoGCCqGSM49BAMCA0gAMEUCIQD26iDVwLRouvjh8NL/HBpB
R0zTmZTA+F9+4GHCQ+xz1QIgZqngnWO9GXYUyJanenZ6YZNvKiWGHgX/sNaYP7Ld
pY0=
-----END CERTIFICATE-----
";

#[test]
fn a_certificate_of_version_1_is_told_of_in_words_and_hides_no_other() {
    let world = World::new();
    let issued = world.authority.issue_agent(&["app1"], Validity::days(1));
    let issued = issued.unwrap();
    let key = issued.pem().find("-----BEGIN PRIVATE").unwrap();
    let alone = format!("{OLD}{}", &issued.pem()[key..]);
    let told = Identity::load(&world.write("old.pem", &alone)).unwrap_err();
    let told = told.to_string();
    for part in [
        "certificate 1 in ",
        "old.pem cannot be used: ",
        "of version 1",
        "-extfile",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!told.contains("Error"), "{told}");
    let both = format!("{OLD}{}", issued.pem());
    Identity::load(&world.write("both.pem", &both)).unwrap();
}

#[test]
fn nothing_prints_a_key() {
    let world = World::new();
    let bundle = world
        .authority
        .issue_agent(&["app1"], Validity::days(1))
        .unwrap();
    let path = world.write("app1.pem", bundle.pem());
    let swap = SwapIdentity::load(&path).unwrap();
    let (visitors, certs) = visitor_server(std::slice::from_ref(&path)).unwrap();
    let key = PemFile::read(&path).unwrap().keys.remove(0);
    let secret = inner_key(key.secret_der());
    let secret = &secret[7..39]; // SEC1: version, then the private octets (RFC 5915 §3).
    let decimal = secret
        .iter()
        .map(u8::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let base64 = bundle.pem().lines().rev().nth(1).unwrap();
    let printed = [
        format!("{:?}", world.authority),
        format!("{bundle:?}"),
        format!("{:?}", PemFile::read(&path).unwrap()),
        format!("{:?}", swap.current()),
        format!("{swap:?} {certs:?} {visitors:?}"),
        format!(
            "{:?}",
            tunnel_server(swap.clone(), &world.anchors(End::Gateway)).unwrap()
        ),
        format!(
            "{:?}",
            agent_client(swap, &world.anchors(End::Agent)).unwrap()
        ),
    ];
    for text in printed {
        assert!(!text.contains(&decimal) && !text.contains(base64), "{text}");
        assert!(
            !text.contains(&data_encoding::HEXLOWER.encode(secret)),
            "{text}"
        );
    }
}

#[test]
fn a_renewed_identity_is_used_by_the_next_handshake() {
    let world = World::new();
    let agent = world.agent(&["app1"]);
    let client = agent_client(agent.clone(), &world.anchors(End::Agent)).unwrap();
    let server = world.server();
    let presented = || {
        let met = meet(&client, &server, "gw.test");
        met.assert_done();
        met.server.peer_certificates().unwrap()[0].clone()
    };
    let first = presented();
    assert!(!agent.reload_if_changed(|_| Ok(())).unwrap());

    let renewed = world
        .authority
        .issue_agent(&["app1"], Validity::days(2))
        .unwrap();
    world.write("agent.pem", renewed.pem());
    assert!(agent.reload_if_changed(|_| Ok(())).unwrap());
    assert_eq!(presented(), *renewed.leaf());
    assert_ne!(presented(), first);

    // The same text in a file that is another one: read, and found to be no change.
    world.write("agent.pem", renewed.pem());
    assert!(!agent.reload_if_changed(|_| Ok(())).unwrap());
}

#[test]
fn a_renewal_that_is_not_fit_is_told_once_and_changes_nothing() {
    let world = World::new();
    let agent = world.agent(&["app1"]);
    let before = agent.current().leaf().clone();
    let renewed = world
        .authority
        .issue_agent(&["app1"], Validity::days(2))
        .unwrap();
    world.write("agent.pem", renewed.pem());
    let fault = agent
        .reload_if_changed(|fresh| {
            assert_eq!(fresh.leaf(), renewed.leaf(), "asked about the new one");
            Err("it is for servers".into())
        })
        .unwrap_err();
    let said = fault.to_string();
    assert!(
        said.contains("agent.pem") && said.contains("it is for servers"),
        "{said}"
    );
    assert!(!agent.reload_if_changed(|_| Ok(())).unwrap(), "told once");
    assert_eq!(*agent.current().leaf(), before);
}

/// Valid for a day, from so many seconds on.
fn valid_in(seconds: i64) -> Validity {
    let here = SystemTime::now();
    let shift = Duration::from_secs(seconds.unsigned_abs());
    let not_before = if seconds < 0 {
        here - shift
    } else {
        here + shift
    };
    Validity {
        not_before,
        not_after: not_before + Duration::from_secs(86_400),
    }
}

#[test]
fn a_renewal_that_is_early_is_told_once_and_looked_at_again_when_its_time_has_come() {
    let world = World::new();
    let agent = world.agent(&["app1"]);
    let issued = world.authority.issue_agent(&["app1"], valid_in(3_600));
    let fresh = issued.unwrap();
    world.write("agent.pem", fresh.pem());
    let at = SystemTime::now();
    let early = agent.reload_if_changed(|_| Err(Unfit::Before(at + Duration::from_secs(3_600))));
    let said = early.unwrap_err().to_string();
    assert!(
        said.contains("agent.pem: it is valid only from 20") && said.contains(" UTC on,"),
        "{said}"
    );
    let unasked = |_: &Identity| panic!("nothing has changed and it is not time");
    assert!(!agent.reload_if_changed(unasked).unwrap());
    // The same once more, with a moment that has come when the next look is taken.
    world.write("agent.pem", fresh.pem());
    agent
        .reload_if_changed(|_| Err(Unfit::Before(at)))
        .unwrap_err();
    assert!(agent.reload_if_changed(|_| Ok(())).unwrap());
    assert_eq!(agent.current().leaf(), fresh.leaf());
    assert!(!agent.reload_if_changed(unasked).unwrap());
}

/// Whom our certificate has to convince is written on the other machine; here only what was good so far is known.
#[test]
fn a_renewal_from_elsewhere_is_refused_only_where_the_one_in_use_was_from_here() {
    let (world, other) = (World::new(), World::new());
    let long = valid_in(-60);
    for end in [End::Agent, End::Gateway] {
        let issue = |from: &World, life| {
            let issued = match end {
                End::Agent => from.authority.issue_agent(&["app1"], life),
                End::Gateway => from.authority.issue_gateway(&["app1"], life),
            };
            Identity::load(&from.write("one.pem", issued.unwrap().pem())).unwrap()
        };
        let (ours, renewed, foreign) = (
            issue(&world, long),
            issue(&world, long),
            issue(&other, long),
        );
        let anchors = world.anchors(end);
        let now = SystemTime::now();
        let judge = |present: &Identity, fresh: &Identity, life: Validity| {
            anchors.judge(present, fresh, (life.not_before, life.not_after), now)
        };
        assert_eq!(judge(&ours, &renewed, long), Ok(()), "{end:?}");
        let refused = judge(&ours, &foreign, long).unwrap_err();
        assert!(
            matches!(&refused, Unfit::ForGood(why) if why.contains("--ca")),
            "{end:?} {refused:?}"
        );
        assert_eq!(judge(&foreign, &renewed, long), Ok(()), "{end:?}");
        assert_eq!(judge(&foreign, &foreign, long), Ok(()), "{end:?}");

        // An early one is judged as of when it is valid, and one that is over is not used.
        let life = valid_in(3_600);
        let early = issue(&world, life);
        assert_eq!(
            judge(&ours, &early, life),
            Err(Unfit::Before(life.not_before)),
            "{end:?}"
        );
        assert!(matches!(
            judge(&ours, &issue(&other, life), life),
            Err(Unfit::ForGood(_))
        ));
        let life = valid_in(-90_000);
        assert!(matches!(
            judge(&ours, &issue(&world, life), life),
            Err(Unfit::ForGood(why)) if why.contains("expired")
        ));
    }
}

#[test]
fn a_broken_renewal_is_told_once_and_changes_nothing() {
    let world = World::new();
    let agent = world.agent(&["app1"]);
    let before = agent.current().leaf().clone();
    let broken: [fn(&World) -> &'static str; 3] = [
        |world| {
            world.write("agent.pem", "half a fi");
            "no certificate"
        },
        |world| {
            let bundle = world
                .authority
                .issue_agent(&["app1"], Validity::days(1))
                .unwrap();
            world.write("agent.pem", &bundle.pem()[..bundle.pem().len() - 40]);
            "agent.pem"
        },
        |world| {
            fs::remove_file(world.path("agent.pem")).unwrap();
            "cannot read"
        },
    ];
    for make in broken {
        let reason = make(&world);
        let fault = agent.reload_if_changed(|_| Ok(())).unwrap_err();
        assert!(fault.to_string().contains(reason), "{fault}");
        assert!(!agent.reload_if_changed(|_| Ok(())).unwrap(), "told once");
        assert_eq!(*agent.current().leaf(), before);
    }
    let good = world
        .authority
        .issue_agent(&["app1"], Validity::days(1))
        .unwrap();
    world.write("agent.pem", good.pem());
    assert!(agent.reload_if_changed(|_| Ok(())).unwrap());
}
