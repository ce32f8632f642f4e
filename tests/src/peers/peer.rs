//! A connection of HTTP/2 frames: reads and writes them, joins field blocks, acknowledges what a polite peer does.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::frame::{Frame, flag, kind};
use super::hpack::{self, Decoder, Fields};
use crate::conn::Conn;
use crate::eventually::{SOON, within};
use crate::http1::Reader;
use crate::task::{Task, spawn};

/// What a peer met, field blocks joined and decoded.
#[derive(Debug)]
pub enum Event {
    /// A request (to an agent) or a response or trailers (to a gateway).
    Head {
        /// The stream.
        stream: u32,
        /// Fields in order.
        fields: Fields,
        /// END_STREAM.
        end: bool,
    },
    /// Any frame that is not HEADERS or CONTINUATION.
    Frame(Frame),
}

/// Either end of an HTTP/2 connection.
#[derive(Debug)]
pub struct Peer {
    io: Reader<Conn>,
    decoder: Decoder,
    /// Answers SETTINGS and PING, and gives DATA its window back, without being told. On from the start.
    pub polite: bool,
}

impl Peer {
    /// Speaks frames on `conn`.
    #[must_use]
    pub fn over(conn: Conn) -> Self {
        Self::on(Reader::new(conn))
    }

    /// Goes on with a connection of which something has been read.
    #[must_use]
    pub fn on(reader: Reader<Conn>) -> Self {
        Self {
            io: reader,
            decoder: Decoder::default(),
            polite: true,
        }
    }

    /// Writes any bytes.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.io.write_all(bytes).await?;
        self.io.io.flush().await
    }

    /// Writes one frame; fails the test when the connection does not take it.
    pub async fn send(&mut self, frame: Frame) {
        within(SOON, "a frame is taken", self.write(&frame.encode()))
            .await
            .unwrap();
    }

    /// Writes frames in one piece.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn send_all(&mut self, frames: &[Frame]) -> io::Result<()> {
        let wire: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        self.write(&wire).await
    }

    /// Writes a field block in one HEADERS frame.
    pub async fn send_head<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        stream: u32,
        fields: &[(N, V)],
        end: bool,
    ) {
        self.send(Frame::headers(stream, hpack::encode(fields), end))
            .await;
    }

    /// Answers a request with 200 and a text.
    ///
    /// # Errors
    /// What the connection says.
    pub async fn respond(&mut self, stream: u32, body: &str) -> io::Result<()> {
        let head = Frame::headers(stream, hpack::encode(&[(":status", "200")]), false);
        self.send_all(&[head, Frame::data(stream, body.as_bytes(), true)])
            .await
    }

    /// Reads bytes as they are.
    ///
    /// # Errors
    /// What the connection says, or an end before that.
    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.io.exactly(count).await.map(|bytes| bytes.to_vec())
    }

    /// The next frame as it is; nothing is answered.
    ///
    /// # Errors
    /// What the connection says, or its end.
    pub async fn frame(&mut self) -> io::Result<Frame> {
        let head = self.io.exactly(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let payload = self.io.exactly(usize::try_from(length).unwrap()).await?;
        Ok(Frame::new(head[3], head[4], stream, payload))
    }

    /// The next event; a polite peer answers SETTINGS, PING and DATA first.
    ///
    /// # Errors
    /// What the connection says, or its end.
    pub async fn event(&mut self) -> io::Result<Event> {
        let frame = self.frame().await?;
        if self.polite {
            for answer in answers(&frame) {
                // The other side may have closed after what it had to say, and that is still to be read.
                let _ = self.write(&answer.encode()).await;
            }
        }
        if frame.kind != kind::HEADERS {
            return Ok(Event::Frame(frame));
        }
        let mut block = unpadded(&frame).to_vec();
        let mut last = frame.has(flag::END_HEADERS);
        while !last {
            let more = self.frame().await?;
            assert_eq!(more.kind, kind::CONTINUATION, "inside a field block");
            last = more.has(flag::END_HEADERS);
            block.extend(more.payload);
        }
        Ok(Event::Head {
            stream: frame.stream,
            fields: self.decoder.decode(&block),
            end: frame.has(flag::END_STREAM),
        })
    }

    /// Waits for the next field block and returns its stream and fields.
    pub async fn head(&mut self) -> (u32, Fields) {
        within(SOON, "a field block", async {
            loop {
                if let Event::Head { stream, fields, .. } = self.event().await.unwrap() {
                    return (stream, fields);
                }
            }
        })
        .await
    }

    /// Waits for the next frame of `kind`, whatever comes before it.
    pub async fn wait_frame(&mut self, kind: u8) -> Frame {
        within(SOON, &format!("a frame of type {kind}"), async {
            loop {
                if let Event::Frame(frame) = self.event().await.unwrap()
                    && frame.kind == kind
                {
                    return frame;
                }
            }
        })
        .await
    }

    /// Reads until the other side closes, and returns every frame that came; fails the test after `limit`.
    pub async fn until_closed(&mut self, limit: Duration) -> Vec<Frame> {
        let mut frames = Vec::new();
        within(limit, "the other side closes the connection", async {
            while let Ok(frame) = self.frame().await {
                frames.push(frame);
            }
        })
        .await;
        frames
    }

    /// Answers SETTINGS, PING and DATA for as long as the connection or the task lasts.
    #[must_use]
    pub fn idle(mut self) -> Task {
        spawn(async move { while self.event().await.is_ok() {} })
    }

    /// The connection underneath.
    #[must_use]
    pub fn into_conn(self) -> Conn {
        self.io.io
    }
}

/// The value of a field, if it is there.
#[must_use]
pub fn field<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(field, _)| field == name);
    found.map(|(_, value)| value.as_str())
}

fn answers(frame: &Frame) -> Vec<Frame> {
    match frame.kind {
        kind::SETTINGS if !frame.has(flag::ACK) => vec![Frame::settings_ack()],
        kind::PING if !frame.has(flag::ACK) => {
            vec![Frame::ping(
                frame.payload.as_slice().try_into().unwrap(),
                true,
            )]
        }
        kind::DATA if !frame.payload.is_empty() => {
            let size = u32::try_from(frame.payload.len()).unwrap();
            let mut updates = vec![Frame::window(0, size)];
            if !frame.has(flag::END_STREAM) {
                updates.push(Frame::window(frame.stream, size));
            }
            updates
        }
        _ => Vec::new(),
    }
}

fn unpadded(frame: &Frame) -> &[u8] {
    let mut payload = frame.payload.as_slice();
    if frame.has(flag::PADDED) {
        payload = &payload[1..payload.len() - usize::from(payload[0])];
    }
    if frame.has(flag::PRIORITY) {
        payload = &payload[5..];
    }
    payload
}
