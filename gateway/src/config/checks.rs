//! `check` of a backend: a word, or a table that says more. Pure; what becomes of it is `backend::check`'s.

use http::header::HeaderValue;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use tidegate_shared::args::{some_time, whole};

use super::backends::{number_or, or};
use super::table::{Table, Value};
use crate::backend::check::terms::{Ask, Check, Statuses, path};

/// `"tcp"`, `"/health"`, or a table.
pub(super) fn check(value: Value<'_>) -> Option<Check> {
    if value.is_table() {
        return Some(table(value.table()?));
    }
    let ask = value.parsed(|word| match word {
        "tcp" => Ok(None),
        _ if word.starts_with('/') => path(word).map(|path| Some(Ask::of(path))),
        _ => Err(format!(
            "`{word}` is no check; write \"tcp\", a path like \"/health\", or a table"
        )),
    })?;
    Some(Check {
        ask,
        ..Check::default()
    })
}

fn table(mut table: Table<'_>) -> Check {
    let usual = Check::default();
    let ask = ask(&mut table);
    let tls = table.take("tls").and_then(|value| value.boolean());
    let send_proxy = table.take("send_proxy").and_then(|value| value.boolean());
    let port = number_or(&mut table, "port", None, |text| {
        whole(text, 1..=65_535).map(|port| u16::try_from(port).ok())
    });
    let interval = or(&mut table, "interval", usual.interval, some_time);
    let times = |text: &str| -> Result<u32, String> {
        u32::try_from(whole(text, 1..=1_000)?).map_err(|error| error.to_string())
    };
    let check = Check {
        ask,
        port,
        tls,
        send_proxy,
        interval,
        fast: or(&mut table, "fast_interval", interval, some_time),
        down: or(&mut table, "down_interval", interval, some_time),
        timeout: or(&mut table, "timeout", usual.timeout, some_time),
        rise: number_or(&mut table, "rise", usual.rise, times),
        fall: number_or(&mut table, "fall", usual.fall, times),
    };
    table.finish(|_| None);
    check
}

/// What stands in a request; only with `path` there is one.
fn ask(table: &mut Table<'_>) -> Option<Ask> {
    let asked = table.take("path");
    let of_requests = ["method", "host", "status"].map(|key| table.take(key));
    let Some(asked) = asked else {
        for value in of_requests.iter().flatten() {
            value.complain("this is of a request, and a check without `path` sends none; add path = \"/\", or another");
        }
        return None;
    };
    // What is wrong with one key hides nothing of another.
    let mut ask = Ask::of(asked.parsed(path).unwrap_or(PathAndQuery::from_static("/")));
    let [said, host, status] = of_requests;
    if let Some(said) = said.and_then(|value| value.text_parsed(method)) {
        ask.method = said;
    }
    ask.host = host.and_then(|value| value.text_parsed(authority));
    if let Some(status) = status {
        let all = status.some(
            "an empty list is no status, and every check would fail; write those of a server that is well, such as \"200-399\", or leave it out",
        );
        let all = all
            .iter()
            .filter_map(|one| one.parsed(str::parse::<Statuses>));
        ask.statuses = Statuses::union(all);
    }
    Some(ask)
}

fn method(word: &str) -> Result<Method, String> {
    match word.parse::<Method>() {
        Ok(method) if method != Method::CONNECT => Ok(method),
        _ => Err(format!(
            "`{word}` is no method to check with; write GET, HEAD or OPTIONS"
        )),
    }
}

/// What Host may be: a host, and a port where it has one.
fn authority(word: &str) -> Result<HeaderValue, String> {
    let wrong = || format!("`{word}` is no host to ask for; write it like app.example.com");
    let parsed: Uri = word.parse().map_err(|_bad| wrong())?;
    if parsed
        .authority()
        .is_none_or(|named| named.as_str() != word || word.contains('@'))
    {
        return Err(wrong());
    }
    HeaderValue::from_str(word).map_err(|_bad| wrong())
}
