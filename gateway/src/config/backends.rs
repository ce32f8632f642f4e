//! `[backends.NAME]`: servers that the gateway dials, and how it uses them. Pure; what becomes of it is `backend`'s.

use std::fmt::Display;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::Path;
use std::time::Duration;

use http::header::HeaderName;
use tidegate_shared::args::{duration, some_time, whole};
use tidegate_shared::proxy_header::Version;

use super::checks;
use super::listeners::{Said, is_plain, said};
use super::table::{Places, Problem, Spot, Table, Value};
use crate::backend::config::{
    Address, Backend, Balance, By, Family, Hash, Place, Protocol, Server, Terms, Tls, share,
};
use crate::backend::greeting::{SendProxy, Told};
use crate::backend::names::dns_name;
use crate::backend::retry::{Reason, RetryOn};

/// A backend, and where it stands.
#[derive(Clone, Debug)]
pub struct Placed {
    pub backend: Backend,
    pub spot: Spot,
    /// Where each of its keys stands.
    pub(super) places: Places,
    /// The keys that name files of `tls`, and where they stand: `ca` and `client_certificate`.
    pub files: Vec<(&'static str, Spot)>,
    /// Of its keys, those that could not be read in whole.
    unread: Vec<&'static str>,
}

/// What is wrong with one key only if another one is as it is.
const LEANING: [(&str, &str); 4] = [
    ("servers", "servers"),
    ("protocol", "tls"),
    ("check.tls", "tls"),
    ("check.send_proxy", "send_proxy"),
];

impl Placed {
    /// Something wrong with a file that a key of `tls` names.
    pub fn problem_of(&self, key: &str, text: impl Into<String>) -> Problem {
        let problem = self.problem(text);
        match self.files.iter().find(|(known, _)| *known == key) {
            Some((known, spot)) => Problem {
                spot: Some(spot.clone()),
                key: format!("{}.tls.{known}", problem.key),
                ..problem
            },
            None => problem,
        }
    }

    /// Everything that is wrong with it in itself, but for what may be so because something else could not be read.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let found = self.backend.problems().into_iter();
        let certain = found.filter(|wrong| {
            let mut leaning = LEANING.iter();
            !leaning.any(|(key, other)| wrong.key == *key && self.unread.contains(other))
        });
        certain.map(|wrong| self.problem_at(&wrong.key, wrong.text))
    }

    /// Something wrong with one of its keys, or with the table that it would be in.
    pub(super) fn problem_at(&self, key: &str, text: impl Into<String>) -> Problem {
        let whole = self.problem(text);
        let mut key = key;
        loop {
            if let Some(spot) = self.places.of(key) {
                return Problem {
                    spot: Some(spot.clone()),
                    key: format!("{}.{key}", whole.key),
                    ..whole
                };
            }
            match key.rsplit_once('.') {
                Some((table, _)) => key = table,
                None => return whole,
            }
        }
    }

    /// Something wrong with it.
    pub fn problem(&self, text: impl Into<String>) -> Problem {
        Problem {
            spot: Some(self.spot.clone()),
            key: format!("backends.{}", self.backend.name),
            text: text.into(),
        }
    }
}

/// Reads all of `[backends]`.
pub(super) fn read(table: Option<Table<'_>>, folder: &Path) -> Vec<Placed> {
    let entries = table.map(Table::entries).unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(name, value)| one(&name, value, folder))
        .collect()
}

fn one(name: &str, value: Value<'_>, folder: &Path) -> Option<Placed> {
    if !is_plain(name) {
        value.complain("a name is 1 to 64 letters, digits, `-`, `_` and `.`");
        return None;
    }
    let spot = value.spot();
    let mut table = value.table()?;
    let places = table.places();
    let mut unread = Vec::new();
    let balance = table.take("balance").and_then(balance).unwrap_or_default();
    let protocol = or(&mut table, "protocol", Protocol::default(), str::parse);
    let terms = terms(&mut table);
    let mut files = Vec::new();
    let before = table.complaints();
    let tls = table
        .take("tls")
        .and_then(|value| tls(value, folder, &mut files));
    unread.extend((table.complaints() > before).then_some("tls"));
    let send_proxy = send_proxy(&mut table).value;
    let is_lost = send_proxy.is_none() && places.of("send_proxy").is_some();
    unread.extend(is_lost.then_some("send_proxy"));
    let check = table.take("check").and_then(checks::check);
    let entries = table
        .table("servers")
        .map(Table::entries)
        .unwrap_or_default();
    let before = table.complaints();
    let servers: Vec<Server> = entries
        .into_iter()
        .filter_map(|(name, value)| server(&name, value))
        .collect();
    unread.extend((table.complaints() > before).then_some("servers"));
    table.finish(|key| {
        let told = "to listeners; what its servers are told is `send_proxy`";
        (key == "proxy").then(|| told.to_owned())
    });
    let backend = Backend {
        name: name.to_owned(),
        balance,
        tls,
        send_proxy,
        protocol,
        terms,
        check,
        servers,
        place: spot.to_string(),
    };
    Some(Placed {
        backend,
        spot,
        places,
        files,
        unread,
    })
}

/// A word, or `{ hash = "header", name = "x-user", most = 150 }`.
fn balance(value: Value<'_>) -> Option<Balance> {
    if !value.is_table() {
        return value.parsed(str::parse);
    }
    let mut table = value.table()?;
    let (hash, name) = (table.take("hash"), table.take("name"));
    let Some(hash) = hash else {
        table.complain("it has no `hash`; write hash = \"source\", \"header\" or \"cookie\"");
        return None;
    };
    let by = hash
        .text()
        .and_then(|known| by(known, &hash, name.as_ref(), &table));
    let most = number_or(&mut table, "most", None, |text| {
        whole(text, 101..=100_000).map(|most| u32::try_from(most).ok())
    });
    table.finish(|_| None);
    by.map(|by| Balance::Hash(Hash { by, most }))
}

/// What requests are known by, as `hash` and `name` of a table say.
fn by(known: &str, hash: &Value<'_>, name: Option<&Value<'_>>, table: &Table<'_>) -> Option<By> {
    // A cookie's name is a token (RFC 6265 §4.1.1), as a field's name is.
    let token = |name: &Value<'_>, what: &str| {
        name.text_parsed(|word| match word.parse::<HeaderName>() {
            Ok(field) => Ok((field, word.to_owned())),
            Err(_bad) => Err(format!("`{word}` is no name of a {what}")),
        })
    };
    match (known, name) {
        ("source", None) => Some(By::Source),
        ("source", Some(name)) => {
            name.complain("an address needs no name; leave it out");
            None
        }
        ("header" | "cookie", None) => {
            table.complain(format!("it has no `name`, that of the {known}"));
            None
        }
        ("header", Some(name)) => token(name, "header field").map(|(field, _)| By::Header(field)),
        ("cookie", Some(name)) => token(name, "cookie").map(|(_, word)| By::Cookie(word)),
        _ => {
            hash.complain(format!(
                "`{known}` is nothing that a request is known by; write source, header or cookie"
            ));
            None
        }
    }
}

/// What `parse` makes of a key's word; what is usual where there is none.
pub(super) fn or<T, E: Display>(
    table: &mut Table<'_>,
    key: &'static str,
    usual: T,
    parse: impl Fn(&str) -> Result<T, E>,
) -> T {
    let value = table.take(key);
    value.and_then(|value| value.parsed(parse)).unwrap_or(usual)
}

/// The same of a whole number.
pub(super) fn number_or<T, E: Display>(
    table: &mut Table<'_>,
    key: &'static str,
    usual: T,
    parse: impl Fn(&str) -> Result<T, E>,
) -> T {
    let value = table.take(key);
    let value = value.and_then(|value| value.number_parsed(parse));
    value.unwrap_or(usual)
}

fn terms(table: &mut Table<'_>) -> Terms {
    let usual = Terms::default();
    // As with the options of the same kind, 0 is for ever.
    let for_ever = |text: &str| -> Result<Option<Duration>, String> {
        Ok(Some(duration(text)?).filter(|time| !time.is_zero()))
    };
    let number = |text: &str| -> Result<u32, String> {
        u32::try_from(whole(text, 0..=1_000_000)?).map_err(|error| error.to_string())
    };
    let retry_on = table.take("retry_on").map(|value| {
        let reasons = value.list();
        let read = reasons
            .iter()
            .filter_map(|one| one.parsed(str::parse::<Reason>));
        read.collect::<RetryOn>()
    });
    Terms {
        retry_on: retry_on.unwrap_or(usual.retry_on),
        retries: number_or(table, "retries", usual.retries, number),
        connect: or(table, "connect_timeout", usual.connect, some_time),
        queue: or(table, "queue_timeout", usual.queue, duration),
        queued: number_or(table, "max_queued", usual.queued, |text| {
            whole(text, 0..=1_000_000).map(|most| usize::try_from(most).unwrap_or(usize::MAX))
        }),
        response: or(table, "response_timeout", usual.response, for_ever),
        inactivity: or(table, "inactivity_timeout", usual.inactivity, for_ever),
        upgraded: or(table, "upgraded_timeout", usual.upgraded, for_ever),
        keep_alive: or(table, "keep_alive", usual.keep_alive, duration),
        eject_after: number_or(table, "eject_after", usual.eject_after, number),
        eject: or(table, "eject_time", usual.eject, some_time),
        eject_most: or(table, "eject_time_most", usual.eject_most, some_time),
        slow_start: or(table, "slow_start", usual.slow_start, duration),
    }
}

/// `tls = true`, or a table that says more.
fn tls(value: Value<'_>, folder: &Path, files: &mut Vec<(&'static str, Spot)>) -> Option<Tls> {
    if !value.is_table() {
        return value.boolean()?.then(Tls::default);
    }
    let mut table = value.table()?;
    let mut file = |key: &'static str| {
        let value = table.take(key)?;
        files.push((key, value.spot()));
        Some(folder.join(value.text()?))
    };
    let (ca, client_certificate) = (file("ca"), file("client_certificate"));
    let tls = Tls {
        ca,
        server_name: table
            .take("server_name")
            .and_then(|value| Some(value.text()?.to_owned())),
        client_certificate,
        unverified: !table
            .take("verify")
            .and_then(|value| value.boolean())
            .unwrap_or(true),
    };
    table.finish(|_| None);
    Some(tls)
}

/// What servers are told of whose connection it is: of a backend, or beside `servers` in TCP mode.
pub(super) fn send_proxy(table: &mut Table<'_>) -> Said<Option<SendProxy>> {
    let version = said(table, "send_proxy", |value| value.parsed(version));
    let tlvs = said(table, "proxy_tlvs", |value| {
        let all = value.list();
        let told = all.iter().filter_map(|one| one.parsed(str::parse));
        Some(told.collect::<Vec<Told>>())
    });
    let lacking = match version.value {
        _ if !tlvs.given => None,
        Some(Version::V1) => {
            Some("these need room that only version 2 has; write send_proxy = \"v2\"")
        }
        None if !version.given => {
            Some("these are what a header says, and none is sent; add send_proxy = \"v2\"")
        }
        _ => None,
    };
    if let Some(text) = lacking {
        table.complain_of("proxy_tlvs", text);
    }
    let place = version.named.to_string();
    let plan = version.value.map(|version| SendProxy {
        version,
        tlvs: match (version, tlvs.value) {
            (Version::V1, _) => Vec::new(),
            (Version::V2, Some(chosen)) => chosen,
            (Version::V2, None) => Told::USUAL.to_vec(),
        },
        chosen: tlvs.given,
        place,
    });
    Said {
        given: version.given || tlvs.given,
        value: plan,
        named: version.named,
    }
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "v1" => Ok(Version::V1),
        "v2" => Ok(Version::V2),
        _ => Err(format!(
            "`{text}` is no version of the PROXY protocol; write \"v1\" or \"v2\", or leave it out where no header is to be sent"
        )),
    }
}

/// `one = "10.0.0.1:8080"`, or a table that says more.
fn server(name: &str, value: Value<'_>) -> Option<Server> {
    if !is_plain(name) {
        value.complain("a name is 1 to 64 letters, digits, `-`, `_` and `.`");
        return None;
    }
    if !value.is_table() {
        return Some(Server::new(name, value.parsed(str::parse)?));
    }
    let mut table = value.table()?;
    let mut server = place(&mut table).map(|place| Server::at(name, place));
    let weight = number_or(&mut table, "weight", 1, share);
    let backup = table.take("backup").and_then(|value| value.boolean());
    if matches!(&server, Some(server) if matches!(server.place, Place::Services { .. })) {
        for value in ["weight", "backup"]
            .into_iter()
            .filter_map(|key| table.take(key))
        {
            value.complain("this comes from the SRV records; leave it out");
        }
    }
    let most = number_or(&mut table, "max_connections", None, |text| {
        whole(text, 0..=1_000_000)
            .map(|most| NonZeroUsize::new(usize::try_from(most).unwrap_or(usize::MAX)))
    });
    if let Some(server) = &mut server {
        server.weight = weight;
        server.backup = backup.unwrap_or_default();
        server.max_connections = most;
    }
    table.finish(|_| None);
    server
}

/// Slots of one name; a backend with more servers is another machine's work.
const MOST_SLOTS: u64 = 256;

/// Where a server is: an address, or what DNS says of a name.
fn place(table: &mut Table<'_>) -> Option<Place> {
    let (address, srv) = (table.take("address"), table.take("srv"));
    let (slots, family) = (table.take("slots"), table.take("family"));
    let found = slots.is_some() || srv.is_some();
    if let (Some(family), false) = (&family, found) {
        family.complain("this changes nothing without `slots`");
    }
    let family = family.and_then(|value| value.parsed(str::parse::<Family>));
    let family = family.unwrap_or_default();
    let count = |value: &Value<'_>| {
        value.number_parsed(|text| -> Result<NonZeroU16, String> {
            let number = u16::try_from(whole(text, 1..=MOST_SLOTS)?);
            let slots = number.ok().and_then(NonZeroU16::new);
            slots.ok_or_else(|| format!("write 1 to {MOST_SLOTS}"))
        })
    };
    let slots = slots.as_ref().map(count);
    match (address, srv) {
        (Some(_), Some(srv)) => {
            srv.complain(
                "a server has an `address` or an `srv`, not both; leave one of the two out",
            );
            None
        }
        (None, None) => {
            table.complain("it has no `address`, such as \"10.0.0.1:8080\"");
            None
        }
        (Some(address), None) => {
            let Some(slots) = slots else {
                return address.parsed(str::parse).map(Place::Fixed);
            };
            let name = address.parsed(named)?;
            Some(Place::Addresses {
                name,
                family,
                slots: slots?,
            })
        }
        (None, Some(srv)) => {
            let service = srv.parsed(service);
            if slots.is_none() {
                srv.complain(
                    "it has no `slots`: how many of the service's addresses are used at once, such as slots = 5",
                );
            }
            Some(Place::Services {
                service: service?,
                family,
                slots: slots??,
            })
        }
    }
}

/// The address of a server that DNS is asked for.
fn named(text: &str) -> Result<Address, String> {
    let mut address: Address = text.parse()?;
    if address.host.parse::<IpAddr>().is_ok() {
        return Err(format!(
            "`{}` is an address already, and `slots` is for a name that has several in DNS; leave `slots` out",
            address.host
        ));
    }
    address.host = whole_name(&address.host)?;
    Ok(address)
}

/// The name of a service in DNS.
fn service(text: &str) -> Result<String, String> {
    let words: Vec<&str> = text.splitn(3, '.').collect();
    match words[..] {
        [service, protocol, _domain] if service.starts_with('_') && protocol.starts_with('_') => {
            whole_name(text)
        }
        _ => Err(format!(
            "`{text}` is no service; write one like _http._tcp.app.internal, whose SRV records say host and port"
        )),
    }
}

/// Without the dot at the end that says that it is whole.
fn whole_name(text: &str) -> Result<String, String> {
    dns_name(text)?;
    Ok(text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase())
}
