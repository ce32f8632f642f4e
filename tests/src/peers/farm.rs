//! Agents by hand that dial again when they lose a tunnel or are asked for another: a site whose answers are frames of the test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::frame::{Frame, PREFACE, kind};
use super::{Event, Peer, field};
use crate::conn::Conn;
use crate::pki::Pki;
use crate::task::{Task, Tasks, spawn};

/// Keeps tunnels of one name up; each request is answered with the frames that a script makes of stream and path.
#[derive(Debug)]
pub struct Farm {
    dials: Arc<AtomicUsize>,
    _tunnels: Vec<Task>,
}

impl Farm {
    /// Keeps `tunnels` tunnels to `gateway` with `identity`.
    #[must_use]
    pub fn start<F>(
        gateway: SocketAddr,
        pki: &Pki,
        identity: &Path,
        tunnels: usize,
        script: F,
    ) -> Self
    where
        F: Fn(u32, &str) -> Vec<Frame> + Send + Sync + 'static,
    {
        let config = pki.client(Some(identity), &["h2"]);
        let dials = Arc::new(AtomicUsize::new(0));
        let script = Arc::new(script);
        let tunnel = |_| {
            let (config, dials, script) =
                (Arc::clone(&config), Arc::clone(&dials), Arc::clone(&script));
            spawn(async move {
                let mut leaving = Tasks::new();
                while let Ok(conn) = Conn::tls(gateway, "localhost", Arc::clone(&config)).await {
                    dials.fetch_add(1, Ordering::Relaxed);
                    let mut peer = Peer::over(conn);
                    if !open(&mut peer).await {
                        continue;
                    }
                    if serve(&mut peer, script.as_ref(), Until::Goaway).await {
                        // It goes on until the gateway has what it came for; meanwhile there is another one.
                        let script = Arc::clone(&script);
                        leaving.spawn(async move {
                            serve(&mut peer, script.as_ref(), Until::Closed).await;
                        });
                    }
                }
            })
        };
        Self {
            _tunnels: (0..tunnels).map(tunnel).collect(),
            dials,
        }
    }

    /// How many tunnels have been dialed so far.
    #[must_use]
    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::Relaxed)
    }
}

/// The agent's half of the opening; whether the connection took it.
async fn open(peer: &mut Peer) -> bool {
    let settings = super::agent::RawAgent::settings().encode();
    let opening = [PREFACE.as_slice(), &settings].concat();
    peer.write(&opening).await.is_ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Goaway,
    Closed,
}

/// Answers what comes on one tunnel. Whether it ended with GOAWAY and not with the connection.
async fn serve(
    peer: &mut Peer,
    script: &(dyn Fn(u32, &str) -> Vec<Frame> + Send + Sync),
    until: Until,
) -> bool {
    while let Ok(event) = peer.event().await {
        match event {
            Event::Head { stream, fields, .. } => {
                let frames = script(stream, field(&fields, ":path").unwrap_or_default());
                if peer.send_all(&frames).await.is_err() {
                    return false;
                }
            }
            Event::Frame(frame) if frame.kind == kind::GOAWAY && until == Until::Goaway => {
                return true;
            }
            Event::Frame(_) => {}
        }
    }
    false
}
