//! curl, as most people's first visitor.

use std::path::Path;

use crate::program::{Finished, run};

/// Runs curl with `args`; `None`, and a printed reason, where curl is missing or cannot speak HTTP/2.
pub async fn curl(args: &[&str]) -> Option<Finished> {
    let version = std::process::Command::new("curl").arg("--version").output();
    match version {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("HTTP2") => {}
        _ => {
            eprintln!("skipped: no curl with HTTP/2 (apt-get install curl)");
            return None;
        }
    }
    let args: Vec<_> = ["--silent", "--show-error", "--max-time", "10"]
        .iter()
        .chain(args)
        .map(Into::into)
        .collect();
    Some(run(Path::new("curl"), &args).await)
}
