//! A stream for a replay: its calls return what those of the recorded socket returned.

#![allow(clippy::indexing_slicing, reason = "the count of bytes is checked against the buffer first")]

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use super::reader::SharedReader;
use crate::{
    config::Config,
    engine::Stream,
    record::format::{digest::digest_of_written, entry::Entry},
};

/// A stream without a socket: it returns the recorded results.
#[derive(Debug)]
pub(crate) struct ReplayedStream {
    reader: SharedReader,
    number: u32,
}

impl ReplayedStream {
    pub(crate) fn new(reader: &SharedReader, number: u32) -> Self {
        ReplayedStream { reader: reader.clone(), number }
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
        Ok(())
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
}
