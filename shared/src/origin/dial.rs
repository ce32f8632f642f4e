//! TCP to wherever a name says, and why there is none, in words. Where to go is the caller's to know.

use std::borrow::Cow;
use std::io;

use tokio::net::{TcpStream, lookup_host};

use crate::descriptors;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For the log.
    pub why: String,
    /// For visitors, who are not to learn where the app is.
    pub told: Cow<'static, str>,
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        let told = why.clone().into();
        Self { why, told }
    }
}

/// Tries every address of a name in turn.
///
/// # Errors
/// The first address's, or the resolver's.
pub async fn any_of(host: &str, port: u16) -> Result<TcpStream, Fault> {
    let addresses = lookup_host((host, port)).await.map_err(|error| Fault {
        why: format!("{host} cannot be resolved: {error}"),
        told: "its name cannot be resolved".into(),
    })?;
    let mut first = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or_else(
        || Fault {
            why: format!("{host} has no address"),
            told: "its name has no address".into(),
        },
        |error| plain(&error).into(),
    ))
}

/// An error as a person says it: the system's number adds nothing.
pub fn plain(error: &io::Error) -> String {
    if descriptors::are_used_up(error) {
        return descriptors::REMEDY.to_owned();
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
