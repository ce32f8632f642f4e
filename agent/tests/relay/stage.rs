//! The gateway's end of a tunnel, and apps that speak in bytes.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tidegate_agent::app::{App, Settings};
use tidegate_agent::serve::{self, Care, Control, Ending, News};
use tidegate_agent::target::Target;
use tidegate_shared::clock;
use tidegate_shared::drain::Drain;
use tidegate_shared::liveness::Patience;
use tidegate_shared::reversal::Marks;
use tidegate_shared::reversal::io::{Terms, accept, dial};
use tidegate_shared::window;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Nothing in these tests takes longer.
const SOON: Duration = Duration::from_secs(10);

/// Waits for what must happen.
pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(SOON, future).await {
        Ok(output) => output,
        Err(_elapsed) => panic!("{what}: nothing within {SOON:?}"),
    }
}

/// As a Tidegate gateway's.
fn marked() -> Terms {
    Terms {
        marks: Marks::VISITOR,
        ..Terms::default()
    }
}

thread_local! {
    /// By how much this test's clock is ahead. A test and its agent share one thread.
    static AHEAD: Cell<u64> = const { Cell::new(0) };
}

fn now_ms() -> u64 {
    clock::now_ms() + AHEAD.get()
}

/// A clock that only [`time_passes`] moves.
pub(crate) fn stopped() -> u64 {
    1_000_000 + AHEAD.get()
}

/// Lets the agent believe that so much time has passed.
pub(crate) fn time_passes(more: Duration) {
    AHEAD.set(AHEAD.get() + u64::try_from(more.as_millis()).unwrap());
}

/// A tunnel, from the gateway's end.
pub(crate) struct Stage {
    pub(crate) app: Arc<App>,
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) control: Arc<Control>,
    pub(crate) news: mpsc::UnboundedReceiver<News>,
    pub(crate) ending: oneshot::Receiver<Ending>,
    gateway: tokio::task::AbortHandle,
    _drain: Drain,
}

impl Stage {
    pub(crate) async fn to(app: &Played) -> Self {
        Self::with(&app.target, |_| {}).await
    }

    pub(crate) async fn with(target: &str, adjust: impl FnOnce(&mut Settings)) -> Self {
        let target: Target = target.parse().unwrap();
        let mut settings = Settings {
            target,
            tls: None,
            own_trust: false,
            http2: false,
            host: None,
            greeting: None,
            connect_within: Duration::from_secs(3),
            first_byte_within: None,
            rest_within: Duration::from_millis(300),
            now_ms,
        };
        adjust(&mut settings);
        let drain = Drain::new();
        let app = App::new(settings, std::num::NonZeroUsize::MIN, drain.clone());
        let (near, far) = tokio::io::duplex(256 * 1024);
        let control = Arc::new(Control::default());
        let (tell, news) = mpsc::unbounded_channel();
        let (end, ending) = oneshot::channel();
        let (its, serving) = (Arc::clone(&control), Arc::clone(&app));
        let _agent = drain.spawn(async move {
            let dialled = dial(near, &Terms::default()).await.unwrap();
            let care = Care {
                patience: Patience::default(),
                window_most: window::MOST,
            };
            let ending = serve::drive(
                dialled,
                care,
                its,
                move |exchange, wire| serving.serve(exchange, wire),
                move |piece| tell.send(piece).unwrap_or_default(),
            )
            .await;
            drop(end.send(ending));
        });
        let accepted = accept(far, &marked()).await.unwrap();
        let connection = accepted.connection;
        let gateway = drain
            .spawn(async move { drop(connection.await) })
            .abort_handle();
        let requests = soon("the tunnel", accepted.requests.ready()).await.unwrap();
        let mut stage = Self {
            app,
            requests,
            control,
            news,
            ending,
            gateway,
            _drain: drain,
        };
        assert_eq!(
            soon("the first PING's answer", stage.news.recv()).await,
            Some(News::Up)
        );
        stage
    }

    /// The gateway's end is gone, without a word.
    pub(crate) fn vanish(&self) {
        self.gateway.abort();
    }

    pub(crate) fn send(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        self.requests.send_request(request, ends).unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Whole {
        let request = Request::get(format!("http://a.example{path}"))
            .body(())
            .unwrap();
        let (response, _stream) = self.send(request, true);
        Whole::soon(response).await
    }
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) head: http::response::Parts,
    pub(crate) body: Vec<u8>,
    /// How it ended: with these trailers, or broken off.
    pub(crate) end: Result<Option<HeaderMap>, h2::Error>,
}

impl Whole {
    /// Waits for the response, and reads it.
    pub(crate) async fn soon(response: ResponseFuture) -> Self {
        Self::of(soon("a response", response).await.unwrap()).await
    }

    pub(crate) async fn of(response: Response<RecvStream>) -> Self {
        let (head, mut recv) = response.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = soon("more of the body", recv.data()).await {
            match chunk {
                Ok(chunk) => {
                    recv.flow_control().release_capacity(chunk.len()).unwrap();
                    body.extend_from_slice(&chunk);
                }
                Err(error) => {
                    return Self {
                        head,
                        body,
                        end: Err(error),
                    };
                }
            }
        }
        let end = soon("trailers", recv.trailers()).await;
        Self { head, body, end }
    }

    pub(crate) fn text(&self) -> &str {
        assert!(
            self.end.is_ok(),
            "the response was broken off: {:?}",
            self.end
        );
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn reason(&self) -> &str {
        self.head.headers["tidegate-reason"].to_str().unwrap()
    }
}

/// An app that plays a part on every connection.
pub(crate) struct Played {
    pub(crate) target: String,
    pub(crate) connections: Arc<AtomicUsize>,
    _drain: Drain,
}

impl Played {
    pub(crate) async fn by<P, F>(part: P) -> Self
    where
        P: Fn(Part) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let drain = Drain::new();
        let (count, spawner) = (Arc::clone(&connections), drain.clone());
        let _accepting = drain.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let part = part(Part {
                    tcp,
                    read: BytesMut::new(),
                });
                let _playing = spawner.spawn(part);
            }
        });
        Self {
            target,
            connections,
            _drain: drain,
        }
    }

    /// Answers every request on a connection with the same bytes.
    pub(crate) async fn saying(bytes: &'static [u8]) -> Self {
        Self::by(move |mut part| async move {
            while part.head().await.is_some() {
                part.say(bytes).await;
            }
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// One connection to the app.
pub(crate) struct Part {
    pub(crate) tcp: TcpStream,
    read: BytesMut,
}

impl Part {
    /// The head of the next request, with its empty line, each octet a character; `None` at the end.
    pub(crate) async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.read.split_to(end + 4);
                return Some(head.iter().copied().map(char::from).collect());
            }
            if self.tcp.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Exactly so many octets, or fewer at the end.
    pub(crate) async fn octets(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            if self.tcp.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                break;
            }
        }
        let count = count.min(self.read.len());
        self.read.split_to(count).to_vec()
    }

    /// Whatever comes until these octets have been seen.
    pub(crate) async fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|part| part == end) {
                return self.read.split_to(at + end.len()).to_vec();
            }
            if self.tcp.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                return self.read.split().to_vec();
            }
        }
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        // An agent that has gone is for the test to notice.
        let _gone = self.tcp.write_all(bytes).await;
    }

    /// Returns when the agent has closed the connection, whatever it says before.
    pub(crate) async fn closed(&mut self) {
        let mut buffer = [0; 4096];
        while self.tcp.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    }
}
