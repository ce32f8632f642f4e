//! The app behind every chain: HTTP/1.1 with keep-alive and as little work as can be, so that it weighs the same,
//! and little, in every figure. A process of its own (`peers app`). A blocking thread per connection: the chains
//! keep few connections to it.
//!
//! `GET /` 26 bytes · `GET /size/N` N zero bytes · `GET /hold` no answer for a minute · any body is read and dropped.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// Serves until the process is ended; the first line printed is the address.
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    for visitor in listener.incoming() {
        let visitor = visitor?;
        // A connection that breaks concerns nobody but the one who broke it.
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || converse(&visitor))?;
    }
    Ok(())
}

fn converse(mut socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(CHUNK, socket);
    while let Some(request) = Request::read(&mut input)? {
        if request.path == "/hold" {
            thread::sleep(HOLD);
            return Ok(());
        }
        if request.expects_continue {
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        match request.body {
            Body::Length(length) => skip(&mut input, length)?,
            Body::Chunked => skip_chunks(&mut input)?,
        }
        match request
            .path
            .strip_prefix("/size/")
            .and_then(|size| size.parse().ok())
        {
            Some(size) => send_zeros(socket, size)?,
            None => socket.write_all(SMALL)?,
        }
    }
    Ok(())
}

/// What the app needs to know of a request.
struct Request {
    path: String,
    body: Body,
    expects_continue: bool,
}

enum Body {
    Length(u64),
    Chunked,
}

impl Request {
    /// The next request head; `None` when the peer closed between two requests.
    fn read(input: &mut impl io::BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut request = Self {
            path,
            body: Body::Length(0),
            expects_continue: false,
        };
        loop {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok(Some(request));
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                request.body = Body::Length(value.parse().map_err(io::Error::other)?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                request.body = Body::Chunked;
            } else if name.eq_ignore_ascii_case("expect") {
                request.expects_continue = true;
            }
        }
    }
}

fn skip(input: &mut impl io::BufRead, bytes: u64) -> io::Result<()> {
    io::copy(&mut input.take(bytes), &mut io::sink()).map(|_| ())
}

fn skip_chunks(input: &mut impl io::BufRead) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        input.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        // Two more for the line end after the data; after the last chunk it is the end of the (empty) trailers.
        skip(input, size + 2)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn send_zeros(mut socket: &TcpStream, size: u64) -> io::Result<()> {
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    )?;
    let mut left = size;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        // At most the length of ZEROS, so it fits.
        socket.write_all(&ZEROS[..part as usize])?;
        left -= part;
    }
    Ok(())
}

const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz";
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];
const CHUNK: usize = 64 * 1024;
const STACK: usize = 128 * 1024;
/// Longer than any measurement that has a held request in it.
const HOLD: Duration = Duration::from_secs(60);
