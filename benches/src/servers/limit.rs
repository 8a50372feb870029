//! The limit: what the kernel takes for the bytes, and next to nothing else. It reads once, looks at headers
//! only, and writes once, of a reply that was built when the first message of that kind came. Nothing can do
//! less and still give the load what it waits for; a real server also unmasks, checks, and keeps limits.

use std::io::{ErrorKind, IoSlice, Read, Write};

use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use tungstenite::handshake::derive_accept_key;

use super::{Mode, announce};
use crate::{Outcome, wait};

const LISTENER: Token = Token(usize::MAX);
const BUFFER: usize = 256 * 1024;
/// Replies are repeated up to this many bytes; of a longer one only the beginning is there.
const REPEAT: usize = 64 * 1024;
/// Slices of one write of a reply that is longer.
const SLICES: usize = 32;
const CLOSE: u8 = 8;

struct Conn {
    stream: TcpStream,
    upgraded: bool,
    /// The beginning of a head that is not whole: of the request, or of a frame.
    head: Vec<u8>,
    /// Bytes of a payload that are still to come.
    skip: u64,
    /// Bytes of replies that are to be written, and where in one reply they go on.
    owed: usize,
    at: usize,
    writable: bool,
}

/// The reply to the messages of one kind.
#[derive(Default)]
struct Reply {
    kind: (u8, u64),
    bytes: Vec<u8>,
    /// Length of one.
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

    /// One write of up to `owed` bytes from `at` on.
    fn write(&self, stream: &mut TcpStream, at: usize, owed: usize) -> std::io::Result<usize> {
        if self.one <= self.bytes.len() {
            return stream.write(&self.bytes[at..self.bytes.len().min(at + owed)]);
        }
        // The same bytes over and over, so that they stay in the cache: a payload is anything.
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

/// What one read brought.
#[derive(Default)]
struct Brought {
    messages: usize,
    close: bool,
}

pub fn serve(mode: Mode) -> Outcome<()> {
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
                accept(&listener, &poll, &mut conns, &mut free)?;
                continue;
            }
            let index = event.token().0;
            let Some(conn) = &mut conns[index] else { continue };
            if event.is_writable() {
                conn.writable = true;
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
                let brought = conn.take(&buffer[..count], &mut reply)?;
                if mode == Mode::Echo {
                    conn.owed += brought.messages * reply.one;
                    gone |= conn.write(&reply).is_err();
                }
                all += brought.messages;
                if brought.close {
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
        let conn =
            Conn { stream, upgraded: false, head: Vec::new(), skip: 0, owed: 0, at: 0, writable: true };
        match conns.get_mut(index) {
            Some(slot) => *slot = Some(conn),
            None => conns.push(Some(conn)),
        }
    }
}

impl Conn {
    /// Follows the frames in what was read.
    fn take(&mut self, mut bytes: &[u8], reply: &mut Reply) -> Outcome<Brought> {
        let mut brought = Brought::default();
        if !self.upgraded {
            self.head.extend_from_slice(bytes);
            if self.head.ends_with(b"\r\n\r\n") {
                self.upgrade()?;
            }
            return Ok(brought);
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let step = self.skip.min(bytes.len() as u64);
                self.skip -= step;
                bytes = &bytes[step as usize..];
                brought.messages += usize::from(self.skip == 0);
                continue;
            }
            let Some((opcode, len, header)) = (if self.head.is_empty() { parse(bytes) } else { None }) else {
                // Byte by byte: it is rare.
                self.head.push(bytes[0]);
                bytes = &bytes[1..];
                if let Some((opcode, len, _)) = parse(&self.head) {
                    self.head = Vec::new();
                    self.began(opcode, len, reply, &mut brought);
                }
                continue;
            };
            bytes = &bytes[header..];
            self.began(opcode, len, reply, &mut brought);
        }
        Ok(brought)
    }

    fn began(&mut self, opcode: u8, len: u64, reply: &mut Reply, brought: &mut Brought) {
        if opcode == CLOSE {
            brought.close = true;
            return;
        }
        reply.prepare((opcode, len));
        self.skip = len;
        brought.messages += usize::from(len == 0);
    }

    fn upgrade(&mut self) -> Outcome<()> {
        let head = String::from_utf8_lossy(&self.head);
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap_or("");
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            derive_accept_key(key.as_bytes())
        );
        self.stream.write_all(answer.as_bytes())?;
        self.upgraded = true;
        self.head = Vec::new();
        Ok(())
    }

    /// Writes what is owed, as far as the socket takes it.
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

/// Opcode, length, and length of the header, if it is whole.
fn parse(bytes: &[u8]) -> Option<(u8, u64, usize)> {
    let opcode = bytes.first()? & 15;
    let (len, header) = match bytes.get(1)? & 127 {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 8),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 14),
        len => (u64::from(len), 6),
    };
    (bytes.len() >= header).then_some((opcode, len, header))
}
