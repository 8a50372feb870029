//! The simulated socket: an end of a link that belongs to a server.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use super::{EndId, Network, Shared, probe::Call};
use crate::{config::Config, engine::Stream};

/// A socket of a simulated server. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct SimSocket {
    network: Shared,
    pub(crate) id: EndId,
}

impl SimSocket {
    pub(crate) fn new(network: &Shared, id: EndId) -> Self {
        SimSocket { network: network.clone(), id }
    }
}

impl Network {
    fn read(&mut self, id: EndId, buf: &mut [u8]) -> io::Result<usize> {
        self.half(id).probe.enter(Call::Read)?;
        if self.rng.percent(self.conditions.interrupts) {
            return Err(ErrorKind::Interrupted.into());
        }
        let short = self.rng.percent(self.conditions.short_reads);
        let half = &mut self.links[id.0].halves[id.1];
        let most = buf.len().min(half.arrived.len());
        if most == 0 {
            return match half.error.take() {
                Some(error) => Err(error.into()),
                None if half.fin_arrived || half.reset => Ok(0),
                None => {
                    half.arm();
                    Err(ErrorKind::WouldBlock.into())
                }
            };
        }
        let count = if short { 1 + self.rng.below(most) } else { most }.min(most);
        let half = self.half(id);
        half.arrived.read_exact(&mut buf[..count])?;
        half.probe.bytes_read += count as u64;
        // The engine takes a short read as the end of the input, so the rest needs a new edge.
        half.readable_edge |= count < most;
        self.make_room(id);
        Ok(count)
    }

    fn write(&mut self, id: EndId, parts: &[&[u8]]) -> io::Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let ((link, side), rearm) = (id, self.rearm);
        let half = self.half(id);
        assert!(!half.fin_sent, "tickws writes after FIN");
        assert!(!half.would_block, "tickws repeats a write without a writable event");
        assert!(len > 0, "tickws writes nothing");
        half.probe.enter(Call::Write)?;
        if self.half(id).reset {
            return Err(self.half(id).error.take().unwrap_or(ErrorKind::BrokenPipe).into());
        }
        if self.rng.percent(self.conditions.interrupts) {
            return Err(ErrorKind::Interrupted.into());
        }
        let mut count = len.min(self.links[link].room(side));
        if self.rng.percent(self.conditions.partial_writes) {
            count = self.rng.below(count + 1);
        }
        let half = self.half(id);
        half.probe.bytes_written += count as u64;
        half.would_block = count == 0 || rearm.follows(count, len);
        let mut left = count;
        for part in parts {
            let (taken, _) = part.split_at(part.len().min(left));
            left -= taken.len();
            self.post_bytes((link, 1 - side), taken);
        }
        // After a short write in spite of room, the next poll reports a writable edge.
        let has_room = self.links[link].has_room(side);
        let half = self.half(id);
        half.writable_edge |= half.would_block && has_room;
        if count > 0 {
            return Ok(count);
        }
        half.arm();
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Read for SimSocket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.network.lock().read(self.id, buf)
    }
}

impl Write for SimSocket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.network.lock().write(self.id, &[buf])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let parts: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        self.network.lock().write(self.id, &parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for SimSocket {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut network = self.network.lock();
        let half = network.half(self.id);
        assert!(!half.fin_sent, "tickws sends FIN twice");
        half.probe.enter(Call::Shutdown)?;
        if half.reset {
            return Err(ErrorKind::NotConnected.into());
        }
        network.finish(self.id);
        Ok(())
    }

    fn connected(&mut self) -> io::Result<bool> {
        match self.network.lock().half(self.id).connected {
            Some(false) => Err(ErrorKind::ConnectionRefused.into()),
            known => Ok(known == Some(true)),
        }
    }

    fn tune(&self, _: &Config) {}

    fn set_send_buffer(&self, _: usize) {}
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.lock().drop_end(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::net::sim::{Call, Fault, NetworkConditions, Peer};

    const HOST: usize = 0;

    /// A peer, and the accepted socket of the server.
    fn pair(conditions: NetworkConditions) -> (Shared, Peer, SimSocket) {
        let network = Shared::new(1, conditions, Instant::now());
        network.lock().add_host();
        let peer = Peer::connect(&network, HOST, 1);
        let (id, _) = network.lock().accept(HOST).expect("a connection");
        network.lock().watch(HOST, id, 7);
        assert_eq!(reports(&network), [(true, false)], "a new socket is writable");
        (network.clone(), peer, SimSocket::new(&network, id))
    }

    /// Whether the socket is writable and readable, for each report.
    fn reports(network: &Shared) -> Vec<(bool, bool)> {
        let mut network = network.lock();
        network.advance(Duration::ZERO);
        let reports = network.report(HOST);
        reports.into_iter().map(|(_, ready)| (ready.writable, ready.readable)).collect()
    }

    #[test]
    fn illegal_calls_of_a_server_panic() {
        type Misuse = fn(&mut SimSocket);
        let calls: [(&str, Misuse); 4] = [
            ("a write of nothing", |socket| _ = socket.write(b"")),
            ("a write repeated without an edge", |socket| {
                assert_eq!(socket.write(&[0; 20]).expect("some room"), 10);
                let _ = socket.write(&[0; 10]);
            }),
            ("a write after FIN", |socket| {
                socket.shutdown_write().expect("the first");
                let _ = socket.write(b"x");
            }),
            ("FIN twice", |socket| {
                socket.shutdown_write().expect("the first");
                let _ = socket.shutdown_write();
            }),
        ];
        for (what, call) in calls {
            let (_network, peer, mut socket) = pair(NetworkConditions::calm());
            peer.set_buffers(10, 10);
            let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut socket)));
            let panic = outcome.expect_err(what);
            let message = panic.downcast_ref::<&str>().expect("a message");
            assert!(message.starts_with("tickws "), "{what}: {message}");
        }
    }

    #[test]
    fn room_is_reported_once_a_third_of_the_buffer_is_free() {
        let (network, mut peer, mut socket) = pair(NetworkConditions::calm());
        peer.set_buffers(90, 90);
        assert_eq!(socket.write(&[0; 100]).expect("some room"), 90);
        assert_eq!((peer.read(29), reports(&network)), (29, vec![]));
        assert_eq!((peer.read(1), reports(&network)), (1, vec![(true, false)]));
        assert_eq!((reports(&network), peer.unread()), (vec![], 60));
        assert_eq!(socket.write(&[0; 100]).expect("some room"), 30);
    }

    #[test]
    fn as_on_windows_readiness_comes_again_only_after_would_block() {
        let (network, mut peer, mut socket) = pair(NetworkConditions::calm().windows_readiness(true));
        let would_block = |outcome: io::Result<usize>| {
            assert_eq!(outcome.expect_err("nothing").kind(), ErrorKind::WouldBlock);
        };
        peer.raw(b"abcdef");
        assert_eq!(reports(&network), [(false, true)]);
        let mut bytes = [0; 4];
        assert_eq!((socket.read(&mut bytes).expect("input"), reports(&network)), (4, vec![]));
        peer.raw(b"g");
        assert_eq!((socket.read(&mut bytes).expect("input"), reports(&network)), (2, vec![]));
        assert_eq!(socket.read(&mut bytes).expect("input"), 1);
        would_block(socket.read(&mut bytes));
        assert_eq!(reports(&network), [(true, false)], "writable again, although nothing was written");
        peer.raw(b"h");
        assert_eq!(reports(&network), [(false, true)]);

        peer.set_buffers(90, 90);
        assert_eq!(socket.write(&[0; 100]).expect("some room"), 90);
        assert_eq!((peer.read(40), reports(&network)), (40, vec![]), "the write was only short");
        assert_eq!(socket.write(&[0; 60]).expect("some room"), 40);
        would_block(socket.write(&[0; 20]));
        // The unread byte is reported again, because the write has re-armed both kinds.
        assert_eq!(reports(&network), [(false, true)]);
        assert_eq!((peer.read(1), reports(&network)), (1, vec![(true, false)]));
    }

    #[test]
    fn input_waits_for_room_and_closing_with_unread_input_resets() {
        let (network, peer, mut socket) = pair(NetworkConditions::calm());
        peer.set_buffers(4, 4);
        peer.raw(b"abcdef");
        assert_eq!((reports(&network), peer.pending()), (vec![(true, true)], 6));
        let mut bytes = [0; 9];
        assert_eq!((socket.read(&mut bytes).expect("input"), &bytes[..4]), (4, &b"abcd"[..]));
        assert_eq!((reports(&network), peer.calls()), (vec![(true, true)], (1, 0)));
        drop(socket);
        assert!(peer.was_aborted() && peer.at_end(), "closing with unread input sends RST");
    }

    #[test]
    fn injected_fault_fails_one_call() {
        let (_network, peer, mut socket) = pair(NetworkConditions::calm());
        peer.inject_fault(Fault { call: Call::Read, after: 1, errno: 5 });
        let mut read = || socket.read(&mut [0; 9]).expect_err("no input").raw_os_error();
        assert_eq!([read(), read(), read()], [None, Some(5), None]);
        assert!(!peer.has_pending_fault());
    }

    #[test]
    fn spurious_readiness_reads_would_block() {
        let (network, _peer, mut socket) = pair(NetworkConditions::calm());
        network.lock().conditions =
            NetworkConditions { spurious_readiness: 100, ..NetworkConditions::calm() };
        assert_eq!(reports(&network), [(true, true)]);
        assert_eq!(socket.read(&mut [0; 9]).expect_err("no input").kind(), ErrorKind::WouldBlock);
    }
}
