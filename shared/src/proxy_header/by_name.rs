//! What the writer of TLVs says by name, the reader has by the same name, and a second implementation finds where we put it.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

/// A text that may be there or not.
fn text() -> impl Strategy<Value = Option<String>> {
    of("[A-Za-z0-9_.-]{0,40}")
}

/// A certificate on this connection or of its session, good or not, with a name and octets or without.
type Shown = Option<(bool, bool, Option<String>, Option<Vec<u8>>)>;

fn shown() -> impl Strategy<Value = Shown> {
    of((
        any::<bool>(),
        any::<bool>(),
        text(),
        of(vec(any::<u8>(), 0..600)),
    ))
}

fn written(tlvs: &TlvWriter) -> (Vec<u8>, Tlvs) {
    let end = "192.0.2.1:5".parse().unwrap();
    let octets = write_v2(&Ends::Stream(Pair::new(end, end)), tlvs).unwrap();
    match parse(&octets, USUAL_MOST) {
        Ok(Parsed::Whole(header, length)) if length == octets.len() => (octets, header.tlvs),
        other => panic!("{}: {other:?}", octets.escape_ascii()),
    }
}

/// `ppp` finds the same types with the same values, in the same order.
fn second_opinion(octets: &[u8], ours: &Tlvs) {
    let header = ppp::v2::Header::try_from(octets).unwrap();
    let theirs: Vec<_> = header
        .tlvs()
        .map(|tlv| tlv.map(|tlv| (tlv.kind, tlv.value.to_vec())).unwrap())
        .collect();
    let ours: Vec<_> = ours
        .iter()
        .map(|tlv| (tlv.kind, tlv.value.to_vec()))
        .collect();
    assert_eq!(theirs, ours);
}

proptest! {
    #[test]
    fn facts_about_tls_read_as_they_were_written(facts in vec(text(), 6), shown in shown()) {
        let fact = |at: usize| facts[at].as_deref();
        let client = shown.as_ref().map(|(now, verified, name, certificate)| Client {
            now: *now,
            verified: *verified,
            common_name: name.as_deref(),
            certificate: certificate.as_deref(),
        });
        let mut tlvs = TlvWriter::default();
        tlvs.ssl(&SslFacts {
            version: fact(0),
            cipher: fact(1),
            signature: fact(2),
            key: fact(3),
            group: fact(4),
            signature_scheme: fact(5),
            client,
        });
        tlvs.crc32c();
        let (octets, read) = written(&tlvs);
        second_opinion(&octets, &read);
        let ssl = read.ssl().unwrap();
        prop_assert!(ssl.is_tls());
        let found = [
            ssl.version(),
            ssl.cipher(),
            ssl.signature(),
            ssl.key(),
            ssl.group(),
            ssl.signature_scheme(),
        ];
        prop_assert_eq!(found, [fact(0), fact(1), fact(2), fact(3), fact(4), fact(5)]);
        prop_assert_eq!(ssl.had_certificate(), client.is_some());
        prop_assert_eq!(ssl.has_certificate(), client.is_some_and(|client| client.now));
        prop_assert_eq!(ssl.is_verified(), client.is_some_and(|client| client.verified));
        prop_assert_eq!(ssl.common_name(), client.and_then(|client| client.common_name));
        prop_assert_eq!(ssl.certificate(), client.and_then(|client| client.certificate));
    }

    #[test]
    fn what_is_said_beside_reads_as_it_was_written(
        alpn in of(vec(any::<u8>(), 0..20)),
        authority in text(),
        id in of(vec(any::<u8>(), 0..=128)),
        netns in text(),
        aws in of("[a-z0-9-]{0,30}"),
        gcp in of(any::<u64>()),
        azure in of(any::<u32>()),
    ) {
        let mut tlvs = TlvWriter::default();
        if let Some(alpn) = &alpn {
            tlvs.alpn(alpn);
        }
        if let Some(authority) = &authority {
            tlvs.authority(authority);
        }
        if let Some(id) = &id {
            tlvs.unique_id(id);
        }
        if let Some(netns) = &netns {
            tlvs.netns(netns);
        }
        if let Some(aws) = &aws {
            tlvs.aws_vpc_endpoint(aws);
        }
        if let Some(gcp) = gcp {
            tlvs.gcp_psc_connection(gcp);
        }
        if let Some(azure) = azure {
            tlvs.azure_link(azure);
        }
        let (octets, read) = written(&tlvs);
        second_opinion(&octets, &read);
        prop_assert_eq!(read.alpn(), alpn.as_deref());
        prop_assert_eq!(read.authority(), authority.as_deref());
        prop_assert_eq!(read.unique_id(), id.as_deref());
        prop_assert_eq!(read.netns(), netns.as_deref());
        prop_assert_eq!(read.aws_vpc_endpoint(), aws.as_deref());
        prop_assert_eq!(read.gcp_psc_connection(), gcp);
        prop_assert_eq!(read.azure_link(), azure);
        prop_assert!(read.ssl().is_none());
    }
}
