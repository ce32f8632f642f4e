//! PROXY headers: whatever comes, a verdict without a panic; it does not depend on how the octets were cut up; and what was
//! read can be written again and reads the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_shared::proxy_header::{
    Parsed, TlvWriter, USUAL_MOST, Version, parse, write_v1, write_v2,
};

fuzz_target!(|octets: &[u8]| {
    let verdict = parse(octets, USUAL_MOST);
    for end in 0..octets.len() {
        match parse(&octets[..end], USUAL_MOST) {
            Ok(Parsed::More) => {}
            earlier => {
                assert_eq!(earlier, verdict, "after {end} octets");
                break;
            }
        }
    }
    let Ok(Parsed::Whole(header, taken)) = verdict else {
        return;
    };
    assert!(taken <= octets.len());
    let mut tlvs = TlvWriter::default();
    for tlv in header.tlvs.iter() {
        // The checksum is over the octets that were read, and a new one is written.
        if tlv.kind == 3 {
            tlvs.crc32c();
        } else {
            tlvs.put(tlv.kind, tlv.value);
        }
    }
    let again = match header.version {
        Version::V1 => write_v1(&header.ends),
        Version::V2 => write_v2(&header.ends, &tlvs).expect("what was read fits"),
    };
    match parse(&again, USUAL_MOST) {
        Ok(Parsed::Whole(reread, taken)) => {
            assert_eq!(taken, again.len());
            assert_eq!(reread.ends, header.ends);
            assert_eq!(reread.tlvs.iter().count(), header.tlvs.iter().count());
        }
        other => panic!("{other:?}"),
    }
    // Whatever is in them, looking something up does not fail.
    let tlvs = &header.tlvs;
    let _ids = (tlvs.alpn(), tlvs.authority(), tlvs.unique_id(), tlvs.netns());
    let _clouds = (
        tlvs.aws_vpc_endpoint(),
        tlvs.gcp_psc_connection(),
        tlvs.azure_link(),
    );
    if let Some(ssl) = tlvs.ssl() {
        let _facts = (ssl.version(), ssl.common_name(), ssl.certificate());
    }
});
