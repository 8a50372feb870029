//! The server inside somebody else's poll loop, here one around `poll(2)` that also reads the terminal.
//!
//! ```sh
//! cargo run --release --example external_loop [-- ADDR]
//! ```
//!
//! What is typed goes to every client; what clients send is printed. End of input ends the program.

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::{
        io::{self, Read},
        time::Duration,
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::Errno,
    };
    use tickws::{CloseCode, Event, Message, Server};

    simple_logger::SimpleLogger::new().with_level(log::LevelFilter::Info).env().init()?;
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let mut server = Server::bind(addr)?;
    log::info!("listening on ws://{}/, type to talk", server.local_addrs()[0]);

    let mut line = [0; 8192];
    let mut typing = true;
    while !server.is_drained() {
        // Ask first: it is zero while something is queued or was carried over.
        let timeout = server.next_timeout();
        let timeout = timeout.map(Timespec::try_from).transpose()?;
        let keyboard = {
            let stdin = io::stdin();
            let mut fds = [PollFd::new(&server, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
            // A terminal that has ended would report that without end.
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
                    server.shutdown(CloseCode::Away, Duration::from_secs(5));
                }
                count => {
                    let said = String::from_utf8_lossy(&line[..count]);
                    server.broadcast(said.trim_end());
                }
            }
        }
        // Whatever woke us: a deadline may be due, and what was typed has to leave.
        for event in &server.poll_once()? {
            match event {
                Event::Open { client, .. } => log::info!("{client} joined"),
                Event::Message { client, message: Message::Text(text) } => println!("{client}: {text}"),
                Event::Message { client, message } => println!("{client}: {} bytes", message.len()),
                Event::Close { client, reason } => log::info!("{client} left: {reason}"),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn main() {
    eprintln!("this example needs a descriptor to poll: it is for Unix");
}
