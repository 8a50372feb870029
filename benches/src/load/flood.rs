//! One client floods; how long do the others wait?

use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::{Figures, Load, Schedule, Stages, Target, conn::Conn, conn::connect, echo::Timed};
use crate::{Outcome, wait};

/// The flooding client's bytes between two looks at the others.
const SLICE: usize = 16 * 1024;
/// Messages of all quiet clients per second, unless told.
const RATE: f64 = 2_000.0;

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    let calm = measure(target, load, false)?;
    let flooded = measure(target, load, true)?;
    Ok(Figures { calm: calm.latency, others: calm.others.max(flooded.others), ..flooded })
}

fn measure(target: Target, load: &Load, flood: bool) -> Outcome<Figures> {
    let mut poll = Poll::new()?;
    let mut timed = Timed::new(load.connect(target, &poll, 1)?);
    let mut flooder = match flood {
        false => None,
        true => Some(Flooder::new(target, load, &poll)?),
    };
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; SLICE]);
    let mut stages = Stages::new(target, load);
    let mut schedule = Schedule::new(load.rate.unwrap_or(RATE));
    loop {
        timed.send(&mut schedule)?;
        wait(&mut poll, &mut events, Some(Duration::ZERO))?;
        for event in &events {
            if event.token().0 < timed.clients.len() {
                timed.ready(event, &mut buffer, &schedule)?;
            } else if let Some(flooder) = &mut flooder {
                flooder.ready(event);
            }
        }
        if let Some(flooder) = &mut flooder {
            flooder.go_on(&mut buffer)?;
        }
        let now = Instant::now();
        if stages.begins(now)? {
            timed.reset();
        } else if stages.is_over(now, timed.replies) {
            timed.give_up(schedule.now());
            return stages.finish(timed.replies, timed.latencies.quantiles());
        }
    }
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

    /// One read and one write.
    fn go_on(&mut self, buffer: &mut [u8]) -> Outcome<()> {
        if self.readable {
            let (replies, drained) = self.conn.read(buffer, 1)?;
            self.readable = !drained;
            self.flying = self.flying.checked_sub(replies).ok_or("more replies than messages")?;
        }
        self.conn.queue(self.depth - self.flying);
        self.flying = self.depth;
        self.conn.write(SLICE)
    }
}
