//! What `config` prints: who has won over whom, and a file that means the same.

use std::fs;

use super::{FINE, folder, shown};

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let text = format!(
        "{FINE}[limits]\nmax_streams = 5\nmax_fields = 6\nmax_held = 7\n[forwarding]\nno_via = true\nno_forwarded = true\n"
    );
    let folder = folder(&[("a.toml", &text)]);
    let shown = shown(
        folder.path(),
        &[
            "--config",
            "a.toml",
            "--max-streams",
            "50",
            "--visitors",
            "127.0.0.1:1",
        ],
        &[
            ("TIDEGATE_MAX_STREAMS", "51"),
            ("TIDEGATE_MAX_FIELDS", "61"),
            ("TIDEGATE_NO_VIA", "no"),
        ],
    );
    for (setting, comment) in [
        ("max_streams = 50", "--max-streams"),
        ("max_fields = 61", "the variable TIDEGATE_MAX_FIELDS"),
        ("max_held = 7", "a.toml:10"),
        ("no_forwarded = true", "a.toml:13"),
        ("no_via = false", "the variable TIDEGATE_NO_VIA"),
        ("address = \"127.0.0.1:1\"", "--visitors"),
        ("[listeners.visitors]", ""),
        ("[listeners.web]", ""),
    ] {
        let pair = (setting.to_owned(), comment.to_owned());
        assert!(shown.contains(&pair), "{pair:?}: {shown:#?}");
    }
    assert!(
        !shown.iter().any(|(setting, _)| setting == "no_via = true"),
        "{shown:#?}"
    );
    assert!(
        !shown.iter().any(|(_, comment)| comment == "default"),
        "{shown:#?}"
    );
}

#[test]
fn a_listener_of_the_command_line_takes_the_place_of_one_of_the_same_name() {
    let text = FINE.replace("[listeners.web]", "[listeners.visitors]");
    let folder = folder(&[("a.toml", &text)]);
    let shown = shown(
        folder.path(),
        &["--config", "a.toml", "--visitors", "127.0.0.1:1"],
        &[],
    );
    let addresses: Vec<_> = shown
        .iter()
        .filter(|(setting, _)| setting.starts_with("address"))
        .collect();
    assert_eq!(
        addresses,
        [&(
            "address = \"127.0.0.1:1\"".to_owned(),
            "--visitors".to_owned()
        )]
    );
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let text = format!(
        "{FINE}names = [\"a.test\", \"*.b.test\"]\nproxy = \"required\"\nproxy_from = \"10.0.0.0/8\"\n\
         [listeners.\"odd.name\"]\naddress = \"[::1]:0\"\nproxy = \"optional\"\nproxy_from = [\"::1\", \"10.1.0.0/16\"]\n\
         [[routes]]\nhost = \"*.test\"\npath = \"/a%20b\"\nheaders = {{ x-a = \"\\\"1\\\" \\\\\" }}\nlisteners = \"odd.name\"\ntunnel = \"a.test\"\n\
         [[routes]]\ntunnel = \"x.b.test\"\n[times]\nhold = 0\n\
         [backends.api]\ntls = true\nbalance = \"hash-source\"\n[backends.api.check]\npath = \"/up?x=%20\"\nmethod = \"OPTIONS\"\nhost = \"a.test:1\"\nstatus = [\"200-299\", 401]\n\
         port = 81\ninterval = \"3s\"\ndown_interval = \"250ms\"\nfall = 1\n[backends.api.servers]\none = \"a.test:443\"\n\
         [backends.two]\ncheck = \"tcp\"\nbalance = {{ hash = \"cookie\", name = \"s.id\", most = 125 }}\nslow_start = \"30s\"\n[backends.two.servers]\none = \"a.test:80\"\n"
    );
    let folder = folder(&[("a.toml", &text)]);
    let once = shown(folder.path(), &["--effective", "--config", "a.toml"], &[]);
    let settings: Vec<&str> = once.iter().map(|(setting, _)| setting.as_str()).collect();
    fs::write(folder.path().join("b.toml"), settings.join("\n")).unwrap();
    let again = shown(folder.path(), &["--effective", "--config", "b.toml"], &[]);
    let values = |lines: &[(String, String)]| -> Vec<String> {
        lines
            .iter()
            .map(|(setting, _)| setting.clone())
            .filter(|setting| !setting.starts_with('#'))
            .collect()
    };
    assert_eq!(values(&once), values(&again));
    assert!(
        once.contains(&("hold = 0".into(), "a.toml:23".into())),
        "{once:#?}"
    );
}
