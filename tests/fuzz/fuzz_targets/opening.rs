//! The opening of a tunnel, over every prefix of any input and for both ends: no panic, `More` always asks for more,
//! a decision stands however much follows, and what it says can be printed.
//!
//!     cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none opening      (.ci/run does without cargo-fuzz)

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_shared::reversal::{End, Fault, LONGEST_SETTINGS, PREFACE, Step, opening};

fuzz_target!(|wire: &[u8]| {
    check(End::Gateway, wire);
    check(End::Agent, wire);
    // Most inputs fail in the first octet. These get past the preface, and past the head of SETTINGS that fit.
    check(End::Gateway, &[PREFACE.as_slice(), wire].concat());
    let length = (wire.len() / 6 * 6).min(LONGEST_SETTINGS) as u32;
    let settings = [&length.to_be_bytes()[1..], &[4, 0, 0, 0, 0, 0], wire].concat();
    check(End::Agent, &settings);
    check(End::Gateway, &[PREFACE.as_slice(), &settings].concat());
});

fn check(end: End, wire: &[u8]) {
    let mut decided: Option<(usize, Step)> = None;
    let mut wanted = 0;
    for cut in 0..=wire.len() {
        let step = opening(end, &wire[..cut]);
        match (&decided, step) {
            (None, Step::More(at_least)) => {
                assert!(at_least > cut, "{end:?} has {cut} and asks for {at_least}");
                wanted = at_least;
            }
            (None, step) => {
                if let Step::Settled { settings, replay } = &step {
                    assert_eq!(
                        cut, wanted,
                        "{end:?} settled before it had what it asked for"
                    );
                    assert!(*replay < cut);
                    settings.extended_connect();
                }
                decided = Some((cut, step));
            }
            // How many octets are quoted may grow with what there is to quote.
            (
                Some((_, Step::Refuse(Fault::Instead(_)))),
                Step::Refuse(fault @ Fault::Instead(_)),
            ) => {
                assert!(!fault.to_string().is_empty());
            }
            (Some((at, before)), step) => {
                assert_eq!(
                    *before, step,
                    "{end:?} decided at {at}, and otherwise at {cut}"
                );
            }
        }
        // A decision is looked at again for as long as the longest head may take, not for kilobytes of body.
        if decided.as_ref().is_some_and(|(at, _)| cut > at + 64) {
            break;
        }
    }
}
