//! HTTP/1 on a connection to the operator's page: one question after another, each answered in whole.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use tidegate_shared::glance::Glance;
use tidegate_shared::http1::request::{Flaw, Reader};
use tidegate_shared::http1::response::{write, write_field};
use tidegate_shared::http1::{Inflow, keeps};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long a request's head is waited for.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// The longest head, in octets and fields.
const LONGEST: usize = 16 * 1024;
const MOST: usize = 100;

/// Answers until whoever asks leaves, or says something that nothing can follow, or the page no longer `stays`; `stray` is told of
/// what is no question.
///
/// # Errors
/// The connection's.
pub(super) async fn talk<T>(
    io: &mut T,
    mut respond: impl FnMut(&Request<()>) -> Response<Bytes>,
    stays: impl Fn() -> bool,
    mut stray: impl FnMut(&[u8]),
) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut inflow = Inflow::default();
    let mut reader = Reader::new(LONGEST, MOST);
    loop {
        let asked = timeout(HEAD_WITHIN, head(io, &mut inflow, &mut reader)).await;
        let Some(asked) = asked.unwrap_or(Ok(None))? else {
            return Ok(());
        };
        let (response, goes_on, whole) = match &asked {
            Ok(head) => {
                let whole = *head.method() != Method::HEAD;
                let response = respond(head);
                (response, may_go_on(head) && stays(), whole)
            }
            Err(flaw) => {
                stray(inflow.octets());
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = match flaw {
                    Flaw::Malformed => StatusCode::BAD_REQUEST,
                    Flaw::TargetTooLong => StatusCode::URI_TOO_LONG,
                    Flaw::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                };
                (response, false, true)
            }
        };
        io.write_all(&octets(&response, whole, goes_on)).await?;
        if !goes_on {
            return io.shutdown().await;
        }
    }
}

/// The next head, or what is none; nothing at the connection's end.
async fn head<T>(
    io: &mut T,
    inflow: &mut Inflow,
    reader: &mut Reader,
) -> io::Result<Option<Result<Request<()>, Flaw>>>
where
    T: AsyncRead + Unpin,
{
    loop {
        if !inflow.is_empty() {
            match reader.next(inflow.octets()) {
                Ok(Some(found)) => return Ok(Some(Ok(found.head))),
                Ok(None) => {}
                Err(flaw) => return Ok(Some(Err(flaw))),
            }
        }
        if poll_fn(|cx| inflow.poll_read(cx, io)).await? == 0 {
            return Ok(None);
        }
    }
}

/// Whether another question may follow: content of this one would be read as the next.
fn may_go_on(head: &Request<()>) -> bool {
    let headers = head.headers();
    let has_content = headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    keeps(head.version(), headers, Glance::of(headers)) && !has_content
}

fn octets(response: &Response<Bytes>, whole: bool, goes_on: bool) -> BytesMut {
    let (body, mut out) = (response.body(), BytesMut::new());
    write(
        &mut out,
        response.version(),
        response.status(),
        response.headers(),
    );
    let length = body.len().to_string();
    write_field(&mut out, CONTENT_LENGTH.as_str(), length.as_bytes());
    let option: &[u8] = if goes_on { b"keep-alive" } else { b"close" };
    write_field(&mut out, CONNECTION.as_str(), option);
    out.extend_from_slice(b"\r\n");
    if whole {
        out.extend_from_slice(body);
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// All that is answered to what is said before the connection is closed.
    async fn answered(said: &[u8]) -> String {
        let (mut ours, mut theirs) = tokio::io::duplex(256 * 1024);
        theirs.write_all(said).await.unwrap();
        theirs.shutdown().await.unwrap();
        let respond = |head: &Request<()>| Response::new(Bytes::from(head.uri().path().to_owned()));
        talk(&mut ours, respond, || true, |_| {}).await.unwrap();
        drop(ours);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn one_question_follows_another_until_one_is_the_last() {
        let said = b"GET /a HTTP/1.1\r\n\r\nHEAD /bb HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nConnection: close\r\n\r\nGET /d HTTP/1.1\r\n\r\n";
        assert_eq!(
            answered(said).await,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\n/a\
             HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/c"
        );
    }

    #[tokio::test]
    async fn behind_content_and_behind_nonsense_nothing_is_a_question() {
        for said in [
            "POST /a HTTP/1.1\r\nContent-Length: 19\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
            "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
            "nonsense\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
        ] {
            let answer = answered(said.as_bytes()).await;
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{said:?}: {answer}");
            assert!(answer.contains("connection: close"), "{said:?}: {answer}");
        }
        assert_eq!(answered(b"").await, "");
        assert_eq!(answered(b"GET /a HT").await, "");
    }
}
