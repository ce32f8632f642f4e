//! A connection in TCP mode on its way to one of a backend's servers: nothing of it has left before a server is there, so that
//! one after the other may be tried. What goes through it is `tcp`'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_shared::clock;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::Backend;
use super::queue::Permit;
use super::search::{Caller, Search};
use super::server::{Grant, InFlight, May, Server, What};
use crate::failure::Failure;

/// What became of it so far, however it ends.
#[derive(Debug, Default)]
pub struct Progress {
    /// The server that was tried last.
    pub server: Option<Arc<Server>>,
    /// Where that one was, if DNS says where it is.
    pub at: Option<SocketAddr>,
    /// Servers that were tried.
    pub attempts: u32,
    /// Spent waiting for room.
    pub hold: Duration,
}

/// A server's connection, to be held to its end: it counts for as long.
#[derive(Debug)]
pub struct Carried {
    _in_flight: InFlight,
    _permit: Permit,
}

/// A server's connection of which nothing has been used.
#[derive(Debug)]
pub struct Connected {
    pub tcp: TcpStream,
    /// What the server is to be told first.
    pub header: Option<Vec<u8>>,
    pub carried: Carried,
}

/// Connects to a server for somebody's connection, and to another one where that fails.
///
/// # Errors
/// `BackendUnreachable`, `BackendBusy`, `ServersDown` and `NoServer`.
pub async fn connect(
    backend: &Arc<Backend>,
    caller: &Caller<'_>,
    progress: &mut Progress,
) -> Result<Connected, Failure> {
    let key = backend.key_of_source(caller.source);
    let mut search = Search::new(backend, May::Fresh, key, caller);
    loop {
        if let Some(wait) = search.pause() {
            sleep(wait).await;
        }
        let before = Instant::now();
        let (in_flight, grant) = match search.at_once(clock::ms(before))? {
            Some(found) => found,
            None => {
                let found = search.wait_for_room().await;
                progress.hold += before.elapsed();
                found?
            }
        };
        // What rests is for requests, and was not asked for.
        let Grant::Fresh(permit) = grant else {
            continue;
        };
        let server = Arc::clone(&in_flight.server);
        progress.server = Some(Arc::clone(&server));
        progress.at = in_flight.at;
        progress.attempts += 1;
        server.is_to_carry();
        let why = match server.connect_plain().await {
            Ok(tcp) => {
                server.carries();
                let carried = Carried {
                    _in_flight: in_flight,
                    _permit: permit,
                };
                let header = search.header();
                return Ok(Connected {
                    tcp,
                    header,
                    carried,
                });
            }
            Err(why) => why,
        };
        in_flight.failed(What::Unreachable, &why);
        drop((in_flight, permit));
        search.failed_on(&server);
        let terms = &backend.terms;
        if progress.attempts > terms.retries || !terms.retry_on.covers(What::Unreachable) {
            return Err(Failure::BackendUnreachable);
        }
    }
}
