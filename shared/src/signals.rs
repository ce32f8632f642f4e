//! SIGTERM and SIGINT: the first asks a program to finish, the second not to wait. SIGHUP asks it to look at its files again.
//! What is done about it is each program's own.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, each time one comes.
#[derive(Debug)]
pub struct Asked(Option<(Signal, Signal)>);

impl Asked {
    /// Takes the signals over: from here on they no longer end the process.
    pub fn listen() -> Self {
        let term = signal(SignalKind::terminate());
        let int = signal(SignalKind::interrupt());
        Self(term.ok().zip(int.ok()))
    }

    /// Ready when the program is asked once more to end; returns by which signal. For ever pending where the system grants no
    /// handler.
    pub async fn to_end(&mut self) -> &'static str {
        let Some((term, int)) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
        }
    }
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
