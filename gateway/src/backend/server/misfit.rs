//! A server that does not fit how it is spoken to: what it did is noted here, and `mismatch` has the words.

use std::sync::atomic::Ordering::Relaxed;

use http::StatusCode;
use tidegate_shared::origin::First;
use tracing::warn;

use super::super::check::terms::Check;
use super::super::config::{Address, Protocol};
use super::super::dial::untrusted;
use super::super::http2::links::Unbegun;
use super::super::mismatch::{Adding, Asked, End, Got, Mismatch, Setting, Spoken};
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

    /// How a key comes to where it is declared.
    fn adding(&self) -> Adding {
        match self.protocol {
            Protocol::Http1 => Adding::Into,
            Protocol::Http2 | Protocol::Either => Adding::IntoHttp2,
        }
    }

    fn misfit(&self, mismatch: Mismatch, got: Got, spoken: Spoken) -> String {
        let setting = Setting {
            header: self.send_proxy.as_deref(),
            place: &self.declared,
            adding: self.adding(),
            spoken,
            asked: Asked::Visitors,
            address: self.address(),
        };
        mismatch.sentence(got, &setting)
    }

    /// It broke off a connection on which it had said this first and nothing was answered before, and does so at once. What
    /// that shows goes behind the reason.
    pub(in crate::backend) fn broke_off(&self, why: String, first: &First) -> String {
        if let Some(refusal) = first.refusal() {
            return format!("{why}; {}", untrusted(refusal));
        }
        let first = first.octets().unwrap_or_default();
        if is_settings(first) {
            return format!("{why}; {WANTS_HTTP2}");
        }
        // Behind TLS a header has been taken already.
        let told = self.send_proxy.is_some();
        let misfit = match &self.tls {
            Some(_) => None,
            None => Mismatch::of_first(told, b"HTTP", first),
        };
        self.misfits(why, misfit)
    }

    /// HTTP/2 did not begin on a connection: what that shows goes behind the reason.
    pub(super) fn did_not_begin(&self, unbegun: Unbegun) -> String {
        match unbegun.first.refusal() {
            Some(refusal) => format!("{}; {}", unbegun.why, untrusted(refusal)),
            None => {
                let told = self.send_proxy.is_some();
                let misfit = misfit_in_http2(&unbegun, told, self.tls.is_some());
                self.misfits(unbegun.why, misfit)
            }
        }
    }

    /// The same on a check's.
    pub(in crate::backend) fn did_not_begin_check(
        &self,
        unbegun: Unbegun,
        at: &Address,
        terms: &Check,
    ) -> String {
        let (told, over_tls) = self.check_has(terms);
        let misfit = misfit_in_http2(&unbegun, told, over_tls);
        self.misfits_check(unbegun.why, misfit, at, terms)
    }

    /// A check failed like this on a connection that had just begun; what the server said first shows what does not fit.
    pub(in crate::backend) fn broke_off_check(
        &self,
        why: String,
        first: &[u8],
        at: &Address,
        terms: &Check,
    ) -> String {
        if is_settings(first) {
            return format!("{why}; {WANTS_HTTP2}");
        }
        let (header, tls) = self.check_has(terms);
        let misfit = if tls {
            None
        } else {
            Mismatch::of_first(header, b"HTTP", first)
        };
        self.misfits_check(why, misfit, at, terms)
    }

    /// As [`Self::misfits`], for a check.
    pub(in crate::backend) fn misfits_check(
        &self,
        why: String,
        misfit: Option<(Mismatch, Got)>,
        at: &Address,
        terms: &Check,
    ) -> String {
        let credible = |_: &_| match &self.checks {
            Some(checks) => checks.fits.is_credible(),
            None => false,
        };
        let Some((mismatch, got)) = misfit.filter(credible) else {
            return why;
        };
        self.mismatches.count(mismatch);
        let (header, tls) = self.check_has(terms);
        let setting = Setting {
            header: self.send_proxy.as_deref().filter(|_| header),
            place: &self.declared,
            adding: self.adding(),
            spoken: if tls { Spoken::Tls } else { Spoken::Clear },
            asked: Asked::Check {
                header: self.send_proxy.is_some() && !header,
                tls: self.tls.is_some() && !tls,
            },
            address: at.to_string(),
        };
        format!("{why}; {}", mismatch.sentence(got, &setting))
    }

    /// A check was answered with this status, which is not the one that was wanted.
    pub(in crate::backend) fn refused_check(
        &self,
        why: String,
        status: StatusCode,
        at: &Address,
        terms: &Check,
    ) -> String {
        let mismatch = match (status, self.check_has(terms)) {
            (StatusCode::BAD_REQUEST, (true, false)) => Some(Mismatch::HeaderUnwanted),
            (StatusCode::BAD_REQUEST, (false, false)) => Some(Mismatch::TlsWanted),
            _ => None,
        };
        let misfit = mismatch.map(|mismatch| (mismatch, Got::BadRequest));
        self.misfits_check(why, misfit, at, terms)
    }

    /// Whether a check begins with a header, and whether it is over TLS.
    pub(in crate::backend) fn check_has(&self, terms: &Check) -> (bool, bool) {
        let header = self.send_proxy.is_some() && terms.send_proxy != Some(false);
        (header, self.tls.is_some() && terms.tls != Some(false))
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

    /// What it has said first, and how that ended, shows on a connection in TCP mode.
    pub(crate) fn carried(&self, asked: &[u8], said: &[u8], end: End) {
        if end.in_silence && self.send_proxy.is_none() && self.mismatches.is_credible_silence() {
            let spoken = Spoken::untouched(asked);
            return self.complain_of(Mismatch::HeaderWanted, Got::Silence, spoken);
        }
        match Mismatch::of_first(self.send_proxy.is_some(), asked, said) {
            Some((mismatch, got))
                if end.bears_out(mismatch, got) && self.mismatches.is_credible() =>
            {
                self.complain_of(mismatch, got, Spoken::untouched(asked));
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
            said.what = mismatch.label(),
            said.backend = %backend,
            said.server = %name,
            said.address = %address,
            said.why = %sentence,
            times,
            "backend {backend}: server {name} ({address}) does not fit how it is spoken to: {sentence}"
        );
    }
}

/// What to do about a server that was asked in HTTP/1.1, and begins HTTP/2.
const WANTS_HTTP2: &str = "it speaks HTTP/2 there: write protocol = \"h2\"";

/// Whether this is how a server begins HTTP/2: a SETTINGS frame of the connection, and no acknowledgement (RFC 9113 §3.4, §6.5).
fn is_settings(first: &[u8]) -> bool {
    matches!(first, [_, _, _, 4, 0, 0, 0, 0, 0, ..])
}

/// What a server's first octets show where HTTP/2 was begun, behind a header if it was `told`.
fn misfit_in_http2(unbegun: &Unbegun, told: bool, over_tls: bool) -> Option<(Mismatch, Got)> {
    // Behind TLS a header has been taken already.
    if over_tls || !unbegun.ended_soon {
        return None;
    }
    if unbegun.bewildered {
        // It speaks HTTP/2 without being asked, and took our preface for a header that is wrong, or our header for a preface.
        let mismatch = if told {
            Mismatch::HeaderUnwanted
        } else {
            Mismatch::HeaderWanted
        };
        return Some((mismatch, Got::Bewildered));
    }
    let first = unbegun.first.octets().unwrap_or_default();
    match Got::of(first)? {
        // To one who speaks no TLS, a port for TLS says this in HTTP.
        Got::BadRequest if !told => Some((Mismatch::TlsWanted, Got::BadRequest)),
        _ => Mismatch::of_first(told, b"PRI", first),
    }
}
