//! What `check` says of the files that a configuration names.

use super::told;

#[test]
fn a_file_of_a_backends_tls_is_told_of_at_its_own_line() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:80\"\n[[routes]]\nbackend = \"one\"\n\
                [backends.one.servers]\na = \"10.0.0.1:443\"\n[backends.one.tls]\nca = \"absent.pem\"\n\
                [[routes]]\npath = \"/b\"\nbackend = \"two\"\n[backends.two]\n\
                tls = { client_certificate = \"gone.pem\" }\n[backends.two.servers]\na = \"10.0.0.2:443\"\n";
    let told = told(text);
    for (place, file) in [
        ("a.toml:8:6: backends.one.tls.ca: ", "absent.pem"),
        (
            "a.toml:13:30: backends.two.tls.client_certificate: ",
            "gone.pem",
        ),
    ] {
        let found = |line: &String| line.starts_with(place) && line.contains(file);
        assert!(told.iter().any(found), "{place}{file}: {told:#?}");
    }
    assert_eq!(told.len(), 2, "{told:#?}");
}

/// One mistake hides no other, where two files are wrong that belong together.
#[test]
fn every_file_that_cannot_be_used_is_told() {
    let text = "[listeners.web]\naddress = \"127.0.0.1:443\"\ncertificates = [\"one.pem\", \"two.pem\"]\n\
                [tunnels]\naddress = \"127.0.0.1:8443\"\nidentity = \"id.pem\"\nca = \"ca.pem\"\n\
                [[routes]]\nbackend = \"api\"\n[backends.api.servers]\na = \"10.0.0.1:443\"\n\
                [backends.api.tls]\nca = \"their-ca.pem\"\nclient_certificate = \"ours.pem\"\n";
    let told = told(text);
    let places = [
        ("a.toml:3:16: listeners.web.certificates: ", "one.pem"),
        ("a.toml:3:16: listeners.web.certificates: ", "two.pem"),
        ("a.toml:6:12: tunnels.identity: ", "id.pem"),
        ("a.toml:7:6: tunnels.ca: ", "ca.pem"),
        ("a.toml:13:6: backends.api.tls.ca: ", "their-ca.pem"),
        (
            "a.toml:14:22: backends.api.tls.client_certificate: ",
            "ours.pem",
        ),
    ];
    for (place, file) in places {
        let found = |line: &String| line.starts_with(place) && line.contains(file);
        assert!(told.iter().any(found), "{place}{file}: {told:#?}");
    }
    assert_eq!(told.len(), places.len(), "{told:#?}");
}
