//! How long do others wait? Healthy clients of the table's, whose measure is the server and not their own core.

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
    ground::{HEALTHY, open, outrank},
    support::{
        Deadline,
        raw::{self, Frame, Raw},
        threads,
    },
};

/// A message was sent at this moment, and its echo took so long.
pub type Delay = (Instant, Duration);

/// Clients that take turns to send, one message each `PACE`, whether or not those before it were answered.
///
/// They share a core with the attacker. So they look for answers without sleeping, as waking up beside an attacker
/// takes its time, and a message's time begins when it is sent, not when it was due. While an answer is awaited the
/// attacker waits, too: what it has sent by then is in the server's queues.
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
            outrank(HEALTHY);
            let _ = begin.send(());
            probe(clients, &stopped)
        });
        begun.recv().expect("a thread that begins");
        Probers { thread, stop }
    }

    /// All delays, in no order. Every message has been echoed.
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
            clients[next].ask(number);
            number += 1;
            // Those that were missed because another ran on this core are nobody's.
            due = if now < due + Probers::PACE { due + Probers::PACE } else { now + Probers::PACE };
        }
        clients.iter_mut().for_each(|client| client.listen(&mut delays));
        if clients.iter().any(|client| !client.asked.is_empty()) {
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
    /// When, and what: in the order in which the answers have to come.
    asked: VecDeque<(Instant, Vec<u8>)>,
    patience: Deadline,
}

impl Client {
    fn new(addr: SocketAddr) -> Self {
        Client { raw: open(addr, ""), asked: VecDeque::new(), patience: Deadline::new() }
    }

    fn ask(&mut self, number: usize) {
        let text = format!("number {number}");
        let bytes = raw::text(&text);
        if self.asked.is_empty() {
            self.patience = Deadline::new();
        }
        self.asked.push_back((Instant::now(), text.into_bytes()));
        assert_eq!(self.raw.write_some(&bytes).expect("a healthy client is served"), bytes.len());
    }

    fn listen(&mut self, delays: &mut Vec<Delay>) {
        if self.asked.is_empty() {
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
            let (begin, text) = self.asked.pop_front().expect("a question for each answer");
            assert_eq!(frame, Frame::new(raw::TEXT, text), "a healthy client's echoes come in order");
            delays.push((begin, now - begin));
        }
    }
}
