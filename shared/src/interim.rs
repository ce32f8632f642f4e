//! How much of what an app says before its answer is passed on (RFC 9110 §15.2): nothing slows interim responses down on
//! HTTP/2, so what a visitor who reads nothing may have waiting for him is decided here. Pure. Called by the gateway for
//! what a tunnel brings and by the agent for what its app says.

use http::header::{CONTENT_LENGTH, HeaderMap, TRAILER};
use http::{Response, StatusCode};

use crate::message::{strip_agents, strip_hop_by_hop};

/// What the interim responses of one request that are passed may cost, in octets: names, values and [`EACH`].
const KEPT: usize = 16 * 1024;

/// What one costs beside its fields: 64 of them without fields are passed.
const EACH: usize = 256;

/// Interim responses of one request that no app needs: one every second for almost three hours.
const MOST: u32 = 10_000;

/// What is to be done with an interim response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It may be dropped, and is: the request has had its share, or it says nothing to whoever is further on.
    Drop,
    /// There is no end of them: the request is to be given up.
    Flood,
}

/// What one request has had of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interims {
    seen: u32,
    octets: usize,
}

impl Interims {
    /// Counts one, takes out of it what must not go on, and says what is to be done with it.
    pub fn meet(&mut self, interim: &mut Response<()>) -> Fate {
        self.seen = self.seen.saturating_add(1);
        if self.seen > MOST {
            return Fate::Flood;
        }
        // A change of protocol is no interim response where it was not asked for (RFC 9110 §15.2.2, RFC 9113 §8.6).
        if interim.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Fate::Drop;
        }
        let fields = interim.headers_mut();
        strip(fields);
        let cost = fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum::<usize>()
            + EACH;
        if self.octets + cost > KEPT {
            return Fate::Drop;
        }
        self.octets += cost;
        Fate::Pass
    }
}

/// Removes what concerns one hop, and what would frame the answer that is still to come: an interim response has no
/// content and no trailers (RFC 9110 §15.2, §8.6).
fn strip(fields: &mut HeaderMap) {
    strip_hop_by_hop(fields);
    strip_agents(fields);
    fields.remove(CONTENT_LENGTH);
    fields.remove(TRAILER);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interim(status: u16, fields: &[(&'static str, &str)]) -> Response<()> {
        let mut interim = Response::new(());
        *interim.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            interim.headers_mut().append(*name, value.parse().unwrap());
        }
        interim
    }

    #[test]
    fn so_many_are_passed_then_dropped_and_then_there_is_no_end_of_them() {
        let mut met = Interims::default();
        let fates: Vec<Fate> = (0..=MOST)
            .map(|_| met.meet(&mut interim(103, &[])))
            .collect();
        let passed = KEPT / EACH;
        assert!(fates[..passed].iter().all(|fate| *fate == Fate::Pass));
        let last = fates.len() - 1;
        assert!(fates[passed..last].iter().all(|fate| *fate == Fate::Drop));
        assert_eq!(fates[last], Fate::Flood);
    }

    #[test]
    fn large_ones_are_fewer_and_a_small_one_may_still_follow() {
        let mut met = Interims::default();
        let link = "a".repeat(KEPT / 2);
        let mut meet = |value: &str| met.meet(&mut interim(103, &[("link", value)]));
        assert_eq!(meet(&link), Fate::Pass);
        assert_eq!(meet(&link), Fate::Drop);
        assert_eq!(meet("</style.css>"), Fate::Pass);
    }

    #[test]
    fn what_frames_a_message_or_concerns_one_hop_stays_behind() {
        let mut hints = interim(
            103,
            &[
                ("link", "</style.css>"),
                ("content-length", "7"),
                ("trailer", "x-sum"),
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("transfer-encoding", "chunked"),
                ("tidegate-detail", "what only an agent says"),
            ],
        );
        assert_eq!(Interims::default().meet(&mut hints), Fate::Pass);
        let left: Vec<&str> = hints.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["link"]);
    }

    #[test]
    fn a_change_of_protocol_is_no_interim_response() {
        let mut switch = interim(101, &[("upgrade", "websocket")]);
        assert_eq!(Interims::default().meet(&mut switch), Fate::Drop);
    }
}
