//! TCP as both ends want it: no delay for small writes, dead peers noticed by the kernel too, ports that can be taken
//! again at once.

use std::future::Future;
use std::io::{self, IoSlice, Read};
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// So many wait on a listener at most: Linux lets one more in than it was told.
pub const QUEUED: usize = BACKLOG as usize + 1;

/// Unacknowledged data for so long ends a tunnel's connection, whatever PING says (RFC 5482).
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// Opens a listener. `[::]` takes IPv4 as well.
///
/// # Errors
/// The system's own, such as an address in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let open = |address: SocketAddr| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    match open(address) {
        // A machine without IPv6 still has every address of its own.
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            open(SocketAddr::new(
                std::net::Ipv4Addr::UNSPECIFIED.into(),
                address.port(),
            ))
        }
        opened => opened,
    }
}

/// What this machine has not got, where nobody can listen on an address for that, and what to write.
pub fn lack(error: &io::Error, address: SocketAddr) -> Option<String> {
    let errno = Errno::from_io_error(error)?;
    match address {
        SocketAddr::V6(at) if errno == Errno::NODEV => Some(format!(
            "no interface of this machine has the number {}; `ip link` shows those that there are",
            at.scope_id()
        )),
        SocketAddr::V6(_) if errno == Errno::AFNOSUPPORT => {
            Some("this machine has no IPv6; write an address of IPv4".to_owned())
        }
        _ => None,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable
    ) || error.raw_os_error() == Some(97 /* EAFNOSUPPORT */)
}

/// Whether this machine still has the address that a connection comes from. Once it has not, nothing that is sent from
/// there arrives, and nobody says so. Sends nothing; a doubt counts as yes.
pub fn is_ours(local: SocketAddr) -> bool {
    let mut any_port = local;
    any_port.set_port(0);
    !matches!(UdpSocket::bind(any_port), Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Connects, `within` at most.
///
/// # Errors
/// The system's own, or `TimedOut`.
pub async fn connect(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    match tokio::time::timeout(within, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_elapsed) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer to a TCP connection attempt within {within:?}"),
        )),
    }
}

/// For both ends of a tunnel.
pub fn tune_tunnel(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    // A system that refuses one of these still carries a tunnel; PING finds the dead.
    let _unsupported = (
        stream.set_nodelay(true),
        socket.set_tcp_keepalive(&keepalive),
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)),
    );
}

/// Whether the connection is reset when it is closed, and what waits to be sent with it dropped, or ends in order.
pub fn close_abruptly(stream: &TcpStream, abruptly: bool) {
    let linger = abruptly.then_some(Duration::ZERO);
    // Refused only by a connection that is gone already, whose end nobody will read.
    let _gone = SockRef::from(stream).set_linger(linger);
}

/// Octets that are read for nobody, at most: as many as a system keeps for a connection.
const UNREAD: usize = 8 * 1024 * 1024;

/// Has a connection end, once it is dropped, on which something else has failed. One that was `told` its end keeps it, behind all
/// that still waits to be sent: what came of that is whole. The other one is reset.
pub fn break_off(stream: &TcpStream, told: bool) {
    if !told {
        return close_abruptly(stream, true);
    }
    // What was not read would have the system reset the connection all the same (RFC 1122 §4.2.2.13).
    let socket = SockRef::from(stream);
    let (mut scratch, mut read) = ([0; 16 * 1024], 0);
    while let Ok(octets @ 1..) = (&*socket).read(&mut scratch) {
        read += octets;
        if read > UNREAD {
            break;
        }
    }
}

/// For a visitor's or an app's connection. One whose peer has vanished without a word, and with nothing to say to it, is over
/// within two minutes: until then a WebSocket, or an answer that goes on, cannot tell. `TCP_USER_TIMEOUT` is not for this: it
/// would also end a connection whose peer answers, and merely takes nothing (tcp(7)); that is for the time for a stall to say.
pub fn tune_plain(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    // Refused only by a connection that is gone already, which its next read reports.
    let _gone = (
        stream.set_nodelay(true),
        SockRef::from(stream).set_tcp_keepalive(&keepalive),
    );
}

/// How the other end of a connection stands to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Here,
    /// It has said all that it has to say, of which so many octets can still be read at most.
    Finished {
        unread: u64,
    },
    /// It has reset the connection, or the system has given it up.
    Gone,
}

/// How the other end stands, by what the runtime has heard of the socket: nothing is read, and nobody is woken for it.
pub fn presence(stream: &TcpStream) -> Presence {
    // The one interest besides reading that its end belongs to.
    let mut heard = pin!(stream.ready(Interest::PRIORITY | Interest::ERROR));
    let heard = heard.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    match heard {
        Poll::Ready(Ok(ready)) if !ready.is_error() && !ready.is_read_closed() => Presence::Here,
        Poll::Ready(Ok(ready)) if !ready.is_error() => Presence::Finished {
            unread: rustix::io::ioctl_fionread(stream).unwrap_or(u64::MAX),
        },
        Poll::Ready(_) => Presence::Gone,
        Poll::Pending => Presence::Here,
    }
}

/// Whether octets wait to be read, asked of the system: the runtime may not have heard of them yet.
pub fn has_unread(stream: &TcpStream) -> bool {
    rustix::io::ioctl_fionread(stream).is_ok_and(|octets| octets > 0)
}

/// A connection that waits to be accepted, asked of the system, and so of one that the runtime may not have heard of yet; `None`
/// where none does. Whoever closes a listener resets those that wait.
///
/// # Errors
/// The listener's, and those of a connection that is gone already (accept(2)).
pub fn accept_waiting(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddr)>> {
    let accepted = match SockRef::from(listener).accept() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        accepted => accepted,
    };
    let (socket, peer) = accepted?;
    socket.set_nonblocking(true)?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((TcpStream::from_std(socket.into())?, peer)))
}

/// As much as is worth copying to save the kernel the handling of a vector: a small head and a small body.
const WORTH_COPYING: usize = 2048;

/// Writes several pieces: as one where they are small or there is only one, as a vector where they are large.
pub fn poll_write_pieces<T: AsyncWrite>(
    io: Pin<&mut T>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if let [piece] = pieces {
        return io.poll_write(cx, piece);
    }
    let mut whole = [0; WORTH_COPYING];
    let mut length = 0;
    for piece in pieces {
        match whole.get_mut(length..length + piece.len()) {
            Some(room) => room.copy_from_slice(piece),
            None => return io.poll_write_vectored(cx, pieces),
        }
        length += piece.len();
    }
    io.poll_write(cx, &whole[..length])
}
