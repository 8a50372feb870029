//! The limit: the kernel's cost for the bytes, and little else. It reads once, parses headers only,
//! and writes once, from a reply built when the first message of its kind arrived. No server can do
//! less and still send the expected replies; a real one also unmasks, validates and keeps limits.

use std::{
    io::{ErrorKind, IoSlice, Read, Write},
    sync::Arc,
};

use mio::{Events, Interest, Poll, Token, net::TcpListener};
use tickws::tls::rustls_0_23::rustls::{ServerConfig, ServerConnection};
use tungstenite::handshake::derive_accept_key;

use super::{Mode, announce};
use crate::{
    Outcome,
    secure::{self, ServerStream},
    unbuffered::Unbuffered,
    wait,
};

const LISTENER: Token = Token(usize::MAX);
const BUFFER: usize = 256 * 1024;
/// Replies are repeated up to this many bytes; of a longer reply only the beginning is stored.
const REPEAT: usize = 64 * 1024;
/// Slices in one vectored write of a longer reply.
const SLICES: usize = 32;
const CLOSE: u8 = 8;

struct Conn {
    stream: ServerStream,
    upgraded: bool,
    /// The bytes of an incomplete request head or frame header.
    head: Vec<u8>,
    /// Bytes of a payload that have not arrived.
    skip: u64,
    /// Bytes of replies to write, and the position within one reply.
    owed: usize,
    at: usize,
    writable: bool,
}

/// The reply to messages of one kind.
#[derive(Default)]
struct Reply {
    kind: (u8, u64),
    bytes: Vec<u8>,
    /// Length of one reply.
    one: usize,
    header: usize,
}

impl Reply {
    fn prepare(&mut self, kind: (u8, u64)) {
        if self.one > 0 && self.kind == kind {
            return;
        }
        let (opcode, len) = kind;
        let mut frame = vec![0x80 | opcode];
        match len {
            0..126 => frame.push(len as u8),
            126..0x1_0000 => {
                frame.push(126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend_from_slice(&len.to_be_bytes());
            }
        }
        self.header = frame.len();
        self.one = self.header + len as usize;
        frame.resize(self.one.min(REPEAT), b'.');
        self.bytes = frame.repeat((REPEAT / self.one).max(1));
        self.kind = kind;
    }

    /// Writes up to `owed` bytes once, from position `at`.
    fn write(&self, stream: &mut ServerStream, at: usize, owed: usize) -> std::io::Result<usize> {
        if self.one <= self.bytes.len() {
            return stream.write(&self.bytes[at..self.bytes.len().min(at + owed)]);
        }
        // Writes the same bytes repeatedly, so that they stay in the cache; the payload may be
        // anything.
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut used, mut at, mut left) = (0, at, owed);
        while used < SLICES && left > 0 {
            let from = if at < self.bytes.len() { at } else { self.header };
            let len = (self.bytes.len() - from).min(left).min(self.one - at);
            slices[used] = IoSlice::new(&self.bytes[from..from + len]);
            used += 1;
            left -= len;
            at = (at + len) % self.one;
        }
        stream.write_vectored(&slices[..used])
    }
}

/// The messages found in one read.
#[derive(Default)]
struct Found {
    messages: usize,
    close: bool,
}

/// With `unbuffered` TLS is on the other kind of connection that rustls has.
pub fn serve(mode: Mode, tls: bool, unbuffered: bool) -> Outcome<()> {
    let tls = if tls { Some(secure::server_config()?) } else { None };
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind("127.0.0.1:0".parse()?)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    announce(listener.local_addr()?)?;
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let (mut free, mut reply) = (Vec::new(), Reply::default());
    let mut buffer = vec![0; BUFFER];
    loop {
        wait(&mut poll, &mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut conns, &mut free, (tls.as_ref(), unbuffered))?;
                continue;
            }
            let index = event.token().0;
            let Some(conn) = &mut conns[index] else { continue };
            if event.is_writable() {
                conn.writable = true;
                let _ = conn.stream.push();
                if conn.write(&reply).is_err() {
                    conns[index] = None;
                    free.push(index);
                    continue;
                }
            }
            if !event.is_readable() {
                continue;
            }
            let (mut gone, mut all) = (false, 0);
            loop {
                let count = match conn.stream.read(&mut buffer) {
                    Ok(0) => {
                        gone = true;
                        break;
                    }
                    Ok(count) => count,
                    Err(error) => {
                        gone = error.kind() != ErrorKind::WouldBlock;
                        break;
                    }
                };
                let found = conn.take(&buffer[..count], &mut reply)?;
                if mode == Mode::Echo {
                    conn.owed += found.messages * reply.one;
                    gone |= conn.write(&reply).is_err();
                }
                all += found.messages;
                if found.close {
                    let _ = conn.stream.write_all(&[0x88, 2, 0x03, 0xe8]);
                    gone = true;
                }
                if count < buffer.len() || gone {
                    break;
                }
            }
            if gone {
                conns[index] = None;
                free.push(index);
            }
            if mode == Mode::Broadcast && all > 0 {
                for (index, slot) in conns.iter_mut().enumerate() {
                    let Some(conn) = slot else { continue };
                    conn.owed += all * reply.one;
                    if conn.write(&reply).is_err() {
                        *slot = None;
                        free.push(index);
                    }
                }
            }
        }
    }
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    conns: &mut Vec<Option<Conn>>,
    free: &mut Vec<usize>,
    (tls, unbuffered): (Option<&Arc<ServerConfig>>, bool),
) -> Outcome<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        stream.set_nodelay(true)?;
        let index = free.pop().unwrap_or(conns.len());
        poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let stream = match tls {
            Some(config) if unbuffered => {
                ServerStream::Unbuffered(Box::new(Unbuffered::new(stream, config.clone())?))
            }
            Some(config) => ServerStream::encrypted(stream, ServerConnection::new(config.clone())?),
            None => ServerStream::Plain(stream),
        };
        let conn =
            Conn { stream, upgraded: false, head: Vec::new(), skip: 0, owed: 0, at: 0, writable: true };
        match conns.get_mut(index) {
            Some(slot) => *slot = Some(conn),
            None => conns.push(Some(conn)),
        }
    }
}

impl Conn {
    /// Parses the frames in the bytes of one read.
    fn take(&mut self, mut bytes: &[u8], reply: &mut Reply) -> Outcome<Found> {
        let mut found = Found::default();
        if !self.upgraded {
            self.head.extend_from_slice(bytes);
            if self.head.ends_with(b"\r\n\r\n") {
                self.upgrade()?;
            }
            return Ok(found);
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let step = self.skip.min(bytes.len() as u64);
                self.skip -= step;
                bytes = &bytes[step as usize..];
                found.messages += usize::from(self.skip == 0);
                continue;
            }
            let Some((opcode, len, header)) = (if self.head.is_empty() { parse(bytes) } else { None }) else {
                // An incomplete header is collected byte by byte, as it is rare.
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                if let Some((opcode, len, _)) = parse(&self.head) {
                    self.head = Vec::new();
                    self.begin_frame(opcode, len, reply, &mut found);
                }
                continue;
            };
            bytes = &bytes[header..];
            self.begin_frame(opcode, len, reply, &mut found);
        }
        Ok(found)
    }

    fn begin_frame(&mut self, opcode: u8, len: u64, reply: &mut Reply, found: &mut Found) {
        if opcode == CLOSE {
            found.close = true;
            return;
        }
        reply.prepare((opcode, len));
        self.skip = len;
        found.messages += usize::from(len == 0);
    }

    fn upgrade(&mut self) -> Outcome<()> {
        let head = String::from_utf8_lossy(&self.head);
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or("");
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        self.stream.write_all(response.as_bytes())?;
        self.upgraded = true;
        self.head = Vec::new();
        Ok(())
    }

    /// Writes the owed bytes until the socket would block.
    fn write(&mut self, reply: &Reply) -> std::io::Result<()> {
        while self.writable && self.owed > 0 {
            match reply.write(&mut self.stream, self.at, self.owed) {
                Ok(count) => {
                    self.owed -= count;
                    self.at = (self.at + count) % reply.one;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opcode, payload length and header length, if the header is complete.
fn parse(bytes: &[u8]) -> Option<(u8, u64, usize)> {
    let opcode = bytes.first()? & 15;
    let (len, header) = match bytes.get(1)? & 127 {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 8),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 14),
        len => (u64::from(len), 6),
    };
    (bytes.len() >= header).then_some((opcode, len, header))
}
