//! The stream type of a server: TCP, or with the feature `sim` a simulated connection.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;

use super::tcp;
#[cfg(feature = "sim")]
use crate::net::sim::SimSocket;
use crate::{config::Config, engine::Stream};

/// A TCP or a simulated stream. Without the feature `sim` it is only a TCP stream.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(feature = "sim")]
    Sim(SimSocket),
}

impl Read for Socket {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buf),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.read(buf),
        }
    }
}

impl Write for Socket {
    #[inline]
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(buf),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.write(buf),
        }
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => tcp::write_vectored(stream, slices),
            #[cfg(feature = "sim")]
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
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.shutdown_write(),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self {
            Socket::Tcp(stream) => stream.connected(),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.connected(),
        }
    }

    fn set_send_buffer(&self, bytes: usize) {
        match self {
            Socket::Tcp(stream) => stream.set_send_buffer(bytes),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.set_send_buffer(bytes),
        }
    }

    fn tune(&self, config: &Config) {
        match self {
            Socket::Tcp(stream) => stream.tune(config),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.tune(config),
        }
    }
}
