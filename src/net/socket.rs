//! The stream type of a server: TCP, on Unix a Unix domain socket, or with the feature `sim` a
//! simulated connection.

use std::{
    io::{self, IoSlice, Read, Write},
    sync::Arc,
};

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
#[cfg(all(unix, not(target_vendor = "apple")))]
use socket2::SockRef;

#[cfg(unix)]
use super::unix;
#[cfg(feature = "sim")]
use crate::net::sim::SimSocket;
#[cfg(feature = "tls")]
use crate::net::tls::TlsSocket;
use crate::{
    config::Config,
    engine::{HandshakePart, HandshakeStep, Stream},
    peer_addr::PeerAddr,
    tls::info::TlsInfo,
};

#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    #[cfg(feature = "sim")]
    Sim(SimSocket),
    #[cfg(feature = "tls")]
    Tls(Box<TlsSocket<Socket>>),
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
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.read(buf),
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
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.write(buf),
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
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.write_vectored(slices),
        }
    }

    #[inline(always)]
    fn flush(&mut self) -> io::Result<()> {
        match self {
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.flush(),
            _ => Ok(()),
        }
    }
}

/// The result of the call on a stream with TLS, or else the given value.
macro_rules! of_tls {
    ($socket:ident, $stream:ident => $call:expr, $otherwise:expr) => {
        match $socket {
            #[cfg(feature = "tls")]
            Socket::Tls($stream) => $call,
            _ => $otherwise,
        }
    };
}

impl Socket {
    #[cfg_attr(not(feature = "sim"), allow(dead_code))]
    pub(crate) fn is_encrypted(&self) -> bool {
        of_tls!(self, stream => { let _ = stream; true }, false)
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
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.shutdown_write(),
        }
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self {
            Socket::Tcp(stream) => stream.connected(),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.connected(),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.connected(),
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.socket_mut().connected(),
        }
    }

    fn set_send_buffer(&self, bytes: usize) {
        match self {
            Socket::Tcp(stream) => stream.set_send_buffer(bytes),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.set_send_buffer(bytes),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.set_send_buffer(bytes),
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.socket().set_send_buffer(bytes),
        }
    }

    fn tune(&self, config: &Config) {
        match self {
            Socket::Tcp(stream) => stream.tune(config),
            #[cfg(unix)]
            Socket::Unix(stream) => stream.tune(config),
            #[cfg(feature = "sim")]
            Socket::Sim(stream) => stream.tune(config),
            #[cfg(feature = "tls")]
            Socket::Tls(stream) => stream.socket().tune(config),
        }
    }

    #[inline]
    fn needs_handshake(&self) -> Option<HandshakePart> {
        of_tls!(self, stream => stream.needs_handshake(), None)
    }

    fn handshake(&mut self, ahead: &[u8]) -> HandshakeStep {
        let _ = ahead;
        of_tls!(self, stream => stream.handshake(ahead), HandshakeStep::default())
    }

    fn tls(&self) -> Option<&Arc<TlsInfo>> {
        of_tls!(self, stream => stream.info(), None)
    }

    fn is_plain_by_mistake(&self) -> bool {
        of_tls!(self, stream => stream.is_plain_by_mistake(), false)
    }

    #[inline]
    fn has_input(&self) -> bool {
        of_tls!(self, stream => stream.has_input(), false)
    }

    #[inline]
    fn memory(&self) -> usize {
        of_tls!(self, stream => stream.memory(), 0)
    }

    fn end_after_output(&mut self) {
        of_tls!(self, stream => stream.end_after_output(), ());
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
