//! The limits on connections: in total and per address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use super::{Engine, Stream};
use crate::{
    connection::slot::{Slot, Stage},
    error::AdoptError,
    event::pressure::Pressure,
    http1::{head::HeadReader, rejection::Rejection},
    peer_addr::PeerAddr,
    util::time::after,
};

/// The number of connections from each address; maintained only if there is a limit.
#[derive(Debug, Default)]
pub(super) struct Addresses(HashMap<IpAddr, usize>);

impl Addresses {
    /// Whether `max` connections from `addr` exist already.
    fn is_full(&self, addr: PeerAddr, max: usize) -> bool {
        let count = key(addr).and_then(|key| self.0.get(&key));
        count.is_some_and(|count| *count >= max)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn enter(&mut self, addr: PeerAddr) {
        if let Some(key) = key(addr) {
            *self.0.entry(key).or_default() += 1;
        }
    }

    fn leave(&mut self, addr: PeerAddr) {
        let Some(key) = key(addr) else { return };
        if let Some(count) = self.0.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&key);
            }
        }
    }
}

/// The address as it is counted. An IPv4-mapped address, as a dual-stack socket reports it, counts
/// as the IPv4 address. The IPv6 addresses of one /64 count as one, because a single host usually
/// has them all (RFC 7421 §1). `None`: the peer has no IP address, and is not counted.
fn key(addr: PeerAddr) -> Option<IpAddr> {
    Some(match addr.ip()?.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ipv4 => ipv4,
    })
}

impl<S: Stream> Engine<S> {
    /// While so many connections linger, one above a limit is dropped without a response.
    const MAX_REJECTED: usize = 64;

    /// Adds a connection, which with `named` begins with a PROXY header, and returns the index
    /// under which its stream must be registered. `None`: the connection was dropped because too
    /// many rejected ones linger.
    pub(crate) fn accept(&mut self, stream: S, remote: PeerAddr, named: bool, now: Instant) -> Option<usize> {
        self.stats.accepted += 1;
        // The client of a proxy is known, and counted, when the proxy has named it.
        let unnamed = named || self.config.trusts(remote);
        let refusal = self.refusal(remote, unnamed);
        if let Some(refusal) = refusal {
            self.stats.rejected.count(refusal);
            if self.rejects_silently() {
                return None;
            }
        }
        let reader = if named { HeadReader::behind_proxy_header() } else { HeadReader::default() };
        let index = self.add_inbound(stream, remote, reader, !unnamed, now);
        self.clients[index].deadlines.close_by(after(now, self.config.handshake_timeout));
        match refusal {
            Some(refusal) => self.refuse_connection(index, refusal, now),
            None => self.rearm(index),
        }
        Some(index)
    }

    /// Adds a connection that is accepted elsewhere and about to be open. Fails above a limit.
    pub(super) fn adopt(&mut self, stream: S, remote: PeerAddr, now: Instant) -> Result<usize, AdoptError> {
        if self.shutting_down {
            return Err(AdoptError::ShuttingDown);
        }
        let unnamed = self.config.trusts(remote);
        if self.refusal(remote, unnamed).is_some() {
            return Err(AdoptError::AtLimit);
        }
        self.stats.accepted += 1;
        Ok(self.add_inbound(stream, remote, HeadReader::default(), !unnamed, now))
    }

    fn add_inbound(
        &mut self,
        stream: S,
        remote: PeerAddr,
        reader: HeadReader,
        counted: bool,
        now: Instant,
    ) -> usize {
        let serial = self.next_serial.take();
        let mut client = Slot::new(stream, remote, serial, Stage::Handshake(reader), now);
        client.counted_address = self.config.max_connections_per_ip.is_some() && counted;
        if client.counted_address {
            self.addresses.enter(remote);
        }
        self.clients.insert(client)
    }

    /// Makes `remote` the client of a connection, and counts it towards `max_connections_per_ip`.
    pub(super) fn count_address(&mut self, index: usize, remote: PeerAddr) -> Result<(), Rejection> {
        let client = &mut self.clients[index];
        let before = std::mem::replace(&mut client.remote, remote);
        let Some(max) = self.config.max_connections_per_ip else { return Ok(()) };
        if std::mem::take(&mut client.counted_address) {
            self.addresses.leave(before);
        }
        if self.addresses.is_full(remote, max) {
            return Err(Rejection::TooManyFromAddress);
        }
        self.addresses.enter(remote);
        client.counted_address = true;
        Ok(())
    }

    /// Whether a rejected connection would get no response, because too many linger.
    pub(crate) fn rejects_silently(&self) -> bool {
        self.lingering >= Self::MAX_REJECTED
    }

    /// The reason to reject a new connection from `remote`, if there is one. `unnamed`: the address
    /// is that of a trusted proxy.
    fn refusal(&self, remote: PeerAddr, unnamed: bool) -> Option<Rejection> {
        let Engine { config, clients, lingering, .. } = self;
        let inbound = clients.len() - lingering - self.outbound_count;
        if self.shutting_down || config.max_connections.is_some_and(|max| inbound >= max) {
            return Some(Rejection::AtCapacity);
        }
        if self.memory_limit.pressure >= Pressure::Refusing {
            return Some(Rejection::Overloaded);
        }
        let max = config.max_connections_per_ip.filter(|_| !unnamed)?;
        self.addresses.is_full(remote, max).then_some(Rejection::TooManyFromAddress)
    }

    /// Releases the place of a connection that begins to linger, or is freed without lingering.
    /// `counted`: its address is counted.
    pub(super) fn leave_place(&mut self, remote: PeerAddr, outbound: bool, counted: bool) {
        if outbound {
            self.outbound_count -= 1;
        } else if counted {
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
        let addr = |text: &str| PeerAddr::Ip(text.parse().unwrap());
        assert!(!addresses.is_full(addr("1.2.3.4:5"), 1));
        addresses.enter(addr("1.2.3.4:5"));
        assert!(addresses.is_full(addr("[::ffff:1.2.3.4]:6"), 1));
        assert!(!addresses.is_full(PeerAddr::Unix(None), 1));
        assert!(!addresses.is_full(addr("1.2.3.5:5"), 1));
        addresses.leave(addr("1.2.3.4:7"));
        assert!(addresses.is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_prefix_of_64_bits_count_as_one() {
        let mut addresses = Addresses::default();
        let addr = |prefix: u16, host: u64| {
            PeerAddr::Portless(Ipv6Addr::from_bits(u128::from(prefix) << 64 | u128::from(host)).into())
        };
        for number in 0..1_000 {
            assert!(!addresses.is_full(addr(7, number * 0x1_0001_0001), 1_000), "{number}");
            addresses.enter(addr(7, number * 0x1_0001_0001));
        }
        assert!(addresses.is_full(addr(7, u64::MAX), 1_000));
        assert!(!addresses.is_full(addr(8, 0), 1));
        (0..1_000).for_each(|number| addresses.leave(addr(7, number)));
        assert!(addresses.is_empty());
    }
}
