//! HTTP/1.0 and 1.1 with a visitor: request after request, and the answer to each, in the connection's own task. What is asked
//! and answered is `h1`'s, when something is overdue the pulse's.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{Response, StatusCode, Version, response};
use http_body::Body as _;
use tidegate_shared::http1::request::{Flaw, Found};
use tidegate_shared::http1::response::{write, write_field};
use tidegate_shared::http1::{Length, Sending, Stuck};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::in_hand::InHand;
use super::inlet::{Asked, Incoming, Next, Shared};
use super::io::Ends;
use super::pass::Unanswered;
use crate::answer::Cut;

/// How long one may be silent who still sends behind an answer that ends the connection.
const LINGER: Duration = Duration::from_secs(2);

/// How a connection came to the end of HTTP on it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    /// All was said.
    Closed,
    /// 101 was the last of it.
    Switched,
}

/// Serves request after request. `serve` answers one, `refuse` says what is said to what is none. Whoever still sends behind the
/// last answer may go on for as long as `linger`.
///
/// # Errors
/// The connection's, where the visitor has left or an answer could not be brought to its end.
pub(super) async fn talk<T, S, F>(
    shared: &Shared<T>,
    mut serve: S,
    mut refuse: impl FnMut(Flaw, &[u8]) -> Vec<u8>,
    linger: Duration,
) -> io::Result<Spoken>
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin + 'static,
    S: FnMut(Box<Found>, Incoming, Asked) -> F,
    F: Future<Output = Result<Response<InHand>, Unanswered>>,
{
    let mut sending: Sending<InHand> = Sending::default();
    loop {
        let next = poll_fn(|cx| shared.lock().poll_head(cx)).await?;
        let (found, asked, content) = match next {
            Next::Request(found, asked, number) => (found, asked, shared.incoming(number)),
            Next::Flawed(flaw, octets) => {
                sending.out().extend_from_slice(&refuse(flaw, &octets));
                send(shared, &mut sending).await?;
                break;
            }
            Next::End => break,
        };
        // Here and not in a function of its own: what serves a request is large, and would be copied on its way there.
        let mut serving = pin!(serve(found, content, asked));
        // For as long as the visitor waits.
        let response = poll_fn(|cx| {
            if let Poll::Ready(answer) = serving.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(io::Error::other));
            }
            match shared.lock().watch(cx, true) {
                Ok(()) => Poll::Pending,
                Err(gone) => Poll::Ready(Err(gone)),
            }
        })
        .await?;
        let (goes_on, read) = poll_fn(|cx| Poll::Ready(shared.lock().answers(cx))).await;
        let (parts, body) = response.into_parts();
        let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let (length, keeps) = begin(sending.out(), &parts, &body, asked, goes_on);
        match length {
            Some(length) => sending.body(body, length),
            None => drop(body),
        }
        send(shared, &mut sending).await?;
        if switches {
            return Ok(Spoken::Switched);
        }
        let read = read || poll_fn(|cx| shared.lock().poll_rest(cx)).await;
        if !(keeps && read) {
            break;
        }
    }
    poll_fn(|cx| Pin::new(shared.lock().io()).poll_shutdown(cx)).await?;
    let lingers = shared.lock().lingers();
    if lingers {
        // A connection that is closed with octets unread may take its last answer with it (RFC 9112 §9.6).
        let some = || timeout(LINGER, poll_fn(|cx| shared.lock().poll_unread(cx)));
        let unread = async { while matches!(some().await, Ok(true)) {} };
        let _enough = timeout(linger, unread).await;
    }
    Ok(Spoken::Closed)
}

/// Sends what is to be sent, for as long as the visitor is there.
async fn send<T>(shared: &Shared<T>, sending: &mut Sending<InHand>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin + 'static,
{
    poll_fn(|cx| match sending.poll(cx, &mut Outlet(shared)) {
        Poll::Ready(sent) => Poll::Ready(sent.map_err(why)),
        Poll::Pending => {
            let is_written = sending.is_written();
            if !is_written && let Some(body) = sending.body_left() {
                body.poll_request(cx);
            }
            match shared.lock().watch(cx, is_written) {
                Ok(()) => Poll::Pending,
                Err(gone) => Poll::Ready(Err(gone)),
            }
        }
    })
    .await
}

fn why(stuck: Stuck<Cut>) -> io::Error {
    match stuck {
        Stuck::Line(error) => error,
        Stuck::Body(cut) => io::Error::other(cut),
        Stuck::Length => io::Error::other("the answer is not as long as its head says"),
    }
}

/// Writes an answer's head. How its body follows, `None` where it has none; and whether the connection goes on behind it.
fn begin(
    out: &mut BytesMut,
    parts: &response::Parts,
    body: &InHand,
    asked: Asked,
    goes_on: bool,
) -> (Option<Length>, bool) {
    let headers = &parts.headers;
    let status = parts.status;
    write(out, parts.version, status, headers);
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut keeps = asked.keeps && goes_on;
    let bare = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let follows = if bare || status.is_informational() || asked.head_only {
        None
    } else if let Some(length) = length {
        Some(Length::Left(length))
    } else if body.is_end_stream() {
        write_field(out, CONTENT_LENGTH.as_str(), b"0");
        Some(Length::Left(0))
    } else if asked.version == Version::HTTP_10 {
        keeps = false;
        Some(Length::ToEnd)
    } else {
        write_field(out, "transfer-encoding", b"chunked");
        let trailers = asked.trailers;
        Some(Length::Chunked { trailers })
    };
    // What is there already is ours: 'close', or the change of protocol.
    if let Some(option) = headers.get(CONNECTION) {
        keeps &= option != "close";
    } else if !keeps {
        write_field(out, CONNECTION.as_str(), b"close");
    } else if asked.version == Version::HTTP_10 {
        write_field(out, CONNECTION.as_str(), b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
    (follows, keeps)
}

/// The way out, which answers take while what comes in is read.
struct Outlet<'a, T>(&'a Shared<T>);

impl<T> AsyncWrite for Outlet<'_, T>
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin + 'static,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.lock().io()).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.lock().io()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.lock().io()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.lock().io()).poll_shutdown(cx)
    }
}
