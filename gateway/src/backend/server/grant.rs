//! A request is given a connection that rests, a place on one that is shared, or the right to open one.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_shared::origin::ANY;

use super::super::bound::Tie;
use super::super::http2::links::Links;
use super::{Grant, Home, Kept, May, Server};

impl Server {
    /// A connection that rests, or the right to open one. `None` where there are as many as there may be. `tie` is the
    /// visitor's, where each connection is one visitor's.
    pub(in crate::backend) fn grant(
        &self,
        now: u64,
        may: May,
        tie: Option<&Arc<Tie>>,
    ) -> Option<Grant> {
        let epoch = self.epoch();
        let until = self.out_until.load(Relaxed);
        if until != 0 && until <= now {
            self.with_fitness(|fitness| fitness.tried(now));
        }
        let here = self.here();
        if self.send_proxy.is_some() {
            return self.grant_bound(now, may, tie);
        }
        let reuses = may != May::Fresh;
        if reuses
            && self.shares()
            && let Some(seat) = self.links().take()
        {
            return Some(Grant::Shared(seat));
        }
        if may == May::Recent && self.manners.is_unknown(now) {
            self.look_at(&self.pools[here], now);
        }
        let mut fit = self.fit(now, may);
        let kept = |home: usize, fit: &Option<RangeInclusive<u64>>| {
            let link = self.pools[home].take(now, fit.as_ref()?)?;
            let home = Home::Worker(home);
            Some(Grant::Kept(Kept { link, home, epoch }))
        };
        if let Some(grant) = kept(here, &fit) {
            return Some(grant);
        }
        let unsettled = |fit: &Option<RangeInclusive<u64>>| {
            let fit = fit.as_ref();
            fit.is_some_and(|fit| *fit.start() > 0)
        };
        if unsettled(&fit) {
            self.pools[here].shed(now);
        }
        if let Some(permit) = self.room.permit() {
            return Some(Grant::Fresh(permit));
        }
        if may == May::Recent && self.manners.is_crowded(now) {
            fit = self.fit(now, may);
        }
        // What other workers have counts as well. A place on a connection of theirs costs a wake-up more than one here.
        if reuses
            && self.shares()
            && let Some(seat) = self.links.iter().find_map(Links::take)
        {
            return Some(Grant::Shared(seat));
        }
        // What rests there is used from here, or makes room.
        for (home, pool) in self.pools.iter().enumerate() {
            if let Some(grant) = kept(home, &fit) {
                return Some(grant);
            }
            if let Some(stale) = pool.take(now, &ANY) {
                if unsettled(&fit) {
                    stale.close_abruptly();
                } else {
                    drop(stale);
                }
                if let Some(permit) = self.room.permit() {
                    return Some(Grant::Fresh(permit));
                }
            }
        }
        // A connection in doubt is better than none.
        if reuses && self.shares() {
            return self
                .links
                .iter()
                .find_map(Links::take_any)
                .map(Grant::Shared);
        }
        None
    }

    /// For how long a connection must have rested, and may have; `None` where none does that has.
    fn fit(&self, now: u64, may: May) -> Option<RangeInclusive<u64>> {
        match may {
            May::Rested => Some(ANY),
            May::Recent => Some(self.manners.fit(now)),
            May::Fresh => None,
        }
    }

    /// Where each connection is one visitor's.
    fn grant_bound(&self, now: u64, may: May, tie: Option<&Arc<Tie>>) -> Option<Grant> {
        let epoch = self.epoch();
        let shares = may != May::Fresh && self.shares();
        if let Some(tie) = tie {
            if shares && let Some(seat) = self.bound.seat(tie) {
                return Some(Grant::Shared(seat));
            }
            if may == May::Recent && self.manners.is_unknown(now) {
                self.look_at_bound(now);
                if !self.room.has_room() {
                    self.manners.is_crowded(now);
                }
            }
            let fit = self.fit(now, may);
            if let Some(link) = fit.as_ref().and_then(|fit| self.bound.take(tie, now, fit)) {
                let home = Home::Visitor(Arc::clone(tie));
                return Some(Grant::Kept(Kept { link, home, epoch }));
            }
            // The one that is opened takes the place of one that has rested for too long.
            let too_long = fit.map_or(0, |fit| fit.end().saturating_add(1));
            drop(self.bound.take(tie, now, &(too_long..=u64::MAX)));
        }
        loop {
            if let Some(permit) = self.room.permit() {
                return Some(Grant::Fresh(permit));
            }
            // Somebody else's makes room.
            match self.bound.oldest() {
                Some(oldest) => drop(oldest),
                None => break,
            }
        }
        if let Some(permit) = self.bound.idle() {
            return Some(Grant::Fresh(permit));
        }
        // A connection in doubt is better than none.
        let tie = tie.filter(|_| shares)?;
        self.bound.any_seat(tie).map(Grant::Shared)
    }
}
