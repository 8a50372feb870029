//! One connection: two ends, and the segments in flight to each.

use std::{collections::VecDeque, io::ErrorKind, net::SocketAddr, time::Instant};

use super::probe::Probe;
use crate::util::rearm::Rearm;

/// A piece of one direction of a connection.
#[derive(Debug)]
pub(super) enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Reset,
    /// The connection was established; sent to the side that connects.
    Connected,
    /// The connection was refused; sent to the side that connects.
    Refused,
}

/// One end, and the segments in flight to it.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// Segments with the times of their arrival, in order.
    pub(super) in_flight: VecDeque<(Instant, Segment)>,
    pub(super) bytes_in_flight: usize,
    /// Bytes that may be in flight to this end or unread at it.
    pub(super) buffer: usize,
    pub(super) arrived: VecDeque<u8>,
    pub(super) fin_arrived: bool,
    pub(super) fin_sent: bool,
    pub(super) reset: bool,
    /// The error of a reset, until a read or a write returns it.
    pub(super) error: Option<ErrorKind>,
    pub(super) dropped: bool,
    /// A write was short: no write may follow before a writable event (law 5, ARCHITECTURE.md).
    pub(super) would_block: bool,
    /// With [`Rearm::OnChange`]: what the next poll reports.
    pub(super) readable_edge: bool,
    pub(super) writable_edge: bool,
    /// With [`Rearm::AfterWouldBlock`]: what is reported once it is so.
    pub(super) read_armed: bool,
    pub(super) write_armed: bool,
    /// Whether this side has connected; `None` while the attempt is in progress.
    pub(super) connected: Option<bool>,
    /// The simulated peer at this end; `None` at the end of a server.
    pub(super) peer: Option<usize>,
    pub(super) probe: Probe,
}

impl Half {
    pub(super) fn break_off(&mut self, error: ErrorKind) {
        self.reset = true;
        self.error = Some(error);
        (self.readable_edge, self.writable_edge) = (true, true);
    }

    /// A call has returned `WouldBlock`, or the end is registered. As in mio's port to Windows,
    /// both kinds of readiness are looked for again.
    pub(super) fn arm(&mut self) {
        (self.read_armed, self.write_armed) = (true, true);
    }
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) halves: [Half; 2],
    /// The address that side 0 connected to.
    pub(super) addr: SocketAddr,
}

impl Link {
    pub(super) fn new(addr: SocketAddr, buffer: usize) -> Self {
        let half = || Half { buffer, ..Half::default() };
        // epoll reports a new socket as writable.
        let accepted = Half { connected: Some(true), writable_edge: true, ..half() };
        Link { halves: [half(), accepted], addr }
    }

    /// Whether the next poll reports this side as readable and as writable.
    pub(super) fn readiness(&self, side: usize, rearm: Rearm) -> (bool, bool) {
        let half = &self.halves[side];
        match rearm {
            Rearm::OnChange => (half.readable_edge, half.writable_edge),
            Rearm::AfterWouldBlock => {
                let has_input = !half.arrived.is_empty() || half.fin_arrived || half.reset;
                let has_room = half.reset || (half.connected == Some(true) && self.room(side) > 0);
                (half.read_armed && has_input, half.write_armed && has_room)
            }
        }
    }

    /// The number of bytes that this side may write now.
    pub(super) fn room(&self, side: usize) -> usize {
        let to = &self.halves[1 - side];
        to.buffer.saturating_sub(to.bytes_in_flight + to.arrived.len())
    }

    /// Whether this side is writable: as with epoll, once a third of the buffer is free.
    pub(super) fn has_room(&self, side: usize) -> bool {
        let room = self.room(side);
        self.halves[side].reset || (room > 0 && room * 3 >= self.halves[1 - side].buffer)
    }
}
