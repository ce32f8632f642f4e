//! Which server an order was for. Pure.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

const OCTETS: usize = 16;

/// A backend's name, a server's name and the address that the configuration gives it, as a digest: what is kept of an address can
/// be compared with one that is declared, and cannot be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; OCTETS]);

impl Identity {
    pub fn of(backend: &str, server: &str, declared: &str) -> Self {
        let mut text = Vec::new();
        for part in [backend, server, declared] {
            text.extend_from_slice(&(part.len() as u64).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        let whole = digest(&SHA256, &text);
        let mut short = [0; OCTETS];
        // SHA-256 has twice as many.
        short.copy_from_slice(&whole.as_ref()[..OCTETS]);
        Self(short)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for Identity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let octets = HEXLOWER.decode(text.as_bytes()).ok();
        octets
            .and_then(|octets| Some(Self(octets.try_into().ok()?)))
            .ok_or_else(|| format!("`{text}` is not 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_counts_and_none_runs_into_the_next() {
        let one = Identity::of("alb", "one", "10.0.0.1:80");
        assert_eq!(one.to_string().parse(), Ok(one));
        for (backend, server, declared) in [
            ("alb2", "one", "10.0.0.1:80"),
            ("alb", "two", "10.0.0.1:80"),
            ("alb", "one", "10.0.0.1:8080"),
            ("albo", "ne", "10.0.0.1:80"),
        ] {
            assert_ne!(Identity::of(backend, server, declared), one);
        }
        for text in ["", "00", "10.0.0.1:80", &one.to_string().to_uppercase()] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}
