//! `tickws-bench`: tickws against other WebSocket servers and against a bare epoll loop. See
//! README.md.

mod args;
mod callgrind;
mod chart;
mod compare;
mod frame;
mod growth;
mod load;
mod probe;
mod report;
mod secure;
mod servers;
mod smoke;
mod soak;
mod unbuffered;
mod workload;

use std::{io::ErrorKind, time::Duration};

/// Errors are messages for the user.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Polls, and treats an interrupting signal or tracer as an empty poll.
fn wait(poll: &mut mio::Poll, events: &mut mio::Events, patience: Option<Duration>) -> std::io::Result<()> {
    match poll.poll(events, patience) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        result => result,
    }
}

fn main() -> std::process::ExitCode {
    match args::run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tickws-bench: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
