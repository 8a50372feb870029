//! What a server reads from and writes to: TCP, or with the feature `sim` a connection in memory. Without the
//! feature it is the TCP socket itself.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;

use crate::{config::Config, engine::Stream, network::SimSocket};

/// One of the two.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Sim(SimSocket),
}

impl Socket {
    /// To be registered with the poller; `None`: the kernel does not know it.
    pub(crate) fn tcp(&mut self) -> Option<&mut TcpStream> {
        match self {
            Socket::Tcp(stream) => Some(stream),
            Socket::Sim(_) => None,
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buf),
            Socket::Sim(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(buf),
            Socket::Sim(stream) => stream.write(buf),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write_vectored(slices),
            Socket::Sim(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown_write(),
            Socket::Sim(stream) => stream.shutdown_write(),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self {
            Socket::Tcp(stream) => stream.connected(),
            Socket::Sim(stream) => stream.connected(),
        }
    }

    fn tune(&self, config: &Config) {
        match self {
            Socket::Tcp(stream) => stream.tune(config),
            Socket::Sim(stream) => stream.tune(config),
        }
    }
}
