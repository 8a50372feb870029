//! tickws, as an application uses it.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use tickws::{Event, Server, ServerBuilder};

use super::{Mode, announce};
use crate::{Outcome, secure};

/// As for the other servers, up to 16 MiB may be queued for a client.
fn builder() -> ServerBuilder {
    Server::builder().max_buffered(16 << 20)
}

pub fn serve(mode: Mode, tls: bool) -> Outcome<()> {
    let mut server = match tls {
        true => builder().tls(secure::tickws_tls()?).bind_tls("127.0.0.1:0")?,
        false => builder().bind("127.0.0.1:0")?,
    };
    announce(server.local_addrs()[0])?;
    server.run(|server, event| {
        if let Event::Message { client, message } = event {
            match mode {
                // `send` fails if the client is closing or reads too slowly.
                Mode::Echo => drop(server.send(client, message)),
                Mode::Broadcast => drop(server.broadcast(message)),
            }
        }
    })?;
    Ok(())
}

/// Mode "idle:CLIENTS:TIMERS:POLLS:ROUNDS": prints the cost of an idle poll in nanoseconds, after
/// each round.
pub fn serve_special(mode: &str) -> Outcome<()> {
    let words: Vec<_> = mode.split(':').collect();
    let ["idle", clients, timers, polls, rounds] = words[..] else {
        return Err(
            format!("{mode:?} is not a mode: echo, broadcast, idle:CLIENTS:TIMERS:POLLS:ROUNDS").into()
        );
    };
    let (clients, timers): (usize, usize) = (clients.parse()?, timers.parse()?);
    let (polls, rounds): (u32, u32) = (polls.parse()?, rounds.parse()?);
    let mut server = builder().bind("127.0.0.1:0")?;
    announce(server.local_addrs()[0])?;
    while server.client_count() < clients {
        drop(server.poll_wait(None)?);
    }
    for timer in 0..timers {
        // No timer fires during the measurement, and the timers lie in many slots of the wheel.
        server.set_timer(Duration::from_secs(3600) + Duration::from_millis(timer as u64 * 7));
    }
    let settled = Instant::now() + Duration::from_millis(100);
    while Instant::now() < settled {
        drop(server.poll_once()?);
    }
    for _ in 0..rounds {
        let (elapsed, busy) = idle_polls(&mut server, polls)?;
        announce(format_args!("{} {busy}", elapsed.as_nanos() as f64 / f64::from(polls)))?;
    }
    Ok(())
}

/// Polls without events. Callgrind finds this function by its name.
#[inline(never)]
fn idle_polls(server: &mut Server, polls: u32) -> Outcome<(Duration, usize)> {
    let begin = Instant::now();
    let mut events = 0;
    for _ in 0..polls {
        events += black_box(server.poll_once()?).len();
    }
    Ok((begin.elapsed(), events))
}
