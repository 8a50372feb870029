//! TLS between a socket and the engine (RFC 8446).
//!
//! ```text
//! socket ─► receive block ─► Session ─► the caller's buffer (the tick's receive block)
//! socket ◄─ send block    ◄─ Session ◄─ the parts of one write (the outbox, from where they are)
//! ```
//!
//! The two blocks serve all connections of a server. A connection owns only the bytes of a record
//! that is incomplete, plaintext for which the caller had no room, and ciphertext that the socket
//! did not take.

#![allow(
    clippy::indexing_slicing,
    reason = "a read returns at most the length offered; rustls discards at most its input"
)]

mod acceptor;
mod handshake;
mod session;

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};

use crate::{engine::Stream, tls::info::TlsInfo, util::rearm::Rearm};
pub(crate) use acceptor::Acceptor;
use acceptor::Asked;
use handshake::Handshaking;
use session::{Ciphertext, Next, Received, Session};

/// The header of a record: type, version and length (RFC 8446 §5.1).
const HEADER: usize = 5;

/// The most payload of one record.
const RECORD: usize = 16 * 1024;

/// The largest record (RFC 5246 §6.2.3; RFC 8446 §5.2 allows less).
const RECORD_MAX: usize = HEADER + RECORD + 2048;

/// The bytes of a record beyond its payload that are read with it. More is read later.
const RECORD_OVERHEAD: usize = 32;

/// Input of one read: as much as the tick's receive block takes, and a record.
const RECEIVE: usize = 64 * 1024 + 4 * RECORD_OVERHEAD + RECORD_MAX;

/// Ciphertext that may wait for the socket. What is sealed can no longer be dropped or replaced.
const WATERMARK: usize = 64 * 1024;

/// The blocks that all connections of a server use in turn.
#[derive(Debug)]
pub(crate) struct Blocks {
    shared: Mutex<Shared>,
    rearm: Rearm,
}

#[derive(Debug, Default)]
struct Shared {
    receive: Vec<u8>,
    send: Ciphertext,
    /// A payload that is put together from several parts.
    gather: Vec<u8>,
}

impl Blocks {
    pub(crate) fn new(rearm: Rearm) -> Self {
        Blocks { shared: Mutex::default(), rearm }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket with TLS.
#[derive(Debug)]
pub(crate) struct TlsSocket<S> {
    socket: S,
    state: State,
    blocks: Arc<Blocks>,
    received: Received,
    unsent: Ciphertext,
    /// Set once the handshake is complete.
    info: Option<Arc<TlsInfo>>,
    /// How the stream ends behind the plaintext that was found.
    end: Option<End>,
    /// The last read ended before the socket was drained, and no readable event follows.
    may_have_more: bool,
    /// The socket did not take all of `unsent`.
    is_congested: bool,
    /// close_notify is to leave behind the output, or has left.
    closing: Closing,
}

#[derive(Debug)]
enum State {
    /// Nothing was read for TLS.
    Fresh(Origin),
    Handshaking(Handshaking),
    Open(Session),
    /// The peer speaks plain text by mistake.
    Plain,
    /// The handshake or the connection has failed.
    Broken,
}

/// The role of this side.
#[derive(Debug)]
enum Origin {
    Server(Arc<ServerConfig>, Arc<Mutex<Asked>>),
    Client(Arc<ClientConfig>, ServerName<'static>),
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// The peer has sent close_notify.
    Closed,
    Failed(ErrorKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    AfterOutput,
    Sent,
}

impl<S: Stream> TlsSocket<S> {
    /// A connection that was accepted.
    pub(crate) fn server(socket: S, acceptor: &mut Acceptor, blocks: Arc<Blocks>) -> Self {
        let origin = Origin::Server(acceptor.config(), acceptor.asked());
        TlsSocket::new(socket, origin, blocks)
    }

    /// A connection to a server of this name.
    pub(crate) fn client(
        socket: S,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        blocks: Arc<Blocks>,
    ) -> Self {
        TlsSocket::new(socket, Origin::Client(config, name), blocks)
    }

    fn new(socket: S, origin: Origin, blocks: Arc<Blocks>) -> Self {
        TlsSocket {
            socket,
            state: State::Fresh(origin),
            blocks,
            received: Received::default(),
            unsent: Ciphertext::default(),
            info: None,
            end: None,
            may_have_more: false,
            is_congested: false,
            closing: Closing::No,
        }
    }

    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    pub(crate) fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(crate) fn info(&self) -> Option<&Arc<TlsInfo>> {
        self.info.as_ref()
    }

    pub(crate) fn is_plain_by_mistake(&self) -> bool {
        matches!(self.state, State::Plain)
    }

    pub(crate) fn has_input(&self) -> bool {
        self.end.is_some() || self.may_have_more || !self.received.plaintext.is_empty()
    }

    pub(crate) fn memory(&self) -> usize {
        let session = match self.state {
            // Keys and messages of a handshake under way: 5 KiB were measured with a short chain.
            State::Handshaking(_) => 8 * 1024,
            _ => 0,
        };
        session
            + self.received.ciphertext.capacity()
            + self.received.plaintext.capacity()
            + self.unsent.capacity()
    }

    pub(crate) fn end_after_output(&mut self) {
        if matches!(self.state, State::Open(_)) && self.closing == Closing::No {
            self.closing = Closing::AfterOutput;
        }
    }

    /// Sends close_notify, if that has not happened, and then FIN.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        self.end_after_output();
        match self.flush() {
            // The peer takes nothing: it gets no more than it took.
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.socket.shutdown_write()
    }

    // ---- ciphertext ----

    /// Reads at most `most` bytes behind what is carried. Returns zero at the end of the stream.
    fn read_ciphertext(&mut self, shared: &mut Shared, most: usize) -> io::Result<usize> {
        shared.receive.resize(RECEIVE, 0);
        let count = read(&mut self.socket, &mut shared.receive[..most.min(RECEIVE)])?;
        self.received.ciphertext.extend_from_slice(&shared.receive[..count]);
        Ok(count)
    }

    /// Gives `unsent` the send block to grow in. `push` or `keep` gives it back.
    fn take_block(&mut self, shared: &mut Shared) {
        let mut block = std::mem::take(&mut shared.send);
        block.clear();
        block.extend(self.unsent.unsent());
        self.unsent = block;
    }

    /// Gives the send block back, and keeps no more than what is unsent.
    fn keep(&mut self, shared: &mut Shared) {
        let rest = self.unsent.exact();
        let block = std::mem::replace(&mut self.unsent, rest);
        if block.capacity() > shared.send.capacity() {
            shared.send = block;
        }
    }

    /// Writes what is unsent, and gives the send block back.
    fn push(&mut self, shared: &mut Shared) -> io::Result<()> {
        let outcome = self.write_unsent();
        match &outcome {
            Ok(()) => self.is_congested = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_congested = true,
            Err(_) => self.unsent.clear(),
        }
        self.keep(shared);
        outcome
    }

    fn write_unsent(&mut self) -> io::Result<()> {
        while !self.unsent.unsent().is_empty() {
            let offered = self.unsent.unsent().len();
            match self.socket.write(self.unsent.unsent()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    // Do not trust a stream that reports more than it was given.
                    self.unsent.advance(count.min(offered));
                    if self.blocks.rearm.follows(count, offered) {
                        return Err(ErrorKind::WouldBlock.into());
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    // ---- plaintext ----

    fn read_plaintext(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.received.take_plaintext(buf);
        if self.received.is_closed {
            self.end.get_or_insert(End::Closed);
        }
        let blocks = self.blocks.clone();
        let mut shared = blocks.lock();
        let shared = &mut *shared;
        shared.receive.resize(RECEIVE, 0);
        let waiting = self.unsent.unsent().len();
        self.may_have_more = false;
        // A record costs as much as many bytes: one read does not fill the caller's room with
        // records of one byte each.
        let enough = buf.len() + buf.len() / 16 + RECORD_OVERHEAD;
        let mut input = 0;
        // `is_stuck`: rustls needs more than the complete records that are there.
        let (mut is_drained, mut is_stuck) = (false, false);
        while filled < buf.len() && self.end.is_none() {
            // Complete records come first. The socket is read for the rest of the caller's room.
            let carried = std::mem::take(&mut self.received.ciphertext);
            let start = carried.len();
            let Some(front) = shared.receive.get_mut(..start) else {
                self.end = Some(End::Failed(ErrorKind::InvalidData));
                break;
            };
            front.copy_from_slice(&carried);
            let lacks = missing(&shared.receive[..start]);
            let mut len = start;
            if lacks > 0 || is_stuck {
                let most = (start + lacks.max(buf.len() - filled + RECORD_OVERHEAD)).min(RECEIVE);
                let count = self.refill(&mut shared.receive[start..most]);
                len += count;
                input += count;
                is_drained = count == 0 || self.blocks.rearm.follows(count, most - start);
            }
            let used = self.open(len, buf, &mut filled, shared);
            self.received.ciphertext = shared.receive[used..len].to_vec();
            is_stuck = used == 0 && missing(&self.received.ciphertext) == 0;
            if is_drained && (is_stuck || missing(&self.received.ciphertext) > 0) {
                break;
            }
            if filled > 0 && input >= enough {
                self.may_have_more = true;
                break;
            }
            // No server sends as many tickets, but a hostile one sends them without end.
            if filled == 0 && input >= RECEIVE {
                self.end.get_or_insert(End::Failed(ErrorKind::InvalidData));
            }
        }
        // An alert, or the answer to a key update. Tickets of before wait for the next write.
        if self.unsent.unsent().len() > waiting && !self.is_congested {
            // An error is found by the next read.
            let _ = self.push(shared);
        }
        match self.end {
            _ if filled > 0 => Ok(filled),
            None => Err(ErrorKind::WouldBlock.into()),
            Some(End::Closed) => Ok(0),
            Some(End::Failed(kind)) => Err(kind.into()),
        }
    }

    /// Reads once from the socket. No bytes: it is drained, or at its end.
    fn refill(&mut self, room: &mut [u8]) -> usize {
        match read(&mut self.socket, room) {
            Ok(0) => self.end = Some(End::Failed(ErrorKind::UnexpectedEof)),
            Ok(count) => return count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.end = Some(End::Failed(error.kind())),
        }
        0
    }

    /// Decrypts the records in the first `len` bytes of the receive block while the caller has room
    /// for their plaintext. Returns how many bytes are done with.
    fn open(&mut self, len: usize, buf: &mut [u8], filled: &mut usize, shared: &mut Shared) -> usize {
        let State::Open(session) = &mut self.state else { return len };
        let mut used = 0;
        while used < len && *filled < buf.len() {
            let input = &mut shared.receive[used..len];
            let plaintext = &mut self.received.plaintext;
            let (consumed, next) = session.receive(input, &mut self.unsent, |payload| {
                let count = payload.len().min(buf.len() - *filled);
                buf[*filled..*filled + count].copy_from_slice(&payload[..count]);
                *filled += count;
                plaintext.extend_from_slice(&payload[count..]);
            });
            used += consumed;
            match next {
                Next::Again => {}
                Next::Input => break,
                Next::Closed => {
                    // RFC 8446 §6.1: what follows is ignored.
                    self.end = Some(End::Closed);
                    return len;
                }
                Next::Failed(error) => {
                    log::debug!("a TLS connection has failed: {error}");
                    self.end = Some(End::Failed(ErrorKind::InvalidData));
                    self.state = State::Broken;
                    return len;
                }
            }
        }
        used
    }

    /// Seals the parts one after the other, in as few records as they fill.
    fn write_parts(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let blocks = self.blocks.clone();
        let mut shared = blocks.lock();
        let shared = &mut *shared;
        if self.is_congested {
            self.push(shared)?;
        }
        self.take_block(shared);
        let mut sealed = 0;
        let mut parts = parts.iter().map(|part| &**part).filter(|part| !part.is_empty()).peekable();
        let mut rest: &[u8] = &[];
        loop {
            if rest.is_empty() {
                rest = match parts.next() {
                    Some(part) => part,
                    None => break,
                };
            }
            let payload = if rest.len() >= RECORD || parts.peek().is_none() {
                let (payload, behind) = rest.split_at(rest.len().min(RECORD));
                rest = behind;
                payload
            } else {
                shared.gather.clear();
                while shared.gather.len() < RECORD {
                    let (taken, behind) = rest.split_at(rest.len().min(RECORD - shared.gather.len()));
                    shared.gather.extend_from_slice(taken);
                    rest = behind;
                    if rest.is_empty() {
                        match parts.next() {
                            Some(part) => rest = part,
                            None => break,
                        }
                    }
                }
                &shared.gather
            };
            let State::Open(session) = &mut self.state else { return Err(ErrorKind::WouldBlock.into()) };
            if let Err(error) = session.seal(payload, &mut self.received, &mut self.unsent) {
                log::debug!("a TLS connection cannot send: {error}");
                self.state = State::Broken;
                self.end = Some(End::Failed(ErrorKind::InvalidData));
                self.push(shared)?;
                return Err(ErrorKind::InvalidData.into());
            }
            sealed += payload.len();
            if self.unsent.unsent().len() >= WATERMARK {
                match self.push(shared) {
                    Ok(()) => self.take_block(shared),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(sealed),
                    Err(error) => return Err(error),
                }
            }
        }
        // `flush` follows, and gives the block back.
        Ok(sealed)
    }
}

/// How many bytes the record at the start of `bytes` lacks; zero if it is complete.
fn missing(bytes: &[u8]) -> usize {
    match bytes {
        [_, _, _, high, low, rest @ ..] => {
            usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(rest.len())
        }
        short => HEADER - short.len(),
    }
}

/// One read, repeated if a signal interrupts it.
fn read(socket: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(room) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(count) => return Ok(count.min(room.len())),
            outcome => return outcome,
        }
    }
}

impl<S: Stream> Read for TlsSocket<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.state {
            State::Open(_) => self.read_plaintext(buf),
            _ if self.end.is_some() => match self.end {
                Some(End::Failed(kind)) => Err(kind.into()),
                _ => Ok(0),
            },
            State::Handshaking(_) => Err(ErrorKind::WouldBlock.into()),
            State::Plain if !self.received.ciphertext.is_empty() => {
                let count = self.received.ciphertext.len().min(buf.len());
                buf[..count].copy_from_slice(&self.received.ciphertext[..count]);
                self.received.ciphertext.drain(..count);
                Ok(count)
            }
            // A PROXY header comes before TLS; input behind a failure is discarded by the caller.
            State::Fresh(_) | State::Plain | State::Broken => self.socket.read(buf),
        }
    }
}

impl<S: Stream> Write for TlsSocket<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.state {
            State::Open(_) => self.write_parts(parts),
            State::Plain => self.socket.write_vectored(parts),
            State::Fresh(_) | State::Handshaking(_) => Err(ErrorKind::WouldBlock.into()),
            State::Broken => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    /// Writes the ciphertext of earlier writes. `WouldBlock`: a writable event follows.
    fn flush(&mut self) -> io::Result<()> {
        let ends = self.closing == Closing::AfterOutput;
        if self.unsent.unsent().is_empty() && !ends {
            return Ok(());
        }
        let blocks = self.blocks.clone();
        let mut shared = blocks.lock();
        if ends && let State::Open(session) = &mut self.state {
            self.closing = Closing::Sent;
            // A connection that cannot seal has failed, and its peer knows.
            let _ = session.close(&mut self.received, &mut self.unsent);
        }
        self.push(&mut shared)
    }
}

#[cfg(all(unix, any(test, fuzzing)))]
pub(crate) mod tests;
