//! A body into one HTTP/2 stream: the only place that reserves a stream's capacity. What is taken from the body goes out
//! before more is taken, small chunks together up to one frame, so nothing piles up between the two. The future that pumps
//! a request's body is part of that request's own future: dropping it drops both halves.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::message::strip_trailers;

/// What one DATA frame carries, at most: with its head of nine octets (RFC 9113 §4.1) it fills one TLS record and one
/// buffer of 16 KiB at whoever reads it. A full frame of 16,384 would take a second record for its last nine, and a
/// buffer of the allocator's next size, 20 KiB, for as long as its data waits.
const PART: usize = 16 * 1024 - 9;

/// Chunks shorter than this go out in one frame with those that are there at the same time: whoever keeps a frame unread
/// keeps some 250 octets beside its payload. Nothing waits for more to come.
const SMALL: usize = 1024;

/// How a pump ended before its body did.
#[derive(Debug)]
pub enum Stop<E> {
    /// The body failed. The stream is still open: whoever pumps resets it, so that the far side cannot take what it has
    /// for the whole, and lets what was sent before that leave first if it is worth something (a reset overtakes it).
    Body(E),
    /// The far side reset the stream. `NO_ERROR` means that it wants no more and that its answer stands
    /// (RFC 9113 §8.1).
    Reset(Reason),
    /// The connection is gone.
    Gone(h2::Error),
}

/// What a body has to say after what was taken from it.
#[derive(Debug)]
enum Rest {
    More,
    Trailers(HeaderMap),
    Nothing,
}

/// Moves one body into one stream.
#[derive(Debug)]
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// To be sent next.
    chunk: Bytes,
    /// `chunk` is made of small ones, and another may be added.
    joins: bool,
    /// What came after `chunk` and is too large to be added.
    next: Bytes,
    rest: Rest,
    sent: u64,
    touched: bool,
    waits_for_window: bool,
    finished: bool,
}

impl<B> Pump<B> {
    /// Octets of DATA payload handed to the stream so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether there is nothing left to do: everything handed over, or given up.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// The body, for whoever wants to know more of it.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// The same, to tell it something.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body, for whoever goes on with it by other means.
    pub fn into_body(self) -> B {
        self.body
    }

    /// The stream, for whoever goes on with it by other means.
    pub fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Gives up and resets the stream (RFC 9113 §6.4).
    pub fn reset(&mut self, reason: Reason) {
        self.finished = true;
        self.stream.send_reset(reason);
    }
}

impl<B> Pump<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            chunk: Bytes::new(),
            joins: false,
            next: Bytes::new(),
            rest: Rest::More,
            sent: 0,
            touched: false,
            waits_for_window: false,
            finished: false,
        }
    }

    /// A pump with nothing to do, for a stream whose head was its end.
    pub fn spent(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            finished: true,
            ..Self::new(body, stream)
        }
    }

    /// Whether the last poll ended because the far side gives no window: it does not read.
    pub fn waits_for_window(&self) -> bool {
        self.waits_for_window
    }

    /// What the body still says, for nobody: the far side of the stream wants no more of it.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// Whether nothing has been taken from the body.
    pub fn is_untouched(&self) -> bool {
        !self.touched
    }

    /// Moves what can be moved. Ready when the whole body and its trailers are with the stream.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        if self.finished {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_parts(cx));
        self.finished = true;
        Poll::Ready(result)
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        loop {
            self.gather(cx)?;
            if !self.chunk.is_empty() {
                let ended = ready!(self.poll_send(cx))?;
                if ended {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            self.waits_for_window = false;
            match std::mem::replace(&mut self.rest, Rest::Nothing) {
                Rest::More => {
                    self.rest = Rest::More;
                    return self.poll_reset(cx);
                }
                Rest::Trailers(trailers) => {
                    return Poll::Ready(self.stream.send_trailers(trailers).map_err(Stop::Gone));
                }
                Rest::Nothing => {
                    let end = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(end.map_err(Stop::Gone));
                }
            }
        }
    }

    /// Takes from the body what is there, as long as it fits into the frame that goes out next.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), Stop<B::Error>> {
        let mut joined = BytesMut::new();
        loop {
            if self.chunk.is_empty() && joined.is_empty() {
                self.chunk = std::mem::take(&mut self.next);
                self.joins = false;
            }
            let has = self.chunk.len() + joined.len();
            let fits = has == 0 || (self.joins && has + SMALL <= PART);
            if !fits || !self.next.is_empty() || !matches!(self.rest, Rest::More) {
                break;
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match self.touch(frame).into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        // END_STREAM rides on the last DATA frame, where the body knows that it is the last.
                        if self.body.is_end_stream() {
                            self.rest = Rest::Nothing;
                        }
                        self.add(data, &mut joined);
                    }
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        strip_trailers(&mut trailers);
                        self.rest = Rest::Trailers(trailers);
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    // What came before goes first, as far as there is room for it: nobody can be told to wait.
                    self.put_back(joined);
                    self.send_what_fits();
                    return Err(Stop::Body(error));
                }
                Poll::Ready(None) => self.rest = Rest::Nothing,
                Poll::Pending => break,
            }
        }
        self.put_back(joined);
        Ok(())
    }

    /// Puts a chunk behind what is to be sent next: into the same frame, if it is small and all of that was.
    fn add(&mut self, data: Bytes, joined: &mut BytesMut) {
        if self.chunk.is_empty() && joined.is_empty() {
            self.joins = data.len() < SMALL;
            self.chunk = data;
        } else if data.len() < SMALL {
            if joined.is_empty() {
                *joined = BytesMut::from(std::mem::take(&mut self.chunk));
            }
            joined.extend_from_slice(&data);
        } else {
            self.next = data;
        }
    }

    fn put_back(&mut self, joined: BytesMut) {
        if !joined.is_empty() {
            self.chunk = joined.freeze();
        }
    }

    fn touch<F>(&mut self, frame: F) -> F {
        self.touched = true;
        frame
    }

    /// Sends one frame of `chunk`; whether that was the body's last.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Stop<B::Error>>> {
        self.stream.reserve_capacity(self.chunk.len());
        while self.stream.capacity() == 0 {
            self.waits_for_window = true;
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(stop(error))),
                // The stream takes no more: reset by either side, or its connection is gone.
                Poll::Ready(None) => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(Ok(reason)) => Poll::Ready(Err(Stop::Reset(reason))),
                        Poll::Ready(Err(error)) => Poll::Ready(Err(stop(error))),
                        Poll::Pending => Poll::Ready(Err(Stop::Reset(Reason::CANCEL))),
                    };
                }
                Poll::Pending => return self.poll_reset(cx).map_ok(|()| false),
            }
        }
        self.waits_for_window = false;
        Poll::Ready(self.send_part())
    }

    fn send_part(&mut self) -> Result<bool, Stop<B::Error>> {
        let part = self
            .chunk
            .split_to(self.stream.capacity().min(self.chunk.len()).min(PART));
        self.sent += part.len() as u64;
        let last =
            self.chunk.is_empty() && self.next.is_empty() && matches!(self.rest, Rest::Nothing);
        self.stream.send_data(part, last).map_err(Stop::Gone)?;
        Ok(last)
    }

    /// Sends what there is room for, for a body that has failed.
    fn send_what_fits(&mut self) {
        self.stream.reserve_capacity(self.chunk.len());
        while !self.chunk.is_empty() && self.stream.capacity() > 0 && self.send_part().is_ok() {}
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stop<B::Error>>> {
        match ready!(self.stream.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(Err(Stop::Reset(reason))),
            Err(error) => Poll::Ready(Err(stop(error))),
        }
    }
}

fn stop<E>(error: h2::Error) -> Stop<E> {
    match error.reason() {
        Some(reason) if error.is_reset() => Stop::Reset(reason),
        _ => Stop::Gone(error),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{Request, Response};

    use super::*;
    use crate::inbound::Inbound;
    use crate::testing::Frames;

    /// The lengths of the DATA frames in which a body arrives, and its trailers' names.
    async fn frames_of(body: Frames) -> (Vec<usize>, Vec<String>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let server = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let stream = respond.send_response(Response::new(()), false).unwrap();
            let mut pump = Pump::new(body, stream);
            let pumped = poll_fn(|cx| {
                let _more = connection.poll_accept(cx);
                pump.poll(cx).map(|ended| ended.unwrap())
            });
            pumped.await;
            let _closed = poll_fn(|cx| connection.poll_closed(cx)).await;
        };
        let client = async {
            let (mut requests, mut connection) = h2::client::handshake(near).await.unwrap();
            let request = Request::get("http://app.test/").body(()).unwrap();
            let (response, _) = requests.send_request(request, true).unwrap();
            drop(requests);
            let arrived = async {
                let mut body = Inbound::new(response.await.unwrap().into_body());
                let (mut lengths, mut names) = (Vec::new(), Vec::new());
                while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                    match frame.unwrap().into_data() {
                        Ok(data) => lengths.push(data.len()),
                        Err(frame) => {
                            let trailers = frame.into_trailers().unwrap();
                            names.extend(trailers.keys().map(ToString::to_string));
                        }
                    }
                }
                (lengths, names)
            };
            let mut arrived = std::pin::pin!(arrived);
            poll_fn(|cx| {
                let _open = Pin::new(&mut connection).poll(cx);
                arrived.as_mut().poll(cx)
            })
            .await
        };
        let (_, arrived) = tokio::join!(server, client);
        arrived
    }

    #[tokio::test]
    async fn small_chunks_that_are_there_go_out_in_one_frame() {
        let octets = vec![&b"z"[..]; 5000];
        assert_eq!(frames_of(Frames::of(&octets)).await.0, [5000]);
    }

    #[tokio::test]
    async fn a_frame_is_no_longer_than_one_record_and_a_large_chunk_is_not_copied() {
        let small = vec![7; SMALL - 1];
        let (lengths, _) = frames_of(Frames::of(&vec![small.as_slice(); 40])).await;
        assert_eq!(lengths.iter().sum::<usize>(), 40 * (SMALL - 1));
        assert!(lengths.len() <= 4 && lengths.iter().all(|length| *length <= PART));
        let large = vec![7; SMALL];
        let (lengths, _) = frames_of(Frames::of(&[b"a", b"b", &large, b"c", b"d"])).await;
        assert_eq!(lengths, [2, SMALL, 2]);
    }

    #[tokio::test]
    async fn trailers_come_after_what_was_joined() {
        let body = Frames::of(&[b"a", b"b"]).trailer("x-sum", "1");
        let (lengths, names) = frames_of(body).await;
        assert_eq!((lengths, names), (vec![2], vec!["x-sum".to_owned()]));
    }
}
