//! Where a server is dialled.

use std::fmt;
use std::str::FromStr;

/// A host, by name or by number, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is no address; write HOST:PORT, 192.0.2.7:8080 or [2001:db8::7]:8080")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or_else(wrong)?;
                inner
                    .parse::<std::net::Ipv6Addr>()
                    .map_err(|_bad| wrong())?;
                inner
            }
            None => host,
        };
        let named = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || b"-._".contains(&octet));
        if !named && host.parse::<std::net::Ipv6Addr>().is_err()
            || host.contains(':') != text.starts_with('[')
            || !port.bytes().all(|octet| octet.is_ascii_digit())
        {
            return Err(wrong());
        }
        match port.parse() {
            Ok(0) | Err(_) => Err(format!(
                "`{port}` is not a port; write a number from 1 to 65535"
            )),
            Ok(port) => Ok(Self {
                host: host.to_ascii_lowercase(),
                port,
            }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("App.internal:8080", "app.internal:8080"),
            ("my_app:1", "my_app:1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "app",
            ":80",
            "app:",
            "app:0",
            "app:65536",
            "app:+80",
            "::1:80",
            "[::1]",
            "[a]:80",
            "a b:80",
            "a/b:80",
            "http://a:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
