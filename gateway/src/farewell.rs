//! What a visitor is told who is turned away at a listener for requests, before anything of his is read for its own sake. A few at a
//! time: the others are closed without a word, and no flood makes the gateway talk or shake hands with it. Whether anybody is
//! turned away, and whether he is to hear of it, is `listen`'s.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use tidegate_shared::drain::Drain;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::access::{Access, Record};
use crate::failure::Failure;
use crate::page;
use crate::rates::Excess;

/// How many are being told at once, in clear text and over TLS each.
const TELLING: usize = 64;

/// How many handshakes in a second are made for that alone: a twentieth of a core or so.
const HANDSHAKES: u32 = 50;

/// Whoever does not take it in time does without.
const IN_CLEAR_TEXT: Duration = Duration::from_millis(500);

/// The same with a handshake and the request before it: a few round trips to a telephone.
const OVER_TLS: Duration = Duration::from_secs(2);

/// A visitor's connection that is to be turned away.
pub(crate) struct Came {
    pub(crate) stream: TcpStream,
    pub(crate) from: SocketAddr,
    pub(crate) at: Instant,
}

impl Came {
    pub(crate) fn now(stream: TcpStream, from: SocketAddr) -> Self {
        let at = Instant::now();
        Self { stream, from, at }
    }
}

/// How many are being told.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    in_clear_text: AtomicUsize,
    over_tls: AtomicUsize,
    handshakes: Mutex<Second>,
}

/// A second, and how often something was done in it.
#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    times: u32,
}

impl Second {
    /// Whether it may be done once more.
    fn takes_one(&mut self, now: Instant, most: u32) -> bool {
        let over = |began: Instant| now.saturating_duration_since(began) >= Duration::from_secs(1);
        if self.began.is_none_or(over) {
            *self = Self {
                began: Some(now),
                times: 0,
            };
        }
        self.times += 1;
        self.times <= most
    }
}

/// Somebody is being told.
struct Place {
    of: Arc<Telling>,
    over_tls: bool,
}

impl Place {
    fn take(of: &Arc<Telling>, over_tls: bool) -> Option<Self> {
        let place = Self {
            of: Arc::clone(of),
            over_tls,
        };
        if place.count().fetch_add(1, Relaxed) >= TELLING {
            return None;
        }
        let mut second = of.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        (!over_tls || second.takes_one(Instant::now(), HANDSHAKES)).then_some(place)
    }

    fn count(&self) -> &AtomicUsize {
        if self.over_tls {
            &self.of.over_tls
        } else {
            &self.of.in_clear_text
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Relaxed);
    }
}

/// What he is told.
pub(crate) struct Word {
    pub(crate) failure: Failure,
    pub(crate) excess: Option<Excess>,
}

impl Word {
    /// An answer has an id and a line in the access log, like every other.
    fn record(
        &self,
        access: &Arc<Access>,
        tls: bool,
        from: SocketAddr,
        at: Instant,
    ) -> Box<Record> {
        let mut record = access.record(&Arc::new(from.into()), tls, at);
        record.headless();
        if let Some(excess) = self.excess {
            record.limited(excess);
        }
        record
    }
}

/// Tells it in clear text.
pub(crate) fn tell(
    came: Came,
    word: &Word,
    telling: &Arc<Telling>,
    access: &Arc<Access>,
    drain: &Drain,
) {
    let Some(place) = Place::take(telling, false) else {
        return;
    };
    let record = word.record(access, false, came.from, came.at);
    let failure = word.failure;
    drain.spawn(async move {
        let _told = timeout(IN_CLEAR_TEXT, last_words(came.stream, failure, record)).await;
        drop(place);
    });
}

/// Tells it over TLS, to whoever shakes hands and asks for something; not while the gateway ends.
pub(crate) fn tell_over_tls(
    came: Came,
    word: Word,
    config: &ServerConfig,
    telling: &Arc<Telling>,
    access: &Arc<Access>,
    drain: &Drain,
) {
    let Some(place) = Place::take(telling, true) else {
        return;
    };
    // What it is told in; a visitor that speaks nothing but HTTP/2 is not told.
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (access, ending) = (Arc::clone(access), drain.clone());
    drain.spawn(async move {
        let telling = Box::pin(async {
            let Came { stream, from, at } = came;
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
            // A client that has asked for nothing takes an answer for one to somebody else.
            if stream.read(&mut [0; 1024]).await? == 0 {
                return Ok(());
            }
            let record = word.record(&access, true, from, at);
            last_words(stream, word.failure, record).await
        });
        tokio::select! {
            biased;
            () = ending.finishing() => {}
            _told = timeout(OVER_TLS, telling) => {}
        }
        drop(place);
    });
}

async fn last_words(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    failure: Failure,
    mut record: Box<Record>,
) -> io::Result<()> {
    stream
        .write_all(&page::last_words(failure, &mut record))
        .await?;
    stream.shutdown().await?;
    drop(record);
    // What was sent must be read, or the reset that follows takes our answer with it.
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_not_shaken_hands_with() {
        let telling = Arc::<Telling>::default();
        let mut held: Vec<_> = (0..TELLING)
            .map(|_| Place::take(&telling, false).unwrap())
            .collect();
        assert!(Place::take(&telling, false).is_none());
        held.pop();
        held.push(Place::take(&telling, false).unwrap());
        assert!(Place::take(&telling, false).is_none());
        // Of those over TLS no more, however quickly they go again.
        let began = Instant::now();
        let mut second = Second::default();
        let taken = (0..1000).filter(|_| second.takes_one(began, HANDSHAKES));
        assert_eq!(taken.count(), HANDSHAKES as usize);
        assert!(second.takes_one(began + Duration::from_secs(1), HANDSHAKES));
        assert!(Place::take(&telling, true).is_some());
        assert_eq!(telling.over_tls.load(Relaxed), 0);
    }
}
