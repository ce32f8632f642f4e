//! The two places where the gateway writes, the state file and the control socket, judged before anything is opened: what it would
//! refuse there is refused with the rest, and nothing that it reads is ever written over. Looks, and leaves nothing behind.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::{Config, Problem};
use crate::intent::control::unfit;
use crate::intent::{beside, folder, followed, in_the_way, unusable};

/// Everything that is wrong with them.
pub(super) fn problems(config: &Config) -> Vec<Problem> {
    let (run, sources) = (&config.run, &config.sources);
    let mut all = Vec::new();
    let state = run.state_file.as_deref();
    let wrong =
        state.and_then(|path| wrong_with_state(path, &read(config), run.control.as_deref()));
    all.extend(wrong.map(|text| sources.problem("state_file", text)));
    let wrong = run.control.as_deref().and_then(unfit);
    all.extend(wrong.map(|text| sources.problem("control", text)));
    all
}

/// What keeps nobody from starting, and orders from being kept.
pub(super) fn advice(config: &Config) -> Option<Problem> {
    let path = config.run.state_file.as_deref()?;
    let at = followed(path).ok()?;
    let within = folder(&at);
    let text = if within.is_dir() {
        unusable(path).or_else(|| unwritable(&at))?
    } else {
        format!(
            "its folder {} is not there: what is asked of servers ends with the gateway until somebody makes it",
            within.display()
        )
    };
    Some(config.sources.problem("state_file", text))
}

/// Why nothing can be kept beside a path, which is where a state file is written before it has its name. Whether it can is known
/// for certain only from doing it: rights say nothing of a file system that takes no files, or of one that is full.
fn unwritable(path: &Path) -> Option<String> {
    let probe = beside(path, &format!(".check-{}", std::process::id()));
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&probe);
    let why = match made {
        Ok(_empty) => fs::remove_file(&probe).err()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return None,
        Err(error) => error,
    };
    Some(format!(
        "nothing can be written in its folder {} by the user who checks: {why}; for a gateway that runs as the same one, what is asked of servers ends with it",
        folder(path).display()
    ))
}

fn wrong_with_state(
    path: &Path,
    read: &[(String, PathBuf)],
    control: Option<&Path>,
) -> Option<String> {
    let own = "the state file is written over with each order: give it a path of its own";
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Some("this is a folder; name a file in it".to_owned());
    }
    // What it is also used for says more than what it is.
    for ending in ["", ".next", ".unreadable"] {
        let at = really(&beside(path, ending));
        let mut others = read.iter();
        if let Some((key, _)) = others.find(|(_, other)| really(other) == at) {
            let what = match ending {
                "" => "this".to_owned(),
                _ => format!("{}, which belongs to it,", at.display()),
            };
            return Some(format!("{what} is the file of {key} as well; {own}"));
        }
    }
    if control.is_some_and(|control| really(control) == really(path)) {
        return Some(format!("this is the path of `control` as well; {own}"));
    }
    in_the_way(path).map(|what| format!("{what}; name a file"))
}

/// Every file that is read, and who names it.
fn read(config: &Config) -> Vec<(String, PathBuf)> {
    let (run, sources) = (&config.run, &config.sources);
    let of_option = |id: &str, path: &Path| {
        let problem = sources.problem(id, "");
        let place = problem.spot.map(|spot| format!(" ({spot})"));
        let key = problem.key + &place.unwrap_or_default();
        (key, path.to_owned())
    };
    let mut all: Vec<(String, PathBuf)> = Vec::new();
    let options = [
        ("config", &run.config),
        ("identity", &run.identity),
        ("ca", &run.ca),
    ];
    for (id, path) in options {
        all.extend(path.as_deref().map(|path| of_option(id, path)));
    }
    for listener in &config.listeners {
        let files = &listener.certificates;
        let each = files.value.iter();
        all.extend(each.map(|path| (files.named.to_string(), path.clone())));
    }
    for placed in &config.backends {
        let Some(tls) = &placed.backend.tls else {
            continue;
        };
        for (key, path) in [
            ("ca", &tls.ca),
            ("client_certificate", &tls.client_certificate),
        ] {
            let Problem { spot, key, .. } = placed.problem_of(key, "");
            let place = spot.map(|spot| format!(" ({spot})"));
            let key = key + &place.unwrap_or_default();
            all.extend(path.clone().map(|path| (key, path)));
        }
    }
    for named in config.lists() {
        let Problem { key, .. } = named.problem("");
        all.push((key, named.path.clone()));
    }
    all
}

/// A path as the system has it, whether or not anything stands there.
fn really(path: &Path) -> PathBuf {
    let at = followed(path).unwrap_or_else(|_round| path.to_owned());
    let whole = fs::canonicalize(folder(&at));
    match (whole, at.file_name()) {
        (Ok(whole), Some(name)) => whole.join(name),
        _ => at,
    }
}
