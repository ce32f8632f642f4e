//! An app whose every byte is the test's own: old protocol versions, broken messages, resets.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::conn::Conn;
use crate::http1::{Framing, Reader};
use crate::task::{Task, Tasks, spawn};

/// A listener that runs one script per connection.
#[derive(Debug)]
pub struct RawApp {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _task: Task,
}

impl RawApp {
    /// Runs `script` on every connection.
    pub async fn start<F>(script: impl Fn(Reader<Conn>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = spawn(async move {
            let mut running = Tasks::new();
            while let Ok((tcp, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                running.spawn(script(Reader::new(Conn::Plain(tcp))));
            }
        });
        Self {
            address,
            connections,
            _task: task,
        }
    }

    /// Answers every request with these bytes, whatever it asks, and closes after each when `close`.
    pub async fn answering(answer: impl Into<Vec<u8>>, close: bool) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut reader| {
            let answer = Arc::clone(&answer);
            async move {
                while let Ok(Some(head)) = reader.head().await {
                    let mut body = Framing::of_request(&head).unwrap();
                    let read = reader.body(&mut body).await.is_ok();
                    if !read || reader.io.write_all(&answer).await.is_err() || close {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// The target to give an agent.
    #[must_use]
    pub fn target(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections have been accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}
