//! Routes that nobody can ever meet, because one that is asked before takes all that they want. Pure. The order is that of
//! `route`: as the most specific one wins, only a route for the same host, path and fields can take everything from another, and
//! of these the one that stands first does. Each listener has a table of its own, so that several may do it between them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Config;
use super::passing::Passed;
use super::routes::Routed;
use super::table::{Problem, Spot};

/// All of them. Where the file was not understood in `whole`, there may be listeners that are not known.
pub(super) fn problems(config: &Config, whole: bool) -> Vec<Problem> {
    let names = |tcp: bool| -> Vec<Option<&str>> {
        let listeners = config.listeners.iter();
        let of_mode = listeners.filter(|listener| listener.passing.is_some() == tcp);
        let known = of_mode.map(|listener| Some(&*listener.name));
        known.chain((!whole).then_some(None)).collect()
    };
    let requests = config.routes.iter().map(of_requests);
    let connections = config.passed.iter().map(of_connections);
    let mut all = shadowed(requests, &names(false), "request");
    all.extend(shadowed(connections, &names(true), "connection"));
    all
}

/// What a route wants, such that two with the same words want the same.
struct Claim<'a> {
    wants: String,
    /// All where there are none.
    listeners: &'a [Arc<str>],
    spot: &'a Spot,
}

fn of_requests(routed: &Routed) -> Claim<'_> {
    let route = &routed.route;
    let mut fields: Vec<String> = route
        .fields
        .iter()
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    fields.sort_unstable();
    Claim {
        wants: format!("{:?} {:?} {fields:?}", route.host, route.path),
        listeners: &routed.listeners,
        spot: &routed.spot,
    }
}

fn of_connections(passed: &Passed) -> Claim<'_> {
    Claim {
        wants: passed.sni.to_string(),
        listeners: &passed.listeners,
        spot: &passed.spot,
    }
}

/// `all` are the listeners that one without any is for.
fn shadowed<'a>(
    claims: impl Iterator<Item = Claim<'a>>,
    all: &[Option<&'a str>],
    what: &str,
) -> Vec<Problem> {
    let mut all_taken: HashMap<String, HashMap<Option<&str>, &Spot>> = HashMap::new();
    let mut problems = Vec::new();
    for claim in claims {
        let own: Vec<Option<&str>> = match claim.listeners {
            [] => all.to_vec(),
            own => own.iter().map(|name| Some(&**name)).collect(),
        };
        let taken = all_taken.entry(claim.wants).or_default();
        let mut before: Vec<&Spot> = Vec::new();
        let mut is_met = own.is_empty();
        for listener in own {
            match taken.entry(listener) {
                Entry::Vacant(free) => {
                    free.insert(claim.spot);
                    is_met = true;
                }
                // It names the listener twice.
                Entry::Occupied(by) if *by.get() == claim.spot => {}
                Entry::Occupied(by) if before.contains(by.get()) => {}
                Entry::Occupied(by) => before.push(by.get()),
            }
        }
        if !is_met {
            before.sort_by_key(|spot| (spot.line, spot.column));
            problems.push(Problem {
                spot: Some(claim.spot.clone()),
                key: "routes".to_owned(),
                text: format!("no {what} comes here: {} all that it wants", by(&before)),
            });
        }
    }
    problems
}

/// Who takes it.
fn by(before: &[&Spot]) -> String {
    let places: Vec<String> = before
        .iter()
        .map(|spot| format!("{spot}:{}", spot.column))
        .collect();
    match &places[..] {
        [one] => format!("the route at {one} takes"),
        all => format!("the routes at {} take", all.join(" and ")),
    }
}
