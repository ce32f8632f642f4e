//! TARGET as a user writes it: where the app is. Pure. Requests never add to it; what a visitor asks for can only ever
//! reach this one place.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the app is, and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub place: Place,
    pub speaks: Speaks,
}

/// What is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    Http,
    Https,
    /// Whatever the visitor and the app like, over TCP or a Unix socket.
    Tcp,
}

/// Where a connection to the app goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A bare port: this machine, by IPv4 and, failing that, by IPv6.
    Here(u16),
    /// A host name or an address.
    Host { host: String, port: u16 },
    /// A Unix socket.
    Socket(PathBuf),
}

impl Target {
    /// Whether the agent speaks TLS to it.
    pub fn tls(&self) -> bool {
        self.speaks == Speaks::Https
    }

    /// Whether it is no business of the agent's what is spoken there.
    pub fn is_tcp(&self) -> bool {
        self.speaks == Speaks::Tcp
    }

    /// What belongs into `Host` when the target's own name is wanted there. The port is left out where it is the
    /// scheme's (RFC 9110 §4.2.3).
    pub fn authority(&self) -> String {
        let usual = if self.tls() { 443 } else { 80 };
        match &self.place {
            Place::Socket(_) => "localhost".to_owned(),
            Place::Here(port) if *port == usual => "localhost".to_owned(),
            Place::Here(port) => format!("localhost:{port}"),
            Place::Host { host, port } if *port == usual => bracketed(host),
            Place::Host { host, port } => format!("{}:{port}", bracketed(host)),
        }
    }

    /// The name that the app's certificate must carry.
    pub fn server_name(&self) -> &str {
        match &self.place {
            Place::Host { host, .. } => host,
            Place::Here(_) | Place::Socket(_) => "localhost",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.speaks {
            Speaks::Http => "http://",
            Speaks::Https => "https://",
            Speaks::Tcp => "",
        };
        match &self.place {
            Place::Here(port) => write!(f, "{scheme}localhost:{port}"),
            Place::Host { host, port } => write!(f, "{scheme}{}:{port}", bracketed(host)),
            Place::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket(path, Speaks::Http);
        }
        let (tls, rest) = match text.split_once("://") {
            None => (false, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, _)) => {
                return Err(format!(
                    "`{scheme}` is not a scheme that an app is reached by; write http://HOST:PORT, https://HOST[:PORT] or unix:/PATH"
                ));
            }
        };
        let url = text.len() != rest.len();
        let (authority, beyond) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !matches!(beyond, "" | "/") {
            return Err(format!(
                "`{text}` has a path or a query (`{beyond}`); the visitor's path goes to the app unchanged, so leave it out and write only where the app is"
            ));
        }
        if authority.contains('@') {
            return Err(
                "a user name or password in TARGET would be shown to everybody who lists processes; leave it out"
                    .to_owned(),
            );
        }
        let usual = match (url, tls) {
            (true, true) => Some(443),
            (true, false) => Some(80),
            (false, _) => None,
        };
        let speaks = if tls { Speaks::Https } else { Speaks::Http };
        let place = place(text, authority, usual, speaks)?;
        Ok(Self { place, speaks })
    }
}

/// TARGET of `tidegate tcp`: a place, and nothing of what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpTarget(pub Target);

impl FromStr for TcpTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket(path, Speaks::Tcp).map(Self);
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(format!(
                "`{scheme}://` says what is spoken there, which is not looked at here; write HOST:PORT, or serve HTTP with `tidegate http`"
            ));
        }
        let place = place(text, text, None, Speaks::Tcp)?;
        Ok(Self(Target {
            place,
            speaks: Speaks::Tcp,
        }))
    }
}

fn socket(path: &str, speaks: Speaks) -> Result<Target, String> {
    if path.is_empty() {
        return Err("`unix:` needs the path of a socket, like unix:/run/app.sock".to_owned());
    }
    Ok(Target {
        place: Place::Socket(PathBuf::from(path)),
        speaks,
    })
}

fn place(text: &str, authority: &str, usual: Option<u16>, speaks: Speaks) -> Result<Place, String> {
    let (host, port) = split(authority).ok_or_else(|| {
        let like = match speaks {
            Speaks::Tcp => "5432, host:5432 or unix:/path",
            _ => "3000, host:3000, http://host:3000, https://host or unix:/path",
        };
        format!("`{text}` is not where an app can be; write {like}")
    })?;
    let port = match port {
        None => None,
        Some(port) => Some(match port.parse::<u16>() {
            Ok(0) => {
                return Err(
                    "nothing listens on port 0; write the port that the app listens on".to_owned(),
                );
            }
            Ok(number) if port.bytes().all(|octet| octet.is_ascii_digit()) => number,
            _ => {
                return Err(format!(
                    "`{port}` is not a port; write a number from 1 to 65535"
                ));
            }
        }),
    };
    match (host, port.or(usual)) {
        ("", Some(port)) => Ok(Place::Here(port)),
        (host, Some(port)) if is_host(host) => Ok(Place::Host {
            host: host.to_ascii_lowercase(),
            port,
        }),
        (host, None) if is_host(host) && speaks == Speaks::Tcp => {
            Err(format!("`{text}` says no port; write {host}:PORT"))
        }
        (host, None) if is_host(host) => Err(format!(
            "`{text}` says no port; write {host}:PORT, or a URL such as http://{host}"
        )),
        (host, _) => Err(format!("`{host}` is neither a host name nor an address")),
    }
}

/// Host and port of `3000`, `:3000`, `host`, `host:3000`, `[::1]`, `[::1]:3000`; `None` for what has no such shape.
fn split(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.is_empty() {
        return None;
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if rest.is_empty() => Some((host, None)),
            None => None,
        };
    }
    if authority.bytes().all(|octet| octet.is_ascii_digit()) {
        return Some(("", Some(authority)));
    }
    match authority.split_once(':') {
        None => Some((authority, None)),
        Some((_, port)) if port.contains(':') => None,
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// Whether this could be resolved; whether it can is found out by trying.
fn is_host(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok()
        || (!host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_')))
}

pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Target>().unwrap().to_string()
    }

    #[test]
    fn what_a_user_may_write() {
        for (text, meant) in [
            ("3000", "http://localhost:3000"),
            (":3000", "http://localhost:3000"),
            ("app:3000", "http://app:3000"),
            ("127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("[::1]:3000", "http://[::1]:3000"),
            ("http://App.example", "http://app.example:80"),
            ("http://app:8080/", "http://app:8080"),
            ("HTTPS://app", "https://app:443"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("http://3000", "http://localhost:3000"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
        ] {
            assert_eq!(shown(text), meant, "{text}");
        }
    }

    #[test]
    fn what_a_user_may_not_write_is_answered_with_a_reason() {
        for (text, reason) in [
            ("", "is not where an app can be"),
            ("app", "says no port"),
            ("0", "port 0"),
            ("65536", "is not a port"),
            ("app:+80", "is not a port"),
            ("app:", "is not a port"),
            ("http://app/path", "path or a query"),
            ("http://app:80?x=1", "path or a query"),
            ("3000/admin", "path or a query"),
            ("http://me:pw@app", "user name or password"),
            ("ftp://app", "not a scheme"),
            ("::1:3000", "is not where an app can be"),
            ("[::1", "is not where an app can be"),
            ("a b:80", "neither a host name"),
            ("unix:", "needs the path"),
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_tcp_target_is_a_place_and_nothing_else() {
        let read = |text: &str| text.parse::<TcpTarget>().map(|target| target.0.to_string());
        for (text, meant) in [
            ("5432", "localhost:5432"),
            (":5432", "localhost:5432"),
            ("DB.example:5432", "db.example:5432"),
            ("[::1]:5432", "[::1]:5432"),
            (
                "unix:/run/postgresql/.s.PGSQL.5432",
                "unix:/run/postgresql/.s.PGSQL.5432",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Ok(meant), "{text}");
        }
        for (text, reason) in [
            ("", "write 5432, host:5432 or unix:/path"),
            ("db", "says no port; write db:PORT"),
            ("http://db:1", "serve HTTP with `tidegate http`"),
            ("tcp://db:1", "write HOST:PORT"),
            ("db:1/x", "is not a port"),
            ("db:0", "port 0"),
            ("me@db:1", "neither a host name"),
            ("unix:", "needs the path"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_usual_port_is_not_part_of_host() {
        let authority = |text: &str| text.parse::<Target>().unwrap().authority();
        assert_eq!(authority("https://app"), "app");
        assert_eq!(authority("http://app:443"), "app:443");
        assert_eq!(authority("80"), "localhost");
        assert_eq!(authority("http://[::1]:81"), "[::1]:81");
    }
}
