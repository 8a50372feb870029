//! A server's end of a link.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use super::{EndId, Network, Shared};
use crate::{config::Config, engine::Stream};

/// Closed when it is dropped.
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
        if self.dice.percent(self.weather.interrupts) {
            return Err(ErrorKind::Interrupted.into());
        }
        let short = self.dice.percent(self.weather.short_reads);
        let half = &mut self.links[id.0].halves[id.1];
        let most = buf.len().min(half.arrived.len());
        if most == 0 {
            return match half.error.take() {
                Some(error) => Err(error.into()),
                None if half.fin_arrived || half.reset => Ok(0),
                None => Err(ErrorKind::WouldBlock.into()),
            };
        }
        let count = if short { 1 + self.dice.below(most) } else { most }.min(most);
        let half = self.half(id);
        half.arrived.read_exact(&mut buf[..count])?;
        // As if the rest had come after the read: a short read has drained the socket.
        half.readable_edge |= count < most;
        self.make_room(id);
        Ok(count)
    }

    fn write(&mut self, id: EndId, parts: &[&[u8]]) -> io::Result<usize> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let (link, side) = id;
        assert!(!self.half(id).fin_sent, "tickws writes after FIN");
        assert!(!self.half(id).refused, "tickws repeats a write without a writable event");
        if self.half(id).reset {
            return Err(self.half(id).error.take().unwrap_or(ErrorKind::BrokenPipe).into());
        }
        if self.dice.percent(self.weather.interrupts) {
            return Err(ErrorKind::Interrupted.into());
        }
        let mut count = len.min(self.links[link].room(side));
        if self.dice.percent(self.weather.partial_writes) {
            count = self.dice.below(count + 1);
        }
        let has_room = self.links[link].has_room(side);
        let half = self.half(id);
        half.refused = count < len;
        // There is room after all: the edge comes at the next poll.
        half.writable_edge |= half.refused && has_room;
        let mut left = count;
        for part in parts {
            let (taken, _) = part.split_at(part.len().min(left));
            left -= taken.len();
            self.post_bytes((link, 1 - side), taken);
        }
        if count == 0 && len > 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
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
        if network.half(self.id).reset {
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
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.network.lock().drop_end(self.id);
    }
}
