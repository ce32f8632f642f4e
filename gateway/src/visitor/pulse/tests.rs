use super::*;

const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(60),
    stall: Duration::from_secs(30),
    body_rate: 500,
    half_closed: Some(Duration::from_secs(10)),
};

#[test]
fn a_connection_that_says_nothing_or_half_a_head_is_overdue_after_the_heads_time() {
    let pulse = Pulse::default();
    let began = pulse.began;
    assert!(pulse.overdue(&PATIENCE, began + 9_999).is_ok());
    assert_eq!(pulse.overdue(&PATIENCE, began + 10_000), Err(Overdue::Head));
    pulse.read(8);
    assert_eq!(
        pulse.overdue(&PATIENCE, began + 10_000),
        Err(Overdue::Head),
        "a drip does not extend it"
    );
}

#[test]
fn behind_the_last_answer_nothing_is_overdue() {
    let pulse = Pulse::default();
    pulse.read(8);
    pulse.linger();
    assert!(pulse.overdue(&PATIENCE, pulse.began + 10_000).is_ok());
}

#[test]
fn whoever_half_closes_behind_a_long_upload_is_waited_for_from_then_on() {
    let pulse = Pulse::default();
    pulse.request_began(pulse.began);
    let end = clock::now_ms().max(pulse.began + 1);
    pulse.request_since.store(1, Relaxed);
    pulse.heard.store(end, Relaxed);
    pulse.finished_half.store(true, Relaxed);
    assert!(!pulse.is_gone(end + 9_999, &PATIENCE));
    assert!(pulse.is_gone(end + 10_000, &PATIENCE));
    let patient = Patience {
        half_closed: None,
        ..PATIENCE
    };
    assert!(!pulse.is_gone(end + 1_000_000, &patient));
}

#[test]
fn between_requests_there_is_more_time() {
    let pulse = Pulse::default();
    pulse.request_began(pulse.began);
    pulse.request_ended(clock::now_ms());
    let idle = pulse.idle_since.load(Relaxed);
    assert!(pulse.overdue(&PATIENCE, idle + 59_000).is_ok());
    assert_eq!(pulse.overdue(&PATIENCE, idle + 60_001), Err(Overdue::Idle));
    pulse.read(1);
    let since = pulse.head_since.load(Relaxed);
    assert_eq!(pulse.overdue(&PATIENCE, since + 10_001), Err(Overdue::Head));
}

#[test]
fn who_takes_nothing_is_excused_by_what_he_sends_and_not_by_a_drip() {
    let pulse = Pulse::default();
    pulse.request_began(pulse.began);
    pulse.response_began();
    pulse.write_blocked();
    let began = pulse.blocked_since().unwrap();
    assert!(pulse.overdue(&PATIENCE, began + 29_999).is_ok());
    assert_eq!(
        pulse.overdue(&PATIENCE, began + 30_000),
        Err(Overdue::Reading)
    );
    pulse.blocked_from(began + 10_000);
    assert!(pulse.overdue(&PATIENCE, began + 39_999).is_ok());
    pulse.blocked_from(began);
    pulse.heard.store(began + 29_000, Relaxed);
    pulse.received.fetch_add(30 * 500, Relaxed);
    assert!(pulse.overdue(&PATIENCE, began + 30_000).is_ok());
    assert!(pulse.overdue(&PATIENCE, began + 58_999).is_ok());
    pulse.heard.store(began + 59_000, Relaxed);
    pulse.received.fetch_add(20, Relaxed);
    assert_eq!(
        pulse.overdue(&PATIENCE, began + 60_000),
        Err(Overdue::Reading),
        "20 octets in 30 s"
    );
}

#[test]
fn a_body_that_stalls_or_drips_is_overdue_and_a_slow_app_is_not() {
    let pulse = Pulse::default();
    pulse.request_began(pulse.began);
    assert!(
        pulse.overdue(&PATIENCE, pulse.began + 10_000_000).is_ok(),
        "nothing is due of the visitor"
    );
    pulse.body_due(true);
    let due = pulse.body_due_since.load(Relaxed);
    assert_eq!(pulse.overdue(&PATIENCE, due + 30_001), Err(Overdue::Body));
    pulse.heard.store(due + 29_000, Relaxed);
    pulse.received.fetch_add(20, Relaxed);
    assert_eq!(
        pulse.overdue(&PATIENCE, due + 30_001),
        Err(Overdue::Body),
        "20 octets in 30 s"
    );
    pulse.rate.begin(0, due);
    pulse.response_began();
    assert!(
        pulse.overdue(&PATIENCE, due + 30_001).is_ok(),
        "once the response has begun it may drip"
    );
}
