//! Latency of quiet clients while one client floods.

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::{
    Figures, Load, Schedule, Target,
    conn::{Conn, connect},
    echo::Timed,
    latency::Quantiles,
};
use crate::{Outcome, probe::Probe, wait};

/// Bytes that the flooder writes between two polls of the others.
const SLICE: usize = 16 * 1024;
/// Messages per second of all quiet clients, by default.
const RATE: f64 = 4_000.0;

/// Windows with and without the flood alternate, so that other load of the machine affects both.
const WINDOW: Duration = Duration::from_millis(100);
/// Left out of the figures, while messages of the previous window still arrive.
const SETTLE: Duration = Duration::from_millis(30);

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    let mut poll = Poll::new()?;
    let mut timed = Timed::new(load.connect(target, &poll, 1)?);
    let mut flooder = Flooder::new(target, load, &poll)?;
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; SLICE]);
    let mut schedule = Schedule::new(load.rate.unwrap_or(RATE));
    let mut window = Window { floods: false, begin: Instant::now() + load.warm, measured: false };
    let (mut calm, mut flooded) = (Vec::new(), Vec::new());
    let (mut probe, mut messages) = (None, 0);
    let windows = (load.time.as_millis() / WINDOW.as_millis()).max(1) as usize;
    while flooded.len() < windows && (flooded.is_empty() || messages < load.count) {
        timed.send(&mut schedule)?;
        wait(&mut poll, &mut events, Some(Duration::ZERO))?;
        for event in &events {
            if event.token().0 < timed.clients.len() {
                timed.ready(event, &mut buffer, &schedule)?;
            } else {
                flooder.ready(event);
            }
        }
        flooder.step(window.floods, &mut buffer)?;
        let now = Instant::now();
        if !window.measured && now >= window.begin + SETTLE {
            window.measured = true;
            timed.reset();
            if probe.is_none() {
                probe = Some(Probe::begin(target.pid)?);
            }
        } else if now >= window.begin + SETTLE + WINDOW {
            messages += timed.replies;
            // A message without a reply has waited at least until now.
            timed.give_up(schedule.now());
            let found = timed.latencies.quantiles().ok_or("no reply arrived in a window")?;
            if window.floods { &mut flooded } else { &mut calm }.push(found);
            window = Window { floods: !window.floods, begin: now, measured: false };
        }
    }
    let usage = probe.ok_or("the load ended before it was measured")?.end()?;
    Ok(Figures { calm: median_quantiles(&calm), ..Figures::new(messages, usage, median_quantiles(&flooded)) })
}

/// A measuring window.
struct Window {
    floods: bool,
    begin: Instant,
    measured: bool,
}

/// The median of each quantile over the windows, so that a single disturbance does not decide the
/// figure.
fn median_quantiles(windows: &[Quantiles]) -> Option<Quantiles> {
    let median = |of: fn(&Quantiles) -> f64| {
        let mut values: Vec<f64> = windows.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Quantiles { p50: median(|q| q.p50)?, p99: median(|q| q.p99)?, p999: median(|q| q.p999)? })
}

/// Writes whenever its socket is writable, and reads the replies.
struct Flooder {
    conn: Conn,
    readable: bool,
    depth: u64,
    /// Messages in flight.
    in_flight: u64,
}

impl Flooder {
    fn new(target: Target, load: &Load, poll: &Poll) -> Outcome<Flooder> {
        let script = load.script(load.clients, SLICE / (load.payload + 8));
        let stream = connect(target, load.clients)?;
        let conn = Conn::new(stream, poll.registry(), load.clients, script, load.verify)?;
        Ok(Flooder { conn, readable: false, depth: load.depth as u64, in_flight: 0 })
    }

    fn ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable();
        if event.is_writable() {
            self.conn.set_writable();
        }
    }

    /// Reads once, and writes once if it `floods`.
    fn step(&mut self, floods: bool, buffer: &mut [u8]) -> Outcome<()> {
        if self.readable {
            let (replies, drained) = self.conn.read(buffer, 1)?;
            self.readable = !drained;
            self.in_flight = self.in_flight.checked_sub(replies).ok_or("more replies than messages")?;
        }
        if floods {
            self.conn.queue(self.depth - self.in_flight);
            self.in_flight = self.depth;
        }
        // A frame whose first bytes were written is completed even when the flood pauses.
        self.conn.write(SLICE)
    }
}
