//! A stream slot: an outbound connection has no stream while its name is resolved or while it
//! waits.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

/// A stream or an empty slot. An empty slot returns `WouldBlock` for each read and write; the
/// stream's first writable event is still to come.
#[derive(Debug)]
pub(crate) struct StreamSlot<S>(Option<S>);

impl<S> StreamSlot<S> {
    pub(crate) fn new(stream: S) -> Self {
        StreamSlot(Some(stream))
    }

    pub(crate) fn none() -> Self {
        StreamSlot(None)
    }

    pub(crate) fn get(&self) -> Option<&S> {
        self.0.as_ref()
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut S> {
        self.0.as_mut()
    }
}

impl<S: Read> Read for StreamSlot<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.as_mut().ok_or(ErrorKind::WouldBlock)?.read(buf)
    }
}

impl<S: Write> Write for StreamSlot<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.as_mut().ok_or(ErrorKind::WouldBlock)?.write(buf)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.as_mut().ok_or(ErrorKind::WouldBlock)?.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}
