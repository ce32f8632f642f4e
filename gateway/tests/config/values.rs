//! What `check` and `config` say of the state file's folder, and of where a backend's values come from.

use std::fs;

use std::os::unix::fs::PermissionsExt as _;

use tidegate_certs::ca::{Authority, Validity};

use super::{folder, shown, tidegated};

#[test]
fn a_folder_that_takes_no_state_file_is_told_of_and_one_that_does_is_left_as_it_is() {
    let text = |state: &str| {
        format!(
            "state_file = \"{state}\"\n[listeners.web]\naddress = \"127.0.0.1:80\"\n[[routes]]\nbackend = \"one\"\n\
             [backends.one.servers]\na = \"10.0.0.1:80\"\n"
        )
    };
    // Nobody makes a file in /proc, not even root.
    for (state, told) in [("state.toml", false), ("/proc/state.toml", true)] {
        let folder = folder(&[("a.toml", &text(state))]);
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let advice = "advice: a.toml:1:14: state_file: nothing can be written in its folder /proc by the user who checks: ";
        assert_eq!(said.starts_with(advice), told, "{said}");
        assert_eq!(said.contains("advice"), told, "{said}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_a_backend_is_told_has_its_place_and_the_rest_is_default() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\n[[routes]]\nbackend = \"a.b\"\n\
                [backends.\"a.b\"]\nretries = 5\nretry_on = [\"closed\", 503]\ncheck = \"/health\"\ntls = { verify = false }\nsend_proxy = \"v2\"\n\
                [backends.\"a.b\".servers]\none = \"10.0.0.1:80\"\ntwo = { address = \"a.test:80\", slots = 2 }\n\
                [[routes]]\npath = \"/c\"\nbackend = \"c\"\n[backends.c.check]\npath = \"/\"\ninterval = \"1s\"\n\
                [backends.c.servers]\none = \"10.0.0.1:80\"\n[resolver]\nhold = \"5s\"\n";
    let folder = folder(&[("a.toml", text)]);
    let shown = shown(folder.path(), &["--effective", "--config", "a.toml"], &[]);
    for (setting, source) in [
        ("[backends.\"a.b\"]", "a.toml:5"),
        ("balance = \"round-robin\"", "default"),
        ("retries = 5", "a.toml:6"),
        ("retry_on = [\"closed\", \"503\"]", "a.toml:7"),
        ("retry_on = [\"unreachable\", \"closed\"]", "default"),
        ("upgraded_timeout = \"0s\"", "default"),
        ("path = \"/health\"", "a.toml:8"),
        (
            "tls = { verify = false }",
            "a.toml:9; not set: ca (the system's), server_name (each server's host), client_certificate (none)",
        ),
        (
            "proxy_tlvs = [\"authority\", \"alpn\", \"unique-id\", \"ssl\"]",
            "default",
        ),
        ("send_proxy = \"v2\"", "a.toml:10"),
        (
            "one = { address = \"10.0.0.1:80\", weight = 1, backup = false, max_connections = 0 }",
            "a.toml:12; default: weight, backup, max_connections; not set: srv (none), slots (none: the system looks it up), family (any)",
        ),
        ("[backends.\"a.b\".check]", "a.toml:8"),
        ("path = \"/\"", "a.toml:18"),
        ("method = \"GET\"", "default"),
        ("interval = \"1s\"", "a.toml:19"),
        ("fast_interval = \"1s\"", "default, as `interval`"),
        ("tls = true", "default, as requests have it"),
        ("hold = \"5s\"", "a.toml:23"),
        ("most_ttl = \"60s\"", "default"),
    ] {
        let is = |line: &(String, String)| line.0 == setting && line.1 == source;
        assert!(shown.iter().any(is), "{setting} # {source}: {shown:#?}");
    }
}

/// Whatever is printed with `--effective` has a source, but for the heads of tables; what an option's variable says of a
/// listener as well.
#[test]
fn every_value_has_its_source() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\n\
                [listeners.pg]\naddress = \"127.0.0.1:81\"\nmode = \"tcp\"\nsend_proxy = \"v2\"\nservers = \"10.0.0.1:1\"\n\
                [[routes]]\nhost = \"a.test\"\npath = \"/a\"\nheaders = { x-a = \"1\" }\nlisteners = \"web\"\nbackend = \"b\"\n\
                [[routes]]\nsni = \"b.test\"\nlisteners = [\"pg\"]\nservers = \"10.0.0.1:2\"\n\
                send_proxy = \"v2\"\nproxy_tlvs = []\n[[routes]]\nsni = \"c.test\"\nbackend = \"b\"\n\
                [backends.b]\nqueue_timeout = \"1500ms\"\n[backends.b.servers.one]\naddress = \"10.0.0.1:3\"\nweight = 2\n\
                [times]\ndrain = \"5s\"\n";
    let folder = folder(&[("a.toml", text)]);
    let shown = shown(
        folder.path(),
        &["--effective", "--config", "a.toml"],
        &[("TIDEGATE_VISITORS", "127.0.0.1:5")],
    );
    for (setting, source) in &shown[1..] {
        let is_head = setting.starts_with('[') || setting.is_empty();
        assert!(is_head || !source.is_empty(), "{setting}: {shown:#?}");
    }
    for (setting, source) in [
        ("mode = \"http\"", "default"),
        ("mode = \"tcp\"", "a.toml:5"),
        ("send_proxy = \"v2\"", "a.toml:6"),
        ("servers = [\"10.0.0.1:1\"]", "a.toml:7"),
        ("host = \"a.test\"", "a.toml:9"),
        ("path = \"/a\"", "a.toml:10"),
        ("headers = { x-a = \"1\" }", "a.toml:11"),
        ("listeners = [\"web\"]", "a.toml:12"),
        ("backend = \"b\"", "a.toml:13"),
        ("sni = \"b.test\"", "a.toml:15"),
        ("listeners = [\"pg\"]", "a.toml:16"),
        ("servers = [\"10.0.0.1:2\"]", "a.toml:17"),
        ("send_proxy = \"v2\"", "a.toml:18"),
        ("proxy_tlvs = []", "a.toml:19"),
        ("backend = \"b\"", "a.toml:22"),
        ("queue_timeout = \"1500ms\"", "a.toml:24"),
        ("connect_timeout = \"3s\"", "default"),
        (
            "one = { address = \"10.0.0.1:3\", weight = 2, backup = false, max_connections = 0 }",
            "a.toml:25, address a.toml:26, weight a.toml:27; default: backup, max_connections; not set: srv (none), slots (none: the system looks it up), family (any)",
        ),
        ("drain = \"5s\"", "a.toml:29"),
        (
            "address = \"127.0.0.1:5\"",
            "the variable TIDEGATE_VISITORS",
        ),
    ] {
        let is = |line: &(String, String)| line.0 == setting && line.1 == source;
        assert!(shown.iter().any(is), "{setting} # {source}: {shown:#?}");
    }
}

/// Whoever starts the gateway is told of it in the log; who checks, here, however many settings name the file.
#[test]
fn a_private_key_that_others_can_read_is_told_of_once() {
    let authority = Authority::create(Validity::days(1)).unwrap();
    let bundle = authority
        .issue_gateway(&["gw.test"], Validity::days(1))
        .unwrap();
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\ncertificates = \"gw.pem\"\n\
                [listeners.two]\naddress = \"127.0.0.1:81\"\ncertificates = \"gw.pem\"\n\
                [tunnels]\naddress = \"127.0.0.1:82\"\nidentity = \"gw.pem\"\nca = \"ca.crt\"\n";
    let ca = authority.certificate_pem();
    let folder = folder(&[("a.toml", text), ("gw.pem", bundle.pem()), ("ca.crt", ca)]);
    for (mode, times) in [(0o640, 1), (0o600, 0)] {
        let file = folder.path().join("gw.pem");
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8(output.stdout).unwrap();
        let advice = "advice: a.toml:9:12: tunnels.identity: the private key in gw.pem can be read by other users; chmod 600";
        assert_eq!(said.matches(advice).count(), times, "{said}");
        assert_eq!(said.matches("private key").count(), times, "{said}");
    }
}

#[test]
fn what_is_not_advised_is_told_at_its_key() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\n[[routes]]\nbackend = \"b\"\n\
                [backends.b]\ntls = { verify = false }\n[backends.b.servers]\na = \"10.0.0.1:80\"\n";
    let folder = folder(&[("a.toml", text)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    let advice = "advice: a.toml:6:18: backends.b.tls.verify: verify = false: whoever";
    assert!(said.starts_with(advice), "{said}");
}

#[test]
fn a_star_in_a_path_is_advised_against() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\n\
                [[routes]]\npath = \"/beta*\"\nbackend = \"b\"\n[[routes]]\npath = \"/*\"\nbackend = \"b\"\n\
                [[routes]]\npath = \"/a/*/b\"\nbackend = \"b\"\n[backends.b.servers]\na = \"10.0.0.1:80\"\n";
    let folder = folder(&[("a.toml", text)]);
    let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    let star = "a `*` in a path stands for itself";
    for (place, part) in [
        (
            "a.toml:4:8: routes.path: ",
            "write path = \"/beta\" for that",
        ),
        ("a.toml:7:8: routes.path: ", "leave `path` out"),
        ("a.toml:10:8: routes.path: ", star),
    ] {
        let told =
            |line: &str| line.starts_with(&format!("advice: {place}{star}")) && line.contains(part);
        assert!(said.lines().any(told), "{place}{part}: {said}");
    }
}
