//! The server inside a loop that is not its own.
//!
//! ```sh
//! cargo run --release --example external_loop [-- ADDR] [--tls CERT KEY]
//! ```
//!
//! Lines typed are sent to every client, and messages of clients are printed. The end of the input
//! ends the program.
//!
//! On Unix the loop is one around `poll(2)` that waits for the server's descriptor and the
//! terminal. On Windows a server has no descriptor: the loop waits in the server, and a thread that
//! reads the terminal ends the wait.

#[cfg(not(unix))]
#[path = "support/stdin.rs"]
mod stdin;
#[path = "support/tls.rs"]
mod tls;

use std::{error::Error, time::Duration};

use tickws::{CloseCode, Event, Message, Server, Tick};

fn main() -> Result<(), Box<dyn Error>> {
    simple_logger::SimpleLogger::new().with_level(log::LevelFilter::Info).env().init()?;
    let (security, args) = tls::Security::from_args()?;
    let addr = args.first().map_or("127.0.0.1:9001", String::as_str);
    let s = security.s();
    let server = security.bind(Server::builder(), addr)?;
    log::info!("listening on ws{s}://{}/, type to talk", server.local_addrs()[0]);
    run(server)
}

#[cfg(unix)]
fn run(mut server: Server) -> Result<(), Box<dyn Error>> {
    use std::io::{self, Read};

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::Errno,
    };

    let mut line = [0; 8192];
    let mut typing = true;
    while !server.is_drained() {
        // The timeout must be read before each sleep: it is zero while messages are queued or work
        // is left over.
        let timeout = server.next_timeout();
        let timeout = timeout.map(Timespec::try_from).transpose()?;
        let keyboard = {
            let stdin = io::stdin();
            let mut fds = [PollFd::new(&server, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
            // A terminal at its end would be ready for ever, so it is no longer polled.
            let watched = if typing { 2 } else { 1 };
            match poll(&mut fds[..watched], timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            typing && !fds[1].revents().is_empty()
        };
        if keyboard {
            match io::stdin().read(&mut line)? {
                0 => {
                    typing = false;
                    end(&mut server);
                }
                count => say(&mut server, &String::from_utf8_lossy(&line[..count])),
            }
        }
        // Poll in any case: a deadline may be due, and queued lines have to be sent.
        print(&server.poll_once()?);
    }
    Ok(())
}

#[cfg(not(unix))]
fn run(mut server: Server) -> Result<(), Box<dyn Error>> {
    use std::{sync::mpsc::TryRecvError, time::Instant};

    /// The time of one round of the loop, which may draw a frame.
    const ROUND: Duration = Duration::from_millis(16);

    let lines = stdin::lines(server.handle());
    let mut typing = true;
    while !server.is_drained() {
        let next_round = Instant::now() + ROUND;
        while typing {
            match lines.try_recv() {
                Ok(line) => say(&mut server, &line),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    typing = false;
                    end(&mut server);
                }
            }
        }
        // The rest of the round is the server's. A line that is typed ends it early.
        print(&server.poll_until(next_round)?);
    }
    Ok(())
}

fn say(server: &mut Server, line: &str) {
    let _ = server.broadcast(line.trim_end());
}

fn end(server: &mut Server) {
    server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
}

fn print(tick: &Tick) {
    for event in tick {
        match event {
            Event::Open { client, .. } => log::info!("{client} joined"),
            Event::Message { client, message: Message::Text(text) } => println!("{client}: {text}"),
            Event::Message { client, message } => println!("{client}: {} bytes", message.len()),
            Event::Close { client, reason } => log::info!("{client} left: {reason}"),
            _ => {}
        }
    }
}
