//! The first flight of a TLS client whose TLS ends elsewhere: which host it asks for, and which protocols it offers
//! (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301 §3.1). Pure: octets in, a decision out. Called by whoever passes a connection on
//! by its server name; nothing is taken from the connection, and nothing is changed in it.
//!
//! A hello may be cut into records as its sender likes, and into segments as the network likes: every prefix of a valid one
//! asks for more. What it says is taken strictly, because the server behind reads the same octets, and must not find
//! another name in them.
//!
//! ```text
//!  octets ─▶ records (§5.1) ─▶ one handshake message (§4) ─▶ body ─▶ extensions ─▶ server_name, ALPN
//! ```

mod body;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use thiserror::Error;

/// The longest hello that is read. A browser's, with a post-quantum key share, has about 2 KiB; one with a ticket of a
/// session that carries certificates has a few more.
pub const MOST: usize = 16 * 1024;

/// Octets on the wire that a hello of [`MOST`] octets can have at most, if its records are no smaller than what their heads
/// take: whoever sends shorter ones is not read further.
pub const MOST_ON_WIRE: usize = 2 * MOST;

/// What a client asks for before anything is encrypted. Where it encrypts its hello (ECH), this is what the outer one says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// In the form in which names are compared; `None` where it names none.
    pub server_name: Option<Box<str>>,
    /// Protocols that it offers, in its order; somebody else's octets.
    pub alpn: Vec<Box<[u8]>>,
}

/// What the first octets of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// So far nothing is wrong, and nothing complete; nor can it be before so many octets are there.
    More {
        at_least: usize,
    },
    Whole(ClientHello),
}

/// Why octets are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoHello {
    /// They are not TLS, or do not begin where TLS begins.
    #[error("it does not begin with a TLS handshake")]
    NotTls,
    #[error("it begins with an SSL 2.0 hello, which nobody should send (RFC 6176)")]
    Ssl2,
    #[error("its ClientHello has {octets} octets, more than the {MOST} that are read")]
    TooLong { octets: usize },
    #[error("its ClientHello comes in too many and too small pieces")]
    Shredded,
    /// It is TLS, and wrong.
    #[error("its ClientHello {0}")]
    Malformed(&'static str),
}

impl NoHello {
    /// Whether whoever sent it speaks TLS, and would understand an alert.
    pub fn is_tls(self) -> bool {
        !matches!(self, Self::NotTls | Self::Ssl2)
    }
}

/// Content type of handshake records (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// A record's head: type, version, length.
const RECORD_HEAD: usize = 5;

/// The most that a record carries in clear (RFC 8446 §5.1).
const RECORD_MOST: usize = 1 << 14;

/// Type of the handshake message (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;

/// A handshake message's head: type, length.
const MESSAGE_HEAD: usize = 4;

/// Reads the beginning of a connection.
///
/// # Errors
/// As soon as no further octet could make a hello of it, or when the hello is complete and wrong.
pub fn parse(octets: &[u8]) -> Result<Parsed, NoHello> {
    match octets.first() {
        None => return Ok(Parsed::More { at_least: 1 }),
        Some(first) if first & 0x80 != 0 => return ssl2(octets),
        Some(_) => {}
    }
    match message(&octets[..octets.len().min(MOST_ON_WIRE)])? {
        Message::Whole(message) => body::read(&message[MESSAGE_HEAD..]).map(Parsed::Whole),
        Message::More { at_least } if at_least > MOST_ON_WIRE => Err(NoHello::Shredded),
        Message::More { at_least } => Ok(Parsed::More { at_least }),
    }
}

/// A hello in the form of SSL 2.0 begins with a length whose highest bit is set, its type and its version
/// (RFC 5246 appendix E.2); TLS never does.
fn ssl2(octets: &[u8]) -> Result<Parsed, NoHello> {
    match octets {
        [_, _, CLIENT_HELLO, 0 | 3, ..] => Err(NoHello::Ssl2),
        [_] | [_, _] | [_, _, CLIENT_HELLO] => Ok(Parsed::More {
            at_least: octets.len() + 1,
        }),
        _ => Err(NoHello::NotTls),
    }
}

/// The handshake message that the records carry, head and all.
enum Message<'a> {
    /// Copied only where it is spread over several records.
    Whole(Cow<'a, [u8]>),
    /// As in [`Parsed::More`].
    More { at_least: usize },
}

fn message(octets: &[u8]) -> Result<Message<'_>, NoHello> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut at = 0;
    while let Some(length) = record(&octets[at..])? {
        at += RECORD_HEAD;
        let fragment = &octets[at..octets.len().min(at + length)];
        let before = message.len();
        if before == 0 {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        let wanted = whole_length(&message)?;
        // The record's head says how long it is, before all of it is there.
        if wanted.is_some_and(|wanted| before + length > wanted) {
            return Err(NoHello::Malformed(
                "is followed by more in its last record, where nothing may follow (RFC 8446 §5.1)",
            ));
        }
        if wanted == Some(message.len()) {
            return Ok(Message::Whole(message));
        }
        if fragment.len() < length {
            // Until the message's own head is there, each octet may show that it is none.
            let at_least = if wanted.is_some() {
                at + length
            } else {
                octets.len() + 1
            };
            return Ok(Message::More { at_least });
        }
        at += length;
    }
    Ok(Message::More {
        at_least: octets.len() + 1,
    })
}

/// How long the record is whose head begins here, `None` where the head is not complete.
fn record(octets: &[u8]) -> Result<Option<usize>, NoHello> {
    // Versions in records are not to be looked at (RFC 8446 §5.1), apart from what tells TLS from everything else.
    if octets.first().is_some_and(|kind| *kind != HANDSHAKE)
        || octets.get(1).is_some_and(|major| *major != 3)
    {
        return Err(NoHello::NotTls);
    }
    let &[_, _, _, high, low, ..] = octets else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => Err(NoHello::Malformed(
            "has a record with nothing in it (RFC 8446 §5.1)",
        )),
        length if length > RECORD_MOST => Err(NoHello::Malformed(
            "has a record that is longer than 16384 octets (RFC 8446 §5.1)",
        )),
        length => Ok(Some(length)),
    }
}

/// Octets of the whole message, by its head; `None` where that is not complete.
fn whole_length(message: &[u8]) -> Result<Option<usize>, NoHello> {
    if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(NoHello::NotTls);
    }
    let &[_, a, b, c, ..] = message else {
        return Ok(None);
    };
    let octets = u32::from_be_bytes([0, a, b, c]) as usize;
    if octets > MOST {
        return Err(NoHello::TooLong { octets });
    }
    Ok(Some(MESSAGE_HEAD + octets))
}
