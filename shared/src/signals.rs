//! SIGTERM and SIGINT: the first asks a program to finish, the second not to wait. SIGHUP asks it to look at its files again.
//! SIGUSR1 and SIGUSR2 would end a process that does not take them over; nothing is asked for by them. What is done about the
//! others is each program's own.

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

/// SIGUSR1 and SIGUSR2, each time one comes; by default neither does.
#[derive(Debug, Default)]
pub struct Unasked(Option<(Signal, Signal)>);

impl Unasked {
    /// Takes the signals over: from here on they no longer end the process.
    pub fn listen() -> Self {
        let one = signal(SignalKind::user_defined1());
        let two = signal(SignalKind::user_defined2());
        Self(one.ok().zip(two.ok()))
    }

    /// Logs each that comes, for ever.
    pub async fn log(mut self) {
        let Some((one, two)) = &mut self.0 else {
            return std::future::pending().await;
        };
        loop {
            let name = tokio::select! {
                _ = one.recv() => "SIGUSR1",
                _ = two.recv() => "SIGUSR2",
            };
            tracing::info!(
                "{name} is ignored: SIGHUP has the certificates' files looked at, SIGTERM ends the program"
            );
        }
    }
}
