use std::future::Future;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Two ends of one connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

/// A visitor, a server, and what is between them.
async fn relayed(idle: Option<Duration>) -> (TcpStream, TcpStream, Relay) {
    let (visitor, near) = connection().await;
    let (far, server) = connection().await;
    let silence = Silence {
        most: idle,
        half_closed: None,
    };
    (visitor, server, Relay::new(near, far, silence))
}

/// Octets of which no two places look alike.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed | 1);
            state.to_be_bytes()[0]
        })
        .collect()
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("in time")
}

#[tokio::test]
async fn every_octet_arrives_in_its_place_both_ways() {
    let (visitor, server, mut relay) = relayed(Some(SOON)).await;
    let (there, back) = (pattern(1, 20_000_001), pattern(2, 9_999_999));
    let talk = |stream: TcpStream, says: Vec<u8>, chunk: usize| async move {
        let (mut reader, mut writer) = stream.into_split();
        let writing = async {
            for part in says.chunks(chunk) {
                writer.write_all(part).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (_, read) = tokio::join!(writing, reader.read_to_end(&mut heard));
        read.unwrap();
        heard
    };
    let visiting = talk(visitor, there.clone(), 1 << 20);
    let serving = talk(server, back.clone(), 777);
    let (at_visitor, at_server, ended) =
        soon(async { tokio::join!(visiting, serving, relay.run()) }).await;
    ended.unwrap();
    assert!(at_server == there && at_visitor == back);
    let traffic = relay.traffic();
    assert_eq!(traffic.forth, there.len() as u64);
    assert_eq!(traffic.back, back.len() as u64);
}

#[tokio::test]
async fn who_has_said_everything_still_hears() {
    let (mut visitor, mut server, mut relay) = relayed(None).await;
    let talking = async {
        visitor.write_all(b"question").await.unwrap();
        visitor.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        server.write_all(b"answer").await.unwrap();
        let mut first = [0; 6];
        visitor.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"answer");
        server.shutdown().await.unwrap();
        assert_eq!(visitor.read(&mut first).await.unwrap(), 0);
    };
    let (ended, ()) = soon(async { tokio::join!(relay.run(), talking) }).await;
    ended.unwrap();
    assert_eq!(relay.traffic(), Traffic { forth: 8, back: 6 });
}

#[tokio::test]
async fn who_does_not_read_is_not_read_ahead_for() {
    let (mut visitor, server, mut relay) = relayed(Some(SOON)).await;
    let all = pattern(3, 64 << 20);
    let mut written = 0;
    // Until nothing has been taken for a while: that is what is to be shown, and it has no event of its own.
    let filling = async {
        while let Ok(taken) =
            timeout(Duration::from_millis(300), visitor.write(&all[written..])).await
        {
            written += taken.unwrap();
        }
    };
    tokio::select! {
        () = filling => {}
        ended = relay.run() => panic!("{ended:?}"),
    }
    assert!(written < all.len(), "64 MiB were read ahead");
    // What the relay itself holds, beside what the system holds in both sockets.
    let held = relay.forth.left.len() + relay.forth.piped.as_ref().map_or(0, |(_, octets)| *octets);
    assert!(held <= PIPE.max(SCRATCH), "{held}");
    let rest = async {
        let (mut reader, mut writer) = (server, visitor);
        let writing = async {
            writer.write_all(&all[written..]).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (_, read) = tokio::join!(writing, reader.read_to_end(&mut heard));
        read.unwrap();
        reader.shutdown().await.unwrap();
        heard
    };
    let (ended, heard) = soon(async { tokio::join!(relay.run(), rest) }).await;
    ended.unwrap();
    assert!(heard == all);
}

#[tokio::test]
async fn what_is_ahead_arrives_first() {
    let (mut visitor, mut server, relay) = relayed(None).await;
    let mut relay = relay.ahead(Bytes::from_static(b"first, "));
    let talking = async {
        let mut heard = [0; 7];
        // Before the visitor has said anything.
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"first, ");
        visitor.write_all(b"second").await.unwrap();
        drop(visitor);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"second");
        drop(server);
    };
    let (ended, ()) = soon(async { tokio::join!(relay.run(), talking) }).await;
    ended.unwrap();
    assert_eq!(relay.traffic().forth, 13);
}

#[tokio::test]
async fn who_resets_is_named() {
    for far in [false, true] {
        let (visitor, server, mut relay) = relayed(None).await;
        let (gone, _stays) = if far {
            (server, visitor)
        } else {
            (visitor, server)
        };
        SockRef::from(&gone)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(gone);
        match (far, soon(relay.run()).await) {
            (false, Err(Broken::Near(error))) | (true, Err(Broken::Far(error))) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_every_octet_puts_that_off() {
    const IDLE: Duration = Duration::from_secs(60);
    let (mut visitor, mut server, mut relay) = relayed(Some(IDLE)).await;
    let began = Instant::now();
    let talking = async {
        tokio::time::sleep(Duration::from_secs(45)).await;
        server.write_all(b"x").await.unwrap();
        let mut heard = [0];
        visitor.read_exact(&mut heard).await.unwrap();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = relay.run() => ended,
        () = talking => unreachable!("it waits for ever"),
    };
    let quiet = Quiet {
        within: IDLE,
        half_closed: false,
    };
    assert!(
        matches!(ended, Err(Broken::Idle(over)) if over == quiet),
        "{ended:?}"
    );
    let lasted = began.elapsed();
    assert!(
        lasted >= Duration::from_secs(105) && lasted < Duration::from_secs(110),
        "{lasted:?}"
    );
}
