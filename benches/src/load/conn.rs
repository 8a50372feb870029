//! The socket of a client, bound to a chosen loopback address.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream as StdStream},
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Target,
    wire::{REQUEST, Replies, Script, is_accepted},
};
use crate::{Outcome, secure::ClientStream};

/// Clients per source address, few enough for any range of ephemeral ports.
const PER_SOURCE: usize = 4_000;
/// Source addresses take turns, so that closed connections in TIME_WAIT do not exhaust the ports of
/// one.
const SOURCES: usize = 32;

/// A socket bound to the loopback address of this turn.
pub fn socket(turn: usize) -> Outcome<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let source = Ipv4Addr::new(127, 0, 0, 1 + (turn / PER_SOURCE % SOURCES) as u8);
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    Ok(socket)
}

/// A client with a complete handshake.
pub fn connect(target: Target, turn: usize) -> Outcome<ClientStream> {
    let socket = socket(turn)?;
    socket.connect(&target.addr.into())?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    let mut stream = Waiting(ClientStream::client(TcpStream::from_std(socket.into()), target.tls, false)?);
    stream.write_all(REQUEST)?;
    read_head(&mut stream)?;
    Ok(stream.0)
}

/// A stream whose calls are repeated until they succeed. If the server never responds, they fail.
#[derive(Debug)]
pub struct Waiting(pub ClientStream);

fn patiently<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::yield_now();
            }
            outcome => return outcome,
        }
    }
}

impl Read for Waiting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        patiently(|| self.0.read(buffer))
    }
}

impl Write for Waiting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        patiently(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        patiently(|| self.0.flush())
    }
}

/// A blocking client of a server without TLS on this thread, which `serve` polls.
pub fn connect_with(
    addr: SocketAddr,
    turn: usize,
    mut serve: impl FnMut() -> Outcome<()>,
) -> Outcome<StdStream> {
    let socket = socket(turn)?;
    // The kernel completes the connection before the server accepts it.
    socket.connect(&addr.into())?;
    let mut stream = StdStream::from(socket);
    stream.set_nodelay(true)?;
    stream.write_all(REQUEST)?;
    stream.set_nonblocking(true)?;
    let end = Instant::now() + Duration::from_secs(10);
    while stream.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
        serve()?;
        if Instant::now() > end {
            return Err("no response to the upgrade request".into());
        }
    }
    stream.set_nonblocking(false)?;
    read_head(&mut stream)?;
    Ok(stream)
}

/// Reads the response to an upgrade request.
pub fn read_head(stream: &mut impl Read) -> Outcome<()> {
    let mut head = [0; 1024];
    let mut len = 0;
    while !head[..len].ends_with(b"\r\n\r\n") {
        match stream.read(&mut head[len..])? {
            0 => return Err("no response to the upgrade request".into()),
            count => len += count,
        }
    }
    if !is_accepted(&head[..len]) {
        return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head[..len])).into());
    }
    Ok(())
}

/// A client under load.
#[derive(Debug)]
pub struct Conn {
    stream: ClientStream,
    script: Script,
    replies: Replies,
    /// Bytes of requests to write, and the position in the script of the next one.
    pending: usize,
    at: usize,
    writable: bool,
}

impl Conn {
    pub fn new(
        mut stream: ClientStream,
        registry: &Registry,
        index: usize,
        script: Script,
        verify: bool,
    ) -> Outcome<Conn> {
        registry.register(stream.socket(), Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let replies = Replies::new(script.clone(), verify);
        Ok(Conn { stream, script, replies, pending: 0, at: 0, writable: true })
    }

    /// Queues messages; [`Conn::write`] sends them.
    pub fn queue(&mut self, messages: u64) {
        self.pending += messages as usize * self.script.request;
    }

    pub fn set_writable(&mut self) {
        self.writable = true;
        // The next write reports an error.
        let _ = self.stream.push();
    }

    /// Writes queued bytes, at most `limit`, until the socket would block.
    pub fn write(&mut self, mut limit: usize) -> Outcome<()> {
        while self.writable && self.pending > 0 && limit > 0 {
            let requests = &self.script.requests;
            let end = requests.len().min(self.at + self.pending.min(limit));
            match self.stream.write(&requests[self.at..end]) {
                Ok(count) => {
                    limit -= count;
                    self.pending -= count;
                    self.at = (self.at + count) % requests.len();
                    // All messages are equal, so writing goes on at the front of the script, which
                    // stays in the cache.
                    self.at %= self.script.request;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads at most `reads` times; gives the number of complete replies, and whether the socket is
    /// drained.
    pub fn read(&mut self, buffer: &mut [u8], reads: usize) -> Outcome<(u64, bool)> {
        let mut complete = 0;
        for _ in 0..reads {
            match self.stream.read(buffer) {
                Ok(0) => return Err("the server hung up".into()),
                Ok(count) => {
                    complete += self.replies.take(&buffer[..count])?;
                    if count < buffer.len() {
                        return Ok((complete, true));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((complete, true)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok((complete, false))
    }
}
