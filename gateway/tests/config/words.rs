//! What `check` says to who brings the words of another program, or takes a key for another thing.

use super::told;

/// The one line that has all of `parts`.
fn assert_said(text: &str, parts: &[&str]) {
    let told = told(text);
    let said = |line: &&String| parts.iter().all(|part| line.contains(part));
    assert!(told.iter().any(|line| said(&line)), "{parts:?}: {told:#?}");
}

#[test]
fn a_star_elsewhere_than_in_front_is_told_with_the_name_as_it_is_written() {
    let route = |key: &str| format!("[[routes]]\n{key}\nbackend = 'a'\n");
    for (text, name) in [
        (route("host = '*.*.a.test'"), "*.*.a.test"),
        (route("host = 'a.*.test'"), "a.*.test"),
        (route("host = 'w*.a.test'"), "w*.a.test"),
        (route("sni = '*.*.a.test'"), "*.*.a.test"),
        ("[tunnels]\nnames = '*.*.a.test'\n".to_owned(), "*.*.a.test"),
    ] {
        let star = format!("in \"{name}\" a star stands elsewhere than in front");
        assert_said(&text, &[&star, "one `*.` before a name", "*.example.com"]);
    }
    let one = "[[routes]]\ntunnel = '*.a.test'\n";
    assert_said(one, &["\"*.a.test\"", "one name is due, without a star"]);
}

#[test]
fn a_range_in_the_place_of_a_list_of_ranges_is_told_what_is_due() {
    for (key, range) in [
        ("allow", "10.0.0.0/8"),
        ("deny", "192.0.2.7"),
        ("deny", "2001:db8::/32"),
    ] {
        let text = format!("[listeners.a]\naddress = 0\n[sources]\n{key} = ['{range}']\n");
        let said = format!(
            "sources.{key}: {range} is a range of addresses, and the name of a file of them is due"
        );
        assert_said(&text, &[&said, "one to a line"]);
    }
    // A name that only looks like one is a file's.
    let text = "[listeners.a]\naddress = 0\n[sources]\ndeny = '10.0.0.0.txt'\n";
    assert_said(text, &["10.0.0.0.txt cannot be read: No such file"]);
}

#[test]
fn lists_that_cannot_be_read_are_told_where_nothing_listens() {
    let text = "[limits]\nmax_streams = 0\n[sources]\nallow = 'no.txt'\ndeny = 'none.txt'\nrequest_action = 'mark'\n\
                [times]\nhold = 'long'\n";
    for part in [
        "nothing listens for visitors",
        "a.toml:2:15: limits.max_streams: ",
        "a.toml:4:9: sources.allow: no.txt cannot be read",
        "a.toml:5:8: sources.deny: none.txt cannot be read",
        "a.toml:6:18: sources.request_action: this needs the field to write into",
        "a.toml:8:8: times.hold: ",
    ] {
        assert_said(text, &[part]);
    }
}

/// Where a key has one obvious counterpart, in the table where it stands, or else with its table.
#[test]
fn the_words_of_haproxy_and_nginx_are_told_what_they_are_called_here() {
    let listener = "[listeners.a]\n";
    let tcp = "[listeners.a]\nmode = 'tcp'\n";
    let server = "[backends.b.servers]\none = { address = '10.0.0.1:80', KEY = 1 }\n";
    for (table, word, meant) in [
        ("", "maxconn", "did you mean `limits.max_visitors`?"),
        ("", "frontend", "did you mean `listeners`?"),
        ("", "upstream", "did you mean `backends`?"),
        ("", "nbthread", "did you mean `workers`?"),
        (listener, "maxconn", "did you mean `limits.max_visitors`?"),
        (listener, "bind", "did you mean `address`?"),
        (listener, "ssl", "did you mean `certificates`?"),
        (listener, "crt", "did you mean `certificates`?"),
        (listener, "server_name", "did you mean `routes.host`?"),
        (
            listener,
            "default_backend",
            "did you mean `routes.backend`?",
        ),
        (
            listener,
            "accept-proxy",
            "did you mean `proxy = \"required\"`?",
        ),
        (tcp, "default_backend", "did you mean `backend`?"),
        (tcp, "\"timeout tunnel\"", "did you mean `idle_timeout`?"),
        (tcp, "send-proxy-v2", "did you mean `send_proxy = \"v2\"`?"),
        ("[tunnels]\n", "ca-file", "did you mean `ca`?"),
        ("[tunnels]\n", "crt", "did you mean `identity`?"),
        (
            "[times]\n",
            "client_timeout",
            "did you mean `stall_timeout` or `idle_timeout`?",
        ),
        (
            "[times]\n",
            "timeout_server",
            "did you mean `response_timeout`?",
        ),
        (
            "[times]\n",
            "connect_timeout",
            "did you mean `backends.NAME.connect_timeout`?",
        ),
        ("[times]\n", "http-request", "did you mean `head_timeout`?"),
        (
            "[times]\n",
            "http_keep_alive",
            "did you mean `idle_timeout`?",
        ),
        ("[limits]\n", "max_body_size", "did you mean `max_body`?"),
        ("[[routes]]\n", "hostname", "did you mean `host`?"),
        (server, "max_conn", "did you mean `max_connections`?"),
        (
            "[limits]\n",
            "client_max_body_size",
            "did you mean `max_body`?",
        ),
        ("[backends.b]\n", "ssl", "did you mean `tls`?"),
        (
            "[backends.b]\n",
            "ca_file",
            "did you mean `backends.NAME.tls.ca`?",
        ),
        (
            "[backends.b]\n",
            "maxconn",
            "did you mean `backends.NAME.servers.NAME.max_connections`?",
        ),
        ("[backends.b]\n", "option_httpchk", "did you mean `check`?"),
        (
            "[backends.b]\n",
            "timeout_server",
            "did you mean `response_timeout` or `inactivity_timeout`?",
        ),
        (
            "[backends.\"b.c\".check]\n",
            "inter",
            "did you mean `interval`?",
        ),
        (server, "maxconn", "did you mean `max_connections`?"),
        (server, "ssl", "did you mean `backends.NAME.tls`?"),
        (
            server,
            "send-proxy",
            "did you mean `backends.NAME.send_proxy = \"v1\"`?",
        ),
        ("[[routes]]\n", "server_name", "did you mean `host`?"),
        ("[[routes]]\n", "proxy_pass", "did you mean `backend`?"),
        ("[[routes]]\n", "rewrite", "there are no redirects"),
        (
            listener,
            "option_forwardfor",
            "X-Forwarded-For is sent without being asked for",
        ),
        // What has no counterpart is told what there is.
        (listener, "ca_file", "known here: address, "),
    ] {
        let text = match table.replace("KEY", word) {
            whole if whole != table => whole,
            table => format!("{table}{word} = 1\n"),
        };
        assert_said(&text, &[word, &format!(": unknown key; {meant}")]);
    }
}
