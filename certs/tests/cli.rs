//! The program as scripts use it: files, modes, exit codes, one line of complaint.

#![expect(clippy::unwrap_used, reason = "a test's helpers may fail it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tidegate_certs::peer::{PeerCertificate, gateway_identity};
use tidegate_shared::tls::{Identity, PemFile};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate-certs"));
    command.args(args).env_clear();
    command
}

fn run(args: &[&str]) -> Output {
    program(args).output().unwrap()
}

fn succeed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code 64, nothing on stdout, one line on stderr that holds `reason`.
fn refused(args: &[&str], reason: &str) {
    let output = run(args);
    let complaint = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(64), "{args:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{args:?}: {output:?}");
    assert!(complaint.starts_with("tidegate-certs: "), "{complaint}");
    assert_eq!(complaint.trim_end().lines().count(), 1, "{complaint}");
    assert!(complaint.contains(reason), "{complaint:?} lacks {reason:?}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A directory with an authority in it, and its path as text.
fn authority() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().to_str().unwrap().to_owned();
    succeed(&["init", "--dir", &text]);
    (dir, text)
}

fn leaf(path: &Path) -> Vec<u8> {
    Identity::load(path).unwrap().leaf().to_vec()
}

#[test]
fn init_writes_an_authority_once() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made/on/the/way");
    let text = dir.to_str().unwrap();
    succeed(&["init", "--dir", text]);
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    assert_eq!((mode(&certificate), mode(&key)), (0o644, 0o600));
    let before = fs::read(&key).unwrap();
    refused(&["init", "--dir", text], "exists already");
    // Half an authority is one as well.
    fs::remove_file(&certificate).unwrap();
    refused(&["init", "--dir", text], "ca.key");
    assert_eq!(fs::read(&key).unwrap(), before);
    assert_eq!(
        fs::read_dir(&dir).unwrap().count(),
        1,
        "nothing else is left behind"
    );
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"umask "$1"; shift; exec "$@""#;
    for (umask, name) in [("000", "open"), ("077", "closed")] {
        let at = dir.path().join(name);
        let status = Command::new("sh")
            .args([
                "-c",
                script,
                "sh",
                umask,
                env!("CARGO_BIN_EXE_tidegate-certs"),
            ])
            .args(["init", "--dir", at.to_str().unwrap()])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(mode(&at.join("ca.crt")), 0o644, "umask {umask}");
        assert_eq!(mode(&at.join("ca.key")), 0o600, "umask {umask}");
    }
}

#[test]
fn an_agents_identity_is_what_the_gateway_files() {
    let (dir, text) = authority();
    succeed(&[
        "issue",
        "--dir",
        &text,
        "--agent",
        "App1,blog.example,bücher.example",
    ]);
    let path = dir.path().join("app1.pem");
    assert_eq!(mode(&path), 0o600);
    let read = PeerCertificate::read(&leaf(&path), false).unwrap();
    let names: Vec<String> = read.names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["app1", "blog.example", "xn--bcher-kva.example"]);
    assert_eq!(read.facts.key_type, "P-256");
    let days = read
        .facts
        .not_after
        .duration_since(read.facts.not_before)
        .unwrap()
        .as_secs();
    assert_eq!(days, 365 * 86_400 + 300);
    // Chain, then key.
    let pem = fs::read_to_string(&path).unwrap();
    assert!(pem.find("BEGIN CERTIFICATE").unwrap() < pem.find("PRIVATE KEY").unwrap());
}

#[test]
fn a_gateways_identity_has_names_and_addresses() {
    let (dir, text) = authority();
    succeed(&[
        "issue",
        "--dir",
        &text,
        "--gateway",
        "gw.example,127.0.0.1,::1",
        "--days",
        "3",
    ]);
    let read = gateway_identity(&leaf(&dir.path().join("gw.example.pem"))).unwrap();
    assert_eq!(read.names, ["gw.example", "127.0.0.1", "::1"]);
    let length = read
        .facts
        .not_after
        .duration_since(read.facts.not_before)
        .unwrap()
        .as_secs();
    assert_eq!(length, 3 * 86_400 + 300);
    succeed(&["issue", "--dir", &text, "--gateway", "127.0.0.1"]);
    assert!(dir.path().join("127.0.0.1.pem").exists());
}

#[test]
fn issuing_again_renews_and_never_turns_a_gateway_into_an_agent() {
    let (dir, text) = authority();
    let path = dir.path().join("app1.pem");
    succeed(&["issue", "--dir", &text, "--agent", "app1"]);
    let first = leaf(&path);
    succeed(&["issue", "--dir", &text, "--agent", "app1"]);
    assert_ne!(leaf(&path), first);
    let second = fs::read(&path).unwrap();
    refused(
        &["issue", "--dir", &text, "--gateway", "app1"],
        "app1.pem exists",
    );
    assert_eq!(fs::read(&path).unwrap(), second);
    fs::write(dir.path().join("notes.pem"), "mine").unwrap();
    refused(
        &["issue", "--dir", &text, "--agent", "notes"],
        "notes.pem exists",
    );
}

#[test]
fn names_that_a_renewal_drops_are_told() {
    let (_dir, text) = authority();
    for (kind, all, fewer) in [
        ("--agent", "app1,www.app1,api.app1", "app1,api.app1"),
        (
            "--gateway",
            "gw.test,www.app1,127.0.0.1",
            "gw.test,127.0.0.1",
        ),
    ] {
        let issue = |names: &str| succeed(&["issue", "--dir", &text, kind, names]);
        let first = issue(all);
        assert!(!first.contains("note:"), "{first}");
        assert!(!issue(all).contains("note:"));
        let said = issue(fewer);
        assert!(
            said.contains("note: the identity that it replaces also had www.app1; "),
            "{said}"
        );
        assert!(!issue(all).contains("note:"), "more names are no loss");
    }
}

#[test]
fn no_identity_outlives_its_authority() {
    let (dir, text) = authority();
    let said = succeed(&[
        "issue", "--dir", &text, "--agent", "app1", "--days", "36500",
    ]);
    assert!(said.contains("note: it ends with the authority"), "{said}");
    let said = succeed(&["issue", "--dir", &text, "--agent", "app2", "--days", "10"]);
    assert!(!said.contains("note:"), "{said}");
    let ca = PemFile::read(&dir.path().join("ca.crt")).unwrap();
    let ca_end = succeed(&["show", &format!("{text}/ca.crt")]);
    let end = ca_end.lines().find(|l| l.contains("valid")).unwrap();
    let shown = succeed(&["show", &format!("{text}/app1.pem")]);
    let to = end
        .split(" to ")
        .nth(1)
        .unwrap()
        .split(" (")
        .next()
        .unwrap();
    assert!(shown.contains(to), "{shown} should end at {to}");
    assert_eq!(ca.certificates.len(), 1);
}

#[test]
fn a_wildcard_has_a_file_name_and_a_note() {
    let (_dir, text) = authority();
    let said = succeed(&["issue", "--dir", &text, "--agent", "*.example.com"]);
    assert!(
        said.contains("_wildcard.example.com.pem") && said.contains("--allow-wildcards"),
        "{said}"
    );
    let shown = succeed(&["show", &format!("{text}/_wildcard.example.com.pem")]);
    assert!(
        shown.contains("filed under *.example.com, but only"),
        "{shown}"
    );
}

#[test]
fn mistakes_are_told_in_one_line() {
    let (_dir, text) = authority();
    let issue = |rest: &[&'static str], reason: &str| {
        let mut args = vec!["issue", "--dir", &text];
        args.extend(rest);
        refused(&args, reason);
    };
    issue(&[], "required");
    issue(&["--agent", "a", "--gateway", "b"], "cannot be used with");
    issue(&["--agent", ""], "empty");
    issue(&["--agent", "app1,"], "empty");
    issue(&["--agent", "10.0.0.1"], "IP address");
    issue(&["--agent", "../../etc/passwd"], "'/'");
    issue(&["--agent", "a b"], "' '");
    issue(&["--agent", "*"], "bare wildcard");
    issue(&["--agent", "*.co.uk"], "public suffix");
    issue(&["--agent", "app1,app2\u{7f}"], "control character");
    issue(&["--gateway", "gw_1"], "'_'");
    issue(&["--agent", "a", "--days", "0"], "--days");
    issue(&["--agent", "a", "--days", "soon"], "--days");
    issue(&["--agent", "a", "--color"], "--color");
    let helped = run(&[]);
    assert_eq!(helped.status.code(), Some(64), "{helped:?}");
    let help = String::from_utf8(helped.stderr).unwrap();
    assert!(help.contains("Usage:") && help.contains("issue"), "{help}");
    refused(&["renew"], "renew");
    refused(&["issue", "--agent", "a"], "--dir");
    refused(
        &["issue", "--dir", "/does/not/exist", "--agent", "a"],
        "create an authority first",
    );
    refused(&["show", "/does/not/exist.pem"], "/does/not/exist.pem");
    refused(&["show", &format!("{text}/ca.key")], "no certificate");
}

#[test]
fn help_and_version_succeed_and_name_the_variables() {
    assert!(succeed(&["--version"]).starts_with("tidegate-certs "));
    let help = succeed(&["issue", "--help"]);
    for variable in ["DIR", "GATEWAY", "AGENT", "DAYS"] {
        assert!(
            help.contains(&format!("TIDEGATE_CERTS_{variable}")),
            "{help}"
        );
    }
    assert!(succeed(&["show", "--help"]).contains("TIDEGATE_CERTS_FILE"));
}

#[test]
fn variables_stand_in_for_options() {
    let dir = tempfile::tempdir().unwrap();
    let with_env = |args: &[&str]| {
        let mut command = program(args);
        command
            .env("TIDEGATE_CERTS_DIR", dir.path())
            .env("TIDEGATE_CERTS_AGENT", "app1,app2")
            .env("TIDEGATE_CERTS_DAYS", "2");
        assert!(command.output().unwrap().status.success(), "{args:?}");
    };
    with_env(&["init"]);
    with_env(&["issue"]);
    let read = PeerCertificate::read(&leaf(&dir.path().join("app1.pem")), false).unwrap();
    assert_eq!(read.names.len(), 2);
}

#[test]
fn show_tells_what_matters() {
    let (dir, text) = authority();
    succeed(&[
        "issue",
        "--dir",
        &text,
        "--agent",
        "app1,blog",
        "--days",
        "89",
    ]);
    let shown = succeed(&["show", &format!("{text}/app1.pem")]);
    for fact in [
        "subject      CN=app1",
        "names        app1, blog",
        "issuer       CN=Tidegate CA ",
        "(ends in 88 days)",
        "key type     P-256",
        "usage        clientAuth",
        "as an agent  filed under app1, blog",
        "as a gateway refused by agents: ",
        "private key    belongs to certificate 1",
    ] {
        assert!(shown.contains(fact), "{shown} lacks {fact}");
    }
    assert!(!shown.contains("PRIVATE"), "{shown}");
    // The key of another identity in the file.
    succeed(&["issue", "--dir", &text, "--agent", "app2"]);
    let [one, two] =
        ["app1.pem", "app2.pem"].map(|f| fs::read_to_string(dir.path().join(f)).unwrap());
    let at = |pem: &str| pem.find("-----BEGIN PRIVATE").unwrap();
    let mixed = dir.path().join("mixed.pem");
    fs::write(&mixed, format!("{}{}", &one[..at(&one)], &two[at(&two)..])).unwrap();
    let shown = succeed(&["show", mixed.to_str().unwrap()]);
    assert!(
        shown.contains("does not belong to a certificate"),
        "{shown}"
    );
    assert!(succeed(&["show", &format!("{text}/ca.crt")]).contains("an authority"));
}

#[test]
fn a_full_disk_is_not_the_users_mistake() {
    let (_dir, text) = authority();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = program(&["show", &format!("{text}/ca.crt")])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// A file that cannot be written whole: exit code 1, what was there stays, nothing is left beside it.
#[test]
fn an_identity_is_replaced_whole_or_not_at_all() {
    let (dir, text) = authority();
    succeed(&["issue", "--dir", &text, "--agent", "app1"]);
    let before = fs::read(dir.path().join("app1.pem")).unwrap();
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; ulimit -f 0; exec "$@""#, "sh"])
        .args([
            env!("CARGO_BIN_EXE_tidegate-certs"),
            "issue",
            "--dir",
            &text,
            "--agent",
            "app1",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(fs::read(dir.path().join("app1.pem")).unwrap(), before);
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 3, "ca.crt, ca.key and app1.pem");
}

/// An authority and identities as OpenSSL judges them; HAProxy verifies with OpenSSL.
#[test]
fn openssl_accepts_what_is_issued() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: no openssl program to ask");
        return;
    }
    let (_dir, text) = authority();
    succeed(&["issue", "--dir", &text, "--agent", "app1,blog.example"]);
    succeed(&["issue", "--dir", &text, "--gateway", "gw.example,127.0.0.1"]);
    let verify = |rest: &[&str]| {
        let output = Command::new("openssl")
            .args([
                "verify",
                "-x509_strict",
                "-CAfile",
                &format!("{text}/ca.crt"),
            ])
            .args(rest)
            .output()
            .unwrap();
        output.status.success()
    };
    let [agent, gateway] = ["app1", "gw.example"].map(|name| format!("{text}/{name}.pem"));
    assert!(verify(&["-purpose", "sslclient", &agent]));
    assert!(verify(&[
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "gw.example",
        &gateway
    ]));
    assert!(verify(&[
        "-purpose",
        "sslserver",
        "-verify_ip",
        "127.0.0.1",
        &gateway
    ]));
    assert!(!verify(&["-purpose", "sslserver", &agent]));
    assert!(!verify(&["-purpose", "sslclient", &gateway]));
}

#[test]
fn a_mistake_in_a_variable_names_it_and_an_empty_one_is_none() {
    let (_dir, text) = authority();
    let with = |variables: &[(&str, &str)]| {
        let mut command = program(&["issue", "--dir", &text]);
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let said = with(&[
        ("TIDEGATE_CERTS_AGENT", "a"),
        ("TIDEGATE_CERTS_DAYS", "soon"),
    ]);
    let complaint = String::from_utf8(said.stderr).unwrap();
    assert!(
        complaint.contains("--days comes from the variable TIDEGATE_CERTS_DAYS"),
        "{complaint}"
    );
    let made = with(&[
        ("TIDEGATE_CERTS_AGENT", "a"),
        ("TIDEGATE_CERTS_GATEWAY", ""),
    ]);
    assert!(made.status.success(), "{made:?}");
    assert!(succeed(&["issue", "-V"]).starts_with("tidegate-certs"));
}
