//! A file's certificates in words: what an operator wants to know when an agent is refused.
//!
//! Pure, apart from reading the file. Says what the gateway would file the certificate under by asking the same code
//! that the gateway asks.

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use tidegate_shared::tls::{Identity, PemFile, TlsFault};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::peer::{self, PeerCertificate};

/// Describes every certificate in `path`, and whether the key in it, if any, belongs to one of them.
///
/// # Errors
/// The file cannot be read, is not PEM, or holds neither certificate nor key.
pub fn describe(path: &Path, at: SystemTime) -> Result<String, TlsFault> {
    let file = PemFile::read(path)?;
    if file.certificates.is_empty() {
        return Err(TlsFault::NoCertificate(path.into()));
    }
    let mut out = String::new();
    let total = file.certificates.len();
    for (index, certificate) in file.certificates.iter().enumerate() {
        line(
            &mut out,
            0,
            "certificate",
            &format!("{} of {total}", index + 1),
        );
        describe_one(&mut out, certificate, at);
    }
    line(&mut out, 0, "private key", &describe_key(path, &file));
    Ok(out)
}

/// `2027-11-20 22:50:00 UTC`.
#[must_use]
pub fn date(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

fn describe_one(out: &mut String, der: &CertificateDer<'_>, at: SystemTime) {
    let certificate = match peer::parse(der) {
        Ok(certificate) => certificate,
        Err(refusal) => return line(out, 2, "refused", &refusal.to_string()),
    };
    let facts = peer::facts(&certificate);
    line(
        out,
        2,
        "subject",
        &peer::distinguished_name(certificate.subject()),
    );
    line(out, 2, "names", &sans(&certificate));
    line(out, 2, "issuer", &facts.issuer);
    let valid = format!(
        "{} to {} ({})",
        date(facts.not_before),
        date(facts.not_after),
        remaining(facts.not_before, facts.not_after, at)
    );
    line(out, 2, "valid", &valid);
    line(out, 2, "key type", &facts.key_type);
    line(out, 2, "usage", &usage(&certificate));
    line(out, 2, "SHA-256", &facts.fingerprint_sha256);
    if certificate.is_ca() {
        return line(
            out,
            2,
            "role",
            "an authority: gateways and agents trust it by --ca",
        );
    }
    let (from, until) = (facts.not_before, facts.not_after);
    let out_of_date = (at < from || until < at).then(|| remaining(from, until, at));
    let in_its_time = |role: Result<String, String>| match (role, &out_of_date) {
        (Ok(role), None) => role,
        (Ok(role), Some(why)) => format!("refused: {why}; in its time {role}"),
        (Err(refusal), _) => refusal,
    };
    line(out, 2, "as an agent", &in_its_time(as_agent(der)));
    line(out, 2, "as a gateway", &in_its_time(as_gateway(der)));
}

fn line(out: &mut String, indent: usize, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{:indent$}{key:width$} {value}",
        "",
        width = 14 - indent
    );
}

/// What it would be filed under, or why it would not.
fn as_agent(der: &[u8]) -> Result<String, String> {
    match (
        PeerCertificate::read(der, false),
        PeerCertificate::read(der, true),
    ) {
        (Ok(certificate), _) => Ok(format!("filed under {}", joined(&certificate.names))),
        (Err(_), Ok(certificate)) => Ok(format!(
            "filed under {}, but only by a gateway that was told --allow-wildcards",
            joined(&certificate.names)
        )),
        (_, Err(refusal)) => Err(format!("refused: {refusal}")),
    }
}

fn as_gateway(der: &[u8]) -> Result<String, String> {
    match peer::gateway_identity(der) {
        Ok(gateway) => Ok(format!("answers to {}", gateway.names.join(", "))),
        Err(refusal) => Err(format!("refused by agents: {refusal}")),
    }
}

fn joined(names: &[impl ToString]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn sans(certificate: &X509Certificate<'_>) -> String {
    let names = match peer::server_names(certificate) {
        Ok(names) => names,
        Err(refusal) => return refusal.to_string(),
    };
    let all = match certificate.subject_alternative_name() {
        Ok(Some(sans)) => &sans.value.general_names[..],
        _ => &[],
    };
    let others = all
        .iter()
        .filter(|name| !matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
        .count();
    match (names.is_empty(), others) {
        (true, 0) => "none (no subjectAltName)".into(),
        (true, others) => format!("none, and {others} that are neither DNS name nor address"),
        (false, 0) => names.join(", "),
        (false, others) => format!("{}, and {others} of other kinds", names.join(", ")),
    }
}

fn usage(certificate: &X509Certificate<'_>) -> String {
    let usage = match certificate.extended_key_usage() {
        Ok(Some(usage)) => usage.value,
        Ok(None) => return "not restricted".into(),
        Err(_) => return "malformed".into(),
    };
    let known = [
        (usage.server_auth, "serverAuth"),
        (usage.client_auth, "clientAuth"),
        (usage.any, "any"),
        (usage.code_signing, "codeSigning"),
        (usage.email_protection, "emailProtection"),
        (usage.time_stamping, "timeStamping"),
        (usage.ocsp_signing, "OCSPSigning"),
    ];
    let mut names: Vec<String> = known
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| (*name).into())
        .collect();
    names.extend(usage.other.iter().map(ToString::to_string));
    names.join(", ")
}

fn remaining(not_before: SystemTime, not_after: SystemTime, at: SystemTime) -> String {
    if let Ok(until) = not_before.duration_since(at)
        && !until.is_zero()
    {
        return format!("not valid yet; begins in {}", rough(until.as_secs()));
    }
    match not_after.duration_since(at) {
        Ok(left) => format!("ends in {}", rough(left.as_secs())),
        Err(gone) => format!("expired {} ago", rough(gone.duration().as_secs())),
    }
}

/// A length of time in its largest whole unit.
fn rough(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

fn describe_key(path: &Path, file: &PemFile) -> String {
    if file.keys.is_empty() && !file.encrypted_key {
        return "none in this file".into();
    }
    match Identity::load(path) {
        Ok(identity) => {
            let position = file.certificates.iter().position(|c| c == identity.leaf());
            // The leaf is one of the certificates that were just read from the same file.
            let position = position.map_or_else(String::new, |p| format!(" {}", p + 1));
            format!("belongs to certificate{position}")
        }
        Err(fault) => format!("of no use: {fault}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::ca::{Authority, Validity};

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times_read_as_a_person_says_them() {
        let (begin, end) = (at(10 * DAY), at(100 * DAY));
        assert_eq!(remaining(begin, end, at(11 * DAY)), "ends in 89 days");
        assert_eq!(remaining(begin, end, at(103 * DAY)), "expired 3 days ago");
        assert_eq!(
            remaining(begin, end, at(100 * DAY + 1)),
            "expired 1 second ago"
        );
        assert_eq!(
            remaining(begin, end, at(100 * DAY - 7_200)),
            "ends in 2 hours"
        );
        assert_eq!(
            remaining(begin, end, at(10 * DAY - 300)),
            "not valid yet; begins in 5 minutes"
        );
        assert_eq!(date(at(0)), "1970-01-01 00:00:00 UTC");
    }

    #[test]
    fn what_is_out_of_date_is_filed_nowhere() {
        let authority = Authority::create(Validity::days(1)).unwrap();
        let bundle = authority.issue_agent(&["app1"], Validity::days(1)).unwrap();
        let told = |at: SystemTime| {
            let mut out = String::new();
            describe_one(&mut out, bundle.leaf(), at);
            let line = out
                .lines()
                .find(|line| line.contains("as an agent"))
                .unwrap();
            line.split_once("agent").unwrap().1.trim().to_owned()
        };
        let end = bundle.not_after();
        assert_eq!(told(end - Duration::from_secs(60)), "filed under app1");
        assert_eq!(
            told(end + Duration::from_secs(300)),
            "refused: expired 5 minutes ago; in its time filed under app1"
        );
        assert!(told(at(0)).starts_with("refused: not valid yet; begins in"));
    }

    proptest::proptest! {
        /// A file from a stranger is described or called malformed; its dates and names never stop the program, nor
        /// reach the terminal as control characters.
        #[test]
        fn a_changed_byte_never_panics(at in 0usize..600, to in 0u8..) {
            use std::sync::LazyLock;
            static DER: LazyLock<Vec<u8>> = LazyLock::new(|| {
                let authority = Authority::create(Validity::days(1)).unwrap();
                authority.issue_gateway(&["gw.test", "::1"], Validity::days(1)).unwrap().leaf().to_vec()
            });
            let mut der = DER.clone();
            let at = at % der.len();
            der[at] = to;
            let mut out = String::new();
            describe_one(&mut out, &der.into(), SystemTime::now());
            proptest::prop_assert!(!out.is_empty());
            proptest::prop_assert!(out.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", out);
        }
    }

    /// The ends of what ASN.1 can say.
    #[test]
    fn far_dates_are_shown() {
        let authority = Authority::create(Validity::days(1)).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(1, 1, 1);
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
        let bundle = authority.sign(&params).unwrap();
        let mut out = String::new();
        describe_one(&mut out, bundle.leaf(), at(0));
        assert!(
            out.contains("0001-01-01 00:00:00 UTC to 9999-12-31 00:00:00 UTC"),
            "{out}"
        );
    }
}
