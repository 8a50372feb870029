//! The first client's messages go to all clients, including the first.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use mio::{Events, Poll};

use super::{Figures, Load, Schedule, Stages, Target, echo::BUFFER, latency::Latencies};
use crate::{Outcome, wait};

/// A message that not all clients have received.
struct Flight {
    due: u64,
    delivered: usize,
}

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    let mut poll = Poll::new()?;
    let mut clients = load.connect(target, &poll, load.depth)?;
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; BUFFER]);
    let mut received = vec![0_usize; clients.len()];
    // `flights` holds the messages from number `base` on.
    let (mut flights, mut base) = (VecDeque::<Flight>::new(), 0);
    let mut latencies = Latencies::new();
    let mut stages = Stages::new(target, load);
    let mut schedule = Schedule::new(load.rate.unwrap_or(1.0));
    let mut deliveries = 0;
    loop {
        let now = schedule.now();
        let mut publish = 0;
        if load.rate.is_some() {
            while let Some(due) = schedule.due(now) {
                flights.push_back(Flight { due, delivered: 0 });
                publish += 1;
            }
        } else {
            while flights.len() < load.depth {
                flights.push_back(Flight { due: now, delivered: 0 });
                publish += 1;
            }
        }
        clients[0].queue(publish);
        clients[0].write(usize::MAX)?;
        // Polls without sleeping: see `echo`.
        wait(&mut poll, &mut events, Some(Duration::ZERO))?;
        for event in &events {
            let index = event.token().0;
            let client = &mut clients[index];
            if event.is_writable() {
                client.set_writable();
                client.write(usize::MAX)?;
            }
            if !event.is_readable() {
                continue;
            }
            let (messages, _) = client.read(&mut buffer, usize::MAX)?;
            if messages == 0 {
                continue;
            }
            let now = schedule.now();
            deliveries += messages;
            for number in received[index]..received[index] + messages as usize {
                let flight = flights.get_mut(number - base).ok_or("received more messages than were sent")?;
                flight.delivered += 1;
                latencies.record(now.saturating_sub(flight.due));
            }
            received[index] += messages as usize;
        }
        while flights.front().is_some_and(|flight| flight.delivered == received.len()) {
            flights.pop_front();
            base += 1;
        }
        let now = Instant::now();
        if stages.begins(now)? {
            deliveries = 0;
            latencies.clear();
        } else if stages.is_over(now, deliveries) {
            let now = schedule.now();
            for flight in &flights {
                for _ in flight.delivered..received.len() {
                    latencies.record(now.saturating_sub(flight.due));
                }
            }
            let latency = load.rate.and_then(|_| latencies.quantiles());
            return stages.finish(deliveries, latency);
        }
    }
}
