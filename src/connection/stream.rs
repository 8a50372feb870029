//! A stream slot: an outbound connection has no stream while its name is resolved or while it
//! waits, and several while it tries the addresses of its name.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::SocketAddr,
};

/// A stream or none yet. Without a stream each read and write returns `WouldBlock`; the stream's
/// first writable event is still to come.
#[derive(Debug)]
pub(crate) enum StreamSlot<S> {
    None,
    Stream(S),
    /// Streams that are connecting, each with its address. The first that succeeds is kept.
    Race(Box<Race<S>>),
}

#[derive(Debug)]
pub(crate) struct Race<S> {
    pub(crate) entrants: Vec<(SocketAddr, S)>,
}

impl<S> StreamSlot<S> {
    pub(crate) fn new(stream: S) -> Self {
        StreamSlot::Stream(stream)
    }

    pub(crate) fn none() -> Self {
        StreamSlot::None
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut S> {
        match self {
            StreamSlot::Stream(stream) => Some(stream),
            StreamSlot::None | StreamSlot::Race(_) => None,
        }
    }

    /// Adds a stream that is connecting to `addr`.
    pub(crate) fn enter(&mut self, addr: SocketAddr, stream: S) {
        match self {
            StreamSlot::Race(race) => race.entrants.push((addr, stream)),
            _ => *self = StreamSlot::Race(Box::new(Race { entrants: vec![(addr, stream)] })),
        }
    }

    /// The streams that are connecting.
    pub(crate) fn entrants(&mut self) -> Option<&mut Vec<(SocketAddr, S)>> {
        match self {
            StreamSlot::Race(race) => Some(&mut race.entrants),
            StreamSlot::None | StreamSlot::Stream(_) => None,
        }
    }
}

impl<S: Read> Read for StreamSlot<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.get_mut().ok_or(ErrorKind::WouldBlock)?.read(buf)
    }
}

impl<S: Write> Write for StreamSlot<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.get_mut().ok_or(ErrorKind::WouldBlock)?.write(buf)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.get_mut().ok_or(ErrorKind::WouldBlock)?.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.get_mut().map_or(Ok(()), Write::flush)
    }
}
