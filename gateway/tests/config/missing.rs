//! What `check` says of what there is not and has to be, or is of no use by itself.

use super::{folder, tidegated, told};

#[test]
fn what_is_missing_is_told_where_the_rest_is_fine() {
    for (text, part) in [
        ("", "nothing listens for visitors"),
        ("", "agents have nowhere to dial"),
        (
            "[listeners.a]\naddress = 0\n[tunnels]\naddress = 0\n",
            "a.toml:4:11: tunnels.address: TLS with agents needs",
        ),
        (
            "[listeners.a]\naddress = 0\n[tunnels]\nclear = 0\n",
            "a.toml:4:9: tunnels.clear: tunnels in clear text",
        ),
        (
            "[listeners.a]\naddress = \"0.0.0.0:81\"\n[listeners.b]\naddress = \"127.0.0.1:81\"\n",
            "a.toml:4:11: listeners.b.address: listeners.a.address (a.toml:2)",
        ),
        (
            "[backends.a]\nretries = 1\n",
            "a.toml:1:1: backends.a: backend `a` has no server; add [backends.a.servers]",
        ),
        (
            "[listeners.a]\naddress = 0\nproxy = \"required\"\n",
            "a.toml:3:9: listeners.a.proxy: this needs --proxy-from",
        ),
        (
            "[listeners.a]\naddress = 0\nproxy_from = \"::1\"\n",
            "a.toml:3:14: listeners.a.proxy_from: this changes nothing",
        ),
        (
            "[listeners.a]\naddress = 0\ncertificates = \"none.pem\"\n",
            "a.toml:3:16: listeners.a.certificates: ",
        ),
        (
            "[listeners.visitors-tls]\naddress = 0\n",
            "a.toml:2:11: listeners.visitors-tls.address: TLS needs a certificate",
        ),
        (
            "[tunnels]\nnames = \"a.test\"\n[[routes]]\ntunnel = \"b.test\"\n",
            "a.toml:4:10: routes.tunnel: no agent may bring",
        ),
        (
            "[tunnels]\nnames = \"a.test\"\nclear = 0\nclear_names = \"b.test\"\n",
            "a.toml:4:15: tunnels.clear_names: b.test is not among",
        ),
        (
            "[backends.a]\nretry_on = [\"closed\", \"conn-failure\"]\n",
            "a.toml:2:23: backends.a.retry_on: `conn-failure` is nothing that a request is sent again for; these are known: unreachable, closed, ",
        ),
        (
            "[sources]\nrequest_rate = \"100\"\n",
            "a.toml:2:16: sources.request_rate: `100` is not a rate; write it like 100/10s",
        ),
        (
            "[sources]\nerror_statuses = [\"404\", \"4xx\"]\n",
            "a.toml:2:26: sources.error_statuses: `4xx` is no status of an error",
        ),
        (
            "[sources]\nrequest_action = \"ban\"\n",
            "a.toml:2:18: sources.request_action: `ban` is none of refuse, 429, tarpit and mark",
        ),
        (
            "[sources]\nmark = \"Host\"\n",
            "a.toml:2:8: sources.mark: `Host` has a meaning of its own",
        ),
        (
            "[listeners.a]\naddress = 0\n[sources]\nrequest_action = \"mark\"\n",
            "a.toml:4:18: sources.request_action: this needs the field to write into: --mark x-source-limit",
        ),
        (
            "[listeners.a]\naddress = 0\nrequest_rate = \"1/s\"\n",
            "a.toml:3:1: listeners.a.request_rate: unknown key here; it belongs in `sources` of the listener",
        ),
        (
            "[listeners.a]\naddress = 0\nsources = { max_sources = 5 }\n",
            "a.toml:3:13: listeners.a.sources.max_sources: unknown key here; it belongs in [sources]",
        ),
        (
            "[listeners.a]\naddress = 0\nsources = { request_rat = \"1/s\" }\n",
            "a.toml:3:13: listeners.a.sources.request_rat: unknown key; did you mean `request_rate`?",
        ),
        (
            "[listeners.a]\naddress = 0\nmode = \"tcp\"\nservers = \"h:1\"\nsources = { request_rate = \"1/s\" }\n",
            "a.toml:5:28: listeners.a.sources.request_rate: a listener in TCP mode knows nothing of requests",
        ),
        (
            "[listeners.a]\naddress = 0\nmode = \"tcp\"\nservers = \"h:1\"\n[sources]\nconnection_action = \"mark\"\nmark = \"x-a\"\n",
            "a.toml:6:21: sources.connection_action: the listener a is in TCP mode and has no fields to mark",
        ),
        (
            "[listeners.a]\naddress = 0\n[listeners.a.sources]\ndeny = \"none.txt\"\n",
            "a.toml:4:8: listeners.a.sources.deny: none.txt cannot be read: No such file",
        ),
    ] {
        let told = told(text);
        assert!(
            told.iter().any(|line| line.contains(part)),
            "{part}: {told:#?}"
        );
    }
}

/// Who dials everything has no agents.
#[test]
fn a_gateway_that_only_dials_needs_no_tunnels() {
    let web = "[listeners.web]\naddress = 0\n";
    let pass = "[listeners.pass]\naddress = 0\nmode = \"tcp\"\n";
    let api = "[backends.api.servers]\none = \"10.0.0.1:80\"\n[[routes]]\nbackend = \"api\"\n";
    for fine in [
        format!("{api}{web}"),
        format!("{pass}servers = \"10.0.0.1:80\"\n"),
        format!("{pass}[[routes]]\nsni = \"a.test\"\nservers = \"10.0.0.1:80\"\n"),
    ] {
        let folder = folder(&[("a.toml", &fine)]);
        let output = tidegated(folder.path(), &["check", "--config", "a.toml"], &[]);
        assert_eq!(output.status.code(), Some(0), "{fine}{output:?}");
    }
    for lacking in [
        format!("{api}[[routes]]\nhost = \"a.test\"\ntunnel = \"b.test\"\n{web}"),
        format!("{pass}tunnel = \"db.test\"\n"),
        web.to_owned(),
    ] {
        let told = told(&lacking);
        assert!(
            told.iter()
                .any(|line| line.contains("agents have nowhere to dial")),
            "{lacking}{told:?}"
        );
    }
}
