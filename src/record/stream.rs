//! A socket that records what each of its calls returns.

#![allow(clippy::indexing_slicing, reason = "the count of bytes is limited to the buffer first")]

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    format::{digest::digest_of_written, entry::Entry},
    recorder::Recorder,
};
use crate::{
    config::Config,
    engine::{HandshakePart, HandshakeStep, Stream},
    net::socket::Socket,
    tls::info::TlsInfo,
};

/// A socket with a recorder, if its server is recorded.
#[derive(Debug)]
pub(crate) struct RecordedStream {
    pub(super) socket: Socket,
    /// The recorder and the number of this stream.
    recorder: Option<(Recorder, u32)>,
}

impl RecordedStream {
    pub(super) fn new(socket: Socket, recorder: Option<&Recorder>) -> Self {
        RecordedStream {
            socket,
            recorder: recorder.map(|recorder| (recorder.clone(), recorder.next_stream())),
        }
    }

    /// The recorder of an encrypted stream.
    fn encrypted(&self) -> Option<&(Recorder, u32)> {
        self.recorder.as_ref().filter(|_| self.socket.is_encrypted())
    }
}

fn kind<T>(outcome: &io::Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(io::Error::kind)
}

#[cold]
fn record_read((recorder, stream): &(Recorder, u32), buf: &[u8], outcome: &io::Result<usize>) {
    let bytes = &buf[..outcome.as_ref().map_or(0, |count| (*count).min(buf.len()))];
    let outcome = kind(outcome).map_or_else(|| Ok(Bytes::copy_from_slice(bytes)), Err);
    recorder.append(&Entry::Read { stream: *stream, offered: buf.len(), outcome });
}

#[cold]
fn record_written((recorder, stream): &(Recorder, u32), parts: &[&[u8]], outcome: &io::Result<usize>) {
    let (stream, offered) = (*stream, parts.iter().map(|part| part.len()).sum());
    let digest = digest_of_written(parts, *outcome.as_ref().unwrap_or(&0));
    let outcome = outcome.as_ref().map(|count| *count).map_err(io::Error::kind);
    recorder.append(&Entry::Wrote { stream, offered, outcome, digest });
}

impl Read for RecordedStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let outcome = self.socket.read(buf);
        if let Some(recorder) = &self.recorder {
            record_read(recorder, buf, &outcome);
        }
        outcome
    }
}

impl Write for RecordedStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let outcome = self.socket.write(buf);
        if let Some(recorder) = &self.recorder {
            record_written(recorder, &[buf], &outcome);
        }
        outcome
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let outcome = self.socket.write_vectored(slices);
        if let Some(recorder) = &self.recorder {
            let parts: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            record_written(recorder, &parts, &outcome);
        }
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = self.socket.flush();
        if let Some((recorder, stream)) = self.encrypted() {
            let outcome = kind(&outcome).map_or(Ok(()), Err);
            recorder.append(&Entry::Flushed { stream: *stream, outcome });
        }
        outcome
    }
}

impl Stream for RecordedStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let outcome = self.socket.shutdown_write();
        if let Some((recorder, stream)) = &self.recorder {
            let outcome = kind(&outcome).map_or(Ok(()), Err);
            recorder.append(&Entry::Fin { stream: *stream, outcome });
        }
        outcome
    }

    fn connected(&mut self) -> io::Result<bool> {
        let outcome = self.socket.connected();
        if let Some((recorder, stream)) = &self.recorder {
            let outcome = outcome.as_ref().map(|connected| *connected).map_err(io::Error::kind);
            recorder.append(&Entry::Connected { stream: *stream, outcome });
        }
        outcome
    }

    fn set_send_buffer(&self, bytes: usize) {
        self.socket.set_send_buffer(bytes);
    }

    fn tune(&self, config: &Config) {
        self.socket.tune(config);
    }

    #[inline]
    fn needs_handshake(&self) -> Option<HandshakePart> {
        self.socket.needs_handshake()
    }

    fn handshake(&mut self, ahead: &[u8]) -> HandshakeStep {
        let step = self.socket.handshake(ahead);
        if let Some((recorder, stream)) = self.encrypted() {
            let next = self.socket.needs_handshake();
            recorder.append(&Entry::Shook { stream: *stream, step: step.clone(), next });
        }
        step
    }

    fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.socket.tls()
    }

    fn is_plain_by_mistake(&self) -> bool {
        self.socket.is_plain_by_mistake()
    }

    #[inline]
    fn has_input(&self) -> bool {
        let found = self.socket.has_input();
        if let Some((recorder, stream)) = self.encrypted() {
            recorder.append(&Entry::HadInput { stream: *stream, found });
        }
        found
    }

    #[inline]
    fn memory(&self) -> usize {
        let bytes = self.socket.memory();
        if let Some((recorder, stream)) = self.encrypted() {
            recorder.append(&Entry::Held { stream: *stream, bytes });
        }
        bytes
    }

    fn end_after_output(&mut self) {
        self.socket.end_after_output();
    }
}
