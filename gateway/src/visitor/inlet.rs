//! What comes on a visitor's HTTP/1 connection: heads, and each request's content as whoever serves it takes it. The connection's
//! task, what serves its request and what is left of that share it, and are one task: nobody waits for the lock.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{EXPECT, HeaderValue, TE};
use http::{Method, Version};
use http_body::{Body, Frame};
use tidegate_shared::glance::Glance;
use tidegate_shared::http1::request::{Flaw, Found, Reader};
use tidegate_shared::http1::{Content, Inflow, Piece, keeps, lists};
use tidegate_shared::socket::Presence;
use tokio::io::{AsyncRead, AsyncWrite};

use super::framed::{content_of, first_line};
use super::io::{Ends, VisitorIo};
use super::pulse::Pulse;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// As much of a body that nobody wants as is read at once, so that the connection may go on behind it.
const DRAINED: usize = 64 * 1024;

/// See the module's head.
pub(super) struct Inlet<T> {
    io: VisitorIo<T>,
    pulse: Arc<Pulse>,
    inflow: Inflow,
    reader: Reader,
    /// Requests that were read; the last of them is in hand.
    number: u64,
    /// Of that one.
    content: Content,
    /// The visitor waits for a 100 before it sends that.
    expects: bool,
    /// Nobody asks for that any more.
    abandoned: bool,
    /// It broke off, or is none: what follows cannot be read.
    broken: bool,
    /// The request in hand is the last.
    finishing: bool,
    /// The visitor says nothing more.
    ended: bool,
}

/// What comes next on a connection.
pub(super) enum Next {
    /// With its number, where content follows.
    Request(Box<Found>, Asked, Option<u64>),
    /// No head of a request, but these octets.
    Flawed(Flaw, Bytes),
    /// Nothing.
    End,
}

/// What a request means for the form of its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) version: Version,
    pub(super) head_only: bool,
    /// The connection may go on behind it.
    pub(super) keeps: bool,
    /// Trailers are taken (RFC 9110 §6.5.1).
    pub(super) trailers: bool,
    /// The visitor waits for a 100 before it sends content (RFC 9110 §10.1.1).
    pub(super) expects: bool,
    /// A line of its head ended with LF alone.
    pub(super) bare_line: bool,
    /// At its fields.
    pub(super) glance: Glance,
}

impl Asked {
    fn of(found: &Found, glance: Glance) -> Self {
        let Found {
            head, bare_line, ..
        } = found;
        let (version, headers) = (head.version(), head.headers());
        let waits = |expected: &HeaderValue| {
            let expected = expected.as_bytes();
            expected.eq_ignore_ascii_case(b"100-continue")
        };
        Self {
            version,
            head_only: *head.method() == Method::HEAD,
            keeps: keeps(version, headers, glance),
            trailers: glance.has(Glance::TE) && lists(headers, &TE, "trailers"),
            expects: glance.has(Glance::EXPECT)
                && version >= Version::HTTP_11
                && headers.get(EXPECT).is_some_and(waits),
            bare_line: *bare_line,
            glance,
        }
    }
}

impl<T> Inlet<T>
where
    T: AsyncRead + AsyncWrite + Ends + Unpin,
{
    /// `seen` was read already. Heads have so many octets at most, and fields.
    pub(super) fn new(
        io: VisitorIo<T>,
        seen: Bytes,
        pulse: Arc<Pulse>,
        longest: usize,
        most: usize,
    ) -> Self {
        if !seen.is_empty() {
            pulse.read(seen.len());
        }
        Self {
            io,
            pulse,
            inflow: Inflow::from(seen),
            reader: Reader::new(longest, most),
            number: 0,
            content: Content::NONE,
            expects: false,
            abandoned: false,
            broken: false,
            finishing: false,
            ended: false,
        }
    }

    /// Takes no further request than the one in hand.
    pub(super) const fn finish(&mut self) {
        self.finishing = true;
    }

    /// The socket, with what was read and belongs to no request.
    pub(super) fn into_io(self) -> VisitorIo<T> {
        self.io.replaying(self.inflow.into_octets())
    }

    pub(super) const fn io(&mut self) -> &mut VisitorIo<T> {
        &mut self.io
    }

    /// The first line of the head that has not come to its end.
    pub(super) fn first_line(&mut self) -> Vec<u8> {
        first_line(self.inflow.octets()).to_vec()
    }

    /// The next head.
    ///
    /// # Errors
    /// The connection's, and `UnexpectedEof` where it ends within a head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        loop {
            if !self.inflow.is_empty() {
                match self.reader.next(self.inflow.octets()) {
                    Ok(Some(found)) => return Poll::Ready(Ok(self.begin(found))),
                    Ok(None) => {}
                    Err(flaw) => {
                        self.broken = true;
                        let octets = self.inflow.octets().split().freeze();
                        return Poll::Ready(Ok(Next::Flawed(flaw, octets)));
                    }
                }
            }
            let finishes = self.inflow.is_empty() && self.finishing && self.number > 0;
            match self.poll_read(cx)? {
                Poll::Ready(0) if self.inflow.is_empty() => return Poll::Ready(Ok(Next::End)),
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(_) => {}
                // What has come by then is still answered, also where the runtime has not heard of it.
                Poll::Pending if finishes && !self.io.has_unread() => {
                    return Poll::Ready(Ok(Next::End));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn begin(&mut self, found: Box<Found>) -> Next {
        let glance = Glance::of(found.head.headers());
        self.content = match content_of(&found.head, glance) {
            Ok(content) => content,
            Err(flaw) => {
                self.broken = true;
                return Next::Flawed(flaw, found.octets);
            }
        };
        self.number += 1;
        self.abandoned = false;
        let asked = Asked::of(&found, glance);
        self.expects = asked.expects;
        let content = (!self.content.is_over()).then_some(self.number);
        Next::Request(found, asked, content)
    }

    /// Sends what is to go out before an answer where there is room for it, and looks for the visitor's end where it owes
    /// nothing. `clear` where nothing of an answer waits to be sent.
    ///
    /// # Errors
    /// The visitor has gone.
    pub(super) fn watch(&mut self, cx: &mut Context<'_>, clear: bool) -> io::Result<()> {
        if clear && let Poll::Ready(flushed) = Pin::new(&mut self.io).poll_flush(cx) {
            flushed?;
        }
        if self.content.is_over()
            && !self.broken
            && self.inflow.is_empty()
            && let Poll::Ready(read) = self.poll_read(cx)
            && read? == 0
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.pulse.is_to_look() && self.has_left() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    /// Reads what has come. Nothing is the end, unless the visitor has closed no more than its half and waits for an answer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let pulse = &self.pulse;
        pulse.waits_for_octets(false);
        if pulse.half_closed() {
            // The end is seen once the answer has been given.
            return if pulse.is_in_hand() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(0))
            };
        }
        let read = self.inflow.poll_read(cx, &mut self.io);
        pulse.waits_for_octets(read.is_pending());
        self.ended = matches!(read, Poll::Ready(Ok(0) | Err(_)));
        let read = ready!(read)?;
        if read > 0 {
            pulse.read(read);
        } else if pulse.closed_half(!self.content.is_over()) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(read))
    }

    /// Whether the visitor has left with a request in hand, where nobody reads and so nobody finds its end: it has reset the
    /// connection, or closed its half with more of its body owed than can still be read.
    fn has_left(&self) -> bool {
        self.pulse.is_held_back()
            && match self.io.presence() {
                Presence::Here => false,
                Presence::Gone => true,
                Presence::Finished { unread } => {
                    self.content.least() > unread.saturating_add(self.inflow.len() as u64)
                }
            }
    }

    /// The answer begins: whoever has not been told to send content is not told any more. Whether another request may follow, as
    /// far as the content of this one is known, and whether all of that is here.
    pub(super) fn answers(&mut self, cx: &mut Context<'_>) -> (bool, bool) {
        self.expects = false;
        let goes_on = self.may_go_on(cx) && !self.finishing;
        (goes_on, !self.broken && self.content.is_over())
    }

    /// Whether another request may follow, as far as the content of the one in hand is known. What nobody wants of it is read
    /// if it has come already.
    fn may_go_on(&mut self, cx: &mut Context<'_>) -> bool {
        let mut drained = 0;
        while self.abandoned && !self.broken && !self.content.is_over() && drained < DRAINED {
            match self.poll_content(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    drained += frame.data_ref().map_or(0, Bytes::len);
                }
                Poll::Ready(Some(Err(_)) | None) => {}
                Poll::Pending => break,
            }
        }
        !self.broken && (self.content.is_over() || !self.abandoned)
    }

    /// Waits for the end of the request's content, behind its answer. Whether another request may follow.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.may_go_on(cx) {
            return Poll::Ready(false);
        }
        if self.content.is_over() {
            return Poll::Ready(true);
        }
        match self.watch(cx, true) {
            Ok(()) => Poll::Pending,
            Err(_gone) => Poll::Ready(false),
        }
    }

    /// Whether the visitor may go on with what nobody is going to read. If so, it is no head that is waited for from here on.
    pub(super) fn lingers(&self) -> bool {
        let unread = self.broken || !self.content.is_over() || !self.inflow.is_empty();
        let lingers = unread && !self.ended;
        if lingers {
            self.pulse.linger();
        }
        lingers
    }

    /// Reads some of what still comes, for nobody. Whether more may come.
    pub(super) fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.inflow.octets().clear();
        self.poll_read(cx)
            .map(|read| matches!(read, Ok(octets) if octets > 0))
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.broken {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        if std::mem::take(&mut self.expects) {
            self.io.say(CONTINUE);
        }
        loop {
            let error = match self.content.next(self.inflow.octets()) {
                Ok(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Piece::Trailers(fields)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(fields))));
                }
                Ok(Piece::End) => return Poll::Ready(None),
                Ok(Piece::More) => match ready!(self.poll_read(cx)) {
                    Ok(0) => io::ErrorKind::UnexpectedEof.into(),
                    Ok(_) => continue,
                    Err(error) => error,
                },
                Err(why) => io::Error::new(io::ErrorKind::InvalidData, why),
            };
            self.broken = true;
            return Poll::Ready(Some(Err(error)));
        }
    }
}

/// A connection's inlet, as all share it.
pub(super) struct Shared<T>(pub(super) Arc<Mutex<Inlet<T>>>);

impl<T> Shared<T>
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin + 'static,
{
    pub(super) fn new(inlet: Inlet<T>) -> Self {
        Self(Arc::new(Mutex::new(inlet)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inlet<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of the request of this number, if it has any.
    pub(super) fn incoming(&self, number: Option<u64>) -> Incoming {
        Incoming(number.map(|number| (Arc::clone(&self.0) as Arc<dyn Source>, number)))
    }

    /// The socket, if nobody has a hand on what comes any more.
    pub(super) fn into_io(self) -> Option<VisitorIo<T>> {
        let inlet = Arc::into_inner(self.0)?;
        let inlet = inlet.into_inner().unwrap_or_else(PoisonError::into_inner);
        Some(inlet.into_io())
    }
}

/// The content of the request of this number: over as soon as another request is in hand. Whoever drops it wants no more of it.
pub(super) struct Incoming(Option<(Arc<dyn Source>, u64)>);

trait Source: Send + Sync {
    fn poll_frame(
        &self,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>>;

    /// The least that is still to come.
    fn least(&self, number: u64) -> u64;

    fn abandon(&self, number: u64);
}

impl<T> Source for Mutex<Inlet<T>>
where
    T: AsyncRead + AsyncWrite + Ends + Send + Unpin,
{
    fn poll_frame(
        &self,
        number: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut inlet = locked(self);
        if inlet.number == number {
            inlet.poll_content(cx)
        } else {
            Poll::Ready(None)
        }
    }

    fn least(&self, number: u64) -> u64 {
        let inlet = locked(self);
        if inlet.number == number {
            inlet.content.least()
        } else {
            0
        }
    }

    fn abandon(&self, number: u64) {
        let mut inlet = locked(self);
        if inlet.number == number {
            inlet.abandoned = true;
        }
    }
}

fn locked<T>(inlet: &Mutex<Inlet<T>>) -> MutexGuard<'_, Inlet<T>> {
    inlet.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &self.0 {
            Some((source, number)) => source.poll_frame(*number, cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let least = |(source, number): &(Arc<dyn Source>, u64)| source.least(*number);
        self.0.as_ref().is_none_or(|some| least(some) == 0)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some((source, number)) = &self.0 {
            source.abandon(*number);
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Incoming")
    }
}
