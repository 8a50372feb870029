//! Healthy clients that measure the delay of their echoes. The server decides it, not their own
//! core.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    server_process::{HEALTHY, open, set_realtime_priority},
    support::{
        Deadline,
        raw::{self, Frame, Raw},
        threads,
    },
};

/// The moment when a message was sent, and the delay of its echo.
pub type Delay = (Instant, Duration);

/// Clients that take turns to send one message each `PACE`, without waiting for the previous echo.
///
/// The clients share a core with the attacker. They poll for echoes without sleeping, because
/// waking up beside an attacker takes time. The delay counts from the moment of sending, not from
/// the moment it was due. The attacker waits while an echo is outstanding; its bytes sent before
/// are in the server's queues.
pub struct Probers {
    thread: JoinHandle<Vec<Delay>>,
    stop: Arc<AtomicBool>,
}

impl Probers {
    pub const COUNT: usize = 4;
    const PACE: Duration = Duration::from_micros(400);

    pub fn new(addr: SocketAddr) -> Self {
        let clients: Vec<Client> = (0..Self::COUNT).map(|_| Client::new(addr)).collect();
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let (begin, begun) = mpsc::channel();
        let thread = thread::spawn(move || {
            set_realtime_priority(HEALTHY);
            let _ = begin.send(());
            probe(clients, &stopped)
        });
        begun.recv().expect("the thread begins");
        Probers { thread, stop }
    }

    /// Stops after all messages have been echoed, and gives all delays, in no particular order.
    pub fn stop(self) -> Vec<Delay> {
        self.stop.store(true, Ordering::Relaxed);
        threads::join(self.thread, "the healthy clients")
    }
}

fn probe(mut clients: Vec<Client>, stop: &AtomicBool) -> Vec<Delay> {
    let (mut delays, mut number) = (Vec::new(), 0);
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        if now >= due && !stop.load(Ordering::Relaxed) {
            let next = number % clients.len();
            clients[next].send(number);
            number += 1;
            // Messages that were missed because another thread had this core are not made up for.
            due = if now < due + Probers::PACE { due + Probers::PACE } else { now + Probers::PACE };
        }
        clients.iter_mut().for_each(|client| client.receive(&mut delays));
        if clients.iter().any(|client| !client.sent.is_empty()) {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return delays;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

struct Client {
    raw: Raw,
    /// Sent messages whose echoes are outstanding, in order, with their times.
    sent: VecDeque<(Instant, Vec<u8>)>,
    patience: Deadline,
}

impl Client {
    fn new(addr: SocketAddr) -> Self {
        Client { raw: open(addr, ""), sent: VecDeque::new(), patience: Deadline::new() }
    }

    fn send(&mut self, number: usize) {
        let text = format!("number {number}");
        let bytes = raw::text(&text);
        if self.sent.is_empty() {
            self.patience = Deadline::new();
        }
        self.sent.push_back((Instant::now(), text.into_bytes()));
        assert_eq!(self.raw.write_some(&bytes).expect("a healthy client is served"), bytes.len());
    }

    fn receive(&mut self, delays: &mut Vec<Delay>) {
        if self.sent.is_empty() {
            return;
        }
        self.patience.check("an echo for a healthy client");
        if self.raw.read_some() == 0 {
            assert_eq!(self.raw.end, None, "a healthy client is served");
            return;
        }
        let now = Instant::now();
        for frame in self.raw.take_frames() {
            if frame.opcode == raw::PING {
                continue;
            }
            let (begin, text) = self.sent.pop_front().expect("a message for each echo");
            assert_eq!(frame, Frame::new(raw::TEXT, text), "a healthy client's echoes come in order");
            delays.push((begin, now - begin));
        }
    }
}
