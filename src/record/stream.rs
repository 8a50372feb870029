//! A socket whose answers are recorded, and one that gives the recorded answers.

#![allow(clippy::indexing_slicing, reason = "a count of bytes is held against the buffer first")]

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use tungstenite::Bytes;

use super::{Tape, digest::digest_of_written, entry::Entry, player::Shared};
use crate::{config::Config, engine::Stream, net::socket::Socket};

/// A socket that may be recorded.
#[derive(Debug)]
pub(crate) struct Taped {
    pub(super) socket: Socket,
    tap: Option<(Tape, u32)>,
}

impl Taped {
    pub(super) fn new(socket: Socket, tape: Option<&Tape>) -> Self {
        Taped { socket, tap: tape.map(|tape| (tape.clone(), tape.next_stream())) }
    }
}

fn kind<T>(outcome: &io::Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(io::Error::kind)
}

#[cold]
fn note_read((tape, stream): &(Tape, u32), buf: &[u8], outcome: &io::Result<usize>) {
    let bytes = &buf[..outcome.as_ref().map_or(0, |count| (*count).min(buf.len()))];
    let outcome = kind(outcome).map_or_else(|| Ok(Bytes::copy_from_slice(bytes)), Err);
    tape.note(&Entry::Read { stream: *stream, offered: buf.len(), outcome });
}

#[cold]
fn note_written((tape, stream): &(Tape, u32), parts: &[&[u8]], outcome: &io::Result<usize>) {
    let (stream, offered) = (*stream, parts.iter().map(|part| part.len()).sum());
    let digest = digest_of_written(parts, *outcome.as_ref().unwrap_or(&0));
    let outcome = outcome.as_ref().map(|count| *count).map_err(io::Error::kind);
    tape.note(&Entry::Wrote { stream, offered, outcome, digest });
}

impl Read for Taped {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let outcome = self.socket.read(buf);
        if let Some(tap) = &self.tap {
            note_read(tap, buf, &outcome);
        }
        outcome
    }
}

impl Write for Taped {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let outcome = self.socket.write(buf);
        if let Some(tap) = &self.tap {
            note_written(tap, &[buf], &outcome);
        }
        outcome
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let outcome = self.socket.write_vectored(slices);
        if let Some(tap) = &self.tap {
            let parts: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            note_written(tap, &parts, &outcome);
        }
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Stream for Taped {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let outcome = self.socket.shutdown_write();
        if let Some((tape, stream)) = &self.tap {
            let outcome = kind(&outcome).map_or(Ok(()), Err);
            tape.note(&Entry::Fin { stream: *stream, outcome });
        }
        outcome
    }

    fn connected(&mut self) -> io::Result<bool> {
        let outcome = self.socket.connected();
        if let Some((tape, stream)) = &self.tap {
            let outcome = outcome.as_ref().map(|connected| *connected).map_err(io::Error::kind);
            tape.note(&Entry::Connected { stream: *stream, outcome });
        }
        outcome
    }

    fn tune(&self, config: &Config) {
        self.socket.tune(config);
    }
}

/// Gives what a recorded socket has given.
#[derive(Debug)]
pub(crate) struct Reel {
    player: Shared,
    number: u32,
}

impl Reel {
    pub(crate) fn new(player: &Shared, number: u32) -> Self {
        Reel { player: player.clone(), number }
    }

    fn wrote(&mut self, parts: &[&[u8]]) -> io::Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let number = self.number;
        let what = || format!("a write of {len} bytes to stream {number}");
        let taken = self.player.lock().answer(what, |entry| match entry {
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

impl Read for Reel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let number = self.number;
        let what = || format!("a read of up to {} bytes from stream {number}", buf.len());
        let bytes = self.player.lock().answer(what, |entry| match entry {
            Entry::Read { stream, offered, outcome } if stream == number && offered == buf.len() => outcome
                .map_or_else(|error| Some(Err(error)), |bytes| (bytes.len() <= offered).then_some(Ok(bytes))),
            _ => None,
        });
        let bytes = bytes.unwrap_or(Err(ErrorKind::ConnectionReset))?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }
}

impl Write for Reel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.wrote(&[buf])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        self.wrote(&parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Reel {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let number = self.number;
        let outcome = self.player.lock().answer(
            || format!("the end of stream {number}"),
            |entry| match entry {
                Entry::Fin { stream, outcome } if stream == number => Some(outcome),
                _ => None,
            },
        );
        outcome.unwrap_or(Err(ErrorKind::NotConnected)).map_err(Into::into)
    }

    fn connected(&mut self) -> io::Result<bool> {
        let number = self.number;
        let what = || format!("whether stream {number} is connected");
        let outcome = self.player.lock().answer(what, |entry| match entry {
            Entry::Connected { stream, outcome } if stream == number => Some(outcome),
            _ => None,
        });
        outcome.unwrap_or(Err(ErrorKind::ConnectionRefused)).map_err(Into::into)
    }

    fn tune(&self, _: &Config) {}
}
