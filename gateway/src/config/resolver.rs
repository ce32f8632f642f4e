//! `[resolver]`: who is asked for the addresses of servers with `slots`. Pure; what becomes of it is `backend::names`'.

use tidegate_shared::args::{duration, some_time};

use super::table::{Places, Problem, Spot, Table};
use crate::backend::names::config::{Resolver, dns_server};

/// The table, and where it stands; as usual where there is none.
#[derive(Clone, Debug, Default)]
pub struct Resolving {
    pub resolver: Resolver,
    /// `None` where nothing is said of it.
    pub spot: Option<Spot>,
    /// Where each of its keys stands.
    pub(super) places: Places,
}

impl Resolving {
    /// Everything that is wrong with it, which is its bounds: at the first of them that is given.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let bounds = ["least_ttl", "most_ttl"].into_iter();
        let mut given = bounds.filter_map(|key| Some((key, self.places.of(key)?)));
        let first = given.next();
        self.resolver
            .problems()
            .into_iter()
            .map(move |text| match first {
                Some((key, _)) => self.problem_at(key, text),
                None => self.problem(text),
            })
    }

    /// Something wrong with one of its keys.
    pub(super) fn problem_at(&self, key: &str, text: impl Into<String>) -> Problem {
        let whole = self.problem(text);
        match self.places.of(key) {
            Some(spot) => Problem {
                spot: Some(spot.clone()),
                key: format!("{}.{key}", whole.key),
                ..whole
            },
            None => whole,
        }
    }

    /// Something wrong with it.
    pub fn problem(&self, text: impl Into<String>) -> Problem {
        Problem {
            spot: self.spot.clone(),
            key: "resolver".to_owned(),
            text: text.into(),
        }
    }
}

/// Reads all of `[resolver]`.
pub(super) fn read(table: Option<Table<'_>>) -> Resolving {
    let Some(mut table) = table else {
        return Resolving::default();
    };
    let usual = Resolver::default();
    let (spot, places) = (Some(table.spot()), table.places());
    let servers = table.take("servers").map(|value| {
        let all =
            value.some("nobody would be asked; leave it out for the servers of /etc/resolv.conf");
        let all = all.iter().filter_map(|value| value.parsed(dns_server));
        all.collect()
    });
    let mut time = |key: &'static str, usual, parse: fn(&str) -> Result<_, String>| {
        let value = table.take(key);
        value.and_then(|value| value.parsed(parse)).unwrap_or(usual)
    };
    let resolver = Resolver {
        servers: servers.unwrap_or_default(),
        timeout: time("timeout", usual.timeout, some_time),
        hold: time("hold", usual.hold, duration),
        least_ttl: time("least_ttl", usual.least_ttl, some_time),
        most_ttl: time("most_ttl", usual.most_ttl, some_time),
    };
    table.finish(|_| None);
    Resolving {
        resolver,
        spot,
        places,
    }
}
