//! One connection: two ends, and what is on its way to each.

use std::{collections::VecDeque, io::ErrorKind, net::SocketAddr, time::Instant};

use super::probe::Probe;

/// A piece in flight.
#[derive(Debug)]
pub(super) enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Reset,
    /// The answer to the side that connects.
    Connected,
    Refused,
}

/// One end, and the segments in flight to it.
#[derive(Debug)]
pub(super) struct Half {
    /// Each with the time of its arrival.
    pub(super) in_flight: VecDeque<(Instant, Segment)>,
    /// No later segment arrives before this.
    pub(super) last_at: Instant,
    pub(super) bytes_in_flight: usize,
    /// Bytes that may be in flight to this end or unread at it.
    pub(super) buffer: usize,
    pub(super) arrived: VecDeque<u8>,
    pub(super) fin_arrived: bool,
    pub(super) fin_sent: bool,
    pub(super) reset: bool,
    /// The error of a reset, until a read or a write has taken it.
    pub(super) error: Option<ErrorKind>,
    pub(super) dropped: bool,
    /// The kernel took less than was written: no write may be tried before an edge (law 5).
    pub(super) would_block: bool,
    pub(super) readable_edge: bool,
    pub(super) writable_edge: bool,
    /// Whether this side's attempt to connect has succeeded: `None` until it is known.
    pub(super) connected: Option<bool>,
    /// The simulated peer at this end; `None` at a server's.
    pub(super) peer: Option<usize>,
    pub(super) probe: Probe,
}

impl Half {
    fn new(buffer: usize, now: Instant) -> Self {
        Half {
            in_flight: VecDeque::new(),
            last_at: now,
            bytes_in_flight: 0,
            buffer,
            arrived: VecDeque::new(),
            fin_arrived: false,
            fin_sent: false,
            reset: false,
            error: None,
            dropped: false,
            would_block: false,
            readable_edge: false,
            writable_edge: false,
            connected: None,
            peer: None,
            probe: Probe::default(),
        }
    }

    pub(super) fn break_off(&mut self, error: ErrorKind) {
        self.reset = true;
        self.error = Some(error);
        (self.readable_edge, self.writable_edge) = (true, true);
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) halves: [Half; 2],
    /// The address that was connected to.
    pub(super) addr: SocketAddr,
}

impl Link {
    pub(super) fn new(addr: SocketAddr, buffer: usize, now: Instant) -> Self {
        let mut accepted = Half::new(buffer, now);
        // epoll reports a new socket as writable.
        (accepted.connected, accepted.writable_edge) = (Some(true), true);
        Link { halves: [Half::new(buffer, now), accepted], addr }
    }

    /// Bytes that this side may write now.
    pub(super) fn room(&self, side: usize) -> usize {
        let to = &self.halves[1 - side];
        to.buffer.saturating_sub(to.bytes_in_flight + to.arrived.len())
    }

    /// epoll tells of room when a third of the buffer is free.
    pub(super) fn has_room(&self, side: usize) -> bool {
        let room = self.room(side);
        self.halves[side].reset || (room > 0 && room * 3 >= self.halves[1 - side].buffer)
    }
}
