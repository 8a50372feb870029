//! The clock, sockets and names of a server in a simulated network.

#[cfg(unix)]
use std::sync::OnceLock;
use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::socket::Socket;
use crate::{
    engine::{Readiness, hooks::WallClock},
    error::ConnectError,
    net::sim::{Shared, SimRng, SimSocket},
    util::{entropy::Entropy, rearm::Rearm},
};

#[derive(Debug)]
pub(crate) struct SimHost {
    network: Shared,
    number: usize,
    /// An empty poller whose descriptor an external event loop gets; opened at the first use.
    #[cfg(unix)]
    descriptor: OnceLock<mio::Poll>,
}

impl SimHost {
    pub(crate) fn new(network: Shared) -> Self {
        let number = network.lock().add_host();
        SimHost {
            network,
            number,
            #[cfg(unix)]
            descriptor: OnceLock::new(),
        }
    }

    /// The host's number in this network; `None` if it belongs to another.
    pub(crate) fn number(&self, network: &Shared) -> Option<usize> {
        self.network.is(network).then_some(self.number)
    }

    /// A descriptor that is never ready, as a simulated server is polled by the network's clock.
    #[cfg(unix)]
    #[allow(
        clippy::expect_used,
        reason = "the call has no error, and only fails if a test process is out of descriptors"
    )]
    pub(super) fn descriptor(&self) -> &mio::Poll {
        self.descriptor.get_or_init(|| mio::Poll::new().expect("a descriptor for the simulated server"))
    }

    pub(super) fn rearm(&self) -> Rearm {
        self.network.lock().rearm
    }

    pub(super) fn now(&self) -> Instant {
        self.network.lock().now()
    }

    /// A clock that began at 2000-01-01 00:00:00 UTC, when the simulation did.
    pub(super) fn wall_clock(&self) -> WallClock {
        const START: Duration = Duration::from_secs(946_684_800);
        let network = self.network.clone();
        Box::new(move || START + network.lock().elapsed())
    }

    /// Random numbers that depend on the seed only. They are not secret.
    pub(crate) fn entropy(&self) -> Entropy {
        let mut rng = SimRng::new(u64::from_le_bytes(self.network.lock().random()));
        Entropy::of(move |bytes| rng.fill(bytes))
    }

    pub(super) fn sleep(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self.network.lock().sleep(self.number, timeout) {
            true => Ok(()),
            false => Err(io::Error::new(
                ErrorKind::Deadlock,
                "the sleep would never end: set a timeout or a timer",
            )),
        }
    }

    pub(super) fn report(&self, mut ready: impl FnMut(usize, Readiness)) {
        let reports = self.network.lock().report(self.number);
        reports.into_iter().for_each(|(token, readiness)| ready(token, readiness));
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.network.lock().local_addr(self.number)
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.network.lock().has_backlog(self.number)
    }

    /// Whether the connections that are accepted are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.network.lock().is_encrypted(self.number)
    }

    /// Has them be encrypted.
    #[cfg(feature = "tls")]
    pub(crate) fn encrypt(&self) {
        self.network.lock().encrypt(self.number);
    }

    pub(super) fn accept(&self) -> Option<(Socket, SocketAddr)> {
        let (id, remote) = self.network.lock().accept(self.number)?;
        Some((Socket::Sim(SimSocket::new(&self.network, id)), remote))
    }

    /// Reports the readiness of the socket under this token from now on.
    pub(super) fn watch(&self, socket: &SimSocket, token: usize) {
        self.network.lock().watch(self.number, socket.id, token);
    }

    pub(super) fn stop_listening(&self) {
        self.network.lock().stop_listening(self.number);
    }

    pub(super) fn connect(&self, token: usize, addr: SocketAddr) -> Socket {
        let id = self.network.lock().connect(self.number, token, addr);
        Socket::Sim(SimSocket::new(&self.network, id))
    }

    pub(super) fn resolve(&self, host: String, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        match self.network.lock().names.get(&host) {
            Some(addr) => Ok(vec![SocketAddr::new(addr.ip(), port)]),
            None => {
                let error = "the simulated network has no such name".to_owned();
                Err(ConnectError::Resolve { host, error })
            }
        }
    }
}

impl Drop for SimHost {
    fn drop(&mut self) {
        self.stop_listening();
    }
}
