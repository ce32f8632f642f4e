//! What holds of every header: it reads as it was written, however it is cut up, and a second implementation reads the same.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn address(v4: bool) -> BoxedStrategy<SocketAddr> {
    if v4 {
        (any::<[u8; 4]>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(IpAddr::from(ip), port))
            .boxed()
    } else {
        (any::<[u8; 16]>(), any::<u16>())
            .prop_map(|(ip, port)| SocketAddr::new(IpAddr::from(ip), port))
            .boxed()
    }
}

fn pair() -> impl Strategy<Value = Pair> {
    any::<bool>()
        .prop_flat_map(|v4| (address(v4), address(v4)))
        .prop_map(|(source, destination)| Pair::new(source, destination))
}

/// A path, or an abstract name.
fn path() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), vec(1..=255u8, 0..=107)).prop_map(|(named, mut path)| {
        if named && !path.is_empty() {
            path.insert(0, 0);
        }
        path
    })
}

fn ends() -> impl Strategy<Value = Ends> {
    prop_oneof![
        1 => Just(Ends::Local),
        1 => Just(Ends::Unknown),
        4 => pair().prop_map(Ends::Stream),
        2 => pair().prop_map(Ends::Datagram),
        1 => (path(), path()).prop_map(|(source, destination)| Ends::Unix { source, destination }),
    ]
}

/// Some TLVs, each kind once, and whether a checksum is to be there.
fn tlvs() -> impl Strategy<Value = TlvWriter> {
    (
        proptest::option::of("[a-z0-9.-]{1,60}"),
        proptest::option::of(vec(any::<u8>(), 0..=128)),
        proptest::option::of("TLSv1\\.[0-3]"),
        vec((0xe0..=0xffu8, vec(any::<u8>(), 0..40)), 0..4),
        any::<bool>(),
    )
        .prop_map(|(authority, id, tls, others, crc)| {
            let mut tlvs = TlvWriter::default();
            if let Some(authority) = &authority {
                tlvs.authority(authority);
            }
            if let Some(id) = &id {
                tlvs.unique_id(id);
            }
            if tls.is_some() {
                tlvs.ssl(&SslFacts {
                    version: tls.as_deref(),
                    ..SslFacts::default()
                });
            }
            for (kind, value) in &others {
                tlvs.put(*kind, value);
            }
            if crc {
                tlvs.crc32c();
            }
            tlvs
        })
}

/// Every prefix asks for more, and what follows is not touched.
fn parses_whole_and_not_before(octets: &[u8]) -> Header {
    for end in 0..octets.len() {
        assert_eq!(
            parse(&octets[..end], USUAL_MOST),
            Ok(Parsed::More),
            "after {end} of {} octets",
            octets.len()
        );
    }
    let mut followed = octets.to_vec();
    followed.extend_from_slice(b"\x16\x03\x01PROXY ");
    match (parse(octets, USUAL_MOST), parse(&followed, USUAL_MOST)) {
        (Ok(Parsed::Whole(header, taken)), Ok(Parsed::Whole(again, followed))) => {
            assert_eq!((taken, followed), (octets.len(), octets.len()));
            assert_eq!(header, again);
            header
        }
        other => panic!("{}: {other:?}", octets.escape_ascii()),
    }
}

proptest! {
    #[test]
    fn a_binary_header_reads_as_it_was_written(ends in ends(), tlvs in tlvs()) {
        let octets = write_v2(&ends, &tlvs).unwrap();
        let header = parses_whole_and_not_before(&octets);
        prop_assert_eq!(&header.ends, &ends);
        prop_assert_eq!(header.version, Version::V2);
        if !matches!(ends, Ends::Local | Ends::Unknown) {
            let (written, crc) = tlvs.finish().unwrap();
            let read: Vec<_> = header.tlvs.iter().map(|tlv| (tlv.kind, tlv.value.len())).collect();
            prop_assert_eq!(read.iter().map(|(_, length)| length + 3).sum::<usize>(), written.len());
            prop_assert_eq!(read.iter().any(|(kind, _)| *kind == 3), crc.is_some());
        }
    }

    #[test]
    fn a_line_reads_as_it_was_written(ends in ends()) {
        let octets = write_v1(&ends);
        prop_assert!(octets.len() <= MAX_LINE);
        let header = parses_whole_and_not_before(&octets);
        match ends {
            Ends::Stream(_) => prop_assert_eq!(header.ends, ends),
            _ => prop_assert_eq!(header.ends, Ends::Unknown),
        }
    }

    #[test]
    fn a_changed_octet_does_not_pass_a_checksum(pair in pair(), at in 16usize..28, bit in 0u32..8) {
        let mut tlvs = TlvWriter::default();
        let mut octets = write_v2(&Ends::Stream(pair), tlvs.crc32c()).unwrap();
        octets[at] ^= 1 << bit;
        let refused = matches!(parse(&octets, USUAL_MOST), Err(Malformed::Crc { .. }));
        prop_assert!(refused);
    }

    /// Whatever comes: no panic, and what was once refused or taken stays so with more octets behind it.
    #[test]
    fn more_octets_change_no_verdict(mut octets in vec(any::<u8>(), 0..300), binary in any::<bool>(), end in 0usize..300) {
        let begin: &[u8] = if binary { SIGNATURE } else { b"PROXY TCP4 " };
        if octets.len() > begin.len() && octets[0] % 4 != 0 {
            octets[..begin.len()].copy_from_slice(begin);
            if binary && octets.len() > 16 {
                octets[12] = 0x20 | (octets[12] & 1);
                octets[13] &= 0x33;
                octets[14] = 0;
            }
        }
        let end = end.min(octets.len());
        match parse(&octets[..end], USUAL_MOST) {
            Ok(Parsed::More) => {}
            verdict => prop_assert_eq!(parse(&octets, USUAL_MOST), verdict),
        }
    }

    /// `ppp` reads what we write, and to the same meaning.
    #[test]
    fn a_second_opinion_on_binary_headers(ends in ends(), tlvs in tlvs()) {
        let octets = write_v2(&ends, &tlvs).unwrap();
        let theirs = ppp::v2::Header::try_from(octets.as_slice()).unwrap();
        prop_assert_eq!(theirs.len(), octets.len());
        let addresses = match (theirs.command, theirs.addresses) {
            (ppp::v2::Command::Local, _) => None,
            (_, ppp::v2::Addresses::IPv4(of)) => Some((
                SocketAddr::from((of.source_address, of.source_port)),
                SocketAddr::from((of.destination_address, of.destination_port)),
            )),
            (_, ppp::v2::Addresses::IPv6(of)) => Some((
                SocketAddr::from((of.source_address, of.source_port)),
                SocketAddr::from((of.destination_address, of.destination_port)),
            )),
            _ => None,
        };
        prop_assert_eq!(addresses, ends.pair().map(|pair| (pair.source(), pair.destination())));
        // It gives none for a family that it does not know.
        if ends.pair().is_some() {
            let (written, _) = tlvs.finish().unwrap();
            prop_assert_eq!(theirs.tlv_bytes().len(), written.len());
        }
    }

    #[test]
    fn a_second_opinion_on_lines(pair in pair()) {
        let octets = write_v1(&Ends::Stream(pair));
        let theirs = ppp::v1::Header::try_from(octets.as_slice()).unwrap();
        let (source, destination) = match theirs.addresses {
            ppp::v1::Addresses::Tcp4(of) => (
                SocketAddr::from((of.source_address, of.source_port)),
                SocketAddr::from((of.destination_address, of.destination_port)),
            ),
            ppp::v1::Addresses::Tcp6(of) => (
                SocketAddr::from((of.source_address, of.source_port)),
                SocketAddr::from((of.destination_address, of.destination_port)),
            ),
            ppp::v1::Addresses::Unknown => return Err(TestCaseError::fail("unknown")),
        };
        prop_assert_eq!((source, destination), (pair.source(), pair.destination()));
    }
}

/// A header by hand: command and version, family and transport, what follows.
fn by_hand(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut octets = SIGNATURE.to_vec();
    octets.extend_from_slice(&[command, kind]);
    octets.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    octets.extend_from_slice(rest);
    octets
}

const INET: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 1, 187];

fn with_tlvs(tlvs: &[u8]) -> Result<Parsed, Malformed> {
    parse(&by_hand(0x21, 0x11, &[&INET, tlvs].concat()), USUAL_MOST)
}

#[test]
fn whose_ends_are_not_told_has_its_length_skipped_whatever_is_there() {
    let junk = [0xff; 50];
    for (command, kind, ends) in [
        (0x20, 0x00, Ends::Local),
        (0x20, 0x11, Ends::Local),
        (0x20, 0x21, Ends::Local),
        (0x20, 0xff, Ends::Local),
        (0x21, 0x00, Ends::Unknown),
        (0x21, 0x01, Ends::Unknown),
        (0x21, 0x10, Ends::Unknown),
    ] {
        for rest in [&junk[..], &junk[..12]] {
            let header = parses_whole_and_not_before(&by_hand(command, kind, rest));
            assert_eq!(header.ends, ends);
            assert!(header.tlvs.is_empty());
        }
    }
    for (command, kind) in [(0x20, 0x00), (0x20, 0x11), (0x21, 0x00)] {
        parses_whole_and_not_before(&by_hand(command, kind, &[]));
    }
}

#[test]
fn what_contradicts_itself_is_refused_as_soon_as_it_shows() {
    let hand = |command, kind, rest: &[u8]| parse(&by_hand(command, kind, rest), USUAL_MOST);
    for (command, kind, rest) in [
        (0x11, 0x11, &INET[..]),
        (0x31, 0x11, &INET),
        (0x22, 0x11, &INET),
        (0x2f, 0x11, &INET),
        (0x21, 0x41, &INET),
        (0x21, 0x13, &INET),
        (0x21, 0x11, &INET[..11]),
        (0x21, 0x21, &[0; 35]),
        (0x21, 0x31, &[0; 215]),
    ] {
        let verdict = hand(command, kind, rest);
        assert!(matches!(verdict, Err(Malformed::Binary(_))), "{verdict:?}");
    }
    let long = by_hand(0x21, 0x11, &[0; USUAL_MOST]);
    assert!(matches!(
        parse(&long[..16], USUAL_MOST),
        Err(Malformed::TooLong { .. })
    ));
    assert_eq!(parse(&long[..15], USUAL_MOST), Ok(Parsed::More));
    for (wrong, at) in [(b'\n', 0), (b'x', 4), (b'q', 7)] {
        let mut octets = by_hand(0x21, 0x11, &INET);
        octets[at] = wrong;
        assert_eq!(parse(&octets[..=at], USUAL_MOST), Err(Malformed::NoHeader));
    }
}

#[test]
fn tlvs_must_fit_and_say_each_thing_once() {
    for tlvs in [
        &[1][..],
        &[1, 0],
        &[1, 0, 1],
        &[1, 0xff, 0xff, 0],
        &[4, 0, 0, 9],
        &[2, 0, 1, 0xff],
        &[2, 0, 1, b'a', 2, 0, 1, b'b'],
        &[3, 0, 3, 0, 0, 0],
        &[0x30, 0, 1, 0x80],
        &[0x20, 0, 4, 1, 0, 0, 0],
        &[0x20, 0, 8, 1, 0, 0, 0, 0, 0x21, 0, 1],
    ] {
        assert!(with_tlvs(tlvs).is_err(), "{tlvs:02x?}");
    }
    let mut id = vec![5, 0, 129];
    id.extend_from_slice(&[7; 129]);
    assert!(with_tlvs(&id).is_err());
    for tlvs in [
        &[4, 0, 0][..],
        &[4, 0, 1, 9, 4, 0, 0],
        &[0xee, 0, 0, 0xee, 0, 0],
    ] {
        assert!(
            matches!(with_tlvs(tlvs), Ok(Parsed::Whole(..))),
            "{tlvs:02x?}"
        );
    }
}

#[test]
fn what_the_clouds_add_is_read_by_name() {
    let tlvs = |octets: &[u8]| match with_tlvs(octets) {
        Ok(Parsed::Whole(header, _)) => header.tlvs,
        other => panic!("{other:?}"),
    };
    let aws = tlvs(b"\xea\0\x17\x01vpce-08d2bf15fac5001c9");
    assert_eq!(aws.aws_vpc_endpoint(), Some("vpce-08d2bf15fac5001c9"));
    assert_eq!(tlvs(b"\xea\0\x04\x01a\r\n").aws_vpc_endpoint(), None);
    assert_eq!(tlvs(b"\xea\0\x04\x02abc").aws_vpc_endpoint(), None);
    let gcp = tlvs(b"\xe0\0\x08\0\0\0\0\x49\x96\x02\xd2");
    assert_eq!(gcp.gcp_psc_connection(), Some(1_234_567_890));
    assert_eq!(tlvs(b"\xe0\0\x01x").gcp_psc_connection(), None);
    let azure = tlvs(b"\xee\0\x05\x01\xd2\x02\x96\x49");
    assert_eq!(azure.azure_link(), Some(1_234_567_890));
    assert_eq!(tlvs(b"\xee\0\x05\x02\xd2\x02\x96\x49").azure_link(), None);
}

#[test]
fn facts_about_tls_are_read_by_name() {
    let mut facts = vec![7, 0, 0, 0, 0];
    for (kind, value) in [
        (0x21, &b"TLSv1.3"[..]),
        (0x22, b"visitor.example"),
        (0x23, b"TLS_AES_128_GCM_SHA256"),
        (0x24, b"SHA256"),
        (0x25, b"EC256"),
        (0x26, b"X25519MLKEM768"),
        (0x27, b"ecdsa_secp256r1_sha256"),
        (0x28, b"\x30\x82\x00\xff"),
    ] {
        facts.extend_from_slice(&[kind, 0, value.len() as u8]);
        facts.extend_from_slice(value);
    }
    let mut octets = vec![0x20, 0, facts.len() as u8];
    octets.extend_from_slice(&facts);
    octets.extend_from_slice(b"\x30\0\x04blue\x01\0\x02h2");
    let Ok(Parsed::Whole(header, _)) = with_tlvs(&octets) else {
        panic!("refused");
    };
    let ssl = header.tlvs.ssl().unwrap();
    assert!(ssl.is_tls() && ssl.has_certificate() && ssl.had_certificate() && ssl.is_verified());
    assert_eq!(ssl.version(), Some("TLSv1.3"));
    assert_eq!(ssl.common_name(), Some("visitor.example"));
    assert_eq!(ssl.cipher(), Some("TLS_AES_128_GCM_SHA256"));
    assert_eq!(ssl.signature(), Some("SHA256"));
    assert_eq!(ssl.key(), Some("EC256"));
    assert_eq!(ssl.group(), Some("X25519MLKEM768"));
    assert_eq!(ssl.signature_scheme(), Some("ecdsa_secp256r1_sha256"));
    assert_eq!(ssl.certificate(), Some(&b"\x30\x82\x00\xff"[..]));
    assert_eq!(header.tlvs.netns(), Some("blue"));
    assert_eq!(header.tlvs.alpn(), Some(&b"h2"[..]));
}

#[test]
fn two_families_become_one() {
    let pair = Pair::new(
        "192.0.2.1:1".parse().unwrap(),
        "[2001:db8::1%3]:2".parse().unwrap(),
    );
    assert_eq!(
        write_v1(&Ends::Stream(pair)),
        b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"
    );
}

#[test]
fn what_does_not_fit_is_not_written() {
    let mut tlvs = TlvWriter::default();
    tlvs.put(0xe0, &[0; 65_536]);
    assert_eq!(
        write_v2(&Ends::Local, &tlvs),
        Err(Unwritable::TooLong(65_536))
    );
    let mut tlvs = TlvWriter::default();
    tlvs.put(0xe0, &[0; 40_000]).put(0xe1, &[0; 40_000]);
    assert!(matches!(
        write_v2(&Ends::Local, &tlvs),
        Err(Unwritable::TooLong(_))
    ));
    let ends = Ends::Unix {
        source: vec![b'a'; 109],
        destination: Vec::new(),
    };
    assert_eq!(
        write_v2(&ends, &TlvWriter::default()),
        Err(Unwritable::Path(109))
    );
}
