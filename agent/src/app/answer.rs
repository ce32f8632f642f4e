//! What the visitor gets when the app gives nothing: status, reason and text for every failure are decided here.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use http::{Method, Request, Response, StatusCode};
use tidegate_shared::message::{DETAIL, DETAIL_MAX};
use tidegate_shared::page::{Page, Wants, full_stop};
use tidegate_shared::reversal::io::Terms;

use super::App;

/// The response header that carries [`Trouble::reason`].
pub(super) const REASON: HeaderName = HeaderName::from_static("tidegate-reason");

/// Why there is no answer from the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection to the app. What a visitor may know of it: no address.
    Unreachable(Cow<'static, str>),
    /// The app closed the connection without an answer.
    Closed,
    /// What the app answered is not HTTP.
    Invalid(Cow<'static, str>),
    /// The app ended the request's HTTP/2 stream without an answer.
    Reset(Reason),
    /// No head of a response within the limit.
    Slow,
    /// The app answered an upgrade as if it were an ordinary request.
    UpgradeIgnored(StatusCode),
    /// The app's answer to an upgrade is wrong.
    UpgradeInvalid(&'static str),
    /// CONNECT without a protocol: a tunnel to anywhere, which an agent never is.
    Connect,
    /// A request, to an app that is reached by connections alone.
    NotHttp,
    /// A request that must not be passed on.
    Unfit(&'static str),
}

impl Trouble {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Unreachable(_)
            | Self::Closed
            | Self::Invalid(_)
            | Self::Reset(_)
            | Self::UpgradeIgnored(_)
            | Self::UpgradeInvalid(_)
            | Self::NotHttp => StatusCode::BAD_GATEWAY,
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Unfit(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "app-unreachable",
            Self::Closed => "app-closed",
            Self::Invalid(_) | Self::Reset(_) => "app-invalid-response",
            Self::Slow => "app-timeout",
            Self::UpgradeIgnored(_) => "upgrade-ignored",
            Self::UpgradeInvalid(_) => "upgrade-invalid",
            Self::Connect => "connect-unsupported",
            Self::NotHttp => "tcp-only",
            // The gateway's word for the same.
            Self::Unfit(_) => "malformed-request",
        }
    }
}

/// What is wrong, as it follows "the app". Visitors read it: it names no address, and no option.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "cannot be reached: {why}"),
            Self::Closed => f.write_str("closed the connection without an answer"),
            Self::Invalid(why) => write!(f, "did not answer in HTTP: {why}"),
            Self::Reset(reason) => write!(
                f,
                "broke the request off without an answer (HTTP/2 {reason:?})"
            ),
            Self::Slow => f.write_str("has not answered in time"),
            Self::UpgradeIgnored(status) => write!(
                f,
                "answered {} where a change of protocol was asked for",
                status.as_u16()
            ),
            Self::UpgradeInvalid(why) => write!(f, "answered a change of protocol wrongly: {why}"),
            Self::Connect => f.write_str(
                "is the only place that requests go to; CONNECT to others is not offered",
            ),
            Self::NotHttp => f.write_str(
                "is served by tidegate tcp, which carries TCP connections and no HTTP requests",
            ),
            Self::Unfit(why) => write!(f, "was not asked: {why}"),
        }
    }
}

/// Answers in the app's place. For a request whose head is still at hand.
pub(super) fn send<B>(
    app: &App,
    request: &Request<B>,
    respond: SendResponse<Bytes>,
    trouble: &Trouble,
) {
    let asker = Asker::of(request.method(), request.headers());
    asker.send(app, respond, trouble);
}

/// What must be known of a request to answer it later, when its head has gone to the app.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    head_only: bool,
    wants: Wants,
}

impl Asker {
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        Self {
            head_only: *method == Method::HEAD,
            wants: Wants::of(headers),
        }
    }

    pub(super) fn send(self, app: &App, mut respond: SendResponse<Bytes>, trouble: &Trouble) {
        app.complain(trouble);
        let detail = uncited(&format!("the app {trouble}"));
        let page = self.page(&detail, trouble);
        let mut response = Response::new(());
        *response.status_mut() = trouble.status();
        let headers = response.headers_mut();
        headers.insert(REASON, HeaderValue::from_static(trouble.reason()));
        if let Ok(detail) = HeaderValue::from_str(&one_line(&detail)) {
            headers.insert(DETAIL, detail);
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(self.wants.content_type()),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(page.len()));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // A visitor who has gone cannot be told; there is nobody else to tell.
        if let Ok(mut stream) = respond.send_response(response, self.head_only)
            && !self.head_only
        {
            let _gone = stream.send_data(Bytes::from(page), true);
        }
    }

    fn page(self, detail: &str, trouble: &Trouble) -> String {
        let page = Page {
            status: trouble.status(),
            sentence: &format!("The agent is connected, but {detail}{}", full_stop(detail)),
            about: None,
            reason: trouble.reason(),
            request: None,
        };
        page.render(self.wants)
    }
}

/// Whether a head has more than a gateway takes, which would reset the stream and could not say why.
pub(super) fn excess(fields: &HeaderMap) -> Option<Trouble> {
    // As RFC 9113 §6.5.2 counts, with `:status` and its value.
    let octets: usize = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum::<usize>()
        + 42;
    let most = Terms::default().max_header_list as usize;
    (octets > most).then(|| {
        let why =
            format!("its head has {octets} octets, as HTTP/2 counts them, and {most} is the most");
        Trouble::Invalid(why.into())
    })
}

/// Without the places in the standards, which are for who runs the app and reads the log.
fn uncited(text: &str) -> String {
    match text.split_once(" (RFC ") {
        Some((before, cited)) => {
            let behind = cited.split_once(')').map_or("", |(_cited, behind)| behind);
            format!("{before}{behind}")
        }
        None => text.to_owned(),
    }
}

/// What a field's value can carry, and no more of it than fits a small head, whatever a library has to say.
fn one_line(text: &str) -> String {
    text.chars()
        .take(DETAIL_MAX)
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::ACCEPT;

    #[test]
    fn the_page_says_who_is_there_and_who_is_not() {
        let asker = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            Asker::of(&Method::GET, &headers)
        };
        let trouble = Trouble::Unreachable("connection refused <&>".into());
        let detail = format!("the app {trouble}");
        assert_eq!(
            asker("*/*").page(&detail, &trouble),
            "The agent is connected, but the app cannot be reached: connection refused <&>.\n"
        );
        let page = asker("text/html,application/xhtml+xml").page(&detail, &trouble);
        assert!(page.contains("connection refused &lt;&amp;&gt;"), "{page}");
    }

    #[test]
    fn a_visitor_is_spared_the_standards() {
        let why = "its Sec-WebSocket-Accept does not fit the key (RFC 6455 §4.1)";
        assert_eq!(
            uncited(&format!("the app {}", Trouble::UpgradeInvalid(why))),
            "the app answered a change of protocol wrongly: its Sec-WebSocket-Accept does not fit the key"
        );
        assert_eq!(uncited("a (RFC 1 §2), b"), "a, b");
        assert_eq!(uncited("a (b)"), "a (b)");
    }

    #[test]
    fn a_detail_is_one_line_whatever_it_quotes() {
        assert_eq!(one_line("no\r\nx: y\u{e9}\t1"), "no??x: y??1");
        assert_eq!(one_line(&"x".repeat(9_000)).len(), DETAIL_MAX);
    }
}
