//! Listeners in TCP mode: octets that pass untouched, each direction closed for itself, and one line for each connection, however
//! it ended.

mod backends; // to servers that share what comes

mod names; // TLS divided by the name that its visitors ask for

mod servers; // to servers that the gateway dials

mod slow; // and who takes his time

mod told; // what does not fit is told of at once

mod tunnel; // through a tunnel to an app that may speak anything

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tidegate_tests::conn::Conn;
use tidegate_tests::eventually::SOON;
use tidegate_tests::task::{Task, Tasks, spawn};
use tidegate_tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn rest<R: AsyncReadExt + Unpin>(reader: &mut R) -> std::io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    within(SOON, "the end", reader.read_to_end(&mut octets)).await?;
    Ok(octets)
}

/// Octets of which no two places look alike.
fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// Says all of this and closes that direction; what is heard until the other one is closed.
async fn talk(stream: TcpStream, says: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        writer.write_all(&says).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (read, ()) = tokio::join!(reader.read_to_end(&mut heard), writing);
    read.unwrap();
    heard
}

/// Large transfers both ways at once, of which every octet arrives.
async fn floods(visitor: TcpStream, app: TcpStream, up: usize, down: usize) {
    let (up, down) = (pattern(1, up), pattern(2, down));
    let both = async { tokio::join!(talk(visitor, up.clone()), talk(app, down.clone())) };
    let (at_visitor, at_app) = within(Duration::from_secs(60), "both transfers", both).await;
    assert!(at_visitor == down && at_app == up);
}

/// A TLS server that says its name to everybody, and then what it hears.
async fn echo(name: &'static str, config: Arc<ServerConfig>) -> (String, Task) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = spawn(async move {
        let mut running = Tasks::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let config = Arc::clone(&config);
            running.spawn(async move {
                let Ok(mut conn) = Conn::accept_tls(tcp, config).await else {
                    return;
                };
                let _gone = conn.write_all(name.as_bytes()).await;
                let (mut reader, mut writer) = tokio::io::split(conn);
                let _gone = tokio::io::copy(&mut reader, &mut writer).await;
                let _gone = writer.shutdown().await;
            });
        }
    });
    (address, task)
}

/// A listener that divides TLS by name; `OTHERWISE` is for what its own target is.
const BY_NAME: &str = r#"
    [listeners.tls]
    address = "127.0.0.1:0"
    mode = "tcp"
    hello_timeout = "1s"
    OTHERWISE
    [[routes]]
    sni = "one.test"
    tunnel = "one.test"
    [[routes]]
    sni = "*.two.test"
    tunnel = "two.test"
"#;
