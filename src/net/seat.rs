//! A server's place in a simulated network: what it has there instead of the kernel and the clock.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::net::TcpStream;

pub(crate) use super::socket::Socket;
use crate::{
    engine::Readiness,
    entropy::Entropy,
    network::{Dice, Shared, SimSocket},
};

#[derive(Debug)]
pub(crate) struct Seat {
    network: Shared,
    host: usize,
}

impl Seat {
    pub(crate) fn new(network: Shared) -> Self {
        let host = network.lock().add_host();
        Seat { network, host }
    }

    /// Its number in that network, if it is the one.
    pub(crate) fn host(&self, network: &Shared) -> Option<usize> {
        self.network.is(network).then_some(self.host)
    }

    pub(crate) fn now(&self) -> Instant {
        self.network.lock().now()
    }

    /// Numbers that are the same for the same seed: nobody is to be kept in the dark here.
    pub(crate) fn entropy(&self) -> Entropy {
        let mut dice = Dice::new(u64::from_le_bytes(self.network.lock().random()));
        Entropy::of(move |bytes| dice.fill(bytes))
    }

    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self.network.lock().sleep(self.host, timeout) {
            true => Ok(()),
            false => Err(io::Error::new(ErrorKind::Deadlock, "nothing will ever end this sleep")),
        }
    }

    pub(crate) fn report(&self) -> Vec<(usize, Readiness)> {
        self.network.lock().report(self.host)
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        let network = self.network.lock();
        network.listens(self.host).then(|| network.host_addr(self.host))
    }

    pub(crate) fn has_backlog(&self) -> bool {
        self.network.lock().has_backlog(self.host)
    }

    pub(crate) fn accept(&self) -> Option<(Socket, SocketAddr)> {
        let (id, remote) = self.network.lock().accept(self.host)?;
        Some((Socket::Sim(SimSocket::new(&self.network, id)), remote))
    }

    /// Reports on the socket come under this token.
    pub(crate) fn watch(&self, socket: &Socket, token: usize) {
        if let Socket::Sim(socket) = socket {
            self.network.lock().watch(self.host, socket.id, token);
        }
    }

    pub(crate) fn stop_listening(&self) {
        self.network.lock().stop_listening(self.host);
    }

    pub(crate) fn connect(&self, token: usize, addr: SocketAddr) -> Socket {
        let id = self.network.lock().dial(self.host, token, addr);
        Socket::Sim(SimSocket::new(&self.network, id))
    }

    pub(crate) fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let addr = self.network.lock().resolve(host);
        let addr = addr.ok_or_else(|| "the simulated network has no such name".to_owned())?;
        Ok(vec![SocketAddr::new(addr.ip(), port)])
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

/// The socket to be registered with the poller; `None`: the kernel does not know it.
pub(crate) fn tcp(socket: &mut Socket) -> Option<&mut TcpStream> {
    socket.tcp()
}

pub(crate) fn socket(socket: TcpStream) -> Socket {
    Socket::Tcp(socket)
}
