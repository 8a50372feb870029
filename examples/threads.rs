//! A worker thread computes, and says what it finds through a `Handle`.
//!
//! ```sh
//! cargo run --release --example threads [-- ADDR]
//! ```
//!
//! Every client of `ws://127.0.0.1:9001/` joins a room that hears ten times per second how many primes there are
//! so far. Once per second the worker asks the server how many listen. Ctrl-C says 1001 to all and exits with 0.

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

const ROOM: &str = "primes";

/// Ends when the server is gone: there is nobody left to tell.
fn count_primes(handle: &Handle) -> Result<(), HandleError> {
    let (mut found, mut next_report, mut reports) = (0u64, Instant::now(), 0);
    for number in 2u64.. {
        found += u64::from((2..).take_while(|d| d * d <= number).all(|d| number % d != 0));
        if Instant::now() < next_report {
            continue;
        }
        next_report += Duration::from_millis(100);
        reports += 1;
        match handle.publish(ROOM, &format!("{found} primes up to {number}")) {
            // The server is behind. The next report says more than this one: no need to wait.
            Err(HandleError::Full) => warn!("a report is left out"),
            outcome => outcome?,
        }
        if reports % 10 == 0 {
            info!("{} clients hear of {found} primes", audience(handle)?);
        }
    }
    Ok(())
}

/// A closure asks on the server's thread; this one waits for the answer.
fn audience(handle: &Handle) -> Result<usize, HandleError> {
    let (answer, count) = mpsc::channel();
    handle.call(move |server| {
        let _ = answer.send(server.room_len(ROOM));
    })?;
    // A closure that is dropped with the server drops `answer`.
    count.recv().map_err(|_| HandleError::ServerGone)
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(LevelFilter::Info).env().init()?;
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let mut server = Server::bind(addr)?;
    info!("listening on ws://{}/", server.local_addrs()[0]);

    let handle = server.handle();
    let worker = thread::spawn(move || count_primes(&handle));

    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    while !server.is_drained() {
        // A signal ends the sleep; the timeout is for one that comes just before it.
        for event in &server.poll_for(Duration::from_millis(500))? {
            match event {
                Event::Open { client, .. } => server.join(client, ROOM)?,
                Event::Close { client, reason } => info!("{client} left: {reason}"),
                _ => {}
            }
        }
        if stop.swap(false, Ordering::Relaxed) {
            server.shutdown(CloseCode::Away, Duration::from_secs(5));
        }
    }
    info!("{}", server.stats());
    drop(server);
    let outcome = worker.join().map_err(|_| "the worker panicked")?;
    info!("the worker ended: {outcome:?}");
    Ok(())
}
