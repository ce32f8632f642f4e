//! Agents by hand that dial again when they lose a tunnel: a site whose answers are frames of the test's own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::frame::{Frame, PREFACE, kind};
use super::{Event, Peer, field};
use crate::conn::Conn;
use crate::pki::Pki;
use crate::task::{Task, spawn};

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
                while let Ok(conn) = Conn::tls(gateway, "localhost", Arc::clone(&config)).await {
                    dials.fetch_add(1, Ordering::Relaxed);
                    serve(Peer::over(conn), script.as_ref()).await;
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

/// One tunnel until it closes, or until GOAWAY has come and its last stream is answered.
async fn serve(mut peer: Peer, script: &(dyn Fn(u32, &str) -> Vec<Frame> + Send + Sync)) {
    let opening = [
        PREFACE.as_slice(),
        &super::agent::RawAgent::settings().encode(),
    ]
    .concat();
    if peer.write(&opening).await.is_err() {
        return;
    }
    while let Ok(event) = peer.event().await {
        match event {
            Event::Head { stream, fields, .. } => {
                let frames = script(stream, field(&fields, ":path").unwrap_or_default());
                if peer.send_all(&frames).await.is_err() {
                    return;
                }
            }
            // Requests are answered as they come, so nothing is in flight here.
            Event::Frame(frame) if frame.kind == kind::GOAWAY => return,
            Event::Frame(_) => {}
        }
    }
}
