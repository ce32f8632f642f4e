//! Hears what a visitor says first, as far as it is a ClientHello, and no longer than it may take. What was read stays whole, to
//! be passed on. Which octets are one is `shared::client_hello`'s to say.

use std::time::Duration;

use bytes::BytesMut;
use tidegate_shared::client_hello::{ClientHello, NoHello, Parsed, parse};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What a visitor said first.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nobody has listened: no route wants to know, and no server is to be told.
    Unasked,
    Hello(ClientHello),
    Not(NoHello),
    /// Nothing in its time, as where the server speaks first.
    Silence,
    /// The beginning of a hello, and not its end.
    Part,
    /// It left, or its connection broke.
    Left,
}

impl Heard {
    /// The hello, where it is one.
    pub(super) fn hello(self) -> Option<ClientHello> {
        match self {
            Self::Hello(hello) => Some(hello),
            _ => None,
        }
    }
}

/// A usual hello, with a post-quantum key share.
const USUAL: usize = 2048;

/// Reads until it is clear what the visitor says, `within` at most; `said` has what was read before and gets the rest.
pub(super) async fn listen(
    visitor: &mut TcpStream,
    said: &mut BytesMut,
    within: Duration,
) -> Heard {
    match timeout(within, hear(visitor, said)).await {
        Ok(heard) => heard,
        Err(_elapsed) if said.is_empty() => Heard::Silence,
        Err(_elapsed) => Heard::Part,
    }
}

async fn hear(visitor: &mut TcpStream, said: &mut BytesMut) -> Heard {
    loop {
        let wanted = match parse(said) {
            Ok(Parsed::Whole(hello)) => return Heard::Hello(hello),
            Ok(Parsed::More { at_least }) => at_least,
            Err(no) => return Heard::Not(no),
        };
        while said.len() < wanted {
            said.reserve(USUAL.max(wanted - said.len()));
            match visitor.read_buf(said).await {
                Ok(0) | Err(_) => return Heard::Left,
                Ok(_) => {}
            }
        }
    }
}
