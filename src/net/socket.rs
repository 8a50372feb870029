//! The stream type of a server: TCP, on Unix a Unix domain socket, or with the feature `sim` a
//! simulated connection.

use std::io::{self, IoSlice, Read, Write};

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
#[cfg(all(unix, not(target_vendor = "apple")))]
use socket2::SockRef;

#[cfg(unix)]
use super::unix;
#[cfg(feature = "sim")]
use crate::net::sim::SimSocket;
use crate::{config::Config, engine::Stream, peer_addr::PeerAddr};

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    #[cfg(feature = "sim")]
    Sim(SimSocket),
}

/// Writes without the signal SIGPIPE, which ends a program whose `main` does not ignore it, if the
/// peer is gone. The `write` of the standard library sends none, but its `write_vectored` does.
#[cfg(all(unix, not(target_vendor = "apple")))]
#[inline]
fn send_quietly(socket: SockRef<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    socket.send_vectored_with_flags(slices, libc::MSG_NOSIGNAL)
}

impl Read for Socket {
    #[inline]
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(buf),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.read(buf),
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
            #[cfg(unix)]
            Socket::Unix(stream) => stream.write(buf),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.write(buf),
        }
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            // `try_io` arms mio's readiness again after `WouldBlock`.
            #[cfg(all(unix, not(target_vendor = "apple")))]
            Socket::Tcp(stream) => stream.try_io(|| send_quietly(SockRef::from(&*stream), slices)),
            #[cfg(all(unix, not(target_vendor = "apple")))]
            Socket::Unix(stream) => stream.try_io(|| send_quietly(SockRef::from(&*stream), slices)),
            // Windows has no signals. On Apple's systems `tune` has turned SIGPIPE off.
            #[cfg(any(not(unix), target_vendor = "apple"))]
            Socket::Tcp(stream) => stream.write_vectored(slices),
            #[cfg(target_vendor = "apple")]
            Socket::Unix(stream) => stream.write_vectored(slices),
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
            #[cfg(unix)]
            Socket::Unix(stream) => stream.shutdown_write(),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.shutdown_write(),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self {
            Socket::Tcp(stream) => stream.connected(),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.connected(),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.connected(),
        }
    }

    fn set_send_buffer(&self, bytes: usize) {
        match self {
            Socket::Tcp(stream) => stream.set_send_buffer(bytes),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.set_send_buffer(bytes),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.set_send_buffer(bytes),
        }
    }

    fn tune(&self, config: &Config) {
        match self {
            Socket::Tcp(stream) => stream.tune(config),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.tune(config),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.tune(config),
        }
    }
}

/// A connected stream that was accepted elsewhere, for [`Server::adopt`](crate::Server::adopt): of
/// TCP, or on Unix a Unix domain socket. It is made non-blocking.
#[derive(Debug)]
pub struct AdoptedStream(Blocking);

#[derive(Debug)]
enum Blocking {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl From<std::net::TcpStream> for AdoptedStream {
    fn from(stream: std::net::TcpStream) -> Self {
        AdoptedStream(Blocking::Tcp(stream))
    }
}

#[cfg(unix)]
impl From<std::os::unix::net::UnixStream> for AdoptedStream {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        AdoptedStream(Blocking::Unix(stream))
    }
}

impl AdoptedStream {
    /// The stream for a poller, and its peer.
    pub(crate) fn into_socket(self) -> io::Result<(Socket, PeerAddr)> {
        match self.0 {
            Blocking::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                let peer = stream.peer_addr()?;
                Ok((Socket::Tcp(TcpStream::from_std(stream)), peer.into()))
            }
            #[cfg(unix)]
            Blocking::Unix(stream) => {
                stream.set_nonblocking(true)?;
                stream.peer_addr()?;
                let stream = UnixStream::from_std(stream);
                let peer = unix::peer_of(&stream);
                Ok((Socket::Unix(stream), peer))
            }
        }
    }
}
