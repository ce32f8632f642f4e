//! HTTP/1 read exactly as it is on the wire: heads with their field order, bodies piece by piece, trailers, and cuts.
//!
//! Used by the visitors (answers) and by the apps (requests). It is strict: what it does not understand is an error.

use std::io::{self, ErrorKind};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const MAX_HEAD: usize = 1 << 20;

/// A request or response head.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The first line, without its line end.
    pub start: String,
    /// Field names as sent, and values, in order.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The only value of `name`; fails the test when the field is there twice.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(
            all.len() <= 1,
            "{name} is there {} times in {self:?}",
            all.len()
        );
        all.first().copied()
    }

    /// Every value of `name`, in order.
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        let matching = self
            .fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| value.as_str()).collect()
    }

    /// The status of a response head.
    #[must_use]
    pub fn status(&self) -> u16 {
        let code = self.start.split(' ').nth(1);
        code.and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {:?}", self.start))
    }

    /// The method of a request head.
    #[must_use]
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// The target of a request head.
    #[must_use]
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Whether a list field such as `Connection` contains `token`.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        let values = self.all(name);
        values
            .iter()
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    fn parse(block: &str) -> io::Result<Self> {
        let mut lines = block.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| bad(line))?;
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Ok(Self { start, fields })
    }
}

/// How much body is left to read, and how its end is marked.
#[derive(Debug)]
pub enum Framing {
    /// No more body.
    Ended,
    /// This many bytes.
    Length(u64),
    /// Chunked coding; bytes left of the chunk that is being read.
    Chunked(u64),
    /// Until the connection ends.
    UntilClose,
}

impl Framing {
    /// The framing of a request's body (RFC 9112 §6.3).
    ///
    /// # Errors
    /// A `Content-Length` that is no number.
    pub fn of_request(head: &Head) -> io::Result<Self> {
        if head.lists("transfer-encoding", "chunked") {
            return Ok(Self::Chunked(0));
        }
        match head.get("content-length") {
            Some(length) => Ok(Self::length(length.parse().map_err(|_| bad(length))?)),
            None => Ok(Self::Ended),
        }
    }

    /// The framing of the body of an answer to `method`.
    ///
    /// # Errors
    /// A `Content-Length` that is no number.
    pub fn of_answer(head: &Head, method: &str) -> io::Result<Self> {
        let status = head.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Self::Ended);
        }
        match Self::of_request(head)? {
            Self::Ended if head.get("content-length").is_none() => Ok(Self::UntilClose),
            framing => Ok(framing),
        }
    }

    fn length(length: u64) -> Self {
        if length == 0 {
            Self::Ended
        } else {
            Self::Length(length)
        }
    }
}

/// A connection that is read as HTTP/1, with the bytes that were read too far.
#[derive(Debug)]
pub struct Reader<S> {
    /// The connection, for writing and for options.
    pub io: S,
    buffer: BytesMut,
    /// The trailer fields of the last chunked body.
    pub trailers: Vec<(String, String)>,
}

impl<S: AsyncRead + Unpin> Reader<S> {
    /// Starts reading `io`.
    pub fn new(io: S) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            trailers: Vec::new(),
        }
    }

    /// The next head; `None` when the connection ended before its first byte.
    ///
    /// # Errors
    /// What the connection says, an end in the middle, or bytes that are not a head.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let block = self.buffer.split_to(end + 4);
                let text = String::from_utf8_lossy(&block[..end]);
                return Head::parse(&text).map(Some);
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(bad("a head without end"));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(cut())
                };
            }
        }
    }

    /// The next piece of a body as it arrives; `None` at its proper end.
    ///
    /// # Errors
    /// What the connection says, a body that was cut short (`UnexpectedEof`), or broken chunks.
    pub async fn piece(&mut self, framing: &mut Framing) -> io::Result<Option<Bytes>> {
        match framing {
            Framing::Ended => Ok(None),
            Framing::Length(left) => {
                let piece = self.some(*left).await?.ok_or_else(cut)?;
                *framing = Framing::length(*left - piece.len() as u64);
                Ok(Some(piece))
            }
            Framing::UntilClose => {
                let piece = self.some(u64::MAX).await?;
                if piece.is_none() {
                    *framing = Framing::Ended;
                }
                Ok(piece)
            }
            Framing::Chunked(0) => self.chunk(framing).await,
            Framing::Chunked(left) => {
                let piece = self.some(*left).await?.ok_or_else(cut)?;
                *left -= piece.len() as u64;
                if *left == 0 && !self.line().await?.is_empty() {
                    return Err(bad("a chunk that is longer than its size"));
                }
                Ok(Some(piece))
            }
        }
    }

    async fn chunk(&mut self, framing: &mut Framing) -> io::Result<Option<Bytes>> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad(&line))?;
        if size > 0 {
            *framing = Framing::Chunked(size);
            return Box::pin(self.piece(framing)).await;
        }
        self.trailers.clear();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                *framing = Framing::Ended;
                return Ok(None);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            self.trailers
                .push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The whole rest of a body.
    ///
    /// # Errors
    /// As [`Reader::piece`].
    pub async fn body(&mut self, framing: &mut Framing) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(framing).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Up to `most` bytes, whatever is there first; `None` at the end of the connection.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn some(&mut self, most: u64) -> io::Result<Option<Bytes>> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Ok(None);
        }
        let take = usize::try_from(most)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        Ok(Some(self.buffer.split_to(take).freeze()))
    }

    /// Exactly `count` bytes.
    ///
    /// # Errors
    /// What the connection says, or an end before that.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Bytes> {
        while self.buffer.len() < count {
            if !self.fill().await? {
                return Err(cut());
            }
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Everything until the peer closes.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? {}
        Ok(self.buffer.split().to_vec())
    }

    /// Waits until the peer closes or resets. What it still sends before that is kept for reading.
    pub async fn closed(&mut self) {
        while let Ok(true) = self.fill().await {}
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end + 2);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if !self.fill().await? {
                return Err(cut());
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(16 * 1024);
        Ok(self.io.read_buf(&mut self.buffer).await? > 0)
    }
}

/// `length` bytes that are the same on every call and differ along the way.
#[must_use]
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(pattern_byte).collect()
}

/// The byte at `index` of every [`pattern`]. 251 is prime, so no power-of-two shift goes unseen.
#[must_use]
pub fn pattern_byte(index: usize) -> u8 {
    u8::try_from(index % 251).unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP/1: {what:?}"))
}

fn cut() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "the message was cut short")
}
