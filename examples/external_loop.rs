//! The server inside an external poll loop, here one around `poll(2)` that also reads the terminal.
//!
//! ```sh
//! cargo run --release --example external_loop [-- ADDR] [--tls CERT KEY]
//! ```
//!
//! Lines typed are sent to every client, and messages of clients are printed. The end of the input
//! ends the program.

#[cfg(unix)]
#[path = "support/tls.rs"]
mod tls;

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
    let (security, args) = tls::Security::from_args()?;
    let addr = args.first().map_or("127.0.0.1:9001", String::as_str);
    let s = security.s();
    let mut server = security.bind(Server::builder(), addr)?;
    log::info!("listening on ws{s}://{}/, type to talk", server.local_addrs()[0]);

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
                    server.shutdown(CloseCode::GOING_AWAY, "", Duration::from_secs(5));
                }
                count => {
                    let text = String::from_utf8_lossy(&line[..count]);
                    let _ = server.broadcast(text.trim_end());
                }
            }
        }
        // Poll in any case: a deadline may be due, and queued lines have to be sent.
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
    eprintln!("this example polls file descriptors and runs on Unix only");
}
