//! Who gets through to a tunnel, who does not, and what each end is told.

use rustls::{ClientConnection, HandshakeKind, ServerConnection};
use tidegate_certs::ca::Validity;
use tidegate_certs::peer::PeerCertificate;
use tidegate_shared::tls::{
    By, End, HandshakeFault, Layer, SwapIdentity, agent_client, require_h2, tunnel_server,
    visitor_server,
};

use crate::world::{VERSIONS, World, future, meet, past, read};

#[test]
fn a_tunnel_knows_both_ends_and_speaks_h2() {
    let world = World::new();
    for name in ["gw.test", "127.0.0.1"] {
        let met = meet(&world.client(), &world.server(), name);
        met.assert_done();
        require_h2(&met.client).unwrap();
        require_h2(&met.server).unwrap();
        let leaf = &met.server.peer_certificates().unwrap()[0];
        let filed = PeerCertificate::read(leaf, false).unwrap();
        assert_eq!(filed.primary.to_string(), "app1");
    }
}

/// Not by session id, not by ticket, not by PSK: each connection shows its certificate to the verifier.
#[test]
fn a_tunnel_is_never_resumed() {
    let world = World::new();
    let server = world.server();
    for version in VERSIONS {
        let client = world.stranger(version, Some(world.agent(&["app1"])), &[b"h2"]);
        for _ in 0..3 {
            let met = meet(&client, &server, "gw.test");
            met.assert_done();
            assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(met.client.tls13_tickets_received(), 0);
        }
    }
}

/// A ticket of the visitors' listener is worth nothing on the tunnel listener, although one process serves both.
#[test]
fn a_visitors_ticket_opens_no_tunnel() {
    let world = World::new();
    let tunnels = world.server();
    let (visitors, _) = visitor_server(&[world.path("gateway.pem")]).unwrap();
    for version in VERSIONS {
        let client = world.stranger(version, Some(world.agent(&["app1"])), &[b"h2"]);
        meet(&client, &visitors, "gw.test").assert_done();
        let again = meet(&client, &visitors, "gw.test");
        assert_eq!(
            again.server.handshake_kind(),
            Some(HandshakeKind::Resumed),
            "the ticket is good"
        );
        let met = meet(&client, &tunnels, "gw.test");
        met.assert_done();
        assert_eq!(met.server.handshake_kind(), Some(HandshakeKind::Full));
        assert!(met.server.peer_certificates().is_some());
    }
}

#[test]
fn agents_that_must_not_come_in_are_told_why() {
    let world = World::new();
    let other = World::new();
    let server = world.server();
    let wrong_usage = world
        .authority
        .issue_gateway(&["app1"], Validity::days(1))
        .unwrap();
    let wrong_usage = SwapIdentity::load(&world.write("usage.pem", wrong_usage.pem())).unwrap();
    let dates = |not_before, not_after| Validity {
        not_before,
        not_after,
    };
    let cases = [
        (other.agent(&["app1"]), "unknown-ca", "unknown-ca"),
        (
            world.agent_during(&["app1"], dates(past(90_000), past(10))),
            "certificate-expired",
            "certificate-expired",
        ),
        (
            world.agent_during(&["app1"], dates(future(600), future(90_000))),
            "certificate-not-yet-valid",
            "certificate-expired",
        ),
        (wrong_usage, "wrong-usage", "wrong-usage"),
    ];
    for (identity, ours, theirs) in cases {
        let client = agent_client(identity, &world.anchors(End::Agent)).unwrap();
        let met = meet(&client, &server, "gw.test");
        let (seen, told) = (met.by_server(), met.by_client());
        assert_eq!(
            (seen.label, seen.by, seen.layer),
            (ours, By::Us, Layer::Certificate),
            "{seen}"
        );
        assert_eq!(
            (told.label, told.by, told.layer),
            (theirs, By::Peer, Layer::Certificate),
            "{told}"
        );
    }
    for version in VERSIONS {
        let met = meet(&world.stranger(version, None, &[b"h2"]), &server, "gw.test");
        assert_eq!(
            (met.by_server().label, met.by_server().by),
            ("no-certificate", By::Us)
        );
        assert_eq!(met.by_client().by, By::Peer);
    }
}

#[test]
fn gateways_that_must_not_be_believed_are_told_why() {
    let world = World::new();
    let other = World::new();
    let client = world.client();
    let agent_as_gateway =
        tunnel_server(world.agent(&["gw.test"]), &world.anchors(End::Gateway)).unwrap();
    let expired = Validity {
        not_before: past(90_000),
        not_after: past(10),
    };
    let expired =
        tunnel_server(world.gateway_during(expired), &world.anchors(End::Gateway)).unwrap();
    let cases = [
        (other.server(), "gw.test", "unknown-ca"),
        (world.server(), "gw2.test", "wrong-name"),
        (world.server(), "127.0.0.2", "wrong-name"),
        (agent_as_gateway, "gw.test", "wrong-usage"),
        (expired, "gw.test", "certificate-expired"),
    ];
    for (server, name, label) in cases {
        let met = meet(&client, &server, name);
        let (seen, told) = (met.by_client(), met.by_server());
        assert_eq!(
            (seen.label, seen.by, seen.layer),
            (label, By::Us, Layer::Certificate),
            "{seen}"
        );
        assert_eq!(
            (told.by, told.layer),
            (By::Peer, Layer::Certificate),
            "{told}"
        );
    }
    let met = meet(&client, &world.server(), "gw2.test");
    assert!(
        met.by_client().reason.contains("gw2.test; it names"),
        "{}",
        met.by_client()
    );
}

#[test]
fn a_peer_without_h2_is_refused() {
    let world = World::new();
    for version in VERSIONS {
        let http1 = world.stranger(version, Some(world.agent(&["app1"])), &[b"http/1.1"]);
        let met = meet(&http1, &world.server(), "gw.test");
        assert_eq!(
            (met.by_server().label, met.by_server().layer),
            ("alpn-mismatch", Layer::Alpn)
        );
        assert_eq!(
            (met.by_client().label, met.by_client().by),
            ("alpn-mismatch", By::Peer)
        );
        // One that offers nothing gets through the handshake.
        let silent = world.stranger(version, Some(world.agent(&["app1"])), &[]);
        let met = meet(&silent, &world.server(), "gw.test");
        met.assert_done();
        assert_eq!(require_h2(&met.server).unwrap_err().label, "alpn-mismatch");
    }
}

#[test]
fn what_is_not_tls_is_called_so() {
    let world = World::new();
    let mut server = ServerConnection::new(world.server()).unwrap();
    let error = read(&mut server, b"GET / HTTP/1.1\r\nHost: gw.test\r\n\r\n").unwrap();
    assert_eq!(HandshakeFault::from_rustls(&error).label, "not-tls");
    let mut client = ClientConnection::new(world.client(), "gw.test".try_into().unwrap()).unwrap();
    let error = read(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(HandshakeFault::from_rustls(&error).label, "not-tls");
}
