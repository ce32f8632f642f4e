//! Durations, sizes and addresses as a user writes them on a command line: value parsers for clap, pure. Reading the command
//! line itself, and what is said where it is a mistake, is `line`'s.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::window;

mod line; // the command line and the variables beside it

pub use line::{Variables, again, answer, read};

/// The longest time that an option takes. Any longer one is a slip of the hand, and sums of times stay far from overflow.
pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// The shortest time in which something that must happen can be expected.
pub const SHORTEST: Duration = Duration::from_millis(50);

/// `250ms`, `5s`, `2m`, `1h`, `7d`; a bare number is seconds, and so is `0`. At most [`LONGEST`].
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a duration; write it like 250ms, 5s, 2m, 1h or 7d");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let scale_ms: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(scale_ms)
        .map(Duration::from_millis)
        .filter(|time| *time <= LONGEST)
        .ok_or_else(|| format!("`{text}` is too long; it must be 365d or less"))
}

/// The same for what cannot happen in no time at all: from [`SHORTEST`].
///
/// # Errors
/// A sentence that names the range.
pub fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time < SHORTEST {
        return Err(format!(
            "`{text}` is too short; it must be from 50ms to 365d"
        ));
    }
    Ok(time)
}

/// A whole number within a range.
///
/// # Errors
/// A sentence that names the range.
pub fn whole(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "`{text}` is not a whole number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

/// `65536`, `64k`, `64KB`, `64KiB`, `16M`, `16MiB`, `1G`: in octets, and multiples are binary however they are spelt.
///
/// # Errors
/// A sentence that says what a size looks like.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is not a size; write it like 65536, 64k or 16MiB");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let scale: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(scale).ok_or_else(wrong)
}

/// What a peer may send ahead on one stream: a size from [`window::BASE`] to what all streams share.
///
/// # Errors
/// A sentence that names the range.
pub fn window(text: &str) -> Result<u32, String> {
    u32::try_from(size(text)?)
        .ok()
        .filter(|octets| (window::BASE..=window::CONNECTION).contains(octets))
        .ok_or_else(|| {
            format!(
                "`{text}` is not a window; it must be from {}KiB to {}MiB",
                window::BASE >> 10,
                window::CONNECTION >> 20
            )
        })
}

/// `0.0.0.0:80`, `[::1]:80`, `localhost:80`, `:80` or `80`; the last two mean every address of this machine.
///
/// # Errors
/// A sentence that says what an address looks like.
pub fn listen(text: &str) -> Result<SocketAddr, String> {
    address(text, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
}

/// The same for what is nobody else's business: `:9900` and `9900` mean loopback.
///
/// # Errors
/// A sentence that says what an address looks like.
pub fn listen_loopback(text: &str) -> Result<SocketAddr, String> {
    address(text, IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn address(text: &str, unnamed: IpAddr) -> Result<SocketAddr, String> {
    let port = text
        .strip_prefix(':')
        .or_else(|| text.strip_prefix("*:"))
        .unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::new(unnamed, port));
    }
    if let Some(port) = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok())
    {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let address = text.parse().map_err(|_| {
        let like = match interface_by_name(text) {
            Some((ip, port)) => format!(
                ": an interface stands behind `%` by its number; write it as in [{ip}%2]:{port} (`ip link` shows them)"
            ),
            None => "; write it like 127.0.0.1:8080, [::]:443, localhost:80 or 8080".to_owned(),
        };
        format!("`{text}` is not an address to listen on{like}")
    })?;
    match unfit(address) {
        Some(why) => Err(format!("`{text}` is not an address to listen on: {why}")),
        None => Ok(address),
    }
}

/// Address and port, where something else than a number is behind `%`: elsewhere an interface goes by its name there.
fn interface_by_name(text: &str) -> Option<(Ipv6Addr, u16)> {
    let (inside, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (ip, _interface) = inside.split_once('%')?;
    Some((ip.parse().ok()?, port.parse().ok()?))
}

/// Why the system lets nobody listen on an address, whichever machine it is.
fn unfit(address: SocketAddr) -> Option<String> {
    let port = address.port();
    match address {
        SocketAddr::V6(at) => {
            let ip = at.ip();
            if let Some(v4) = ip.to_ipv4_mapped() {
                return Some(format!("it is one of IPv4; write {v4}:{port}"));
            }
            if ip.is_unicast_link_local() && at.scope_id() == 0 {
                return Some(format!(
                    "it is one of a link, and each interface has its own; write the interface's number behind it, as in [{ip}%2]:{port} (`ip link` shows them)"
                ));
            }
            if !ip.is_unicast_link_local() && !ip.is_multicast() && at.scope_id() != 0 {
                return Some(format!(
                    "it is the same on every interface, and the number of one means nothing behind it; write [{ip}]:{port}"
                ));
            }
            ip.is_multicast()
                .then(|| "it is one of a group, to which nobody can connect".to_owned())
        }
        SocketAddr::V4(at) => (at.ip().is_multicast() || at.ip().is_broadcast())
            .then(|| "it is one of a group, to which nobody can connect".to_owned()),
    }
}

/// Exit status for a mistake of the user's (sysexits.h, `EX_USAGE`).
pub const USAGE: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_told_the_range() {
        assert_eq!(duration("365d"), Ok(LONGEST));
        for long in ["366d", "9999999999999", "213503982334d"] {
            let told = duration(long).unwrap_err();
            assert!(told.contains("365d or less"), "{told}");
        }
        assert_eq!(some_time("50ms"), Ok(SHORTEST));
        assert!(some_time("0").unwrap_err().contains("from 50ms to 365d"));
        assert_eq!(window("512k"), Ok(window::BASE));
        assert_eq!(window("128MiB"), Ok(window::CONNECTION));
        for wrong in ["0", "511KiB", "129M", "4G", "99G"] {
            let told = window(wrong).unwrap_err();
            assert!(told.contains("from 512KiB to 128MiB"), "{told}");
        }
        assert_eq!(whole("7", 0..=7), Ok(7));
        for wrong in ["8", "-1", "1.5", "", "99999999999999999999"] {
            let told = whole(wrong, 0..=7).unwrap_err();
            assert!(told.contains("from 0 to 7"), "{told}");
        }
    }

    #[test]
    fn durations_sizes_and_addresses() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in [
            "",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("64k"), Ok(65_536));
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("10KB"), Ok(10 << 10));
        assert!(size("1T").is_err());
        assert_eq!(
            listen_loopback("9900").unwrap().to_string(),
            "127.0.0.1:9900"
        );
        assert_eq!(listen(":80").unwrap().to_string(), "[::]:80");
        assert_eq!(listen("localhost:0").unwrap().to_string(), "127.0.0.1:0");
        for (unfit, advice) in [
            ("[::ffff:127.0.0.1]:80", "write 127.0.0.1:80"),
            ("[fe80::1]:80", "as in [fe80::1%2]:80"),
            (
                "[fe80::1%eth0]:80",
                "by its number; write it as in [fe80::1%2]:80",
            ),
            ("[::1%2]:80", "write [::1]:80"),
            ("[2001:db8::1%2]:80", "write [2001:db8::1]:80"),
            ("[ff02::1]:80", "nobody can connect"),
            ("[ff02::1%2]:80", "nobody can connect"),
            ("224.0.0.1:80", "nobody can connect"),
            ("255.255.255.255:80", "nobody can connect"),
        ] {
            let told = listen(unfit).unwrap_err();
            assert!(told.contains(unfit) && told.contains(advice), "{told}");
        }
        assert!(listen("[fe80::1%2]:80").is_ok());
        assert!(
            listen("example.com:80").is_err()
                && listen("127.0.0.1").is_err()
                && listen("1:2:3").is_err()
        );
    }
}
