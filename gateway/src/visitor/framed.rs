//! What of an HTTP/1 request's head hyper takes and the gateway does not, and what it says of sizes. Pure but for a look at the
//! connection's pulse. Used by `h1`.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request};
use hyper::body::Incoming;

use super::pulse::Pulse;
use crate::failure::Failure;
use crate::smuggling::Form;

/// hyper takes `Transfer-Encoding` with `Content-Length` beside it, and several `Transfer-Encoding`; both are how requests
/// are smuggled (RFC 9112 §6.1, §11.2), and neither is needed. Nor is a line that ends with LF alone, which whoever is in front
/// of us may have taken for a part of a field's value; a recipient may refuse it (RFC 9112 §2.2).
pub(super) fn check_framing(
    request: &Request<Incoming>,
    pulse: &Pulse,
) -> Result<(), (Failure, Form)> {
    if pulse.has_bare_line() {
        return Err((Failure::Malformed, Form::BareLineFeed));
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    let form = if codings.next().is_some() {
        Form::SeveralCodings
    } else if !pulse.is_clear() {
        Form::LengthAndCoding
    } else if !chunked {
        Form::OtherCoding
    } else {
        return Ok(());
    };
    Err((Failure::AmbiguousFraming, form))
}

pub(super) fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn head_octets(headers: &HeaderMap) -> usize {
    // Names, values and the map's own entry; what it costs to hold, not what it was on the wire.
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 64)
        .sum::<usize>()
        + 512
}
