//! A server that does not fit how it is spoken to: what it did is noted here, and `mismatch` has the words.

use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use tracing::warn;

use super::super::mismatch::{Got, Mismatch, Setting, Spoken};
use super::Server;

/// Answers of 400 in a row, from a server that has never said anything else, which say more of it than of its visitors.
const REFUSALS: usize = 3;

impl Server {
    /// Counts that it does not fit how it is spoken to, and puts what to do about it behind the reason of a failure.
    pub(super) fn misfits(&self, why: String, misfit: Option<(Mismatch, Got)>) -> String {
        match misfit {
            Some((mismatch, got)) if self.mismatches.is_credible() => {
                let _counted = self.mismatches.came(mismatch);
                format!("{why}; {}", self.misfit(mismatch, got, self.spoken()))
            }
            _ => why,
        }
    }

    /// How it is asked.
    fn spoken(&self) -> Spoken {
        match &self.tls {
            Some(_) => Spoken::Tls,
            None => Spoken::Clear,
        }
    }

    fn misfit(&self, mismatch: Mismatch, got: Got, spoken: Spoken) -> String {
        let setting = Setting {
            header: self.send_proxy.as_deref(),
            place: &self.declared,
            spoken,
            address: self.address(),
        };
        mismatch.sentence(got, &setting)
    }

    /// It broke off a connection on which it had said this first and nothing was answered before, and does so at once. What
    /// that shows goes behind the reason.
    pub(in crate::backend) fn broke_off(&self, why: String, first: Option<&[u8]>) -> String {
        let first = first.unwrap_or_default();
        if is_settings(first) {
            return format!("{why}; {}", self.wants_http2());
        }
        // Behind TLS a header has been taken already.
        let told = self.send_proxy.is_some();
        let misfit = match &self.tls {
            Some(_) => None,
            None => Mismatch::of_first(told, b"HTTP", first),
        };
        self.misfits(why, misfit)
    }

    fn wants_http2(&self) -> String {
        let write = "it speaks HTTP/2 there: write protocol = \"h2\"";
        match &self.send_proxy {
            None => write.to_owned(),
            Some(told) => format!(
                "{write} and leave out {}, for connections in HTTP/2 are shared, or give its port for HTTP/1.1",
                told.place
            ),
        }
    }

    /// It has answered with this. Of one that has said nothing but 400 ever, it is told.
    pub(in crate::backend) fn speaks(&self, status: StatusCode) {
        if status != StatusCode::BAD_REQUEST {
            return self.mismatches.understood();
        }
        if self.mismatches.has_understood() {
            return;
        }
        let refusals = self.refusals.fetch_add(1, Relaxed) + 1;
        let mismatch = match (&self.send_proxy, &self.tls) {
            (Some(_), None) => Mismatch::HeaderUnwanted,
            // Visitors can ask for a 400 or two.
            (None, None) if refusals >= REFUSALS => Mismatch::TlsWanted,
            _ => return,
        };
        self.complain_of(mismatch, Got::BadRequest, self.spoken());
    }

    /// What it has said first, and how soon it ended it, shows on a connection in TCP mode.
    pub(crate) fn carried(&self, asked: &[u8], said: &[u8], at_once: bool) {
        match Mismatch::of_first(self.send_proxy.is_some(), asked, said) {
            Some((mismatch, got)) if at_once && self.mismatches.is_credible() => {
                self.complain_of(mismatch, got, Spoken::Untouched);
            }
            None if !said.is_empty() => self.mismatches.understood(),
            _ => {}
        }
    }

    fn complain_of(&self, mismatch: Mismatch, got: Got, spoken: Spoken) {
        let Some(times) = self.mismatches.came(mismatch) else {
            return;
        };
        let (backend, name, address) = (&self.backend, &self.name, self.address());
        let sentence = self.misfit(mismatch, got, spoken);
        warn!(
            times,
            "backend {backend}: server {name} ({address}) does not fit how it is spoken to: {sentence}"
        );
    }
}

/// Whether this is how a server begins HTTP/2: a SETTINGS frame of the connection, and no acknowledgement (RFC 9113 §3.4, §6.5).
fn is_settings(first: &[u8]) -> bool {
    matches!(first, [_, _, _, 4, 0, 0, 0, 0, 0, ..])
}
