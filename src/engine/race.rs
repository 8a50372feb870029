//! Connecting to the addresses of a name: one after the other, but without waiting for the end of
//! the earlier attempts (RFC 8305, "Happy Eyeballs").

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Engine, Order, Readiness, Stream};
use crate::{
    connection::{
        dial::{Dial, DialStep},
        stream::StreamSlot,
    },
    error::ConnectError,
    http1::head_machine::write_all,
    id::ClientId,
    peer_addr::PeerAddr,
    util::time::after,
};

/// The addresses of a name with the families in turns, beginning with that of the first (RFC 8305
/// §4): if one family does not work, the second attempt is of the other.
pub(super) fn interleaved(addrs: Vec<SocketAddr>) -> impl Iterator<Item = SocketAddr> {
    let first = addrs.first().is_some_and(SocketAddr::is_ipv6);
    let (mut own, mut other): (VecDeque<_>, VecDeque<_>) =
        addrs.into_iter().partition(|addr| addr.is_ipv6() == first);
    let mut turn = false;
    std::iter::from_fn(move || {
        turn = !turn;
        let (next, rest) = if turn { (&mut own, &mut other) } else { (&mut other, &mut own) };
        next.pop_front().or_else(|| rest.pop_front())
    })
}

/// The state of the connections of a race after one of them became ready.
enum Standing<S> {
    Won(PeerAddr, S),
    /// The last error, if a connection has failed.
    Open(Option<ConnectError>),
}

impl<S: Stream> Engine<S> {
    /// The time after which the next address is tried too (RFC 8305 §5).
    const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

    /// Begins to connect to the next address.
    pub(super) fn next_address(&mut self, id: ClientId, now: Instant) -> Option<Order> {
        let client = &mut self.clients[id.index()];
        let dial = client.dial_mut()?;
        let Some(addr) = dial.addrs.pop_front() else {
            let error = dial.error.take().unwrap_or(ConnectError::Timeout(dial.step.public()));
            self.attempt_failed(id.index(), error, now);
            return None;
        };
        dial.step = DialStep::Connecting(addr.into());
        let deadline = match dial.addrs.is_empty() {
            true => dial.deadline,
            false => dial.deadline.min(after(now, Self::ATTEMPT_DELAY)),
        };
        client.deadlines.close_by(deadline);
        self.rearm(id.index());
        Some(Order::Connect(id, addr))
    }

    /// Takes the outcome of `Order::Connect`: a stream, connecting or connected, that is registered
    /// under the index of `id`.
    pub(crate) fn dialed(&mut self, id: ClientId, stream: io::Result<S>, now: Instant) {
        let Some(Dial { step: DialStep::Connecting(addr), .. }) = self.dial_of(id) else { return };
        let addr = *addr;
        match stream {
            Ok(stream) => self.races.entry(id.index()).or_default().push((addr, stream)),
            Err(error) => {
                self.address_failed(id.index(), ConnectError::Io { addr, error: error.kind() }, now)
            }
        }
    }

    /// Handles the readiness of a connection that is being made. `false`: the caller must do
    /// nothing else.
    pub(super) fn on_connected(&mut self, index: usize, readiness: Readiness, now: Instant) -> bool {
        let Engine { clients, outbound, config, races, .. } = self;
        let client = &mut clients[index];
        match client.dial_mut().map(|dial| dial.step) {
            None | Some(DialStep::Asked) => return true,
            Some(DialStep::Connecting(_) | DialStep::Next) => {}
            Some(_) => return false,
        }
        let Some(entrants) = races.get_mut(&index) else { return false };
        let raced = entrants.len() > 1;
        let (addr, stream) = match standing(entrants, readiness) {
            Standing::Won(addr, stream) => (addr, stream),
            Standing::Open(None) => return false,
            Standing::Open(Some(error)) => {
                self.address_failed(index, error, now);
                return false;
            }
        };
        stream.tune(config);
        // The other connections are dropped.
        races.remove(&index);
        client.stream = StreamSlot::new(stream);
        client.remote = addr;
        let Some(dial) = client.dial_mut() else { return true };
        (dial.step, dial.raced_in) = (DialStep::Asked, raced.then_some(self.poll));
        dial.addrs.clear();
        let (deadline, bytes) =
            (dial.deadline, dial.asked.as_mut().map(|asked| std::mem::take(&mut asked.bytes)));
        write_all(bytes.unwrap_or_default(), |bytes| client.outbox.push_raw(bytes, outbound));
        client.deadlines.close_by(deadline);
        let secures = client.stream.get().is_some_and(|stream| stream.needs_handshake().is_some());
        self.rearm(index);
        self.make_dirty(index);
        if secures {
            // This side speaks first.
            self.make_ready(index);
        }
        true
    }

    /// The readiness of a connection that may have been reported for one that lost the race in this
    /// poll: all have the same token. Reading until the stream would block shows whether the peer
    /// has closed it.
    pub(super) fn of_winner(&mut self, index: usize, readiness: Readiness) -> Readiness {
        let raced_in = self.clients[index].dial_mut().and_then(|dial| dial.raced_in);
        if raced_in != Some(self.poll) {
            return readiness;
        }
        let urgent = readiness.urgent || readiness.read_closed;
        Readiness { urgent, read_closed: false, ..readiness }
    }

    /// Handles a failed connection to one address: the next address is tried at once.
    fn address_failed(&mut self, index: usize, error: ConnectError, now: Instant) {
        let client = &mut self.clients[index];
        let others = self.races.get(&index).is_some_and(|entrants| !entrants.is_empty());
        let Some(dial) = client.dial_mut() else { return };
        let waits = dial.step == DialStep::Next;
        if dial.addrs.is_empty() && !others && !waits {
            return self.attempt_failed(index, error, now);
        }
        dial.error = Some(error);
        if !dial.addrs.is_empty() && !waits {
            self.start_next(index);
        }
    }

    /// Has the host connect to the next address. The connections under way go on.
    pub(super) fn start_next(&mut self, index: usize) {
        let id = self.id(index);
        let client = &mut self.clients[index];
        let Some(dial) = client.dial_mut() else { return };
        dial.step = DialStep::Next;
        let deadline = dial.deadline;
        client.deadlines.close_by(deadline);
        self.rearm(index);
        self.dials.push_back(id);
    }
}

/// Asks each connection whether it has succeeded, and removes those that have failed.
fn standing<S: Stream>(entrants: &mut Vec<(PeerAddr, S)>, readiness: Readiness) -> Standing<S> {
    let alone = entrants.len() == 1;
    let (mut number, mut failed) = (0, None);
    while let Some((addr, stream)) = entrants.get_mut(number) {
        let addr = *addr;
        let error = match stream.connected() {
            Ok(true) => {
                let (_, stream) = entrants.swap_remove(number);
                return Standing::Won(addr, stream);
            }
            // The stream is neither connected nor connecting any more.
            Ok(false) if alone && readiness.read_closed => io::ErrorKind::NotConnected,
            Ok(false) => {
                number += 1;
                continue;
            }
            Err(error) => error.kind(),
        };
        failed = Some(ConnectError::Io { addr, error });
        entrants.remove(number);
    }
    Standing::Open(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let order = |addrs: &[&str]| {
            let addrs = addrs.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 1)).collect();
            interleaved(addrs).map(|addr| addr.ip().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(order(&["::1", "::2", "::3", "1.1.1.1"]), ["::1", "1.1.1.1", "::2", "::3"]);
        assert_eq!(
            order(&["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]),
            ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]
        );
        assert_eq!(order(&[]), [""; 0]);
    }
}
