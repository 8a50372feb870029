//! The limits on connections: in total and per address.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use super::{Engine, Stream};
use crate::{
    connection::slot::{Slot, Stage},
    event::pressure::Pressure,
    http1::{head::HeadReader, rejection::Rejection},
    util::time::after,
};

/// The number of connections from each address; maintained only if there is a limit.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<IpAddr, usize>);

impl Addresses {
    /// Whether `max` connections from `addr` exist already.
    fn is_full(&self, addr: SocketAddr, max: Option<usize>) -> bool {
        max.is_some_and(|max| self.0.get(&key(addr)).is_some_and(|count| *count >= max))
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn enter(&mut self, addr: SocketAddr) {
        *self.0.entry(key(addr)).or_default() += 1;
    }

    fn leave(&mut self, addr: SocketAddr) {
        if let Some(count) = self.0.get_mut(&key(addr)) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key(addr));
            }
        }
    }
}

/// An IPv4-mapped address, as a dual-stack socket reports it, counts as the IPv4 address.
fn key(addr: SocketAddr) -> IpAddr {
    addr.ip().to_canonical()
}

impl<S: Stream> Engine<S> {
    /// While so many connections linger, one above a limit is dropped without a response.
    const MAX_REJECTED: usize = 64;

    /// Adds a connection and returns the index under which its stream must be registered. `None`:
    /// the connection was dropped because too many rejected ones linger.
    pub(crate) fn accept(&mut self, stream: S, remote: SocketAddr, now: Instant) -> Option<usize> {
        self.stats.accepted += 1;
        let refusal = self.refusal(remote);
        if let Some(refusal) = refusal {
            self.stats.rejected.count(refusal);
            if self.lingering >= Self::MAX_REJECTED {
                return None;
            }
        }
        let serial = self.next_serial.take();
        let stage = Stage::Handshake(HeadReader::default());
        let mut client = Slot::new(stream, remote, serial, stage, now);
        client.deadlines.close_by(after(now, self.config.handshake_timeout));
        let index = self.clients.insert(client);
        if self.config.max_connections_per_ip.is_some() {
            self.addresses.enter(remote);
        }
        match refusal {
            Some(refusal) => self.respond_and_close(index, &refusal.response(), now),
            None => self.rearm(index),
        }
        Some(index)
    }

    /// The reason to reject a new connection from `remote`, if there is one.
    fn refusal(&self, remote: SocketAddr) -> Option<Rejection> {
        let Engine { config, clients, lingering, .. } = self;
        let inbound = clients.len() - lingering - self.outbound_count;
        if self.shutting_down || config.max_connections.is_some_and(|max| inbound >= max) {
            return Some(Rejection::AtCapacity);
        }
        if self.memory_limit.pressure >= Pressure::Refusing {
            return Some(Rejection::Overloaded);
        }
        let full = self.addresses.is_full(remote, config.max_connections_per_ip);
        full.then_some(Rejection::TooManyFromAddress)
    }

    /// Releases the place of a connection that begins to linger, or is freed without lingering.
    pub(super) fn leave_place(&mut self, remote: SocketAddr, outbound: bool) {
        if outbound {
            self.outbound_count -= 1;
        } else if self.config.max_connections_per_ip.is_some() {
            self.addresses.leave(remote);
        }
    }

    /// Whether a connection whose last byte has left may wait for the peer's FIN. A limit on
    /// connections applies to lingering ones, too.
    pub(super) fn may_linger(&self) -> bool {
        let max = self.config.max_connections.unwrap_or(usize::MAX);
        self.lingering <= max.max(Self::MAX_REJECTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_ignore_port_and_ipv4_mapping() {
        let mut addresses = Addresses::default();
        let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(!addresses.is_full(addr("1.2.3.4:5"), Some(1)));
        addresses.enter(addr("1.2.3.4:5"));
        assert!(addresses.is_full(addr("[::ffff:1.2.3.4]:6"), Some(1)));
        assert!(!addresses.is_full(addr("1.2.3.4:6"), None));
        assert!(!addresses.is_full(addr("1.2.3.5:5"), Some(1)));
        addresses.leave(addr("1.2.3.4:7"));
        assert!(addresses.is_empty());
    }
}
