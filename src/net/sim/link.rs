//! One connection: two ends, and what is on its way to each.

use std::{collections::VecDeque, io::ErrorKind, net::SocketAddr, time::Instant};

/// What is on its way.
#[derive(Debug)]
pub(super) enum Parcel {
    Bytes(Vec<u8>),
    Fin,
    Reset,
    /// To who connects.
    Connected,
    Refused,
}

/// One end, and what is on its way to it.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) flying: VecDeque<Parcel>,
    /// No later parcel arrives before this.
    pub(super) last_at: Instant,
    pub(super) on_the_way: usize,
    pub(super) arrived: VecDeque<u8>,
    pub(super) fin_arrived: bool,
    pub(super) fin_sent: bool,
    pub(super) reset: bool,
    /// Of a reset, until a read or a write has taken it.
    pub(super) error: Option<ErrorKind>,
    pub(super) dropped: bool,
    /// The kernel took less than was written: it is not to be tried before an edge (law 5).
    pub(super) refused: bool,
    pub(super) readable_edge: bool,
    pub(super) writable_edge: bool,
    /// Of who connects: `None` until it is known.
    pub(super) connected: Option<bool>,
    /// The client at this end, if it is one's.
    pub(super) speaker: Option<usize>,
}

impl Half {
    fn new(now: Instant) -> Self {
        Half {
            flying: VecDeque::new(),
            last_at: now,
            on_the_way: 0,
            arrived: VecDeque::new(),
            fin_arrived: false,
            fin_sent: false,
            reset: false,
            error: None,
            dropped: false,
            refused: false,
            readable_edge: false,
            writable_edge: false,
            connected: None,
            speaker: None,
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
    /// Where it goes.
    pub(super) addr: SocketAddr,
    /// Bytes that each direction holds.
    buffer: usize,
}

impl Link {
    pub(super) fn new(addr: SocketAddr, buffer: usize, now: Instant) -> Self {
        let mut accepted = Half::new(now);
        // As epoll tells of a new socket.
        (accepted.connected, accepted.writable_edge) = (Some(true), true);
        Link { halves: [Half::new(now), accepted], addr, buffer }
    }

    /// Bytes that this side may write now.
    pub(super) fn room(&self, side: usize) -> usize {
        let to = &self.halves[1 - side];
        self.buffer.saturating_sub(to.on_the_way + to.arrived.len())
    }

    /// epoll tells of room when a third of the buffer is free.
    pub(super) fn has_room(&self, side: usize) -> bool {
        let room = self.room(side);
        self.halves[side].reset || (room > 0 && room * 3 >= self.buffer)
    }
}
