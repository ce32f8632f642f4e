//! The least HTTP/1.1 client that the measurements need: blocking, one keep-alive connection, no redirects.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// The name that every chain's visitors ask for, and that its agent's certificate has.
pub(crate) const NAME: &str = "app.test";

/// One connection of one visitor.
#[derive(Debug)]
pub(crate) struct Visitor {
    input: BufReader<TcpStream>,
}

impl Visitor {
    /// Connects to a gateway; no single read or write on the connection takes longer than `patience`.
    pub(crate) fn connect(gateway: SocketAddr, patience: Duration) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&gateway, patience)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self {
            input: BufReader::new(socket),
        })
    }

    /// Sends a GET and waits for the whole answer: its status.
    pub(crate) fn get(&mut self, path: &str) -> Result<u16> {
        self.send_get(path)?;
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let status = line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("not a status line: {line:?}"))?;
        let mut length = 0;
        let mut chunked = false;
        loop {
            line.clear();
            self.input.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
            chunked |= name.eq_ignore_ascii_case("transfer-encoding");
        }
        while chunked {
            line.clear();
            self.input.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim_end(), 16)?;
            self.skip(size + 2)?;
            chunked = size > 0;
        }
        self.skip(length)?;
        Ok(status)
    }

    /// Sends a GET and reads nothing of the answer.
    pub(crate) fn send_get(&mut self, path: &str) -> io::Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        self.input.get_mut().write_all(request.as_bytes())
    }

    /// Waits until something of an answer has arrived, and leaves it unread.
    pub(crate) fn wait_for_answer(&mut self) -> io::Result<()> {
        self.input.fill_buf().map(drop)
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped = io::copy(&mut self.input.by_ref().take(bytes), &mut io::sink())?;
        anyhow::ensure!(
            skipped == bytes,
            "the answer was cut short: {skipped} of {bytes} bytes"
        );
        Ok(())
    }
}

/// Whether a visitor who comes at this moment is served.
pub(crate) fn serves(gateway: SocketAddr) -> bool {
    let answer =
        Visitor::connect(gateway, Duration::from_secs(2)).map(|mut visitor| visitor.get("/"));
    matches!(answer, Ok(Ok(200)))
}
