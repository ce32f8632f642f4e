//! Configuration files: whatever stands in one, it is read without a panic, and each complaint is one line with a place within
//! the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_gateway::config::problems_of;

fuzz_target!(|text: &str| {
    let lines = text.matches('\n').count() + 1;
    for problem in problems_of(text) {
        let spot = problem.spot.as_ref().expect("what is wrong in a file has a place");
        assert!((1..=lines).contains(&spot.line) && spot.column >= 1, "{problem}");
        assert!(!problem.text.is_empty() && !problem.text.contains('\n'), "{problem}");
    }
});
