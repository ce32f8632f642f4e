//! Keys as HAProxy and nginx call them, and what each is here. Pure; `table` asks before it looks for a slip of the hand.

use std::borrow::Cow;

/// Words of theirs, what they are wherever they stand, and what else they are in a table that has it.
type Word = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// `NAME` is a name of the user's own. A word has no more than one meaning in one table, or those that divide it.
const WORDS: &[Word] = &[
    // Where visitors come in, and where they go.
    (&["frontend", "frontends"], &["listeners"], &[]),
    (
        &["bind", "listen"],
        &["listeners.NAME.address"],
        &["tunnels.address"],
    ),
    (
        &["upstream", "upstreams"],
        &["backends"],
        &["routes.backend", "listeners.NAME.backend"],
    ),
    (
        &["default_backend", "use_backend", "proxy_pass"],
        &["routes.backend"],
        &["listeners.NAME.backend"],
    ),
    (
        &["location", "path_beg", "path_dir", "uri", "url"],
        &["routes.path"],
        &["backends.NAME.check.path"],
    ),
    (
        &["server_name", "hdr_host", "hostname"],
        &["routes.host"],
        &["backends.NAME.tls.server_name"],
    ),
    (
        &["sni", "verifyhost", "proxy_ssl_name"],
        &[],
        &["backends.NAME.tls.server_name"],
    ),
    // TLS.
    (
        &["ssl", "tls"],
        &[],
        &[
            "listeners.NAME.certificates",
            "tunnels.identity",
            "backends.NAME.tls",
        ],
    ),
    (
        &[
            "crt",
            "cert",
            "certificate",
            "ssl_certificate",
            "key",
            "ssl_certificate_key",
        ],
        &[],
        &[
            "listeners.NAME.certificates",
            "tunnels.identity",
            "backends.NAME.tls.client_certificate",
        ],
    ),
    (
        &["proxy_ssl_certificate", "proxy_ssl_certificate_key"],
        &["backends.NAME.tls.client_certificate"],
        &[],
    ),
    (
        &[
            "ca",
            "ca_file",
            "ssl_client_certificate",
            "ssl_trusted_certificate",
        ],
        &[],
        &["tunnels.ca", "backends.NAME.tls.ca"],
    ),
    (
        &["proxy_ssl_trusted_certificate"],
        &["backends.NAME.tls.ca"],
        &[],
    ),
    (
        &["verify", "proxy_ssl_verify"],
        &[],
        &["backends.NAME.tls.verify"],
    ),
    (
        &["alpn", "proto", "http2", "proxy_http_version"],
        &[],
        &["backends.NAME.protocol"],
    ),
    // PROXY headers, and whom to believe.
    (
        &["accept_proxy"],
        &["listeners.NAME.proxy = \"required\""],
        &["tunnels.proxy = \"required\""],
    ),
    (
        &["proxy_protocol"],
        &["listeners.NAME.proxy = \"required\""],
        &[
            "tunnels.proxy = \"required\"",
            "backends.NAME.send_proxy = \"v2\"",
        ],
    ),
    (&["send_proxy"], &["backends.NAME.send_proxy = \"v1\""], &[]),
    (
        &["send_proxy_v2", "send_proxy_v2_ssl", "send_proxy_v2_ssl_cn"],
        &["backends.NAME.send_proxy = \"v2\""],
        &[
            "listeners.NAME.send_proxy = \"v2\"",
            "routes.send_proxy = \"v2\"",
        ],
    ),
    (
        &["set_real_ip_from"],
        &["forwarding.trust"],
        &["listeners.NAME.proxy_from"],
    ),
    // How servers are used.
    (
        &[
            "maxconn",
            "max_conn",
            "max_conns",
            "worker_connections",
            "max_connections",
        ],
        &["limits.max_visitors"],
        &["backends.NAME.servers.NAME.max_connections"],
    ),
    (&["maxqueue"], &["backends.NAME.max_queued"], &[]),
    (
        &["least_conn", "leastconn"],
        &["backends.NAME.balance = \"least\""],
        &[],
    ),
    (
        &["ip_hash"],
        &["backends.NAME.balance = \"hash-source\""],
        &[],
    ),
    (&["proxy_next_upstream"], &["backends.NAME.retry_on"], &[]),
    (
        &["proxy_next_upstream_tries"],
        &["backends.NAME.retries"],
        &[],
    ),
    (
        &["max_fails", "error_limit"],
        &["backends.NAME.eject_after"],
        &[],
    ),
    (&["fail_timeout"], &["backends.NAME.eject_time"], &[]),
    // How they are checked.
    (
        &[
            "httpchk",
            "tcp_check",
            "health_check",
            "healthcheck",
            "check",
        ],
        &["backends.NAME.check"],
        &[],
    ),
    (&["inter"], &["backends.NAME.check.interval"], &[]),
    (&["fastinter"], &["backends.NAME.check.fast_interval"], &[]),
    (&["downinter"], &["backends.NAME.check.down_interval"], &[]),
    (&["rise"], &["backends.NAME.check.rise"], &[]),
    (&["fall"], &["backends.NAME.check.fall"], &[]),
    (&["check_ssl"], &["backends.NAME.check.tls"], &[]),
    (
        &["check_send_proxy"],
        &["backends.NAME.check.send_proxy"],
        &[],
    ),
    (&["check_timeout"], &["backends.NAME.check.timeout"], &[]),
    (&["nameserver", "nameservers"], &["resolver.servers"], &[]),
    // Times. HAProxy's `timeout client` is looked for as `client_timeout`.
    (
        &["client_timeout"],
        &["times.stall_timeout", "times.idle_timeout"],
        &["listeners.NAME.idle_timeout"],
    ),
    (
        &["server_timeout", "proxy_read_timeout"],
        &["times.response_timeout"],
        &[
            "backends.NAME.response_timeout",
            "backends.NAME.inactivity_timeout",
            "listeners.NAME.idle_timeout",
        ],
    ),
    (
        &["connect_timeout", "proxy_connect_timeout"],
        &["backends.NAME.connect_timeout"],
        &["listeners.NAME.connect_timeout"],
    ),
    (&["queue_timeout"], &["backends.NAME.queue_timeout"], &[]),
    (
        &["http_request_timeout", "client_header_timeout"],
        &["times.head_timeout"],
        &[],
    ),
    (
        &["client_body_timeout", "send_timeout", "proxy_send_timeout"],
        &["times.stall_timeout"],
        &[],
    ),
    (
        &["http_keep_alive_timeout", "keepalive_timeout"],
        &["times.idle_timeout"],
        &["backends.NAME.keep_alive"],
    ),
    (
        &["tunnel_timeout"],
        &["times.upgraded_timeout"],
        &[
            "backends.NAME.upgraded_timeout",
            "listeners.NAME.idle_timeout",
        ],
    ),
    (
        &["client_fin_timeout", "server_fin_timeout"],
        &["times.half_closed_timeout"],
        &["listeners.NAME.half_closed_timeout"],
    ),
    (&["tarpit_timeout"], &["sources.tarpit_time"], &[]),
    (
        &["ssl_handshake_timeout", "handshake_timeout"],
        &["times.tls_timeout"],
        &[],
    ),
    (
        &["inspect_delay", "preread_timeout"],
        &["listeners.NAME.hello_timeout"],
        &[],
    ),
    (
        &["hard_stop_after", "worker_shutdown_timeout"],
        &["times.drain"],
        &[],
    ),
    // How much.
    (
        &["client_max_body_size", "max_body_size"],
        &["limits.max_body"],
        &[],
    ),
    (
        &["bufsize", "tune_bufsize", "large_client_header_buffers"],
        &["limits.max_head"],
        &[],
    ),
    (&["tune_http_maxhdr"], &["limits.max_fields"], &[]),
    (
        &[
            "http2_max_concurrent_streams",
            "tune_h2_max_concurrent_streams",
        ],
        &["limits.max_streams"],
        &[],
    ),
    (
        &["limit_req", "limit_req_zone", "rate_limit"],
        &["sources.request_rate"],
        &["listeners.NAME.sources.request_rate"],
    ),
    (
        &["limit_conn", "limit_conn_zone"],
        &["limits.max_visitors_per_source"],
        &["listeners.NAME.sources.max_visitors_per_source"],
    ),
    // The program itself.
    (&["nbthread", "worker_processes"], &["workers"], &[]),
    (&["stats", "stub_status"], &["admin"], &[]),
    (&["stats_socket"], &["control"], &[]),
    (&["access_log"], &["no_access_log"], &[]),
    (&["error_log"], &["log_level"], &[]),
    (&["log_format"], &["log"], &[]),
];

/// What has no key, and why.
const WITHOUT: &[(&[&str], &str)] = &[
    (
        &["forwardfor", "proxy_set_header_x_forwarded_for"],
        "X-Forwarded-For is sent without being asked for (forwarding.no_x_forwarded leaves it out)",
    ),
    (
        &[
            "http_request",
            "http_response",
            "redirect",
            "rewrite",
            "return",
            "add_header",
            "set_header",
            "proxy_set_header",
            "proxy_hide_header",
        ],
        "there are no redirects, no rules for header fields and no other paths than visitors ask for; these are the app's",
    ),
];

/// What a key of the table at `path` would be called here, as the end of a sentence; `known` are that table's keys.
pub(super) fn counterpart(key: &str, path: &str, known: impl Fn(&str) -> bool) -> Option<String> {
    let word = match table(path).as_str() {
        // Every key there is a time, whether or not its name says so.
        "times" => as_a_time(word(key)),
        _ => word(key),
    };
    let is_it = |words: &&[&str]| words.contains(&&*word);
    if let Some((_, why)) = WITHOUT.iter().find(|(words, _)| is_it(words)) {
        return Some((*why).to_owned());
    }
    let (_, general, own) = WORDS.iter().find(|(words, ..)| is_it(words))?;
    let table = table(path);
    let here = |target: &str| {
        let rest = target.strip_prefix(&*table)?;
        let rest = if table.is_empty() {
            rest
        } else {
            rest.strip_prefix('.')?
        };
        let name = rest.split(' ').next()?;
        known(name).then(|| format!("`{rest}`"))
    };
    let all = || general.iter().chain(*own);
    let mut told: Vec<String> = all().filter_map(|target| here(target)).collect();
    if told.is_empty() {
        // Of the same backend, where it is one; what else a table could have is known to be missing in this one.
        let within = format!("{}.NAME.", table.split('.').next().unwrap_or_default());
        let deeper = |target: &&&str| {
            let name = target.split(' ').next().unwrap_or_default();
            target.starts_with(&within) && name.rsplit_once('.').map(|(of, _)| of) != Some(&*table)
        };
        told = all()
            .filter(deeper)
            .map(|target| format!("`{target}`"))
            .collect();
    }
    if told.is_empty() {
        told = general.iter().map(|target| format!("`{target}`")).collect();
    }
    (!told.is_empty()).then(|| format!("did you mean {}?", told.join(" or ")))
}

/// A key as it stands in [`WORDS`]: `timeout client`, `timeout-client` and `client_timeout` are one.
fn word(key: &str) -> Cow<'_, str> {
    let plain = key.to_ascii_lowercase().replace(['-', ' ', '.'], "_");
    let plain = plain.strip_prefix("option_").unwrap_or(&plain);
    match plain.strip_prefix("timeout_") {
        Some(of) => format!("{of}_timeout").into(),
        None => plain.to_owned().into(),
    }
}

/// HAProxy's `timeout http-request`, of which somebody has written the second half.
fn as_a_time(word: Cow<'_, str>) -> Cow<'_, str> {
    let time = format!("{word}_timeout");
    let is_known = WORDS.iter().any(|(words, ..)| words.contains(&&*time));
    if is_known { time.into() } else { word }
}

/// A table's path with `NAME` for what users name themselves: `backends."a.b".servers.one` is `backends.NAME.servers.NAME`.
fn table(path: &str) -> String {
    let mut quoted = false;
    let parts = path.split(|c: char| {
        quoted ^= c == '"';
        c == '.' && !quoted
    });
    let mut parts: Vec<&str> = parts.collect();
    if matches!(parts[0], "listeners" | "backends") {
        for at in [1, 3] {
            let is_named = at == 1 || parts.get(2) == Some(&"servers");
            if let Some(name) = parts.get_mut(at).filter(|_| is_named) {
                *name = "NAME";
            }
        }
    }
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use super::super::problems_of;
    use super::*;

    #[test]
    fn each_word_is_there_once_and_what_it_is_called_here_is_a_key() {
        let mut seen = std::collections::HashSet::new();
        let without = WITHOUT.iter().map(|(words, _)| *words);
        let words = WORDS.iter().map(|(words, ..)| *words);
        for known in words.chain(without).flatten() {
            assert_eq!(word(known), *known);
            assert!(seen.insert(known), "{known} twice");
        }
        for target in WORDS
            .iter()
            .flat_map(|(_, general, own)| [*general, *own].concat())
        {
            let key = target.split(' ').next().unwrap().replace("NAME", "n");
            let (table, key) = key.rsplit_once('.').unwrap_or(("", &key));
            let head = match table {
                "" => String::new(),
                "routes" => "[[routes]]\n".to_owned(),
                table => format!("[{table}]\n"),
            };
            let is_known = ["", "mode = 'tcp'\n", "sni = 'a.test'\n"]
                .iter()
                .any(|more| {
                    let told = problems_of(&format!("{head}{more}{key} = 1\n"));
                    !told
                        .iter()
                        .any(|told| told.text.starts_with("unknown key") && told.key.ends_with(key))
                });
            assert!(is_known, "{target}");
        }
    }

    #[test]
    fn a_table_is_known_whatever_its_name() {
        for (path, kind) in [
            ("", ""),
            ("times", "times"),
            ("listeners.web.sources", "listeners.NAME.sources"),
            ("backends.\"a.b\"", "backends.NAME"),
            ("backends.\"a.b\".servers.one", "backends.NAME.servers.NAME"),
            ("backends.a.check", "backends.NAME.check"),
        ] {
            assert_eq!(table(path), kind);
        }
    }
}
