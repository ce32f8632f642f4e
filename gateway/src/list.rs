//! `tidegated tunnels`: asks a running gateway's admin page what is attached, and prints it as a table.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tidegate_shared::text::quoted;

use crate::admin::Row;
use crate::app::Trouble;

const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read: some twenty thousand tunnels' worth.
const LONGEST: u64 = 64 * 1024 * 1024;

/// The list, as text.
///
/// # Errors
/// Where there is no gateway, or it answers something else.
pub fn tunnels(admin: SocketAddr, json: bool) -> Result<String, Trouble> {
    let body = ask(admin)?;
    if json {
        return Ok(body);
    }
    let rows: Vec<Row> = serde_json::from_str(&body).map_err(|error| {
        Trouble::Usage(format!(
            "what answers at {admin} is no gateway's admin page: {error}"
        ))
    })?;
    Ok(table(&rows))
}

fn ask(admin: SocketAddr) -> Result<String, Trouble> {
    // Where none runs, nobody was told anything wrong.
    let unreachable = |error: std::io::Error| {
        Trouble::Ours(format!(
            "no gateway answers at {admin}: {error}; start it with --admin {admin}, or say --admin here with its address"
        ))
    };
    let mut stream = TcpStream::connect_timeout(&admin, PATIENCE).map_err(unreachable)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(unreachable)?;
    // HTTP/1.0 ends the answer with the connection: nothing to parse but the head.
    let request = format!("GET /tunnels HTTP/1.0\r\nhost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(unreachable)?;
    let mut answer = Vec::new();
    stream
        .take(LONGEST)
        .read_to_end(&mut answer)
        .map_err(unreachable)?;
    let answer = String::from_utf8_lossy(&answer);
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.") && head.contains(" 200 ") => {
            Ok(body.to_owned())
        }
        _ => Err(Trouble::Usage(format!(
            "what answers at {admin} is no gateway's admin page: {}",
            answer.lines().next().map_or_else(
                || "it said nothing".to_owned(),
                |line| format!("it said \"{}\"", quoted(line.as_bytes()))
            )
        ))),
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no tunnels are attached\n".to_owned();
    }
    let titles = [
        "ID",
        "NAME",
        "AGENT",
        "STATE",
        "CERTIFICATE UNTIL",
        "AGE",
        "RTT",
        "STREAMS",
        "REQUESTS",
    ];
    let mut lines: Vec<[String; 9]> = vec![titles.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let mut names = row.name.clone();
        if row.names.len() > 1 {
            names.push_str(&format!(" +{}", row.names.len() - 1));
        }
        [
            row.id.to_string(),
            names,
            row.agent.to_string(),
            row.state.clone(),
            row.expires(),
            age(row.age_seconds),
            row.rtt_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
            row.streams.to_string(),
            row.requests.to_string(),
        ]
    }));
    columns(&lines)
}

/// Lines of cells, one below the other.
pub(crate) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (width, cell) in widths.iter().zip(line) {
            row.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn age(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
