//! Without the feature `sim` no server is simulated, and a socket is a TCP socket.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::net::TcpStream;

use crate::engine::Readiness;

pub(crate) type Socket = TcpStream;

/// There is none.
#[derive(Debug)]
pub(crate) enum Seat {}

impl Seat {
    pub(crate) fn now(&self) -> Instant {
        match *self {}
    }

    pub(crate) fn sleep(&self, _: Option<Duration>) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn report(&self) -> Vec<(usize, Readiness)> {
        match *self {}
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match *self {}
    }

    pub(crate) fn has_backlog(&self) -> bool {
        match *self {}
    }

    pub(crate) fn accept(&self) -> Option<(Socket, SocketAddr)> {
        match *self {}
    }

    pub(crate) fn watch(&self, _: &Socket, _: usize) {
        match *self {}
    }

    pub(crate) fn stop_listening(&self) {
        match *self {}
    }

    pub(crate) fn connect(&self, _: usize, _: SocketAddr) -> Socket {
        match *self {}
    }

    pub(crate) fn resolve(&self, _: &str, _: u16) -> Result<Vec<SocketAddr>, String> {
        match *self {}
    }
}

/// The socket to be registered with the poller.
pub(crate) fn tcp(socket: &mut Socket) -> Option<&mut TcpStream> {
    Some(socket)
}

pub(crate) fn socket(socket: TcpStream) -> Socket {
    socket
}
