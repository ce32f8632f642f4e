//! What a visitor is answered when there is no answer of the app's: status and fields around the page. Pure.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response};
use tidegate_shared::page::{Page, Wants};

use crate::access::Record;
use crate::failure::Failure;

/// The response header that carries [`Failure::reason`].
pub const REASON: &str = "tidegate-reason";

/// The response header with the id under which the access log has the request.
pub const REQUEST_ID: &str = "tidegate-request-id";

/// The answer to a failed request. `about` is what the gateway knows beside the failure itself, such as when a name was
/// last connected; it goes to the visitor too. The length is stated, the body left to the caller.
pub fn failed(failure: Failure, about: Option<&str>, id: &str, wants: Wants) -> Response<Bytes> {
    let status = failure.status();
    let page = Page {
        status,
        sentence: failure.sentence(),
        about,
        reason: failure.reason(),
        request: Some(id),
    };
    let mut response = Response::new(Bytes::from(page.render(wants)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wants.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(failure.reason()));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    if let Some(seconds) = failure.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if failure == Failure::ConnectRefused {
        headers.insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    let length = response.body().len();
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Says when it makes sense to ask again, where that is known better than for failures of the kind.
pub(crate) fn later<B>(response: &mut Response<B>, record: &Record) {
    if let Some(seconds) = record.retry_after() {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// The same as it stands on an HTTP/1 connection that ends with it, where there is no request to answer; noted in its record.
pub(crate) fn last_words(failure: Failure, record: &mut Record) -> Vec<u8> {
    let mut response = failed(failure, None, &record.id(), Wants::Text);
    record.failed(failure);
    later(&mut response, record);
    record.sent = response.body().len() as u64;
    let mut octets =
        format!("HTTP/1.1 {}\r\nconnection: close\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            octets.extend_from_slice(part);
        }
    }
    octets.extend_from_slice(b"\r\n");
    octets.extend_from_slice(response.body());
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_about_a_name_cannot_write_html() {
        let response = failed(
            Failure::AgentGone,
            Some("<script>alert(1)</script>"),
            "r-1",
            Wants::Page,
        );
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(!text.contains("<script>") && text.contains("&lt;script&gt;"));
        assert_eq!(response.headers()[REASON], "agent-gone");
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        assert_eq!(
            response.headers()[CONTENT_LENGTH],
            response.body().len().to_string()
        );
    }
}
