//! The load generator: one thread, raw sockets, prebuilt frames. Every load ends after a bounded
//! time.

mod churn;
mod conn;
mod echo;
mod fanout;
mod flood;
mod idle;
pub mod latency;
pub mod wire;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use mio::Poll;
use serde::{Deserialize, Serialize};

use conn::Conn;
pub use conn::{connect, connect_with, read_head};
use latency::Quantiles;
use wire::Script;

use crate::{Outcome, probe::Usage};

/// The server under load.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub addr: SocketAddr,
    /// The server's process, for measuring its CPU time and memory.
    pub pid: Option<u32>,
    /// The server speaks TLS.
    pub tls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Every client keeps `depth` messages in flight and receives each back.
    Echo,
    /// The first client's messages go to all clients; `depth` messages are in flight.
    Fanout,
    /// Memory of idle clients, before and after one message each.
    Idle,
    /// `clients` at a time connect, upgrade, echo and close.
    Churn,
    /// Latency of `clients` with and without one more client that floods.
    Flood,
}

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub mode: Mode,
    pub clients: usize,
    pub depth: usize,
    pub payload: usize,
    pub text: bool,
    /// Over TLS.
    pub tls: bool,
    /// Churn over TLS: sessions are resumed.
    pub resumes: bool,
    /// Also checks the content of replies; each client sends other content.
    pub verify: bool,
    /// Messages per second (fanout: of the first client). Without a rate each reply triggers the
    /// next message. With a rate messages are sent when due, and latency is measured from then.
    pub rate: Option<f64>,
    pub warm: Duration,
    pub time: Duration,
    /// Ends the load early, after so many messages, deliveries or connections.
    pub count: u64,
}

impl Load {
    fn script(&self, client: usize, repeat: usize) -> Script {
        let seed = if self.verify && self.mode != Mode::Fanout { client as u64 } else { 0 };
        Script::new(&wire::payload(self.payload, self.text, seed), self.text, repeat)
    }

    /// Connects all clients and completes their handshakes.
    fn connect(&self, target: Target, poll: &Poll, repeat: usize) -> Outcome<Vec<Conn>> {
        let shared = self.script(0, repeat);
        let mut clients = Vec::with_capacity(self.clients);
        for index in 0..self.clients {
            let script = if self.verify { self.script(index, repeat) } else { shared.clone() };
            let stream = connect(target, index)?;
            clients.push(Conn::new(stream, poll.registry(), index, script, self.verify)?);
        }
        // By then the server has finished work that it does after the 101, such as subscribing.
        std::thread::sleep(Duration::from_millis(30));
        Ok(clients)
    }
}

/// The result of a load.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Messages, deliveries or connections in the measured time.
    pub messages: u64,
    pub seconds: f64,
    /// CPU time of the server, in nanoseconds per message.
    pub cpu: f64,
    /// Messages per second.
    pub rate: f64,
    /// CPU time of the load generator, in nanoseconds per message.
    pub own: f64,
    /// Share of the time that other processes used.
    pub others: f64,
    pub latency: Option<Quantiles>,
    /// Flood: latency without the flood.
    pub calm: Option<Quantiles>,
    /// Idle: resident bytes per client, after opening and after one message each.
    pub bytes: Option<[f64; 2]>,
}

impl Figures {
    fn new(messages: u64, usage: Usage, latency: Option<Quantiles>) -> Figures {
        let per = |ns: u64| ns as f64 / messages.max(1) as f64;
        Figures {
            messages,
            seconds: usage.wall.as_secs_f64(),
            cpu: per(usage.server),
            rate: messages as f64 / usage.wall.as_secs_f64(),
            own: per(usage.own),
            others: usage.others,
            latency,
            ..Figures::default()
        }
    }
}

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    if load.clients == 0 || load.depth == 0 || load.time > Duration::from_secs(600) {
        return Err("at least one client and one message in flight, at most 600 s".into());
    }
    if let Some(rate) = load.rate
        && !(rate > 0.0 && rate < 1e8)
    {
        return Err("a rate above zero and below 100 million".into());
    }
    match load.mode {
        Mode::Echo => echo::run(target, load),
        Mode::Fanout => fanout::run(target, load),
        Mode::Idle => idle::run(target, load),
        Mode::Churn => churn::run(target, load),
        Mode::Flood => flood::run(target, load),
    }
}

/// Time to wait for a first message, beyond the measured time.
const PATIENCE: Duration = Duration::from_secs(10);

/// The stage of a load: warming up, measured, or over.
#[derive(Debug)]
struct Stages {
    warm_end: Instant,
    end: Instant,
    begun: Option<crate::probe::Probe>,
    pid: Option<u32>,
    limit: u64,
}

impl Stages {
    fn new(target: Target, load: &Load) -> Stages {
        let warm_end = Instant::now() + load.warm;
        Stages { warm_end, end: warm_end + load.time, begun: None, pid: target.pid, limit: load.count }
    }

    /// Whether measuring begins with this call.
    fn begins(&mut self, now: Instant) -> Outcome<bool> {
        if self.begun.is_some() || now < self.warm_end {
            return Ok(false);
        }
        self.begun = Some(crate::probe::Probe::begin(self.pid)?);
        Ok(true)
    }

    /// Whether the load ends. If nothing at all has come back, it goes on for a while: other
    /// processes had the machine.
    fn is_over(&self, now: Instant, messages: u64) -> bool {
        let end = if messages == 0 { self.end + PATIENCE } else { self.end };
        self.begun.is_some() && (now >= end || messages >= self.limit)
    }

    fn finish(self, messages: u64, latency: Option<Quantiles>) -> Outcome<Figures> {
        let usage = self.begun.ok_or("the load ended before it was measured")?.end()?;
        if messages == 0 {
            return Err("no reply arrived in the measured time".into());
        }
        Ok(Figures::new(messages, usage, latency))
    }
}

/// Times at which messages are due, in nanoseconds since the load began.
#[derive(Debug)]
struct Schedule {
    begin: Instant,
    interval: f64,
    sent: u64,
}

impl Schedule {
    fn new(rate: f64) -> Schedule {
        Schedule { begin: Instant::now(), interval: 1e9 / rate, sent: 0 }
    }

    fn now(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// The due time of the next message, if it has passed. The message then counts as sent.
    fn due(&mut self, now: u64) -> Option<u64> {
        let due = (self.sent as f64 * self.interval) as u64;
        (due <= now).then(|| {
            self.sent += 1;
            due
        })
    }
}
