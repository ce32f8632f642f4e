//! One large body, by curl.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::http::NAME;
use crate::process::{find, output};

/// Which way the body goes, seen from the visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Download,
    Upload,
}

impl Direction {
    pub(crate) const BOTH: [Self; 2] = [Self::Download, Self::Upload];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Upload => "upload",
        }
    }
}

/// Moves `bytes` through `gateway` and gives the seconds it took, from connect to the end of the answer.
/// An upload's body is a file without blocks in `dir`: reading it costs no disk.
pub(crate) fn seconds(
    dir: &Path,
    gateway: SocketAddr,
    direction: Direction,
    bytes: u64,
) -> Result<f64> {
    let curl = find("curl").context("curl is needed for large bodies; install it")?;
    let host = format!("Host: {NAME}");
    let mut args: Vec<String> = [
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "300",
        "--output",
        "/dev/null",
        "--header",
        &host,
    ]
    .map(String::from)
    .into();
    args.extend(
        [
            "--write-out",
            "%{http_code} %{size_download} %{size_upload} %{time_total}",
        ]
        .map(String::from),
    );
    match direction {
        Direction::Download => args.push(format!("http://{gateway}/size/{bytes}")),
        Direction::Upload => {
            let body = dir.join(format!("body-{bytes}"));
            // Another transfer may be reading it: what has its length already stays as it is.
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&body)?
                .set_len(bytes)?;
            // Without this curl holds a large body back until it is told to continue.
            args.extend([
                "--header".to_owned(),
                "Expect:".to_owned(),
                "--upload-file".to_owned(),
            ]);
            args.push(body.display().to_string());
            args.push(format!("http://{gateway}/sink"));
        }
    }
    let text = output(&curl, &args)?;
    let fields: Vec<f64> = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context(text.clone())?;
    let [status, down, up, seconds] = fields[..] else {
        anyhow::bail!("curl printed {text:?}")
    };
    let moved = if direction == Direction::Download {
        down
    } else {
        up
    };
    ensure!(
        status == 200.0,
        "{} of {bytes} bytes was answered with status {status}",
        direction.name()
    );
    ensure!(
        moved == bytes as f64,
        "{} of {bytes} bytes moved only {moved}",
        direction.name()
    );
    Ok(seconds)
}
