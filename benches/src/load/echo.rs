//! Every client sends messages and receives them back.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mio::{Events, Poll};

use super::{Figures, Load, Schedule, Stages, Target, conn::Conn, latency::Latencies};
use crate::{Outcome, wait};

/// Read size; larger messages take several reads.
pub const BUFFER: usize = 256 * 1024;

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    match load.rate {
        None => closed(target, load),
        Some(rate) => open(target, load, rate),
    }
}

/// Each reply triggers the next message, so the rate is as high as the server's.
fn closed(target: Target, load: &Load) -> Outcome<Figures> {
    let mut poll = Poll::new()?;
    let mut clients = load.connect(target, &poll, load.depth)?;
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; BUFFER]);
    let mut stages = Stages::new(target, load);
    let mut messages = 0;
    for client in &mut clients {
        client.queue(load.depth as u64);
        client.write(usize::MAX)?;
    }
    loop {
        // Polls without sleeping, as this thread has a core of its own. Whether a load falls asleep
        // between two replies is decided by microseconds, and waking it up costs the server time.
        wait(&mut poll, &mut events, Some(Duration::ZERO))?;
        for event in &events {
            let client = &mut clients[event.token().0];
            if event.is_writable() {
                client.set_writable();
            }
            if event.is_readable() {
                let (replies, _) = client.read(&mut buffer, usize::MAX)?;
                messages += replies;
                client.queue(replies);
            }
            client.write(usize::MAX)?;
        }
        let now = Instant::now();
        if stages.begins(now)? {
            messages = 0;
        } else if stages.is_over(now, messages) {
            return stages.finish(messages, None);
        }
    }
}

/// Clients, with the due times of their messages in flight.
pub struct Timed {
    pub clients: Vec<Conn>,
    due: Vec<VecDeque<u64>>,
    /// Clients with newly queued messages.
    dirty: Vec<usize>,
    next: usize,
    pub latencies: Latencies,
    pub replies: u64,
}

impl Timed {
    pub fn new(clients: Vec<Conn>) -> Timed {
        let due = clients.iter().map(|_| VecDeque::with_capacity(64)).collect();
        Timed { clients, due, dirty: Vec::new(), next: 0, latencies: Latencies::new(), replies: 0 }
    }

    /// Sends the messages that are due, in turn from each client.
    pub fn send(&mut self, schedule: &mut Schedule) -> Outcome<()> {
        let now = schedule.now();
        while let Some(due) = schedule.due(now) {
            self.clients[self.next].queue(1);
            self.due[self.next].push_back(due);
            self.dirty.push(self.next);
            self.next = (self.next + 1) % self.clients.len();
        }
        for index in self.dirty.drain(..) {
            self.clients[index].write(usize::MAX)?;
        }
        Ok(())
    }

    pub fn ready(
        &mut self,
        event: &mio::event::Event,
        buffer: &mut [u8],
        schedule: &Schedule,
    ) -> Outcome<()> {
        let index = event.token().0;
        let client = &mut self.clients[index];
        if event.is_writable() {
            client.set_writable();
            client.write(usize::MAX)?;
        }
        if event.is_readable() {
            let (replies, _) = client.read(buffer, usize::MAX)?;
            let now = schedule.now();
            self.replies += replies;
            for _ in 0..replies {
                let due = self.due[index].pop_front().ok_or("more replies than messages")?;
                self.latencies.record(now.saturating_sub(due));
            }
        }
        Ok(())
    }

    pub fn reset(&mut self) {
        self.latencies.clear();
        self.replies = 0;
    }

    /// Records the waiting time of messages without a reply.
    pub fn give_up(&mut self, now: u64) {
        for due in self.due.iter().flatten() {
            self.latencies.record(now.saturating_sub(*due));
        }
    }
}

/// Messages are sent when due, regardless of earlier replies.
fn open(target: Target, load: &Load, rate: f64) -> Outcome<Figures> {
    let mut poll = Poll::new()?;
    let mut timed = Timed::new(load.connect(target, &poll, 1)?);
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; BUFFER]);
    let mut stages = Stages::new(target, load);
    let mut schedule = Schedule::new(rate);
    loop {
        timed.send(&mut schedule)?;
        // Polls without sleeping: waking up would count as latency.
        wait(&mut poll, &mut events, Some(Duration::ZERO))?;
        for event in &events {
            timed.ready(event, &mut buffer, &schedule)?;
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
