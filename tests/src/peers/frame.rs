//! HTTP/2 frames as bytes (RFC 9113 §4.1 and §6).

/// The client's connection preface (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub mod kind {
    /// Body bytes.
    pub const DATA: u8 = 0;
    /// A field block, or its beginning.
    pub const HEADERS: u8 = 1;
    /// The end of one stream.
    pub const RST_STREAM: u8 = 3;
    /// Parameters of the connection.
    pub const SETTINGS: u8 = 4;
    /// An announced response.
    pub const PUSH_PROMISE: u8 = 5;
    /// A round trip.
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
    /// More room for DATA.
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of a field block.
    pub const CONTINUATION: u8 = 9;
}

/// Frame flags.
pub mod flag {
    /// On SETTINGS and PING.
    pub const ACK: u8 = 1;
    /// On DATA and HEADERS.
    pub const END_STREAM: u8 = 1;
    /// On HEADERS, PUSH_PROMISE and CONTINUATION.
    pub const END_HEADERS: u8 = 4;
    /// On DATA and HEADERS.
    pub const PADDED: u8 = 8;
    /// On HEADERS.
    pub const PRIORITY: u8 = 32;
}

/// Error codes (RFC 9113 §7).
pub mod code {
    /// A graceful end.
    pub const NO_ERROR: u32 = 0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// An unexpected condition.
    pub const INTERNAL_ERROR: u32 = 2;
    /// Refused before any processing.
    pub const REFUSED_STREAM: u32 = 7;
    /// No longer wanted.
    pub const CANCEL: u32 = 8;
    /// The TCP connection behind a CONNECT failed.
    pub const CONNECT_ERROR: u32 = 10;
}

/// Settings (RFC 9113 §6.5.2, RFC 8441 §3).
pub mod setting {
    /// Whether pushes are accepted.
    pub const ENABLE_PUSH: u16 = 2;
    /// How many streams the peer may have open.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// Room for DATA on each stream.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// Whether `:protocol` is understood.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Stream 0 is the connection.
    pub stream: u32,
    /// Everything after the nine-byte head.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Any frame.
    #[must_use]
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    /// SETTINGS with these values.
    #[must_use]
    pub fn settings(values: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (id, value) in values {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        Self::new(kind::SETTINGS, 0, 0, payload)
    }

    /// The acknowledgement of SETTINGS.
    #[must_use]
    pub fn settings_ack() -> Self {
        Self::new(kind::SETTINGS, flag::ACK, 0, [])
    }

    /// DATA.
    #[must_use]
    pub fn data(stream: u32, bytes: &[u8], end: bool) -> Self {
        Self::new(
            kind::DATA,
            if end { flag::END_STREAM } else { 0 },
            stream,
            bytes,
        )
    }

    /// A whole field block in one HEADERS frame.
    #[must_use]
    pub fn headers(stream: u32, block: Vec<u8>, end: bool) -> Self {
        let end = if end { flag::END_STREAM } else { 0 };
        Self::new(kind::HEADERS, flag::END_HEADERS | end, stream, block)
    }

    /// RST_STREAM.
    #[must_use]
    pub fn reset(stream: u32, code: u32) -> Self {
        Self::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    /// GOAWAY.
    #[must_use]
    pub fn goaway(last: u32, code: u32) -> Self {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        Self::new(kind::GOAWAY, 0, 0, payload)
    }

    /// PING, or its answer.
    #[must_use]
    pub fn ping(payload: [u8; 8], ack: bool) -> Self {
        Self::new(kind::PING, if ack { flag::ACK } else { 0 }, 0, payload)
    }

    /// WINDOW_UPDATE.
    #[must_use]
    pub fn window(stream: u32, more: u32) -> Self {
        Self::new(kind::WINDOW_UPDATE, 0, stream, more.to_be_bytes())
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The error code of RST_STREAM or GOAWAY.
    #[must_use]
    pub fn code(&self) -> u32 {
        let at = if self.kind == kind::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut wire = length[1..].to_vec();
        wire.extend([self.kind, self.flags]);
        wire.extend(self.stream.to_be_bytes());
        wire.extend(&self.payload);
        wire
    }
}
