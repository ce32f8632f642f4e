//! What an operator says of DNS: `[resolver]`. Plain and pure.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Who is asked for names with `slots`, and what becomes of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Asked in this order, beginning with the one that answered last; those of `/etc/resolv.conf` where there are none.
    pub servers: Vec<SocketAddr>,
    /// For each server's answer.
    pub timeout: Duration,
    /// How long an address stays in use that is in no answer any more.
    pub hold: Duration,
    /// An answer is kept for so long at least, whatever its TTL.
    pub least_ttl: Duration,
    /// And for so long at most.
    pub most_ttl: Duration,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(2),
            hold: Duration::from_secs(30),
            least_ttl: Duration::from_secs(1),
            most_ttl: Duration::from_secs(60),
        }
    }
}

impl Resolver {
    /// Everything that is wrong with it, each as a sentence that says what to write.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.most_ttl < self.least_ttl {
            found.push(format!(
                "an answer would be kept for {:?} at least and {:?} at most; most_ttl must not be below least_ttl",
                self.least_ttl, self.most_ttl
            ));
        }
        found
    }
}

/// A DNS server as an operator writes it: an address, and a port unless it is 53.
///
/// # Errors
/// A sentence that says what to write.
pub fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    let found = bare.or_else(|_no_address_alone| text.parse());
    match found {
        Ok(at) if at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast() => Ok(at),
        _ => Err(format!(
            "`{text}` is no DNS server; write its address, with a port unless it is 53: 10.0.0.2, 10.0.0.2:5353 or [2001:db8::2]:53"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dns_server_is_an_address_and_perhaps_a_port() {
        for (text, shown) in [
            ("10.0.0.2", "10.0.0.2:53"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("2001:db8::2", "[2001:db8::2]:53"),
            ("[2001:db8::2]:54", "[2001:db8::2]:54"),
        ] {
            assert_eq!(dns_server(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "dns.example.com",
            "10.0.0.2:0",
            "0.0.0.0",
            "224.0.0.1",
            "10.0.0.2:x",
        ] {
            assert!(
                dns_server(text).unwrap_err().contains("10.0.0.2:5353"),
                "{text}"
            );
        }
    }

    #[test]
    fn bounds_that_contradict_are_told() {
        let bad = Resolver {
            least_ttl: Duration::from_secs(61),
            ..Resolver::default()
        };
        assert_eq!(bad.problems().len(), 1);
        assert_eq!(Resolver::default().problems(), Vec::<String>::new());
    }
}
