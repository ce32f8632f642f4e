//! How many sockets and files a process may have open. Each end serves many connections at once, and what a shell or a service
//! manager grants by default is soon used up.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Raises the limit of descriptors to what the system allows, and returns it.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 20);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit {
            current: Some(most),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(
                "the limit of descriptors could not be raised from {:?} to {most}: {error}",
                limit.current
            );
            return limit.current.unwrap_or(1024);
        }
    }
    most
}

/// Whether this process or this machine has no descriptor left: nothing that a peer could mend.
pub fn are_used_up(error: &io::Error) -> bool {
    let these = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| these.contains(&code))
}

/// What to do about it.
pub const REMEDY: &str =
    "no file descriptors are left here; raise the limit of open files (LimitNOFILE, ulimit -n)";
