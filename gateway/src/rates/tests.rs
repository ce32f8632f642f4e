use http::HeaderValue;

use super::*;
use crate::range::Range;
use crate::rates::lists::Listed;

fn warden(set: impl FnOnce(&mut Rules)) -> Arc<Warden> {
    let mut rules = Rules {
        id: 0,
        v4_prefix: 32,
        v6_prefix: 64,
        allow: Vec::new(),
        deny: Vec::new(),
        connections: 100,
        connection_rate: None,
        connection_action: Action::Tell,
        requests: None,
        request_rate: None,
        request_action: Action::Tell,
        error_rate: None,
        error_statuses: rules::Statuses::default(),
        error_action: Action::Tell,
        mark: None,
        tarpit: Duration::from_secs(1),
    };
    set(&mut rules);
    let lists = Lists::new(rules.allow.iter().chain(&rules.deny).cloned().collect());
    Arc::new(Warden {
        listener: "web".into(),
        rules: Arc::new(rules),
        watch: Watch::new(1000, 1, lists),
        counters: Arc::default(),
    })
}

fn rate(text: &str) -> Option<Rate> {
    Some(text.parse().unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn admit(warden: &Arc<Warden>, from: &str, at: Instant) -> Arc<Guest> {
    match warden.admit(ip(from), at) {
        Admission::In(guest) => Arc::new(guest),
        other => panic!("{from} is not let in: {other:?}"),
    }
}

fn refused(warden: &Arc<Warden>, from: &str, at: Instant) -> Excess {
    match warden.admit(ip(from), at) {
        Admission::Out(excess) => excess,
        other => panic!("{from} is let in: {other:?}"),
    }
}

#[test]
fn connections_count_for_a_source_until_they_end_and_for_no_other() {
    let warden = warden(|rules| rules.connections = 2);
    let now = Instant::now();
    let one = admit(&warden, "2001:db8:1:2::1", now);
    let _two = admit(&warden, "2001:db8:1:2:ffff::2", now);
    assert_eq!(
        refused(&warden, "2001:db8:1:2::3", now).limit,
        Limit::Connections
    );
    let _other = admit(&warden, "2001:db8:1:3::1", now);
    drop(one);
    let _three = admit(&warden, "2001:db8:1:2::3", now);
    assert_eq!(refused(&warden, "2001:db8:1:2::4", now).retry_after(), None);
}

#[test]
fn a_rate_says_when_there_is_room() {
    let warden = warden(|rules| rules.connection_rate = rate("2/10s"));
    let now = Instant::now();
    for _ in 0..2 {
        admit(&warden, "192.0.2.1", now);
    }
    let excess = refused(&warden, "::ffff:192.0.2.1", now);
    assert_eq!(
        (excess.limit, excess.retry_after()),
        (Limit::ConnectionRate, Some(5))
    );
    admit(&warden, "192.0.2.2", now);
    let later = now + Duration::from_millis(4200);
    assert_eq!(refused(&warden, "192.0.2.1", later).retry_after(), Some(1));
    admit(&warden, "192.0.2.1", now + Duration::from_millis(5001));
}

#[test]
fn a_tarpit_is_bounded() {
    let warden = warden(|rules| {
        rules.connection_rate = rate("1/10s");
        rules.connection_action = Action::Tarpit;
    });
    let now = Instant::now();
    admit(&warden, "192.0.2.1", now);
    let Admission::Held(_guest, held, excess) = warden.admit(ip("192.0.2.1"), now) else {
        panic!("not held");
    };
    assert_eq!(excess.action, Action::Tarpit);
    assert_eq!(refused(&warden, "192.0.2.1", now).action, Action::Tell);
    drop(held);
    assert!(matches!(
        warden.admit(ip("192.0.2.1"), now),
        Admission::Held(..)
    ));
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> Arc<Listed> {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    Listed::load(&path).unwrap()
}

/// Whoever is on a list cannot have those forgotten who are beyond a limit, nor take their lines.
#[test]
fn a_flood_of_those_who_are_denied_costs_a_bound_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let warden = warden(|rules| {
        rules.connection_rate = rate("1/1h");
        rules.deny = vec![file(&dir, "deny", "10.0.0.0/8")];
    });
    let now = Instant::now();
    admit(&warden, "192.0.2.1", now);
    for number in 0..20_000_u32 {
        let from = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
        assert!(warden.denied(from, now).is_some(), "{from}");
    }
    let watch = &warden.watch;
    assert!(watch.denied.count() <= DENIED, "{}", watch.denied.count());
    assert_eq!((watch.table.count(), watch.table.forgotten()), (1, 0));
    assert_eq!(
        refused(&warden, "192.0.2.1", now).limit,
        Limit::ConnectionRate
    );
    assert_eq!(watch.lines.may_tell(clock::ns(now)), Some(0));
    let unsaid = watch.lines_of_denied.unsaid.load(Relaxed);
    assert_eq!(unsaid, 20_000 - u64::from(LINES));
}

#[test]
fn lists_come_first_and_a_change_counts_for_those_who_are_here() {
    let dir = tempfile::tempdir().unwrap();
    let warden = warden(|rules| {
        rules.request_rate = rate("1/1h");
        rules.deny = vec![file(&dir, "deny", "10.0.0.0/8")];
        rules.allow = vec![file(&dir, "allow", "10.1.0.0/16\n192.0.2.0/24\n")];
    });
    let now = Instant::now();
    let denied = refused(&warden, "10.1.1.1", now);
    assert!(denied.limit == Limit::Deny && denied.is_silent());
    let none = HeaderMap::new();
    let (allowed, other) = (
        admit(&warden, "192.0.2.1", now),
        admit(&warden, "198.51.100.1", now),
    );
    for _ in 0..5 {
        assert!(allowed.ask(&none, None, now).is_ok());
    }
    assert!(other.ask(&none, None, now).is_ok());
    assert!(other.ask(&none, None, now).is_err());
    std::fs::write(dir.path().join("allow"), "198.51.100.0/24").unwrap();
    std::fs::write(dir.path().join("deny"), "192.0.2.0/24").unwrap();
    warden.watch.lists.look();
    assert!(
        other.ask(&none, None, now).is_ok(),
        "it is allowed from here on"
    );
    let (excess, _) = allowed.ask(&none, None, now).unwrap_err();
    assert!(excess.limit == Limit::Deny && excess.is_silent());
}

use http::HeaderMap;

#[test]
fn requests_at_once_are_counted_until_they_end() {
    let warden = warden(|rules| rules.requests = Some(2));
    let now = Instant::now();
    let none = HeaderMap::new();
    let guests = [
        admit(&warden, "192.0.2.1", now),
        admit(&warden, "192.0.2.1", now),
    ];
    let _one = guests[0].ask(&none, None, now).unwrap();
    let two = guests[1].ask(&none, None, now).unwrap();
    let (excess, _) = guests[0].ask(&none, None, now).unwrap_err();
    assert_eq!(
        (excess.limit, excess.action),
        (Limit::Requests, Action::Tell)
    );
    drop(two);
    assert!(guests[0].ask(&none, None, now).is_ok());
}

#[test]
fn errors_count_when_requests_end_and_then_act() {
    let set = |action| {
        move |rules: &mut Rules| {
            rules.error_rate = rate("2/10s");
            rules.error_statuses.add("400-499".parse().unwrap());
            rules.error_action = action;
        }
    };
    for action in [Action::Tell, Action::Refuse] {
        let warden = warden(set(action));
        let now = Instant::now();
        let none = HeaderMap::new();
        let guest = admit(&warden, "192.0.2.1", now);
        for status in [200, 404, 500, 400] {
            guest.ask(&none, None, now).unwrap().ended(status, now);
        }
        guest.blame().ended(400, now);
        let (excess, _) = guest.ask(&none, None, now).unwrap_err();
        assert_eq!((excess.limit, excess.action), (Limit::ErrorRate, action));
        assert_eq!(excess.retry_after(), Some(5));
        // Only what is refused is so before it asks.
        let admission = warden.admit(ip("192.0.2.1"), now);
        assert_eq!(
            matches!(admission, Admission::Out(_)),
            action == Action::Refuse
        );
        let later = now + Duration::from_secs(6);
        assert!(guest.ask(&none, None, later).is_ok());
    }
}

#[test]
fn whom_a_trusted_hop_asks_for_is_the_source() {
    let warden = warden(|rules| {
        rules.request_rate = rate("1/10s");
        rules.request_action = Action::Refuse;
    });
    let now = Instant::now();
    let hop = admit(&warden, "10.0.0.1", now);
    let trusted: [Range; 1] = ["10.0.0.0/8".parse().unwrap()];
    let of = |client: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_str(client).unwrap());
        headers
    };
    let trusted = Some(&trusted[..]);
    assert!(hop.ask(&of("203.0.113.1"), trusted, now).is_ok());
    assert!(hop.ask(&of("203.0.113.2"), trusted, now).is_ok());
    let (excess, _) = hop
        .ask(&of("6.6.6.6, 203.0.113.1"), trusted, now)
        .unwrap_err();
    assert!(
        !excess.is_silent(),
        "others have their requests on that connection"
    );
    assert_eq!(excess.action, Action::Tell);
    // Without a client to name it is the hop's own.
    assert!(hop.ask(&HeaderMap::new(), trusted, now).is_ok());
    assert!(hop.ask(&HeaderMap::new(), trusted, now).is_err());
    // A stranger is not believed.
    let stranger = admit(&warden, "198.51.100.1", now);
    assert!(stranger.ask(&of("203.0.113.3"), None, now).is_ok());
    assert!(stranger.ask(&of("203.0.113.4"), None, now).is_err());
}

#[test]
fn what_is_marked_is_let_in_and_nobody_can_write_the_mark() {
    let warden = warden(|rules| {
        rules.request_rate = rate("1/10s");
        rules.request_action = Action::Mark;
        rules.mark = Some("x-source-limit".parse().unwrap());
    });
    let now = Instant::now();
    let guest = admit(&warden, "192.0.2.1", now);
    let forged = || {
        let mut headers = HeaderMap::new();
        for name in ["x-source-limit", "x_source_limit", "x-source_limit"] {
            headers.append(name, HeaderValue::from_static("none"));
        }
        headers
    };
    let first = guest.ask(&HeaderMap::new(), None, now).unwrap().marked();
    let second = guest.ask(&HeaderMap::new(), None, now).unwrap().marked();
    assert_eq!((first, second), (None, Some(Limit::RequestRate)));
    let mut headers = forged();
    guest.write(&mut headers, first);
    assert!(headers.is_empty(), "{headers:?}");
    let mut headers = forged();
    guest.write(&mut headers, second);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers["x-source-limit"], "request-rate");
}
