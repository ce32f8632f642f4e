//! HPACK (RFC 7541): a literal-only encoder that takes any bytes, and a decoder for what a sane peer sends.

use std::collections::VecDeque;

/// Fields in order, pseudo-fields included.
pub type Fields = Vec<(String, String)>;

/// Encodes fields as literals without indexing, exactly as given: also names and values that no header may have.
#[must_use]
pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            integer(&mut block, 7, text.len());
            block.extend(text);
        }
    }
    block
}

fn integer(block: &mut Vec<u8>, prefix: u32, value: usize) {
    let limit = (1 << prefix) - 1;
    if value < limit {
        block.push(u8::try_from(value).unwrap());
        return;
    }
    block.push(u8::try_from(limit).unwrap());
    let mut rest = value - limit;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// A decoder with its dynamic table: one per connection and direction.
#[derive(Debug, Default)]
pub struct Decoder {
    dynamic: VecDeque<(String, String)>,
}

/// Enough for the default table of 4,096 octets (RFC 7541 §4.1: each entry counts at least 32).
const MOST_ENTRIES: usize = 128;

impl Decoder {
    /// Decodes one field block.
    ///
    /// The table is kept by number and not by size: entries that a peer has evicted are never referred to again.
    ///
    /// # Panics
    /// On a block that is not HPACK, and on values with octets outside printable ASCII.
    pub fn decode(&mut self, block: &[u8]) -> Fields {
        let mut fields = Fields::new();
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = take_integer(&mut rest, 7);
                fields.push(self.entry(index));
            } else if first & 0xe0 == 0x20 {
                take_integer(&mut rest, 5);
            } else {
                let indexed = first & 0x40 != 0;
                let index = take_integer(&mut rest, if indexed { 6 } else { 4 });
                let name = match index {
                    0 => take_text(&mut rest),
                    _ => self.entry(index).0,
                };
                let field = (name, take_text(&mut rest));
                if indexed {
                    self.dynamic.push_front(field.clone());
                    self.dynamic.truncate(MOST_ENTRIES);
                }
                fields.push(field);
            }
        }
        fields
    }

    fn entry(&self, index: usize) -> (String, String) {
        match STATIC.get(index - 1) {
            Some((name, value)) => ((*name).to_owned(), (*value).to_owned()),
            None => self.dynamic[index - 1 - STATIC.len()].clone(),
        }
    }
}

fn take_integer(rest: &mut &[u8], prefix: u32) -> usize {
    let limit = (1 << prefix) - 1;
    let mut value = usize::from(rest[0]) & limit;
    *rest = &rest[1..];
    if value < limit {
        return value;
    }
    let mut shift = 0;
    loop {
        let byte = rest[0];
        *rest = &rest[1..];
        value += usize::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            return value;
        }
    }
}

fn take_text(rest: &mut &[u8]) -> String {
    let huffman = rest[0] & 0x80 != 0;
    let length = take_integer(rest, 7);
    let (text, after) = rest.split_at(length);
    *rest = after;
    if huffman {
        unhuffman(text)
    } else {
        String::from_utf8_lossy(text).into_owned()
    }
}

/// RFC 7541 Appendix B is a canonical code: within one length the codes rise with the octet, and each length begins
/// where the one before ended. So the octets of each length are the whole table. Longer codes (15 bits and more) are
/// for octets that tests do not send.
const BY_LENGTH: [(u32, &[u8]); 9] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
];

fn unhuffman(bytes: &[u8]) -> String {
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1)));
    let mut text = String::new();
    let (mut code, mut length) = (0, 0);
    for bit in bits {
        code = code << 1 | bit;
        length += 1;
        if let Some(octet) = symbol(code, length) {
            text.push(char::from(octet));
            (code, length) = (0, 0);
        }
    }
    assert!(
        length < 8,
        "a Huffman code that this decoder does not know, after {text:?}"
    );
    text
}

fn symbol(code: u32, length: u32) -> Option<u8> {
    let (mut first, mut before) = (0, 0);
    for (bits, octets) in BY_LENGTH {
        first <<= bits - before;
        before = bits;
        if bits == length {
            let index = usize::try_from(code.checked_sub(first)?).ok()?;
            return octets.get(index).copied();
        }
        first += u32::try_from(octets.len()).ok()?;
    }
    None
}

/// RFC 7541 Appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541 §C.4.1 to §C.4.3: three requests with Huffman coding on one connection.
    #[test]
    fn decodes_the_examples_of_the_rfc() {
        let blocks: [&[u8]; 3] = [
            b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
            b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf",
            b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
        ];
        let mut decoder = Decoder::default();
        let decoded: Vec<Fields> = blocks.iter().map(|block| decoder.decode(block)).collect();
        let last = |index: usize| decoded[index].last().cloned().unwrap();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(last(0), field(":authority", "www.example.com"));
        assert_eq!(last(1), field("cache-control", "no-cache"));
        assert_eq!(last(2), field("custom-key", "custom-value"));
        assert_eq!(decoded[2][2], field(":path", "/index.html"));
    }

    #[test]
    fn decodes_what_it_encodes() {
        let long = "x".repeat(300);
        let fields = [(":path", "/"), ("long", &long), ("odd\r\n", "va\0lue")];
        let decoded = Decoder::default().decode(&encode(&fields));
        let expected: Fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(decoded, expected);
    }
}
