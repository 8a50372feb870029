//! How long 2,000 clients take to connect all at once to a server in a 60 Hz loop, by the backlog
//! of its listener.
//!
//! ```sh
//! cargo bench --bench reconnect [-- CLIENTS]
//! ```

mod support;

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use support::{Outcome, raise_descriptor_limit};
use tickws::{Connect, Reconnect, Server};

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);
/// A run that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Outcome<()> {
    let clients = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let clients = clients.map_or(Ok(2_000), |count| count.parse())?;
    raise_descriptor_limit();
    println!("{clients} clients connect at once to a 60 Hz loop; seconds until all are open:");
    for backlog in [128, 4_096] {
        let mut seconds = Vec::new();
        for _ in 0..5 {
            seconds.push(run(backlog, clients)?.as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        println!("  backlog {backlog:>5}: {seconds:.2?}");
    }
    Ok(())
}

fn run(backlog: usize, clients: usize) -> Outcome<Duration> {
    let (sender, addr) = mpsc::channel::<SocketAddr>();
    let server = thread::spawn(move || -> std::io::Result<()> {
        let mut server = Server::builder().backlog(backlog).bind("127.0.0.1:0")?;
        sender.send(server.local_addrs()[0]).map_err(std::io::Error::other)?;
        let (start, mut next) = (Instant::now(), Instant::now());
        while server.stats().closed.total() == 0 && start.elapsed() < PATIENCE {
            while server.poll_once()?.more() {}
            next += FRAME;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    });
    let addr = addr.recv()?;
    let mut peers = Server::builder().accept_budget(clients).event_budget(16_384).build()?;
    let start = Instant::now();
    for _ in 0..clients {
        peers.connect(Connect::new(format!("ws://{addr}/")).reconnect(Reconnect::new()))?;
    }
    while peers.client_count() < clients && start.elapsed() < PATIENCE {
        let _ = peers.poll_for(Duration::from_millis(1))?;
    }
    let taken = start.elapsed();
    drop(peers);
    server.join().map_err(|_| "the server has panicked")??;
    Ok(taken)
}
