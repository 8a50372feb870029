//! A network in memory and a clock that stands until it is moved, for the engine's tests.
//!
//! ```text
//! Peer ──flying──► arrived ──read──► Engine ──write──► down ──► Peer
//!            └─ edges: bytes, FIN or RST arrived; room came back after a refused or short write
//! ```
//!
//! The readiness source is edge-triggered as epoll is: it tells a change once and never repeats itself.
//! With a seed, everything takes a random time and comes in random pieces; the same seed, the same run.

pub(super) mod dialing;
mod faults;
mod peer;
mod wire;

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice, Read, Write},
    rc::Rc,
    time::{Duration, Instant},
};

pub(super) use faults::{Call, Fault};
pub(super) use peer::{Frame, Peer, masked};

use super::{Engine, Readiness, Stream};
use crate::{config::Config, engine::hooks::Hooks, event::tick::Tick, util::test_rng::Rng};

/// One TCP connection, both ends.
#[derive(Debug)]
pub(super) struct Link {
    /// Written by the peer and under way.
    flying: VecDeque<u8>,
    fin_flying: bool,
    /// In the server's receive buffer.
    arrived: VecDeque<u8>,
    receive_window: usize,
    fin_arrived: bool,
    /// The peer's RST has arrived, or what we wrote met a closed socket.
    reset: bool,
    /// Of a reset, until a read or a write has taken it.
    error: Option<ErrorKind>,
    /// The peer has closed its socket: it takes nothing, and answers with RST.
    gone: bool,

    /// Written by the server, not yet read by the peer.
    down: VecDeque<u8>,
    send_window: usize,
    /// The server was refused and waits for an edge. Law 5: it must not try before that.
    refused: bool,
    /// FIN follows `down`.
    fin_down: bool,
    /// The server dropped its end while input was unread: the peer sees RST.
    aborted: bool,
    dropped: bool,
    /// Of a connection that goes out: whether it is there, will be, or never.
    connected: dialing::Outcome,

    /// What the readiness source has to tell.
    readable_edge: bool,
    writable_edge: bool,
    chaos: Option<Rng>,
    fault: Option<Fault>,
    read_calls: usize,
    write_calls: usize,
    bytes_read: u64,
    bytes_written: u64,
}

impl Link {
    fn new(chaos: Option<Rng>) -> Self {
        Link {
            flying: VecDeque::new(),
            fin_flying: false,
            arrived: VecDeque::new(),
            receive_window: 256 * 1024,
            fin_arrived: false,
            reset: false,
            error: None,
            gone: false,
            down: VecDeque::new(),
            send_window: 256 * 1024,
            refused: false,
            fin_down: false,
            aborted: false,
            dropped: false,
            connected: dialing::Outcome::Connects,
            readable_edge: false,
            // As epoll tells of a new socket.
            writable_edge: true,
            chaos,
            fault: None,
            read_calls: 0,
            write_calls: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// Moves up to `most` bytes into the receive buffer, and the FIN behind them.
    fn arrive(&mut self, most: usize) {
        let room = self.receive_window.saturating_sub(self.arrived.len());
        let count = self.flying.len().min(room).min(most);
        let (first, second) = self.flying.as_slices();
        let split = count.min(first.len());
        self.arrived.extend(&first[..split]);
        self.arrived.extend(&second[..count - split]);
        self.flying.drain(..count);
        let fin = self.fin_flying && !self.fin_arrived && self.flying.is_empty();
        self.fin_arrived |= fin;
        self.readable_edge |= count > 0 || fin;
    }

    fn reset(&mut self) {
        if !self.reset {
            (self.reset, self.gone) = (true, true);
            self.error = Some(ErrorKind::ConnectionReset);
            self.flying.clear();
            self.down.clear();
            (self.readable_edge, self.writable_edge) = (true, true);
        }
    }

    /// epoll tells of room when a third of the buffer is free.
    fn has_room(&self) -> bool {
        let room = self.send_window - self.down.len();
        self.reset || (room > 0 && room * 3 >= self.send_window)
    }

    fn flip(&mut self, one_in: usize) -> bool {
        self.chaos.as_mut().is_some_and(|rng| rng.one_in(one_in))
    }

    fn write(&mut self, bytes: &mut dyn Iterator<Item = &[u8]>, len: usize) -> io::Result<usize> {
        self.write_calls += 1;
        assert!(!self.fin_down, "a write after FIN");
        assert!(!self.refused, "a write was repeated without a writable event");
        assert!(len > 0, "a write of nothing");
        self.may_fail(Call::Write)?;
        if self.reset {
            return Err(self.error.take().unwrap_or(ErrorKind::BrokenPipe).into());
        }
        if self.flip(50) {
            return Err(ErrorKind::Interrupted.into());
        }
        let mut count = len.min(self.send_window - self.down.len());
        if self.flip(8) {
            count = self.chaos.as_mut().map_or(count, |rng| rng.below(count + 1));
        }
        self.refused = count < len;
        self.bytes_written += count as u64;
        if self.gone {
            // Nobody is there: the answer is RST.
            if count > 0 {
                self.reset();
            }
        } else {
            let mut left = count;
            for part in bytes {
                let take = part.len().min(left);
                self.down.extend(&part[..take]);
                left -= take;
            }
        }
        if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }
}

/// The server's end of a [`Link`].
#[derive(Debug)]
pub(super) struct SimStream(Rc<RefCell<Link>>);

impl Read for SimStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut link = self.0.borrow_mut();
        link.read_calls += 1;
        link.may_fail(Call::Read)?;
        if link.flip(50) {
            return Err(ErrorKind::Interrupted.into());
        }
        if !link.arrived.is_empty() {
            let count = buf.len().min(link.arrived.len());
            link.arrived.read_exact(&mut buf[..count])?;
            link.bytes_read += count as u64;
            return Ok(count);
        }
        match link.error.take() {
            Some(error) => Err(error.into()),
            None if link.fin_arrived || link.reset => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for SimStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(&mut [buf].into_iter(), buf.len())
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let len = slices.iter().map(|slice| slice.len()).sum();
        self.0.borrow_mut().write(&mut slices.iter().map(|slice| &**slice), len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for SimStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut link = self.0.borrow_mut();
        assert!(!link.fin_down, "FIN was sent twice");
        link.may_fail(Call::Shutdown)?;
        if link.reset {
            return Err(ErrorKind::NotConnected.into());
        }
        link.fin_down = true;
        Ok(())
    }

    fn connected(&mut self) -> io::Result<bool> {
        self.0.borrow().connected.now()
    }

    fn tune(&self, _: &Config) {}
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let mut link = self.0.borrow_mut();
        (link.dropped, link.fin_down) = (true, true);
        // As Linux does: unread input turns the FIN into RST, and what is under way may be lost.
        if !link.arrived.is_empty() {
            link.aborted = true;
            link.down.clear();
        }
    }
}

/// An engine, its network, and its clock: polls as `Server::poll_wait` does.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) engine: Engine<SimStream>,
    pub(super) now: Instant,
    start: Instant,
    chaos: Option<Rng>,
    /// Not accepted yet, with the port that stands for a name.
    backlog: VecDeque<(Rc<RefCell<Link>>, u16)>,
    links: Vec<(usize, Rc<RefCell<Link>>)>,
    connected: u16,
    pub(super) dialing: dialing::Dialing,
    /// Turns given to clients in the last poll.
    pub(super) turns: usize,
}

impl Host {
    pub(super) fn new(config: Config) -> Self {
        Self::with_chaos(config, None)
    }

    pub(super) fn with_chaos(config: Config, chaos: Option<Rng>) -> Self {
        Self::with_hooks(config, Hooks::default(), chaos)
    }

    pub(super) fn with_hooks(config: Config, hooks: Hooks, chaos: Option<Rng>) -> Self {
        assert_eq!(config.validate(), Ok(()));
        let start = Instant::now();
        Host {
            engine: Engine::new(config, hooks, start),
            now: start,
            start,
            chaos,
            backlog: VecDeque::new(),
            links: Vec::new(),
            connected: 0,
            dialing: dialing::Dialing::default(),
            turns: 0,
        }
    }

    /// A new connection; nothing has been sent on it. Accepted by the next poll.
    pub(super) fn connect(&mut self) -> Peer {
        self.connected += 1;
        let chaos = self.chaos.as_mut().map(|rng| Rng::new(rng.next()));
        let link = Rc::new(RefCell::new(Link::new(chaos)));
        self.backlog.push_back((link.clone(), self.connected));
        Peer::new(link, self.connected)
    }

    /// A client whose handshake is over and whose `Open` has been handed out.
    pub(super) fn open(&mut self) -> (Peer, crate::ClientId) {
        let mut peer = self.connect();
        peer.handshake();
        // Accepted, read, answered.
        assert_eq!([self.poll().len(), self.poll().len(), self.poll().len()], [0, 1, 0]);
        assert_eq!(peer.frames(), []);
        assert_eq!(peer.status(), Some(101));
        let id = self.engine.clients().max().unwrap();
        (peer, id)
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// One poll at the present moment.
    pub(super) fn poll(&mut self) -> Tick {
        self.poll_after(Duration::ZERO)
    }

    /// One poll in which nothing happens for some time.
    pub(super) fn poll_after(&mut self, wait: Duration) -> Tick {
        self.engine.flush(self.now);
        self.carry_out_dials();
        let called = self.now;
        self.advance(wait);
        self.move_bytes();
        self.engine.start_poll(called, self.now, false);
        for (index, readiness) in self.edges() {
            self.engine.ready(index, readiness, self.now);
        }
        while let Some((link, port)) = self.backlog.pop_front() {
            let stream = SimStream(link.clone());
            if let Some(index) = self.engine.accept(stream, ([127, 0, 0, 1], port).into(), self.now) {
                self.links.push((index, link));
            }
        }
        self.engine.fire_timers(self.now);
        self.carry_out_dials();
        self.turns = 0;
        while self.engine.service_next(self.now) {
            self.turns += 1;
        }
        self.links.retain(|(_, link)| !link.borrow().dropped);
        self.engine.finish_tick(self.now, false)
    }

    /// Polls until nothing is left to do at this moment, and gives the number of events.
    pub(super) fn settle(&mut self) -> usize {
        let mut events = 0;
        for _ in 0..100_000 {
            events += self.poll().len();
            if self.is_quiet() {
                return events;
            }
        }
        panic!("the engine never comes to rest: {:?}", self.engine.next_timeout(self.now));
    }

    /// Whether time has to pass, or a peer to act, before anything happens.
    pub(super) fn is_quiet(&mut self) -> bool {
        let quiet = |link: &Link| {
            let full = link.arrived.len() >= link.receive_window;
            let still = link.flying.is_empty() && (link.fin_arrived || !link.fin_flying);
            (still || full)
                && !link.readable_edge
                && !link.writable_edge
                && !(link.refused && link.has_room())
        };
        self.backlog.is_empty()
            && self.engine.next_timeout(self.now) != Some(Duration::ZERO)
            && self.links.iter().all(|(_, link)| quiet(&link.borrow()))
    }

    fn move_bytes(&mut self) {
        for (_, link) in &self.links {
            let mut link = link.borrow_mut();
            match &mut link.chaos {
                None => link.arrive(usize::MAX),
                Some(rng) => match rng.below(4) {
                    0 => {}
                    1 => {
                        let some = 1 + rng.below(40);
                        link.arrive(some);
                    }
                    _ => {
                        let most = 1 + rng.below(20_000);
                        link.arrive(most);
                    }
                },
            }
            if link.refused && link.has_room() && !link.flip(3) {
                link.writable_edge = true;
            }
        }
    }

    fn edges(&mut self) -> Vec<(usize, Readiness)> {
        let mut edges = Vec::new();
        for (index, link) in &self.links {
            let mut link = link.borrow_mut();
            if link.dropped {
                continue;
            }
            // Not told yet, or told for nothing: both happen.
            let (late, spurious) = (link.flip(5), link.flip(40));
            if late && !link.reset {
                continue;
            }
            let readable = std::mem::take(&mut link.readable_edge) || spurious;
            // epoll adds what else is true.
            let writable = std::mem::take(&mut link.writable_edge) || (readable && link.has_room());
            if readable || writable {
                link.refused &= !writable;
                let read_closed = link.fin_arrived || link.reset;
                edges.push((*index, Readiness { readable, writable, read_closed, urgent: false }));
            }
        }
        if let Some(rng) = &mut self.chaos {
            for last in (1..edges.len()).rev() {
                edges.swap(last, rng.below(last + 1));
            }
        }
        edges
    }
}
