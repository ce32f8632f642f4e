//! SIGTERM and SIGINT: the first asks a program to finish, the second ends it on the spot. SIGHUP asks it to look at its
//! files again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ready when the program is asked to finish. A second signal ends the process with code 0:
/// it does as it is told.
pub async fn shutdown() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // A system without signals has other ways of ending a process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "it must not be waited for: it ends the process"
    )]
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        std::process::exit(0);
    });
}

/// SIGHUP, each time it comes.
#[derive(Debug)]
pub struct Hangup(Option<Signal>);

impl Hangup {
    /// Takes the signal over: from here on it no longer ends the process.
    pub fn listen() -> Self {
        Self(signal(SignalKind::hangup()).ok())
    }

    /// Ready when it has come once more.
    pub async fn recv(&mut self) {
        let heard = match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => None,
        };
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
