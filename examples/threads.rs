//! A worker thread computes and publishes its results through a `Handle`.
//!
//! ```sh
//! cargo run --release --example threads [-- ADDR] [--tls CERT KEY]
//! ```
//!
//! Every client of `ws://127.0.0.1:9001/` joins a room to which the number of primes found so far
//! is published ten times per second. Once per second the worker asks the server for the number of
//! members. On Ctrl-C the server closes all connections with 1001 and exits with 0.

#[path = "support/tls.rs"]
mod tls;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use log::{LevelFilter, info, warn};
use signal_hook::consts::{SIGINT, SIGTERM};
use simple_logger::SimpleLogger;
use tickws::{CloseCode, Event, Handle, HandleError, Server};
use tls::Security;

const ROOM: &str = "primes";

/// Runs until the server is gone.
fn count_primes(handle: &Handle) -> Result<(), HandleError> {
    let (mut found, mut next_report, mut reports) = (0u64, Instant::now(), 0);
    for number in 2u64.. {
        found += u64::from((2..).take_while(|d| d * d <= number).all(|d| number % d != 0));
        if Instant::now() < next_report {
            continue;
        }
        next_report += Duration::from_millis(100);
        reports += 1;
        match handle.publish(ROOM, format!("{found} primes up to {number}")) {
            // The server is behind. The next report supersedes this one, so there is no need to
            // wait.
            Err(HandleError::Full) => warn!("a report was skipped"),
            outcome => outcome?,
        }
        if reports % 10 == 0 {
            info!("{} clients are told of {found} primes", audience(handle)?);
        }
    }
    Ok(())
}

/// A closure on the server's thread counts the members; this thread waits for the result.
fn audience(handle: &Handle) -> Result<usize, HandleError> {
    let (sender, count) = mpsc::channel();
    handle.call(move |server| {
        let _ = sender.send(server.room_len(ROOM));
    })?;
    // A closure that is dropped with the server drops `sender`, which ends the wait.
    count.recv().map_err(|_| HandleError::ServerGone)
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(LevelFilter::Info).env().init()?;
    let (security, args) = Security::from_args()?;
    let addr = args.first().map_or("127.0.0.1:9001", String::as_str);
    let s = security.s();
    let mut server = security.bind(Server::builder(), addr)?;
    info!("listening on ws{s}://{}/", server.local_addrs()[0]);

    let handle = server.handle();
    let worker = thread::spawn(move || count_primes(&handle));

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    while !server.is_drained() {
        // A signal ends the sleep. The timeout covers a signal just before the sleep.
        for event in &server.poll_for(Duration::from_millis(500))? {
            match event {
                Event::Open { client, .. } => server.join(client, ROOM)?,
                Event::Close { client, reason } => info!("{client} left: {reason}"),
                _ => {}
            }
        }
        if stop.swap(false, Ordering::Relaxed) {
            server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
        }
    }
    info!("{}", server.stats());
    drop(server);
    let outcome = worker.join().map_err(|_| "the worker panicked")?;
    info!("the worker ended: {outcome:?}");
    Ok(())
}
