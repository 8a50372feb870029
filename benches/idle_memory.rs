//! Resident memory per idle connection, before and after each has echoed a message.
//!
//! ```sh
//! cargo bench --bench idle_memory [-- CONNECTIONS]
//! ```

mod support;

use std::io::{Read, Write};

use support::{Bench, Outcome, frame, raise_descriptor_limit, reply_len, resident};

fn main() -> Outcome<()> {
    if support::is_server()? {
        return Ok(());
    }
    let connections: usize = match std::env::args().nth(1).filter(|arg| !arg.starts_with('-')) {
        Some(count) => count.parse()?,
        None => 10_000,
    };
    raise_descriptor_limit();
    let bench = Bench::start("echo", &[])?;
    // The first connection pays for shared memory: the receive block, the pools, the timer wheel.
    let mut clients = vec![bench.connect()?];
    echo(&mut clients)?;
    let before = resident(bench.pid())?;
    while clients.len() <= connections {
        clients.push(bench.connect()?);
    }
    let opened = resident(bench.pid())?;
    echo(&mut clients)?;
    let echoed = resident(bench.pid())?;
    println!("{connections} connections, resident bytes of the server process beyond its first connection:");
    for (state, bytes) in [("opened", opened), ("after one echo each", echoed)] {
        let per = (bytes.saturating_sub(before)) / connections as u64;
        println!("  {state}: {} KiB in all, {per} bytes per connection", (bytes - before) / 1024);
    }
    drop(clients);
    bench.stop()
}

/// Echoes one message for each client.
fn echo(clients: &mut [impl Read + Write]) -> Outcome<()> {
    let (message, mut reply) = (frame(&[7; 100]), vec![0; reply_len(100)]);
    for client in clients {
        client.write_all(&message)?;
        client.read_exact(&mut reply)?;
    }
    Ok(())
}
