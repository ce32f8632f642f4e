use super::*;

fn tls() -> Found {
    Found::Tls {
        agreed: "TLSv1.3".to_owned(),
        then: "answered 200".to_owned(),
        http: true,
    }
}

fn other(what: &str) -> Found {
    Found::Other(what.to_owned())
}

fn no_tls() -> Found {
    Found::NoTls("closed".to_owned())
}

/// Six tries as [`WAYS`] has them but for HTTP/2, which it does not know.
fn without_http2([a, b, c, d, e, f]: [Found; 6]) -> [Found; WAYS.len()] {
    let not = || match &a {
        Found::Http(_) => Found::Http(400),
        other => other.clone(),
    };
    let http2 = [not(), not(), not()];
    let [g, h, i] = http2;
    [a, b, c, g, h, i, d, e, f]
}

#[test]
fn what_is_taken_is_told_from_what_is_answered() {
    use Found::{Closed, Http, Silent};
    for (found, expected, said) in [
        (
            [
                Http(200),
                Http(400),
                Http(400),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [true, false, false, false, false, false],
            "plain HTTP without a PROXY header: send none",
        ),
        (
            // One that answers what is no request of its own with its own word.
            [Http(200), Http(405), Closed, no_tls(), no_tls(), no_tls()],
            [true, false, false, false, false, false],
            "send none",
        ),
        (
            [Closed, Http(503), Http(503), no_tls(), no_tls(), no_tls()],
            [false, true, true, false, false, false],
            "plain HTTP behind a PROXY header and not without: send v1 or v2",
        ),
        (
            [Closed, Http(200), Closed, no_tls(), no_tls(), no_tls()],
            [false, true, false, false, false, false],
            "--proxy-protocol v1`",
        ),
        (
            [
                Http(404),
                Http(404),
                Http(404),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [true, true, true, false, false, false],
            "unless headers are believed from listed sources only",
        ),
        (
            // nginx says so in clear text at a port of TLS.
            [Http(400), Http(400), Http(400), tls(), no_tls(), no_tls()],
            [false, false, false, true, false, false],
            "TLS without a PROXY header",
        ),
        (
            [Closed, Closed, Closed, Closed, tls(), tls()],
            [false, false, false, false, true, true],
            "TLS behind a PROXY header",
        ),
        (
            [Http(400), Http(400), Http(400), Closed, Closed, Closed],
            [true, false, false, false, false, false],
            "send none",
        ),
        (
            // One that wants a header says so in HTTP.
            [
                Http(400),
                Http(404),
                Http(404),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [false, true, true, false, false, false],
            "plain HTTP behind a PROXY header and not without: send v1 or v2",
        ),
        (
            [
                Http(400),
                Http(400),
                Http(200),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [false, false, true, false, false, false],
            "not without: send v2",
        ),
        (
            [
                Http(400),
                Http(503),
                Http(400),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [false, true, false, false, false, false],
            "not without: send v1",
        ),
        (
            [
                Http(400),
                Http(405),
                Http(400),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [true, false, false, false, false, false],
            "send none",
        ),
        (
            [Closed, Http(400), Http(400), Closed, Closed, Closed],
            [false; 6],
            "answers 400 to everything",
        ),
        (
            [Silent, Silent, Silent, Silent, Silent, Silent],
            [false; 6],
            "says nothing",
        ),
        (
            [Closed, Closed, Closed, Closed, Closed, Silent],
            [false; 6],
            "closes every connection",
        ),
        (
            [
                other("an SSH greeting"),
                Closed,
                Closed,
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            [false; 6],
            "an SSH greeting",
        ),
    ] {
        let found = without_http2(found);
        let [a, b, c, h, i, j, d, e, f] = taken(&found);
        assert_eq!([a, b, c, d, e, f], expected, "{found:?}");
        assert_eq!([h, i, j], [false; 3], "{found:?}");
        let advice = advice("app:1", &found);
        assert!(advice.contains(said), "{said}: {advice}");
    }
}

#[test]
fn a_server_that_speaks_http2_by_itself_takes_no_header_for_that() {
    use Found::{Closed, Http, Http2, Http2Only};
    let no = || [no_tls(), no_tls(), no_tls()];
    for (plain, http2, expected, said) in [
        (
            // nginx: listen … http2.
            [Http2Only, Http2Only, Http2Only],
            [Http2, Http2Only, Http2Only],
            [false, false, false, true, false, false],
            "app:1 takes plain HTTP/2 (with prior knowledge) without a PROXY header: send none, as \
             `tidegate http http://app:1 --h2` does, or a backend with `protocol = \"h2\"`",
        ),
        (
            // HAProxy: bind … proto h2.
            [Closed, Closed, Closed],
            [Http2, Closed, Http2Only],
            [false, false, false, true, false, false],
            "--h2` does, or a backend with `protocol = \"h2\"`",
        ),
        (
            [Http2Only, Http2Only, Http2Only],
            [Http2Only, Http2Only, Http2Only],
            [false; 6],
            "begins HTTP/2 by itself, and acknowledges nothing",
        ),
        (
            [Closed, Http2Only, Http2Only],
            [Closed, Http2, Http2],
            [false, false, false, false, true, true],
            "send v1 or v2, as `tidegate http http://app:1 --h2 --proxy-protocol v2` does, or a backend with \
             `protocol = \"h2\"` and `send_proxy = \"v2\"`",
        ),
        (
            [Http(200), Http(400), Http(400)],
            [Http2, Http2Only, Http(400)],
            [true, false, false, true, false, false],
            "or a backend without `tls` and `send_proxy`; and plain HTTP/2",
        ),
    ] {
        let found: Vec<Found> = plain.into_iter().chain(http2).chain(no()).collect();
        let found: [Found; WAYS.len()] = found.try_into().unwrap();
        assert_eq!(taken(&found)[..6], expected, "{found:?}");
        let advice = advice("app:1", &found);
        assert!(advice.contains(said), "{said}: {advice}");
    }
}

/// Silence behind a handshake, or another protocol, is no reason to send HTTP.
#[test]
fn what_is_no_http_inside_tls_is_said_beside_how_to_reach_it() {
    let closed = || Found::Closed;
    let silent = || Found::Tls {
        agreed: "TLSv1.3, no ALPN".to_owned(),
        then: Found::Silent.words(),
        http: false,
    };
    let odd = "asked in HTTP inside TLS it said nothing in time: where it speaks something else";
    for (tls, told) in [
        ([silent(), closed(), closed()], true),
        ([closed(), silent(), silent()], true),
        ([tls(), silent(), silent()], false),
        ([tls(), no_tls(), no_tls()], false),
    ] {
        let [d, e, f] = tls;
        let found = without_http2([closed(), closed(), closed(), d, e, f]);
        let advice = advice("app:1", &found);
        assert!(advice.starts_with("app:1 takes TLS"), "{advice}");
        assert_eq!(advice.contains(odd), told, "{advice}");
        assert_eq!(advice.contains("`tidegate tcp app:1`"), told, "{advice}");
    }
}

#[test]
fn what_none_of_us_can_speak_to_is_named() {
    let closed = || Found::Closed;
    let old = || Found::TlsUnlike("too old".to_owned());
    let begun = |closed| Found::Unfinished {
        said: "`HTTP`".to_owned(),
        closed,
    };
    for (found, said) in [
        (
            [closed(), closed(), closed(), old(), closed(), closed()],
            "app:1 speaks TLS, and none that is spoken here, which is 1.2 and 1.3: too old; have it",
        ),
        (
            [closed(), closed(), closed(), closed(), old(), old()],
            "app:1 speaks TLS behind a PROXY header, and none that is spoken here",
        ),
        (
            // What it says in clear text is an alert.
            [
                other("a TLS alert"),
                closed(),
                closed(),
                old(),
                old(),
                old(),
            ],
            "app:1 speaks TLS, and none",
        ),
        (
            [
                begun(false),
                closed(),
                closed(),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            "app:1 began its answer with `HTTP`, and did not go on in time: is the program",
        ),
        (
            [
                begun(true),
                closed(),
                closed(),
                no_tls(),
                no_tls(),
                no_tls(),
            ],
            "app:1 closed in the middle of an answer, behind `HTTP`: is",
        ),
        (
            [
                other("`ICY 200 OK`"),
                closed(),
                closed(),
                closed(),
                closed(),
                closed(),
            ],
            "it answers with `ICY 200 OK`, which is neither HTTP/1 nor TLS",
        ),
    ] {
        let found = without_http2(found);
        assert_eq!(taken(&found), [false; WAYS.len()]);
        let advice = advice("app:1", &found);
        assert!(advice.contains(said), "{said}: {advice}");
    }
}

/// As a listener in TCP mode does that requires one, before whatever speaks neither HTTP nor TLS.
#[test]
fn what_answers_behind_a_header_alone_wants_one_whatever_it_is() {
    let closed = || Found::Closed;
    let other = || other("what it was sent");
    for (v1, v2, versions) in [
        (other(), other(), "send v1 or v2"),
        (other(), closed(), "send v1,"),
        (closed(), other(), "send v2,"),
    ] {
        let found = without_http2([closed(), v1, v2, no_tls(), no_tls(), no_tls()]);
        assert_eq!(taken(&found), [false; WAYS.len()]);
        let advice = advice("app:1", &found);
        for part in ["app:1 wants a PROXY header", versions, "--proxy-protocol"] {
            assert!(advice.contains(part), "{part}: {advice}");
        }
    }
    // One that answers 400 behind a header has its own words.
    let found = without_http2([
        closed(),
        Found::Http(400),
        Found::Http(400),
        closed(),
        closed(),
        closed(),
    ]);
    assert!(advice("app:1", &found).contains("answers 400 to everything"));
}

#[test]
fn who_demands_a_certificate_is_not_recommended_what_has_none() {
    let closed = || Found::Closed;
    let demanded = || Found::CertificateDemanded("TLSv1.3; then answered 400".to_owned());
    for (tls, said) in [
        (
            [demanded(), closed(), closed()],
            "app:1 takes TLS without a PROXY header, and demands a certificate",
        ),
        (
            [closed(), demanded(), demanded()],
            "its key and `send_proxy = \"v2\"`",
        ),
    ] {
        let [d, e, f] = tls;
        let found = without_http2([closed(), closed(), closed(), d, e, f]);
        let advice = advice("app:1", &found);
        assert!(taken(&found)[6..].contains(&true));
        assert!(
            advice.contains(said) && advice.contains("`tls.client_certificate`"),
            "{advice}"
        );
        assert!(
            !advice.contains("https://") && !advice.contains("send none"),
            "{advice}"
        );
    }
}

#[test]
fn keys_of_a_backend_stand_beside_the_agents_command() {
    let closed = || Found::Closed;
    let found = without_http2([closed(), closed(), closed(), closed(), tls(), tls()]);
    let advice = advice("app:1", &found);
    let said = "as `tidegate http https://app:1 --proxy-protocol v2` does, or a backend with `tls = true` and `send_proxy = \"v2\"`";
    assert!(advice.ends_with(said), "{advice}");
}
