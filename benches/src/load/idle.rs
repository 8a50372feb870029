//! Memory of idle clients.

use std::{
    io::{Read, Write},
    time::Duration,
};

use super::{
    Figures, Load, Target,
    conn::{Waiting, connect},
    wire::Replies,
};
use crate::{
    Outcome,
    probe::{Probe, resident},
};

/// Clients that write before the first of them reads.
const BATCH: usize = 64;
/// Time for work that a server does after its response, such as garbage collection.
const SETTLE: Duration = Duration::from_millis(300);

pub fn run(target: Target, load: &Load) -> Outcome<Figures> {
    let pid = target.pid.ok_or("idle needs the server's process: --pid")?;
    // The first client pays for shared memory.
    let mut clients = vec![Waiting(connect(target, 0)?)];
    echo(load, &mut clients)?;
    std::thread::sleep(SETTLE);
    let before = resident(pid)?;
    let probe = Probe::begin(Some(pid))?;
    while clients.len() <= load.clients {
        clients.push(Waiting(connect(target, clients.len())?));
    }
    std::thread::sleep(SETTLE);
    let opened = resident(pid)?;
    echo(load, &mut clients)?;
    std::thread::sleep(SETTLE);
    let echoed = resident(pid)?;
    let per = |bytes: u64| bytes.saturating_sub(before) as f64 / load.clients as f64;
    let mut figures = Figures::new(load.clients as u64, probe.end()?, None);
    figures.bytes = Some([per(opened), per(echoed)]);
    Ok(figures)
}

/// Echoes one message for each client.
fn echo(load: &Load, clients: &mut [Waiting]) -> Outcome<()> {
    let script = load.script(0, 1);
    let mut reply = vec![0; script.reply.len()];
    for batch in clients.chunks_mut(BATCH) {
        for client in &mut *batch {
            client.write_all(&script.requests)?;
        }
        for client in batch {
            client.read_exact(&mut reply)?;
            Replies::new(script.clone(), load.verify).take(&reply)?;
        }
    }
    Ok(())
}
