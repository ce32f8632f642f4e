//! Orders in words, for whoever gave them and for the log. Pure.

use super::talk::Change;
use super::{Bidding, Mode};

/// What is asked of a server, as the rest of a sentence that begins with it.
pub(super) fn asked(change: Change) -> String {
    match change {
        Change::Ready => "is neither drained nor in maintenance".to_owned(),
        Change::Mode(Mode::Drain) => "is drained: it gets no new requests".to_owned(),
        Change::Mode(Mode::Maintenance) => {
            "is in maintenance: it gets no new requests and no checks".to_owned()
        }
        Change::Weight(Some(0)) => "has weight 0: it gets no new requests".to_owned(),
        Change::Weight(Some(weight)) => format!("has weight {weight}"),
        Change::Weight(None) => "has its declared weight".to_owned(),
    }
}

/// The same where `all` holds for a server, this among it, whose weight is declared to be `declared`: what it is used for is seen
/// from that alone.
pub(super) fn holds(change: Change, all: Bidding, declared: u32) -> String {
    let said = asked(change);
    match (change, all.mode, all.weight) {
        (Change::Ready, _, None) if declared > 0 => "is used as declared".to_owned(),
        (Change::Ready, _, None) => {
            format!("{said}, and gets no requests: its weight is declared as 0")
        }
        (Change::Ready, _, Some(0)) => format!(
            "{said}, and still gets no requests: weight 0 is asked of it (weight=declared takes that back)"
        ),
        (Change::Ready, _, Some(weight)) => {
            format!("{said}, and still has weight {weight} (weight=declared takes that back)")
        }
        (Change::Weight(_), Some(mode), _) => {
            let declared = match change {
                Change::Weight(None) => format!(", {declared}"),
                _ => String::new(),
            };
            let until = match mode {
                Mode::Drain => "is drained",
                Mode::Maintenance => "is in maintenance",
            };
            let said = said.split(':').next().unwrap_or_default();
            format!("{said}{declared}, and still {until}: it gets no new requests")
        }
        (Change::Weight(None), None, _) if declared == 0 => {
            format!("{said}, 0: it gets no new requests")
        }
        (Change::Weight(None), None, _) => format!("{said}, {declared}"),
        _ => said,
    }
}

/// `drain` or `weight 20`, for each that is asked.
pub(super) fn named(all: Bidding) -> String {
    let mode = all.mode.map(|mode| mode.to_string());
    let weight = all.weight.map(|weight| format!("weight {weight}"));
    let both: Vec<String> = mode.into_iter().chain(weight).collect();
    both.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_that_does_not_hold() {
        let all = |mode, weight| Bidding { mode, weight };
        for (change, all, declared, said) in [
            (Change::Ready, all(None, None), 1, "is used as declared"),
            (Change::Ready, all(None, None), 0, "declared as 0"),
            (
                Change::Ready,
                all(None, Some(0)),
                1,
                "still gets no requests",
            ),
            (Change::Ready, all(None, Some(5)), 1, "still has weight 5"),
            (
                Change::Weight(Some(5)),
                all(Some(Mode::Drain), Some(5)),
                1,
                "has weight 5, and still is drained: it gets no new requests",
            ),
            (
                Change::Weight(Some(0)),
                all(Some(Mode::Maintenance), Some(0)),
                1,
                "has weight 0, and still is in maintenance",
            ),
            (
                Change::Weight(None),
                all(None, None),
                0,
                "weight, 0: it gets no",
            ),
            (
                Change::Weight(None),
                all(None, None),
                7,
                "its declared weight, 7",
            ),
            (
                Change::Weight(None),
                all(Some(Mode::Drain), None),
                7,
                "its declared weight, 7, and still is drained",
            ),
            (
                Change::Mode(Mode::Drain),
                all(Some(Mode::Drain), Some(5)),
                1,
                "is drained: it gets no new requests",
            ),
        ] {
            let holds = holds(change, all, declared);
            assert!(holds.contains(said), "{holds}");
        }
        assert_eq!(named(all(Some(Mode::Drain), Some(5))), "drain and weight 5");
    }
}
