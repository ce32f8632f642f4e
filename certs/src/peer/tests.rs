//! Odd certificates, all of them properly signed: what is odd is what they say.

#![expect(
    clippy::unwrap_in_result,
    reason = "the Result is the verdict under test; making the certificate must not fail"
)]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, CustomExtension, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, string,
};

use super::*;
use crate::ca::{Authority, Validity};

/// The second, third… CN: rcgen holds one value per type, and takes a type given by its OID for another.
const CN_OID: [u64; 4] = [2, 5, 4, 3];

fn authority() -> Authority {
    Authority::create(Validity::days(30)).unwrap()
}

/// An agent's parameters with this CN and these DNS SANs.
fn params(cn: Option<DnValue>, sans: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(cn) = cn {
        params.distinguished_name.push(DnType::CommonName, cn);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = sans
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().unwrap()))
        .collect();
    params
}

fn read(params: &CertificateParams) -> Result<PeerCertificate, Refusal> {
    let bundle = authority().sign(params).unwrap();
    PeerCertificate::read(bundle.leaf(), false)
}

fn read_cn(cn: &str) -> Result<PeerCertificate, Refusal> {
    read(&params(Some(cn.into()), &[]))
}

fn names(certificate: &PeerCertificate) -> Vec<String> {
    certificate.names.iter().map(ToString::to_string).collect()
}

#[test]
fn the_cn_is_filed_first_and_each_name_once() {
    let certificate = read(&params(
        Some("App1.Example.".into()),
        &["blog", "app1.example", "BLOG."],
    ))
    .unwrap();
    assert_eq!(certificate.primary.to_string(), "app1.example");
    assert_eq!(names(&certificate), ["app1.example", "blog"]);
}

#[test]
fn without_sans_the_cn_alone_is_filed() {
    assert_eq!(names(&read_cn("app1").unwrap()), ["app1"]);
    let printable = DnValue::PrintableString("app1".try_into().unwrap());
    assert_eq!(
        names(&read(&params(Some(printable), &[])).unwrap()),
        ["app1"]
    );
}

#[test]
fn sans_that_are_not_dns_names_do_not_count() {
    let mut params = params(Some("app1".into()), &[]);
    params.subject_alt_names = vec![
        SanType::IpAddress([192, 0, 2, 7].into()),
        SanType::URI("spiffe://example/app2".try_into().unwrap()),
        SanType::Rfc822Name("root@app2".try_into().unwrap()),
    ];
    assert_eq!(names(&read(&params).unwrap()), ["app1"]);
}

#[test]
fn a_cn_is_demanded_and_only_one() {
    assert_eq!(read(&params(None, &["app1"])), Err(Refusal::NoCommonName));
    assert_eq!(read_cn(""), Err(Refusal::CommonName(BadName::Empty)));
    assert_eq!(read_cn("."), Err(Refusal::CommonName(BadName::Empty)));
    for second in ["app1", "app2"] {
        let mut two = params(Some("app1".into()), &[]);
        two.distinguished_name
            .push(DnType::CustomDnType(CN_OID.to_vec()), second);
        assert_eq!(read(&two), Err(Refusal::ManyCommonNames(2)), "{second}");
    }
}

/// rcgen writes one attribute per RDN. Two in one SET are as long as one with 9 characters more than both, so that
/// the set is laid over it in the DER; the signature breaks, which is not looked at here.
#[test]
fn two_cns_in_one_rdn_are_two() {
    let single = "abcdefghijklmnopq";
    let leaf = authority()
        .sign(&params(Some(single.into()), &[]))
        .unwrap()
        .leaf()
        .to_vec();
    let cn = |text: &[u8; 4]| [b"\x30\x0b\x06\x03\x55\x04\x03\x0c\x04", &text[..]].concat();
    let set = [b"\x31\x1a".to_vec(), cn(b"app1"), cn(b"app2")].concat();
    let value_at = leaf
        .windows(single.len())
        .position(|w| w == single.as_bytes())
        .unwrap();
    let end = value_at + single.len();
    let mut odd = leaf;
    odd[end - set.len()..end].copy_from_slice(&set);
    assert_eq!(
        PeerCertificate::read(&odd, false),
        Err(Refusal::ManyCommonNames(2))
    );
}

#[test]
fn a_cn_that_is_not_a_host_name_is_refused() {
    let label = "a".repeat(64);
    let total = vec!["abcdefg"; 32].join(".");
    assert_eq!(total.len(), 255);
    let huge = "a".repeat(16_005);
    type Expected = fn(&BadName) -> bool;
    let cases: [(&str, Expected); 17] = [
        ("app1\0.evil.example", |e| matches!(e, BadName::Nul(_))),
        ("\0", |e| matches!(e, BadName::Nul(_))),
        ("app1\t", |e| matches!(e, BadName::Control(_))),
        ("app1\r\nX-Evil: 1", |e| matches!(e, BadName::Control(_))),
        ("app1/../app2", |e| matches!(e, BadName::Character { .. })),
        ("app 1", |e| matches!(e, BadName::Character { .. })),
        ("app_1", |e| matches!(e, BadName::Character { .. })),
        ("app1,app2", |e| matches!(e, BadName::Character { .. })),
        ("192.0.2.7", |e| matches!(e, BadName::Address(_))),
        ("2001:db8::1", |e| matches!(e, BadName::Address(_))),
        (&label, |e| matches!(e, BadName::LabelTooLong(_))),
        (&total, |e| *e == BadName::TooLong(255)),
        (&huge, |e| *e == BadName::TooLong(16_005)),
        ("bücher.example", |e| matches!(e, BadName::NotAscii(_))),
        ("xn--zzzzzzzzz99999.example", |e| {
            matches!(e, BadName::BadPunycode(_))
        }),
        ("*", |e| *e == BadName::BareWildcard),
        ("*.co.uk", |e| matches!(e, BadName::PublicSuffix(_))),
    ];
    for (cn, expected) in cases {
        match read_cn(cn) {
            Err(Refusal::CommonName(reason)) if expected(&reason) => {}
            other => panic!("{cn:?}: {other:?}"),
        }
    }
}

#[test]
fn only_string_types_that_everyone_reads_alike_are_accepted() {
    let strings = [
        (
            DnValue::BmpString(string::BmpString::try_from("app1").unwrap()),
            "BMPString",
        ),
        (
            DnValue::UniversalString(string::UniversalString::try_from("app1").unwrap()),
            "UniversalString",
        ),
        (
            DnValue::TeletexString(string::TeletexString::try_from("app1").unwrap()),
            "TeletexString",
        ),
        (
            DnValue::Ia5String(string::Ia5String::try_from("app1").unwrap()),
            "IA5String",
        ),
    ];
    for (cn, kind) in strings {
        assert_eq!(
            read(&params(Some(cn), &[])),
            Err(Refusal::StringType(kind)),
            "{kind}"
        );
    }
}

/// rcgen only writes valid UTF-8, so the byte is changed in the DER; the signature breaks, which is not looked at
/// here.
#[test]
fn a_cn_that_is_not_utf8_is_refused() {
    let leaf = authority()
        .sign(&params(Some("appQQ1".into()), &[]))
        .unwrap()
        .leaf()
        .to_vec();
    let at = leaf.windows(6).position(|w| w == b"appQQ1").unwrap();
    let mut odd = leaf.clone();
    odd[at + 3] = 0xff;
    // Either layer may notice; nobody may file it.
    let refused = PeerCertificate::read(&odd, false).unwrap_err();
    assert!(
        matches!(refused, Refusal::NotText | Refusal::Malformed(_)),
        "{refused:?}"
    );
    // The byte alone is to blame.
    let sound = PeerCertificate::read(&leaf, false).unwrap();
    assert_eq!(names(&sound), ["appqq1"]);
}

#[test]
fn the_cn_must_be_among_the_sans() {
    let refused = read(&params(Some("app1".into()), &["app2"]));
    assert_eq!(
        refused,
        Err(Refusal::CommonNameNotInSans("app1".parse().unwrap()))
    );
    // A wildcard that covers the CN is not the CN.
    let covered = params(Some("a.example.com".into()), &["*.example.com"]);
    let leaf = authority().sign(&covered).unwrap();
    let refused = PeerCertificate::read(leaf.leaf(), true);
    assert!(
        matches!(refused, Err(Refusal::CommonNameNotInSans(_))),
        "{refused:?}"
    );
}

#[test]
fn one_bad_san_refuses_the_certificate() {
    type Expected = fn(&BadName) -> bool;
    let cases: [(&str, Expected); 7] = [
        ("app2\0", |e| matches!(e, BadName::Nul(_))),
        ("app2 ", |e| matches!(e, BadName::Character { .. })),
        ("", |e| *e == BadName::Empty),
        ("10.0.0.1", |e| matches!(e, BadName::Address(_))),
        ("*", |e| *e == BadName::BareWildcard),
        ("*.github.io", |e| matches!(e, BadName::PublicSuffix(_))),
        ("a.*.example.com", |e| matches!(e, BadName::OddWildcard(_))),
    ];
    for (san, expected) in cases {
        match read(&params(Some("app1".into()), &["app1", san])) {
            Err(Refusal::AltName(reason)) if expected(&reason) => {}
            other => panic!("{san:?}: {other:?}"),
        }
    }
}

#[test]
fn sans_that_cannot_be_read_refuse_the_certificate() {
    let san_oid = [2, 5, 29, 17];
    let contents: [&[u8]; 4] = [
        b"",
        b"\x04\x01x",
        // One dNSName whose bytes are not text.
        b"\x30\x04\x82\x02\xff\xfe",
        // One dNSName that claims to be longer than the extension.
        b"\x30\x04\x82\x09ap",
    ];
    for content in contents {
        let mut odd = params(Some("app1".into()), &[]);
        odd.custom_extensions
            .push(CustomExtension::from_oid_content(
                &san_oid,
                content.to_vec(),
            ));
        let refused = read(&odd);
        assert!(
            matches!(refused, Err(Refusal::BadAltNames | Refusal::Malformed(_))),
            "{content:02x?}: {refused:?}"
        );
    }
    // A second SAN extension: two readers could each read another one.
    let mut twice = params(Some("app1".into()), &["app1"]);
    twice
        .custom_extensions
        .push(CustomExtension::from_oid_content(
            &san_oid,
            b"\x30\x06\x82\x04app2".to_vec(),
        ));
    assert_eq!(read(&twice), Err(Refusal::BadAltNames));
}

#[test]
fn wildcards_are_the_operators_decision() {
    let wildcard = params(Some("*.example.com".into()), &["*.example.com", "app1"]);
    let leaf = authority().sign(&wildcard).unwrap();
    assert_eq!(
        PeerCertificate::read(leaf.leaf(), false),
        Err(Refusal::WildcardNotAllowed(
            "*.example.com".parse().unwrap()
        ))
    );
    let allowed = PeerCertificate::read(leaf.leaf(), true).unwrap();
    assert!(allowed.primary.is_wildcard());
    assert_eq!(names(&allowed), ["*.example.com", "app1"]);
    // In a SAN only it counts as well.
    let san = params(Some("app1".into()), &["app1", "*.example.com"]);
    assert!(matches!(read(&san), Err(Refusal::WildcardNotAllowed(_))));
}

#[test]
fn too_many_names_are_refused() {
    let many: Vec<String> = (0..=MAX_NAMES).map(|n| format!("a{n}.example")).collect();
    let refs: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        read(&params(Some("a0.example".into()), &refs)),
        Err(Refusal::TooManyNames(MAX_NAMES + 1))
    );
    assert_eq!(
        read(&params(Some("a0.example".into()), &refs[..MAX_NAMES]))
            .unwrap()
            .names
            .len(),
        MAX_NAMES
    );
}

#[test]
fn purpose_and_kind_are_checked() {
    let mut server = params(Some("app1".into()), &["app1"]);
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(read(&server), Err(Refusal::NotForClients));
    let leaf = authority().sign(&server).unwrap();
    assert_eq!(gateway_identity(leaf.leaf()).unwrap().names, ["app1"]);

    let mut any = params(Some("app1".into()), &["app1"]);
    any.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
    assert_eq!(read(&any), Err(Refusal::NotForClients));

    let mut unrestricted = params(Some("app1".into()), &["app1"]);
    unrestricted.extended_key_usages.clear();
    assert!(read(&unrestricted).is_ok());

    let mut ca = params(Some("app1".into()), &["app1"]);
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    assert_eq!(read(&ca), Err(Refusal::Authority));
}

#[test]
fn a_gateway_needs_server_auth_and_a_san() {
    let authority = authority();
    let good = authority
        .issue_gateway(&["gw.example", "127.0.0.1", "::1"], Validity::days(1))
        .unwrap();
    let read = gateway_identity(good.leaf()).unwrap();
    assert_eq!(read.names, ["gw.example", "127.0.0.1", "::1"]);

    let agent = authority.issue_agent(&["app1"], Validity::days(1)).unwrap();
    assert_eq!(gateway_identity(agent.leaf()), Err(Refusal::NotForServers));

    let mut cn_only = params(Some("gw.example".into()), &[]);
    cn_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = authority.sign(&cn_only).unwrap();
    assert_eq!(gateway_identity(leaf.leaf()), Err(Refusal::NoServerName));
}

#[test]
fn facts_are_what_the_certificate_says() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let begin = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let validity = Validity {
        not_before: at(begin),
        not_after: at(begin + 25),
    };
    let bundle = authority().issue_agent(&["app1"], validity).unwrap();
    let read = PeerCertificate::read(bundle.leaf(), false).unwrap();
    assert_eq!(read.facts.not_before, validity.not_before);
    assert_eq!(read.facts.not_after, validity.not_after);
    assert_eq!(read.facts.key_type, "P-256");
    assert!(
        read.facts.issuer.starts_with("CN=Tidegate CA "),
        "{}",
        read.facts.issuer
    );
    assert_eq!(read.facts.fingerprint_sha256.len(), 64);
}

#[test]
fn key_types_are_told() {
    let kinds = [
        (&rcgen::PKCS_ECDSA_P384_SHA384, "P-384"),
        (&rcgen::PKCS_ED25519, "Ed25519"),
        (&rcgen::PKCS_RSA_SHA256, "RSA 2048"),
    ];
    for (algorithm, kind) in kinds {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = params(Some("app1".into()), &[]).self_signed(&key).unwrap();
        let read = PeerCertificate::read(der.der(), false).unwrap();
        assert_eq!(read.facts.key_type, kind);
    }
}

#[test]
fn an_issuer_cannot_write_into_the_log() {
    let mut odd = params(Some("app1".into()), &[]);
    odd.distinguished_name
        .push(DnType::OrganizationName, "x\r\nforged line\u{1b}[2J");
    let key = KeyPair::generate().unwrap();
    let der = odd.self_signed(&key).unwrap();
    let issuer = PeerCertificate::read(der.der(), false)
        .unwrap()
        .facts
        .issuer;
    assert!(!issuer.contains(['\r', '\n', '\u{1b}']), "{issuer:?}");
}

#[test]
fn rubbish_is_malformed_at_every_length() {
    let bundle = authority()
        .issue_agent(&["app1"], Validity::days(1))
        .unwrap();
    let der = bundle.leaf().to_vec();
    for cut in 0..der.len() {
        let refused = PeerCertificate::read(&der[..cut], false).unwrap_err();
        assert!(
            matches!(refused, Refusal::Malformed(_)),
            "{cut}: {refused:?}"
        );
    }
    let mut longer = der;
    longer.push(0);
    assert!(matches!(
        PeerCertificate::read(&longer, false),
        Err(Refusal::Malformed(_))
    ));
}

proptest::proptest! {
    /// Whatever byte is changed: an answer, no panic, and never a name that is not canonical.
    #[test]
    fn a_changed_byte_never_panics(at in 0usize..400, to in 0u8..) {
        use std::sync::LazyLock;
        static DER: LazyLock<Vec<u8>> = LazyLock::new(|| {
            authority().issue_agent(&["app1", "blog.example"], Validity::days(1)).unwrap().leaf().to_vec()
        });
        let mut der = DER.clone();
        let at = at % der.len();
        der[at] = to;
        if let Ok(read) = PeerCertificate::read(&der, true) {
            for name in read.names {
                proptest::prop_assert_eq!(&NamePattern::parse(&name.to_string()).unwrap(), &name);
            }
        }
    }
}
