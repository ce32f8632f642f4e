//! That nothing is left out, whatever the reader of a file learns to read.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::super::file::keys_known;
use super::super::{Cli, Command, Config};

/// Says as little as can be.
const SPARSE: &str = r#"
[listeners.web]
address = 0
[listeners.pass]
address = 0
mode = "tcp"
backend = "b"
[backends.b.servers]
a = "10.0.0.1:80"
[tunnels]
clear = 0
clear_names = "a.test"
[[routes]]
backend = "b"
[[routes]]
sni = "a.test"
tunnel = "a.test"
"#;

/// Has each table that may be one.
const TABLES: &str = r#"
[listeners.web]
address = 0
[listeners.web.sources]
request_rate = "1/s"
[listeners.pass]
address = 0
mode = "tcp"
servers = "10.0.0.1:80"
[listeners.pass.sources]
connection_rate = "1/s"
[forwarding]
[proxy_protocol]
[limits]
[sources]
[times]
[tunnels]
[resolver]
[[routes]]
headers = { a = "b" }
backend = "b"
[backends.b]
balance = { hash = "source" }
tls = { verify = true }
check = { interval = "2s" }
servers = { a = { address = "10.0.0.1:80" } }
[backends.c]
check = { path = "/" }
[backends.c.servers.a]
srv = "_http._tcp.a.test"
slots = 2
[[routes]]
host = "c.test"
backend = "c"
"#;

/// What is printed of a file, each line below the head of its table.
fn shown(text: &str) -> Vec<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, text).unwrap();
    let words = ["tidegated", "config", "--effective", "--config"].map(OsString::from);
    let words: Vec<OsString> = words.into_iter().chain([file.into()]).collect();
    let cli: Cli = clap::Parser::try_parse_from(&words).unwrap();
    let Command::Config(asked) = cli.command else {
        panic!("{words:?}");
    };
    let config = Config::load(&asked.run, &words).unwrap();
    let mut head = String::new();
    let mut lines = Vec::new();
    for line in config.to_text(true).lines().skip(1) {
        let plain = line.strip_prefix("# ").unwrap_or(line);
        if plain.starts_with('[') {
            let name = plain.split(']').next().unwrap_or_default();
            head = name.trim_start_matches('[').to_owned();
        }
        lines.push((head.clone(), plain.to_owned()));
    }
    lines
}

/// Whether a key of a table has a value or a word there, and where that comes from.
fn is_told(lines: &[(String, String)], table: &str, key: &str) -> bool {
    let whole = if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    };
    let own_table = |head: &str| head == whole || head.starts_with(&format!("{whole}."));
    let names = |text: &str| {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.any(|word| word == key)
    };
    let (outer, last) = table.rsplit_once('.').unwrap_or(("", table));
    lines.iter().any(|(head, line)| {
        let Some((setting, comment)) = line.split_once(" # ") else {
            return own_table(head);
        };
        let is_said = !comment.trim().is_empty();
        let own = head == table && setting.starts_with(&format!("{key} = "));
        let on_one_line = head == outer && setting.starts_with(&format!("{last} = {{"));
        own_table(head) || is_said && (own || on_one_line && names(line))
    })
}

/// A key that is added to the reader and not here fails this.
#[test]
fn every_key_that_is_read_is_told_with_its_source() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for (text, tables) in [(SPARSE, 6), (TABLES, 18)] {
        let lines = shown(text);
        let known = keys_known(text, run);
        assert!(known.len() >= tables, "{known:?}");
        for (table, keys) in known {
            for key in keys {
                assert!(
                    is_told(&lines, &table, &key),
                    "{key} of [{table}]: {lines:#?}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_set_has_a_word_and_what_is_inherited_its_source() {
    let text = format!(
        "{SPARSE}[proxy_protocol]\nproxy_from = \"10.0.0.0/8\"\n[sources]\nconnection_rate = \"5/s\"\n"
    )
    .replace("[tunnels]\n", "[tunnels]\nproxy = \"required\"\n");
    let lines = shown(&text);
    for (table, setting, source) in [
        ("", "admin = none", "default; --admin would set it"),
        (
            "times",
            "half_closed_timeout = 10s, and 60s for what is upgraded",
            "default",
        ),
        ("tunnels", "names = any name", "default"),
        (
            "tunnels",
            "proxy_from = [\"10.0.0.0/8\"]",
            "inherited from proxy_protocol.proxy_from (",
        ),
        (
            "listeners.web",
            "proxy_from = [\"10.0.0.0/8\"]",
            "inherited from proxy_protocol.proxy_from (",
        ),
        (
            "listeners.web",
            "certificates = none: clear text",
            "default",
        ),
        (
            "listeners.web.sources",
            "connection_rate = \"5/s\"",
            "inherited from sources.connection_rate (",
        ),
        (
            "listeners.web.sources",
            "request_rate = any number",
            "inherited from sources.request_rate (default)",
        ),
        (
            "listeners.web.sources",
            "max_visitors_per_source = 4096",
            "inherited from limits.max_visitors_per_source (default)",
        ),
        (
            "listeners.pass.sources",
            "request_rate = none",
            "no requests in TCP mode",
        ),
        ("listeners.pass", "servers = none", "default"),
        ("routes", "host = any host", "default"),
        (
            "routes",
            "listeners = every listener in HTTP mode",
            "default",
        ),
        ("backends.b", "tls = none: clear text", "default"),
        ("backends.b", "check = none", "default"),
        ("resolver", "servers = those of /etc/resolv.conf", "default"),
    ] {
        let is = |(head, line): &(String, String)| {
            let (known, comment) = line.split_once(" # ").unwrap_or((line, ""));
            head == table && known.trim_end() == setting && comment.starts_with(source)
        };
        assert!(lines.iter().any(is), "{table}: {setting}: {lines:#?}");
    }
}
