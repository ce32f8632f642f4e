//! What a visitor reads when there is no answer of the app's: a small page or one line of text, by `Accept`. Pure.

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response};

use crate::failure::Failure;

/// The response header that carries [`Failure::reason`].
pub const REASON: &str = "tidegate-reason";

/// The response header with the id under which the access log has the request.
pub const REQUEST_ID: &str = "tidegate-request-id";

/// The answer to a failed request. `about` is what the gateway knows beside the failure itself, such as when a name was
/// last connected; it goes to the visitor too. The length is stated, the body left to the caller.
pub fn failed(failure: Failure, about: Option<&str>, id: &str, wants: Wants) -> Response<Bytes> {
    let status = failure.status();
    let body = match wants {
        Wants::Page => page(failure, about, id),
        Wants::Text => match about {
            Some(about) => format!("{} {about}\n", failure.sentence()),
            None => format!("{}\n", failure.sentence()),
        },
    };
    let body = Bytes::from(body);
    let mut response = Response::new(body);
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

/// The same as it stands on an HTTP/1 connection that ends with it, where there is no request to answer.
pub fn last_words(failure: Failure, id: &str) -> Vec<u8> {
    let response = failed(failure, None, id, Wants::Text);
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

/// In which form an error is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Page,
    Text,
}

impl Wants {
    /// A page for those who list `text/html`, as browsers do; text for programs.
    pub fn of(headers: &HeaderMap) -> Self {
        let page = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|accept| {
                accept.split(',').any(|range| {
                    let mut parts = range.split(';').map(str::trim);
                    parts
                        .next()
                        .is_some_and(|kind| kind.eq_ignore_ascii_case("text/html"))
                        && !parts.any(|parameter| parameter == "q=0" || parameter == "q=0.0")
                })
            });
        if page { Self::Page } else { Self::Text }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Page => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
        }
    }
}

fn page(failure: Failure, about: Option<&str>, id: &str) -> String {
    let status = failure.status();
    let title = status.canonical_reason().unwrap_or("Error");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{code} {title}</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em;color:#223}}\
         h1{{font-size:1.3em}}small{{color:#667}}code{{background:#eef;padding:0 .3em}}</style>\n\
         <h1>{code} {title}</h1>\n<p>{sentence}</p>\n{about}\
         <p><small>Reason <code>{reason}</code>, request <code>{id}</code>. Tidegate.</small></p>\n</html>\n",
        code = status.as_u16(),
        sentence = failure.sentence(),
        about = about
            .map(|about| format!("<p>{}</p>\n", escaped(about)))
            .unwrap_or_default(),
        reason = failure.reason(),
        id = escaped(id),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_and_programs_a_line() {
        let accept = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(value).unwrap());
            Wants::of(&headers)
        };
        assert_eq!(
            accept("text/html,application/xhtml+xml,*/*;q=0.8"),
            Wants::Page
        );
        assert_eq!(accept("*/*"), Wants::Text);
        assert_eq!(accept("text/html;q=0, application/json"), Wants::Text);
        assert_eq!(Wants::of(&HeaderMap::new()), Wants::Text);
    }

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
