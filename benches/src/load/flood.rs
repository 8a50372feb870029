//! One client floods; how long do the others wait?

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::{
    Figures, Load, Schedule, Target,
    conn::{Conn, connect},
    echo::Timed,
    latency::Quantiles,
};
use crate::{Outcome, probe::Probe, wait};

/// The flooding client's bytes between two looks at the others.
const SLICE: usize = 16 * 1024;
/// Messages of all quiet clients per second, unless told.
const RATE: f64 = 4_000.0;

/// With and without the flood, in turns, so that what else goes on in the machine meets both.
const WINDOW: Duration = Duration::from_millis(100);
/// Not in the figures: what an earlier window has on its way arrives.
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
        flooder.go_on(window.floods, &mut buffer)?;
        let now = Instant::now();
        if !window.measured && now >= window.begin + SETTLE {
            window.measured = true;
            timed.reset();
            if probe.is_none() {
                probe = Some(Probe::begin(target.pid)?);
            }
        } else if now >= window.begin + SETTLE + WINDOW {
            messages += timed.replies;
            // Whoever is not answered yet has waited at least so long.
            timed.give_up(schedule.now());
            let found = timed.latencies.quantiles().ok_or("no message came back in a window")?;
            if window.floods { &mut flooded } else { &mut calm }.push(found);
            window = Window { floods: !window.floods, begin: now, measured: false };
        }
    }
    let usage = probe.ok_or("the load ended before it was measured")?.end()?;
    Ok(Figures { calm: middle(&calm), ..Figures::new(messages, usage, middle(&flooded)) })
}

/// One of the windows.
struct Window {
    floods: bool,
    begin: Instant,
    measured: bool,
}

/// The median over the windows, of each quantile: one disturbance is not the figure.
fn middle(windows: &[Quantiles]) -> Option<Quantiles> {
    let median = |of: fn(&Quantiles) -> f64| {
        let mut values: Vec<f64> = windows.iter().map(of).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Quantiles { p50: median(|q| q.p50)?, p99: median(|q| q.p99)?, p999: median(|q| q.p999)? })
}

/// Writes whenever its socket takes it, and reads what comes back.
struct Flooder {
    conn: Conn,
    readable: bool,
    depth: u64,
    /// Messages on their way.
    flying: u64,
}

impl Flooder {
    fn new(target: Target, load: &Load, poll: &Poll) -> Outcome<Flooder> {
        let script = load.script(load.clients, SLICE / (load.payload + 8));
        let stream = connect(target.addr, load.clients)?;
        let conn = Conn::new(stream, poll.registry(), load.clients, script, load.verify)?;
        Ok(Flooder { conn, readable: false, depth: load.depth as u64, flying: 0 })
    }

    fn ready(&mut self, event: &mio::event::Event) {
        self.readable |= event.is_readable();
        if event.is_writable() {
            self.conn.set_writable();
        }
    }

    /// One read, and one write if it `floods`.
    fn go_on(&mut self, floods: bool, buffer: &mut [u8]) -> Outcome<()> {
        if self.readable {
            let (replies, drained) = self.conn.read(buffer, 1)?;
            self.readable = !drained;
            self.flying = self.flying.checked_sub(replies).ok_or("more replies than messages")?;
        }
        if floods {
            self.conn.queue(self.depth - self.flying);
            self.flying = self.depth;
        }
        // A frame that was begun is ended.
        self.conn.write(SLICE)
    }
}
