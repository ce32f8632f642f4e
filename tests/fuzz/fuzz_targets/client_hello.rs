//! ClientHellos: whatever comes, a verdict without a panic, and one that does not depend on how the octets were cut up; what is
//! asked to wait for is not there already.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_shared::client_hello::{MOST_ON_WIRE, Parsed, parse};
use tidegate_shared::name::visitor_host;

fuzz_target!(|octets: &[u8]| {
    let verdict = parse(octets);
    for end in 0..octets.len() {
        match parse(&octets[..end]) {
            Ok(Parsed::More { at_least }) => {
                assert!(at_least > end && at_least <= MOST_ON_WIRE);
                if at_least <= octets.len() {
                    assert!(matches!(
                        parse(&octets[..at_least - 1]),
                        Ok(Parsed::More { .. })
                    ));
                }
            }
            earlier => {
                assert_eq!(earlier, verdict, "after {end} octets");
                break;
            }
        }
    }
    if let Ok(Parsed::Whole(hello)) = verdict {
        if let Some(name) = &hello.server_name {
            let read = visitor_host(name.as_bytes()).expect("a name that was read is one");
            assert_eq!(read.name(), &**name);
        }
        assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
    }
});
