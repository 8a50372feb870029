//! A stream for a replay: its calls return what those of the recorded socket returned.

#![allow(clippy::indexing_slicing, reason = "the count of bytes is checked against the buffer first")]

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    sync::Arc,
};

use super::reader::SharedReader;
use crate::{
    config::Config,
    engine::{HandshakePart, HandshakeState, HandshakeStep, Stream},
    record::format::{digest::digest_of_written, entry::Entry},
    tls::info::TlsInfo,
};

/// A stream without a socket: it returns the recorded results.
#[derive(Debug)]
pub(crate) struct ReplayedStream {
    reader: SharedReader,
    number: u32,
    /// The recorded stream was encrypted.
    encryption: Option<Encryption>,
}

/// The state of an encrypted stream.
#[derive(Debug)]
struct Encryption {
    /// The next part of the handshake.
    next: Option<HandshakePart>,
    info: Option<Arc<TlsInfo>>,
    is_plain: bool,
}

impl ReplayedStream {
    /// `handshake`: the stream is encrypted, and begins with this part of the handshake.
    pub(crate) fn new(reader: &SharedReader, number: u32, handshake: Option<HandshakePart>) -> Self {
        let encryption = handshake.map(|part| Encryption { next: Some(part), info: None, is_plain: false });
        ReplayedStream { reader: reader.clone(), number, encryption }
    }

    fn replay_write(&mut self, parts: &[&[u8]]) -> io::Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let number = self.number;
        let found = || format!("a write of {len} bytes to stream {number}");
        let taken = self.reader.lock().result(found, |entry| match entry {
            Entry::Wrote { stream, offered, outcome, digest: recorded } if stream == number => {
                let count = outcome.unwrap_or(0);
                let fits = offered == len && count <= len && digest_of_written(parts, count) == recorded;
                fits.then_some(outcome)
            }
            _ => None,
        });
        taken.unwrap_or(Err(ErrorKind::ConnectionReset)).map_err(Into::into)
    }
}

impl Read for ReplayedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let number = self.number;
        let found = || format!("a read of up to {} bytes from stream {number}", buf.len());
        let bytes = self.reader.lock().result(found, |entry| match entry {
            Entry::Read { stream, offered, outcome } if stream == number && offered == buf.len() => outcome
                .map_or_else(|error| Some(Err(error)), |bytes| (bytes.len() <= offered).then_some(Ok(bytes))),
            _ => None,
        });
        let bytes = bytes.unwrap_or(Err(ErrorKind::ConnectionReset))?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Write for ReplayedStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.replay_write(&[buf])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        self.replay_write(&parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.encryption.is_none() {
            return Ok(());
        }
        let number = self.number;
        let outcome = self.reader.lock().result(
            || format!("a flush of stream {number}"),
            |entry| match entry {
                Entry::Flushed { stream, outcome } if stream == number => Some(outcome),
                _ => None,
            },
        );
        outcome.unwrap_or(Err(ErrorKind::ConnectionReset)).map_err(Into::into)
    }
}

impl Stream for ReplayedStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let number = self.number;
        let outcome = self.reader.lock().result(
            || format!("a shutdown of the write side of stream {number}"),
            |entry| match entry {
                Entry::Fin { stream, outcome } if stream == number => Some(outcome),
                _ => None,
            },
        );
        outcome.unwrap_or(Err(ErrorKind::NotConnected)).map_err(Into::into)
    }

    fn connected(&mut self) -> io::Result<bool> {
        let number = self.number;
        let found = || format!("a query whether stream {number} is connected");
        let outcome = self.reader.lock().result(found, |entry| match entry {
            Entry::Connected { stream, outcome } if stream == number => Some(outcome),
            _ => None,
        });
        outcome.unwrap_or(Err(ErrorKind::ConnectionRefused)).map_err(Into::into)
    }

    fn tune(&self, _: &Config) {}

    fn set_send_buffer(&self, _: usize) {}

    fn needs_handshake(&self) -> Option<HandshakePart> {
        self.encryption.as_ref()?.next
    }

    fn handshake(&mut self, _: &[u8]) -> HandshakeStep {
        let number = self.number;
        let taken = self.reader.lock().result(
            || format!("a step of the TLS handshake of stream {number}"),
            |entry| match entry {
                Entry::Shook { stream, step, next } if stream == number => Some((step, next)),
                _ => None,
            },
        );
        let gone = HandshakeState::Gone(ErrorKind::ConnectionReset);
        let (step, next) = taken.unwrap_or((HandshakeStep { state: gone, ..HandshakeStep::default() }, None));
        if let Some(encryption) = &mut self.encryption {
            encryption.next = next;
            encryption.is_plain = step.state == HandshakeState::PlainText;
            if let HandshakeState::Complete(info) = &step.state {
                encryption.info = Some(info.clone());
            }
        }
        step
    }

    fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.encryption.as_ref()?.info.as_ref()
    }

    fn is_plain_by_mistake(&self) -> bool {
        self.encryption.as_ref().is_some_and(|encryption| encryption.is_plain)
    }

    fn has_input(&self) -> bool {
        if self.encryption.is_none() {
            return false;
        }
        let number = self.number;
        let found = self.reader.lock().result(
            || format!("a query whether stream {number} holds input"),
            |entry| match entry {
                Entry::HadInput { stream, found } if stream == number => Some(found),
                _ => None,
            },
        );
        found.unwrap_or(false)
    }

    fn memory(&self) -> usize {
        if self.encryption.is_none() {
            return 0;
        }
        let number = self.number;
        let held = self.reader.lock().result(
            || format!("a query of the memory of stream {number}"),
            |entry| match entry {
                Entry::Held { stream, bytes } if stream == number => Some(bytes),
                _ => None,
            },
        );
        held.unwrap_or(0)
    }
}
