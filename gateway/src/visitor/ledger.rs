//! What was asked on a visitor's HTTP/2 connection and not handed over by `h2`, which refuses some requests by itself, and
//! sometimes ends a connection, without a word to us: the socket's frames tell, and the connection's care writes it down.
//! Fed by `heads`, asked by `h2`. All of it happens in the connection's own task, so that its locks are never contended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use h2::Reason;
use tidegate_shared::clock;
use tidegate_shared::unacked::Unacked;

use super::echo::Signs;
use crate::failure::Failure;

/// Requests that a visitor may cancel within ten seconds; more is an attack (CVE-2023-44487).
pub(super) const CANCELLED_IN_TEN_SECONDS: usize = 200;

/// How many requests are remembered that are not handed over. `h2` lets a connection go on for a few hundred.
const REMEMBERED: usize = 10_000;

/// See the module's head.
///
/// The access lines that come of it name no method, host or path. Heads are HPACK (RFC 7541), whose table `h2` keeps to itself: to
/// read one of them, every head of every connection would have to be decoded a second time, and the log would name what our
/// decoder made of octets that `h2` has read otherwise, or not to the end. What can be had for nothing is told: whose connection,
/// when, and why.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Since when, by [`clock::now_ms`], a frame of a field block is unfinished; zero while none is.
    unfinished: AtomicU64,
    asked: Mutex<Asked>,
    /// Some of those asked are known to be refused.
    refused: AtomicBool,
    /// The visitor has reset a stream.
    reset: AtomicBool,
    cancelled: Mutex<(u64, usize)>,
    /// The visitor is beyond a limit, and nothing more is taken from him.
    refuse: AtomicBool,
    ended: OnceLock<Ended>,
    /// The gateway ends, and the connection with it.
    last_call: AtomicBool,
    /// Octets that were read, and that were written.
    came: AtomicU64,
    went: AtomicU64,
    /// The connection as the system has it.
    pub(super) beneath: Option<Unacked>,
}

/// Requests whose head has begun and that were not handed over, by stream.
#[derive(Debug, Default)]
struct Asked {
    last: u32,
    open: VecDeque<Begun>,
}

/// A request whose head has begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    stream: u32,
    /// When its first octet came, by [`clock::now_ms`].
    since: u64,
    /// Known to be refused.
    refused: Option<Failure>,
}

/// Why the gateway has ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended {
    failure: Failure,
    /// The last stream that was begun: the next one is to blame.
    after: u32,
}

/// A frame that the gateway has written, as far as it says something of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written<'a> {
    Headers(u32),
    Reset(u32, u32),
    Goaway(u32, u32, &'a [u8]),
}

impl Ledger {
    pub(super) fn over(beneath: Option<Unacked>) -> Self {
        Self {
            beneath,
            ..Self::default()
        }
    }

    /// So many octets were read.
    pub(super) fn came(&self, octets: usize) {
        self.came.fetch_add(octets as u64, Relaxed);
    }

    /// So many octets were written.
    pub(super) fn went(&self, octets: usize) {
        self.went.fetch_add(octets as u64, Relaxed);
    }

    /// What there is to see of the visitor at this moment. TLS adds to what was written: what he has taken is told as somewhat less
    /// than it is.
    pub(super) fn signs(&self) -> Signs {
        let waits = self.beneath.and_then(Unacked::octets).unwrap_or(0);
        Signs {
            came: self.came.load(Relaxed),
            taken: self.went.load(Relaxed).saturating_sub(waits),
        }
    }

    pub(super) fn unfinished_since(&self) -> Option<u64> {
        Some(self.unfinished.load(Relaxed)).filter(|since| *since != 0)
    }

    /// Whether a frame is unfinished after what was read.
    pub(super) fn is_unfinished(&self, unfinished: bool) {
        if !unfinished {
            self.unfinished.store(0, Relaxed);
        } else if self.unfinished_since().is_none() {
            self.unfinished.store(clock::now_ms(), Relaxed);
        }
    }

    /// HEADERS have begun on this stream.
    pub(super) fn head_came(&self, stream: u32) {
        // The frame's head itself may have come in pieces.
        let since = self.unfinished_since();
        let mut asked = self.asked();
        // Others are trailers, or no request's (RFC 9113 §5.1.1).
        if stream > asked.last && stream % 2 == 1 {
            asked.last = stream;
            if asked.open.len() < REMEMBERED {
                asked.open.push_back(Begun {
                    stream,
                    since: since.unwrap_or_else(clock::now_ms),
                    refused: None,
                });
            }
        }
    }

    pub(super) fn reset_came(&self) {
        self.reset.store(true, Relaxed);
    }

    /// Whether some stream may have been reset already.
    pub(super) fn has_resets(&self) -> bool {
        self.reset.load(Relaxed)
    }

    /// This stream's request has its own record from here on. When its head began, by [`clock::now_ms`].
    pub(super) fn handed(&self, stream: u32) -> u64 {
        let open = &mut self.asked().open;
        let at = open.iter().position(|begun| begun.stream == stream);
        let begun = at.and_then(|at| open.remove(at));
        begun.map_or_else(clock::now_ms, |begun| begun.since)
    }

    /// Notes what a frame of ours says about requests that were not handed over.
    pub(super) fn wrote(&self, frame: Written<'_>) {
        match frame {
            // The only response to such a request is `h2`'s own 431.
            Written::Headers(stream) => self.refuse(stream, Failure::HeadTooLarge),
            Written::Reset(stream, code) if code == u32::from(Reason::REFUSED_STREAM) => {
                self.refuse(stream, Failure::Limit);
            }
            Written::Reset(stream, _) => self.refuse(stream, Failure::Malformed),
            // The visitor is told that these were not begun, and may ask elsewhere (RFC 9113 §6.8).
            Written::Goaway(after, 0, _) => self.asked().open.retain(|begun| begun.stream <= after),
            Written::Goaway(after, code, debug) => self.ended_for(after, blame(code, debug)),
        }
    }

    /// The connection ends for what came on it after the stream `after`; the first to say so is believed.
    pub(super) fn ended_for(&self, after: u32, failure: Failure) {
        self.ended.get_or_init(|| Ended { failure, after });
    }

    fn refuse(&self, stream: u32, failure: Failure) {
        let mut asked = self.asked();
        let refused = asked.open.iter_mut().find(|begun| begun.stream == stream);
        if let Some(begun) = refused {
            begun.refused.get_or_insert(failure);
            self.refused.store(true, Relaxed);
        }
    }

    /// Those that were refused, once. To be asked when `h2` has nothing more to hand over.
    pub(super) fn take_refused(&self) -> Vec<Failure> {
        if !self.refused.swap(false, Relaxed) {
            return Vec::new();
        }
        let mut refused = Vec::new();
        self.asked().open.retain(|begun| {
            refused.extend(begun.refused);
            begun.refused.is_none()
        });
        refused
    }

    /// What became of the rest, when the connection is over. Those that nothing is known of have failed for `otherwise`;
    /// where the gateway has ended the connection there is at least one.
    pub(super) fn take_rest(&self, otherwise: Option<Failure>) -> Vec<Failure> {
        let open = std::mem::take(&mut self.asked().open);
        let Some(ended) = self.ended.get() else {
            let unfinished = self.unfinished_since().is_some();
            let last = open.len().saturating_sub(1);
            return open
                .into_iter()
                .enumerate()
                // Whoever leaves within a head has not asked for anything yet.
                .filter(|(at, _)| {
                    !(unfinished && *at == last && otherwise == Some(Failure::VisitorGone))
                })
                .filter_map(|(_, begun)| begun.refused.or(otherwise))
                .collect();
        };
        let mut blamed = false;
        let mut rest: Vec<Failure> = open
            .into_iter()
            .map(|begun| {
                if let Some(failure) = begun.refused {
                    return failure;
                }
                let to_blame = begun.stream > ended.after && !blamed;
                blamed |= to_blame;
                if to_blame {
                    ended.failure
                } else {
                    ended.of_others()
                }
            })
            .collect();
        // Whoever is refused for a request has a record for that one.
        if !blamed && ended.failure != Failure::TooManyRequests {
            rest.push(ended.failure);
        }
        rest
    }

    /// The gateway ends: what is still open on the connection is cut with it, and nobody is to blame.
    pub(super) fn last_call(&self) {
        self.last_call.store(true, Relaxed);
    }

    /// Why a request that was handed over has ended with its connection, if that was the gateway's doing.
    pub(super) fn cut_for(&self) -> Option<Failure> {
        let ended = self.ended.get().map(Ended::of_others);
        ended.or_else(|| self.last_call.load(Relaxed).then_some(Failure::Draining))
    }

    /// Counts a request that the visitor reset before its response.
    pub(super) fn count_cancelled(&self) {
        let now = clock::now_ms();
        let mut counted = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(counted.0) > 10_000 {
            *counted = (now, 0);
        }
        counted.1 += 1;
    }

    /// Ends the connection without an answer: what was asked last has its record.
    pub(super) fn refuse_visitor(&self) {
        self.refuse.store(true, Relaxed);
    }

    /// Why nothing more is to be taken from this visitor, if so.
    pub(super) fn unwanted(&self) -> Option<Failure> {
        let cancelled = self.cancelled.lock();
        let cancelled = cancelled.unwrap_or_else(PoisonError::into_inner).1;
        if cancelled > CANCELLED_IN_TEN_SECONDS {
            return Some(Failure::TooManyCancelled);
        }
        let refused = self.refuse.load(Relaxed);
        refused.then_some(Failure::TooManyRequests)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ended {
    /// Of requests that have done nothing wrong themselves.
    fn of_others(&self) -> Failure {
        match self.failure {
            Failure::TooManyCancelled => Failure::TooManyCancelled,
            _ => Failure::ConnectionError,
        }
    }
}

/// What a visitor has done when `h2` ends its connection so. The words are those that `h2` puts into its GOAWAY: no API has them,
/// and the test of this file asks `h2` itself for each.
fn blame(code: u32, debug: &[u8]) -> Failure {
    if code != u32::from(Reason::ENHANCE_YOUR_CALM) {
        return Failure::Malformed;
    }
    match debug {
        b"too_many_resets" | b"too_many_internal_resets" => Failure::TooManyCancelled,
        b"header_list_way_too_large" | b"too_many_continuations" => Failure::HeadTooLarge,
        _ => Failure::ConnectionError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::visitor::heads;
    use bytes::Bytes;
    use h2::server::Builder;
    use tidegate_shared::reversal::PREFACE;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const PROTOCOL_ERROR: u32 = 1;
    const CALM: u32 = 11;

    fn asked(streams: &[u32]) -> Ledger {
        let ledger = Ledger::default();
        for stream in streams {
            ledger.head_came(*stream);
        }
        ledger
    }

    #[test]
    fn only_what_was_not_handed_over_is_refused() {
        let ledger = asked(&[1, 3, 5, 7, 9, 5, 2]);
        ledger.handed(1);
        ledger.handed(5);
        for stream in [1, 3, 5] {
            ledger.wrote(Written::Reset(stream, PROTOCOL_ERROR));
        }
        ledger.wrote(Written::Reset(7, 7));
        ledger.wrote(Written::Headers(9));
        let refused = [Failure::Malformed, Failure::Limit, Failure::HeadTooLarge];
        assert_eq!(ledger.take_refused(), refused);
        assert_eq!(ledger.take_refused(), []);
        assert_eq!(ledger.take_rest(Some(Failure::VisitorGone)), []);
        assert_eq!(ledger.cut_for(), None);
    }

    #[test]
    fn a_connection_that_is_ended_blames_one() {
        let ledger = asked(&[1, 3, 5, 7]);
        ledger.handed(1);
        ledger.wrote(Written::Goaway(3, PROTOCOL_ERROR, b""));
        let (bad, others) = (Failure::Malformed, Failure::ConnectionError);
        assert_eq!(ledger.cut_for(), Some(others));
        assert_eq!(ledger.take_rest(None), [others, bad, others]);
        let ledger = asked(&[]);
        ledger.wrote(Written::Goaway(0, CALM, b"too_many_resets"));
        let cancelled = Failure::TooManyCancelled;
        assert_eq!(ledger.cut_for(), Some(cancelled));
        assert_eq!(ledger.take_rest(None), [cancelled]);
    }

    #[test]
    fn a_friendly_goaway_leaves_what_was_begun() {
        let ledger = asked(&[1, 3, 5]);
        ledger.wrote(Written::Goaway(i32::MAX as u32, 0, b""));
        ledger.wrote(Written::Goaway(3, 0, b""));
        let gone = Failure::VisitorGone;
        assert_eq!(ledger.cut_for(), None);
        ledger.last_call();
        assert_eq!(ledger.cut_for(), Some(Failure::Draining));
        assert_eq!(ledger.take_rest(Some(gone)), [gone, gone]);
        let ledger = asked(&[1, 3]);
        ledger.is_unfinished(true);
        assert_eq!(ledger.take_rest(Some(gone)), [gone]);
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [
            &[0, length[0], length[1], kind, flags][..],
            &stream.to_be_bytes(),
        ]
        .concat();
        [&head, payload].concat()
    }

    /// What `h2` says last to a visitor who sends these frames, and whom the ledger then blames.
    async fn provoked(builder: &Builder, frames: &[Vec<u8>]) -> (String, Option<Failure>) {
        let (mut visitor, ours) = duplex(1 << 20);
        let wire = [PREFACE.to_vec(), frame(4, 0, 0, b""), frames.concat()].concat();
        visitor.write_all(&wire).await.unwrap();
        visitor.shutdown().await.unwrap();
        let (io, ledger) = heads::follow(ours, Bytes::new(), None);
        let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
        while let Some(Ok(_request)) = connection.accept().await {}
        drop(connection);
        let mut said = Vec::new();
        visitor.read_to_end(&mut said).await.unwrap();
        let mut rest = &said[..];
        let mut last = "";
        while let Some((head, behind)) = rest.split_first_chunk::<9>() {
            let (payload, next) = behind.split_at(usize::from(head[1]) << 8 | usize::from(head[2]));
            if head[3] == 7 && payload[4..8] == CALM.to_be_bytes() {
                last = std::str::from_utf8(&payload[8..]).unwrap();
            }
            rest = next;
        }
        (
            last.to_owned(),
            ledger.ended.get().map(|ended| ended.failure),
        )
    }

    /// A version of `h2` that words it otherwise fails here: then `blame` is to learn its words.
    #[tokio::test]
    async fn h2_gives_these_words_for_floods() {
        const GET: &[u8] = b"\x82\x86\x84\x01\x01a"; // `:method`, `:scheme`, `:path`, and `:authority: a`
        let streams = || (1..=9).step_by(2);
        let cancelled = |stream| [frame(1, 5, stream, GET), frame(3, 0, stream, &[0, 0, 0, 8])];
        let malformed = |stream| frame(1, 5, stream, &[GET, b"\0\x02te\x01x"].concat());
        let large = [GET, b"\0\x01x\x7f\x81\x01", &[b'y'; 256]].concat();
        let endless = |_| frame(9, 0, 1, b"");
        for (word, failure, frames) in [
            (
                "too_many_resets",
                Failure::TooManyCancelled,
                streams().flat_map(cancelled).collect(),
            ),
            (
                "too_many_internal_resets",
                Failure::TooManyCancelled,
                streams().map(malformed).collect(),
            ),
            (
                "header_list_way_too_large",
                Failure::HeadTooLarge,
                vec![frame(1, 5, 1, &large)],
            ),
            (
                "too_many_continuations",
                Failure::HeadTooLarge,
                [frame(1, 1, 1, GET)]
                    .into_iter()
                    .chain((0..5000).map(endless))
                    .collect(),
            ),
        ] {
            let mut builder = Builder::new();
            builder
                .max_pending_accept_reset_streams(2)
                .max_local_error_reset_streams(Some(2));
            if word.starts_with("header_list") {
                builder.max_header_list_size(16);
            }
            let said = provoked(&builder, &frames).await;
            assert_eq!(said, (word.to_owned(), Some(failure)));
        }
    }
}
