//! Sections of fields (RFC 9112 §5): those of a head, and trailers.

use std::fmt::Write as _;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use httparse::{EMPTY_HEADER, Header, Status};

use super::Unreadable;

/// The most fields of a trailer section.
const MOST: usize = 100;

/// A head that is still short is looked at whenever some of it comes, so that what is no HTTP is told at once.
const SHORT: usize = 256;

/// Fields for which there is room beside those that came: a proxy adds some.
const ADDED: usize = 8;

/// Where each field's name and value begin and end. Its room is used again for the next head.
pub(super) type Places = Vec<[usize; 4]>;

/// Writes fields.
pub(super) fn write(out: &mut BytesMut, fields: &HeaderMap) {
    for (name, value) in fields {
        write_one(out, name.as_str(), value.as_bytes());
    }
}

/// Writes one field.
pub(super) fn write_one(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the line that states a chunk's size (RFC 9112 §7.1).
pub(super) fn write_size(out: &mut BytesMut, size: usize) {
    // A buffer that grows takes all.
    let _taken = write!(out, "{size:x}\r\n");
}

/// Notes where fields are, as they are borrowed from what becomes theirs.
pub(super) fn note(places: &mut Places, fields: &[Header<'_>], octets: &[u8]) {
    let base = octets.as_ptr() as usize;
    let place = |field: &Header<'_>| {
        let name = field.name.as_ptr() as usize - base;
        // An empty value may be borrowed from nowhere.
        let value = if field.value.is_empty() {
            name
        } else {
            field.value.as_ptr() as usize - base
        };
        [
            name,
            name + field.name.len(),
            value,
            value + field.value.len(),
        ]
    };
    places.clear();
    places.extend(fields.iter().map(place));
}

/// Whether a line of a head ends with LF alone, but for empty ones in front of it. Lines end where fields begin, and at the end.
pub(super) fn has_bare_line(places: &Places, head: &[u8]) -> bool {
    let is_bare = |[name, ..]: &[usize; 4]| !head[..*name].ends_with(b"\r\n");
    !head.ends_with(b"\r\n\r\n") || places.iter().any(is_bare)
}

/// Fields of what has become theirs; values share it.
///
/// # Errors
/// One of them is none, which the parser has seen to.
pub(super) fn collect(places: &Places, octets: &Bytes) -> Result<HeaderMap, Unreadable> {
    const NO_FIELD: Unreadable = "a field of it is none (RFC 9110 §5)";
    let mut fields = HeaderMap::with_capacity(places.len() + ADDED);
    for [name, name_end, value, value_end] in places {
        let name = HeaderName::from_bytes(&octets[*name..*name_end]).map_err(|_bad| NO_FIELD)?;
        let value = HeaderValue::from_maybe_shared(octets.slice(*value..*value_end))
            .map_err(|_bad| NO_FIELD)?;
        fields.append(name, value);
    }
    Ok(fields)
}

/// A trailer section, with the empty line that ends it.
///
/// # Errors
/// What of it is none.
pub(super) fn trailers(section: &Bytes) -> Result<HeaderMap, Unreadable> {
    let mut room = [EMPTY_HEADER; MOST];
    match httparse::parse_headers(section, &mut room) {
        Ok(Status::Complete((_, parsed))) => {
            let mut places = Places::new();
            note(&mut places, parsed, section);
            collect(&places, section)
        }
        Ok(Status::Partial) => Err("its trailers have no end"),
        Err(httparse::Error::TooManyHeaders) => Err("its trailers have more than 100 fields"),
        Err(_) => Err("its trailers are no fields (RFC 9112 §5)"),
    }
}

/// Looks for the end of a head that comes in pieces, so that it is not parsed anew with each of them.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// So many octets have been searched.
    searched: usize,
}

impl Search {
    /// Whether what has arrived of a head may be all of it, or is so short that it costs nothing to parse.
    pub(super) fn is_worth_parsing(&mut self, octets: &[u8]) -> bool {
        if self.searched == 0 || octets.len() <= SHORT {
            self.searched = octets.len();
            return true;
        }
        let from = self.searched.saturating_sub(3);
        self.searched = octets.len();
        let mut rest = &octets[from..];
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            rest = &rest[end + 1..];
            if matches!(rest, [b'\n', ..] | [b'\r', b'\n', ..]) {
                return true;
            }
        }
        false
    }

    /// It was found.
    pub(super) const fn restart(&mut self) {
        self.searched = 0;
    }
}
