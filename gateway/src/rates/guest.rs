//! A connection that was let in, and its requests. Both count for their source until they are dropped.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tidegate_shared::clock;

use super::client::client;
use super::table::Source;
use super::{Action, Excess, Held, Limit, Warden, lists};
use crate::range::Range;

/// See the module's head.
#[derive(Debug)]
pub struct Guest {
    warden: Arc<Warden>,
    from: IpAddr,
    /// `None` for one whom no limit concerns.
    source: Option<Arc<Source>>,
    /// Of the lists, when it came.
    changes: u64,
    /// It is beyond a limit, and that is all there is to it.
    marked: Option<Limit>,
}

/// A request that was let in.
#[derive(Debug)]
pub struct Pass {
    guest: Arc<Guest>,
    /// Its source, where that is not the connection's.
    other: Option<Arc<Source>>,
    /// Whom a trusted hop names as the one who asks.
    named: Option<IpAddr>,
    /// Whether it counts at all, and as one in hand.
    counts: bool,
    in_hand: bool,
    marked: Option<Limit>,
}

/// Of whom a request is.
enum Whose {
    /// The connection's.
    Own,
    Other(Arc<Source>),
    /// Of somebody whom no limit concerns.
    Nobody,
    /// Of somebody on this line of a list.
    Denied(lists::Entry),
}

impl Guest {
    pub(super) fn new(warden: Arc<Warden>, from: IpAddr, changes: u64) -> Self {
        Self {
            warden,
            from,
            source: None,
            changes,
            marked: None,
        }
    }

    /// Counts it. How many connections the source has with this one.
    pub(super) fn is_of(&mut self, source: Arc<Source>) -> u32 {
        let open = source.connections.fetch_add(1, Relaxed) + 1;
        self.source = Some(source);
        open
    }

    pub(super) fn mark(&mut self, limit: Limit) {
        self.marked = Some(limit);
    }

    /// The rules it is under.
    pub fn warden(&self) -> &Arc<Warden> {
        &self.warden
    }

    /// Which limit it is beyond, where that is only marked.
    pub fn marked(&self) -> Option<Limit> {
        self.marked
    }

    /// A request has come. `trusted` are the hops whose word on whom they ask for counts, where this is one of them.
    ///
    /// # Errors
    /// Its source is beyond a limit; with a place to wait in where that is what is done about it.
    pub fn ask(
        self: &Arc<Self>,
        headers: &HeaderMap,
        trusted: Option<&[Range]>,
        at: Instant,
    ) -> Result<Pass, (Excess, Option<Held>)> {
        let named = trusted.and_then(|trusted| client(headers, trusted));
        let mut pass = Pass {
            guest: Arc::clone(self),
            other: None,
            named,
            counts: false,
            in_hand: false,
            marked: self.marked,
        };
        let rules = &*self.warden.rules;
        if !rules.watch_requests() {
            return Ok(pass);
        }
        let who = named.unwrap_or(self.from);
        let own = named.is_none();
        match self.whose(who, !own, at) {
            Whose::Own => {}
            Whose::Other(source) => pass.other = Some(source),
            Whose::Nobody => return Ok(pass),
            Whose::Denied(by) => return Err((self.warden.deny(who, own, by, at), None)),
        }
        pass.counts = true;
        let Some(source) = pass.source() else {
            return Ok(pass);
        };
        let now = clock::ns(at);
        // Counted before it is judged, so that many at once are judged one after the other.
        let in_hand = source.requests.fetch_add(1, Relaxed) + 1;
        pass.in_hand = true;
        let Some(source) = pass.source() else {
            return Ok(pass);
        };
        let Err((limit, wait)) = self.judge(source, in_hand, now) else {
            return Ok(pass);
        };
        let (excess, held) = self.warden.beyond((limit, wait), source, who, own, now);
        if excess.action == Action::Mark {
            pass.marked = Some(limit);
            return Ok(pass);
        }
        Err((excess, held))
    }

    fn whose(&self, who: IpAddr, named: bool, at: Instant) -> Whose {
        let warden = &self.warden;
        if !named && warden.watch.lists.changes() == self.changes {
            return self
                .source
                .as_ref()
                .map_or(Whose::Nobody, |_source| Whose::Own);
        }
        if let Some(by) = warden.on_list(who) {
            Whose::Denied(by)
        } else if warden.rules.allows(who) {
            Whose::Nobody
        } else if !named && self.source.is_some() {
            Whose::Own
        } else {
            let key = warden.rules.key(who);
            Whose::Other(warden.watch.table.get(key, clock::ns(at)))
        }
    }

    fn judge(&self, source: &Source, in_hand: u32, now: u64) -> Result<(), (Limit, Option<u64>)> {
        let rules = &*self.warden.rules;
        if rules.requests.is_some_and(|most| in_hand > most) {
            return Err((Limit::Requests, None));
        }
        if let Some(rate) = rules.error_rate
            && let Err(wait) = rate.look(&source.error_rate, now)
        {
            return Err((Limit::ErrorRate, Some(wait)));
        }
        if let Some(rate) = rules.request_rate
            && let Err(wait) = rate.take(&source.request_rate, now)
        {
            return Err((Limit::RequestRate, Some(wait)));
        }
        Ok(())
    }

    /// For what the connection brought that was no request: only how it ends counts.
    pub fn blame(self: &Arc<Self>) -> Pass {
        Pass {
            guest: Arc::clone(self),
            other: None,
            named: None,
            counts: true,
            in_hand: false,
            marked: None,
        }
    }

    /// The field that marks requests, if one does.
    pub fn field(&self) -> Option<HeaderName> {
        self.warden.rules.mark.clone()
    }

    /// Makes the field that marks a request what it is to be: what the visitor says in it never counts.
    pub fn write(&self, headers: &mut HeaderMap, marked: Option<Limit>) {
        let Some(field) = &self.warden.rules.mark else {
            return;
        };
        remove(headers, field);
        if let Some(limit) = marked {
            headers.insert(field.clone(), HeaderValue::from_static(limit.label()));
        }
    }
}

/// Takes off a field, and what an app behind CGI would read as it (RFC 3875 §4.1.18).
pub(crate) fn remove(headers: &mut HeaderMap, field: &HeaderName) {
    let is_it = |name: &HeaderName| {
        let (name, field) = (name.as_str().bytes(), field.as_str().bytes());
        name.len() == field.len()
            && name
                .zip(field)
                .all(|(one, two)| one == two || (one == b'_' && two == b'-'))
    };
    if !headers.keys().any(is_it) {
        return;
    }
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_it(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            source.connections.fetch_sub(1, Relaxed);
        }
    }
}

impl Pass {
    fn source(&self) -> Option<&Source> {
        self.other.as_deref().or(self.guest.source.as_deref())
    }

    /// Which limit its source is beyond, where that is only marked.
    pub fn marked(&self) -> Option<Limit> {
        self.marked
    }

    /// Whose it is, where that is not the connection's.
    pub fn named(&self) -> Option<IpAddr> {
        self.named
    }

    /// It ended so, at this moment.
    pub fn ended(&self, status: u16, at: Instant) {
        let rules = &*self.guest.warden.rules;
        if let Some(rate) = rules.error_rate
            && self.counts
            && rules.error_statuses.contains(status)
            && let Some(source) = self.source()
        {
            rate.spend(&source.error_rate, clock::ns(at));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.in_hand
            && let Some(source) = self.source()
        {
            source.requests.fetch_sub(1, Relaxed);
        }
    }
}
